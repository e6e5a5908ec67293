//! What a simulated device holds and has under way.
//!
//! Invariants:
//! - A completed flush makes durable exactly the writes that had completed before it was submitted.
//! - A completed durable write is durable, alone.
//! - A write that was made durable is never overtaken by one that had completed before it did: what readers saw on top
//!   stays on top.

use super::disk::{Crash, IoCounts, SimDiskOptions};
use super::faults::{Effect, FaultTarget, Faults};
use super::image::{Content, Image};
use crate::error::ErrorKind;
use crate::units::TEAR_BYTES;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::task::Waker;

/// What is asked of the device.
#[derive(Clone, Debug)]
pub(super) enum Request {
    Read { offset_bytes: u64, length_bytes: u64 },
    Write { offset_bytes: u64, content: Content, durable: bool },
    Discard { offset_bytes: u64, length_bytes: u64 },
    Flush,
}

impl Request {
    pub(super) fn range_bytes(&self) -> Range<u64> {
        match self {
            Request::Read { offset_bytes, length_bytes } | Request::Discard { offset_bytes, length_bytes } => {
                *offset_bytes..offset_bytes + length_bytes
            }
            Request::Write { offset_bytes, content, .. } => *offset_bytes..offset_bytes + content.length_bytes(),
            Request::Flush => 0..0,
        }
    }

    fn target(&self) -> FaultTarget {
        match self {
            Request::Read { .. } => FaultTarget::Read,
            Request::Write { .. } => FaultTarget::Write,
            Request::Discard { .. } => FaultTarget::Discard,
            Request::Flush => FaultTarget::Flush,
        }
    }
}

impl Request {
    /// What the journal says of it once it is done; only writes are noted.
    fn written(&self, id: u64, effect: Option<Effect>) -> Option<Written> {
        let Request::Write { offset_bytes, content, .. } = self else { return None };
        let effect = effect.filter(|effect| effect.is_silent());
        Some(Written { id, offset_bytes: *offset_bytes, content: content.clone(), effect })
    }
}

/// The bytes that a read gave; empty for the rest.
pub(super) type Outcome = Result<Vec<u8>, ErrorKind>;

/// A write that is not known to be durable.
#[derive(Clone, Debug)]
struct Volatile {
    offset_bytes: u64,
    content: Content,
    submitted: u64,
    /// When it completed; none while it is in flight.
    completed: Option<u64>,
    /// Readers see it already.
    taken: bool,
    /// A flush that should have kept it failed: no later flush does.
    forsaken: bool,
}

impl Volatile {
    fn range_bytes(&self) -> Range<u64> {
        self.offset_bytes..self.offset_bytes + self.content.length_bytes()
    }
}

/// A request under way.
struct Flight {
    id: u64,
    request: Request,
    submitted: u64,
    failure: Option<ErrorKind>,
    /// How often it is passed over before it completes.
    delay: u32,
    /// It hangs until the device is released.
    stalled: bool,
    /// What the journal will say of it.
    written: Option<Written>,
    /// What the range held at submission: a read sees each sector as it was then or as it is at completion.
    early: Vec<u8>,
    waker: Option<Waker>,
}

/// A write that was reported as done: what was meant to land, and where.
#[derive(Clone, Debug)]
pub struct Written {
    /// Tells it from all others of its device.
    pub id: u64,
    /// Where it was meant to land.
    pub offset_bytes: u64,
    content: Content,
    /// What a silent fault did to it.
    pub effect: Option<Effect>,
}

impl Written {
    /// The first bytes of it, up to a page.
    pub fn head(&self) -> Vec<u8> {
        let mut head = vec![0; self.content.length_bytes().min(4096) as usize];
        self.content.copy_to(&mut head);
        head
    }

    /// How long it is.
    pub fn length_bytes(&self) -> u64 {
        self.content.length_bytes()
    }
}

/// The device behind any number of handles.
pub(super) struct Device {
    pub(super) options: SimDiskOptions,
    pub(super) faults: Faults,
    pub(super) counts: IoCounts,
    /// Requests wait for the scheduler instead of completing at once.
    pub(super) deferred: bool,
    /// The machine is gone: nothing is transferred any more and nobody waits.
    pub(super) dead: bool,
    /// Flushes that failed.
    pub(super) flush_failures: u64,
    /// Writes that were reported as done, in that order, where somebody wants to know.
    pub(super) journal: Option<Vec<Written>>,
    visible: Image,
    durable: Image,
    volatile: Vec<Volatile>,
    flights: Vec<Flight>,
    outcomes: BTreeMap<u64, Outcome>,
    clock: u64,
    random: fastrand::Rng,
    events: DefaultHasher,
}

impl Device {
    pub(super) fn new(options: SimDiskOptions) -> Device {
        Device {
            random: fastrand::Rng::with_seed(options.seed),
            options,
            faults: Faults::default(),
            counts: IoCounts::default(),
            deferred: false,
            dead: false,
            flush_failures: 0,
            journal: None,
            visible: Image::default(),
            durable: Image::default(),
            volatile: Vec::new(),
            flights: Vec::new(),
            outcomes: BTreeMap::new(),
            clock: 0,
            events: DefaultHasher::new(),
        }
    }

    fn now(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Requests under way that do not hang.
    pub(super) fn in_flight(&self) -> usize {
        self.flights.len() - self.hanging()
    }

    /// Whether a power cut could still take a write that was reported as done.
    pub(super) fn is_volatile(&self, id: u64) -> bool {
        self.volatile.iter().any(|write| write.submitted == id)
    }

    /// Requests that hang.
    pub(super) fn hanging(&self) -> usize {
        self.flights.iter().filter(|flight| flight.stalled).count()
    }

    /// Nothing hangs any more.
    pub(super) fn release(&mut self) {
        self.faults.clear_stalls();
        for flight in &mut self.flights {
            flight.stalled = false;
        }
        while !self.deferred && !self.flights.is_empty() {
            self.complete(0);
        }
    }

    pub(super) fn event_hash(&self) -> u64 {
        self.events.finish()
    }

    pub(super) fn stored_bytes(&self) -> u64 {
        self.visible.stored_bytes()
    }

    pub(super) fn submit(&mut self, mut request: Request) -> u64 {
        assert!(!self.dead, "{}: a request to a device that is gone", self.options.name);
        let submitted = self.now();
        let range_bytes = request.range_bytes();
        (request.target(), range_bytes.start, range_bytes.end).hash(&mut self.events);
        self.counts.count(&request);
        let effect = self.faults.strike(request.target(), range_bytes.clone());
        let failure = match effect {
            _ if range_bytes.end > self.options.size_bytes => Some(ErrorKind::Invalid),
            Some(Effect::Fail(kind)) => Some(kind),
            _ => None,
        };
        let delay = if let Some(Effect::Delay(turns)) = effect { turns } else { 0 };
        let written = self.journal.is_some().then(|| request.written(submitted, effect)).flatten();
        self.lead_astray(&mut request, effect);
        let mut early = Vec::new();
        match &request {
            Request::Read { .. } if failure.is_none() && self.deferred => early = self.peek(range_bytes),
            Request::Write { offset_bytes, content, .. } if failure.is_none() => {
                // The device takes the data at any time between submission and completion.
                let taken = self.random.bool();
                self.remember(*offset_bytes, content.clone(), submitted, taken);
                if taken {
                    self.visible.write(*offset_bytes, content);
                }
            }
            _ => {}
        }
        let id = submitted;
        let stalled = effect == Some(Effect::Stall);
        self.flights.push(Flight { id, request, submitted, failure, delay, stalled, written, early, waker: None });
        if !self.deferred && !stalled {
            self.complete(self.in_flight() - 1);
        }
        id
    }

    /// A write that is lost writes nothing; one that is misdirected lands elsewhere, as far as the device reaches.
    fn lead_astray(&self, request: &mut Request, effect: Option<Effect>) {
        let Request::Write { offset_bytes, content, .. } = request else { return };
        match effect {
            Some(Effect::Misdirect(to_bytes)) if to_bytes + content.length_bytes() <= self.options.size_bytes => {
                *offset_bytes = to_bytes;
            }
            Some(Effect::Lose | Effect::Misdirect(_)) => *content = Content::Zeroes(0),
            _ => {}
        }
    }

    /// The outcome of a request if there is one; else `waker` will be woken.
    pub(super) fn poll(&mut self, id: u64, waker: &Waker) -> Option<Outcome> {
        if let Some(outcome) = self.outcomes.remove(&id) {
            return Some(outcome);
        }
        let flight = self.flights.iter_mut().find(|flight| flight.id == id).expect("a transfer is polled to its end");
        flight.waker = Some(waker.clone());
        None
    }

    /// Whether a dropped transfer was finished.
    pub(super) fn forget(&mut self, id: u64) -> bool {
        self.outcomes.remove(&id).is_some() || self.flights.iter().all(|flight| flight.id != id)
    }

    /// Completes the `choice`-th of the requests under way that do not hang, and wakes its task.
    pub(super) fn complete(&mut self, choice: usize) {
        let mut going = (0..self.flights.len()).filter(|index| !self.flights[*index].stalled);
        let index = going.nth(choice).expect("the choice is among the requests under way");
        if self.deferred && self.flights[index].delay > 0 {
            self.flights[index].delay -= 1;
            return;
        }
        let mut flight = self.flights.swap_remove(index);
        let completed = self.now();
        flight.id.hash(&mut self.events);
        let outcome = match flight.failure {
            Some(kind) => {
                self.fail(&flight, completed);
                Err(kind)
            }
            None => Ok(self.succeed(&flight, completed)),
        };
        if let (Some(journal), Some(written), Ok(_)) = (&mut self.journal, flight.written.take(), &outcome) {
            journal.push(written);
        }
        self.outcomes.insert(flight.id, outcome);
        if let Some(waker) = flight.waker {
            waker.wake();
        }
    }

    fn succeed(&mut self, flight: &Flight, completed: u64) -> Vec<u8> {
        match &flight.request {
            Request::Read { .. } => return self.finish_read(flight),
            Request::Write { offset_bytes, content, durable } => {
                self.visible.write(*offset_bytes, content);
                self.mark_completed(flight.submitted, completed);
                if *durable {
                    self.harden(|write| write.submitted == flight.submitted);
                }
            }
            Request::Discard { offset_bytes, length_bytes } => self.scramble(*offset_bytes, *length_bytes, completed),
            Request::Flush => {
                let submitted = flight.submitted;
                self.harden(|write| !write.forsaken && write.completed.is_some_and(|completed| completed < submitted));
            }
        }
        Vec::new()
    }

    fn finish_read(&mut self, flight: &Flight) -> Vec<u8> {
        let mut content = self.peek(flight.request.range_bytes());
        if !flight.early.is_empty() && flight.early != content {
            for (late, early) in content.chunks_mut(TEAR_BYTES).zip(flight.early.chunks(TEAR_BYTES)) {
                if self.random.bool() {
                    late.copy_from_slice(early);
                }
            }
        }
        content
    }

    fn fail(&mut self, flight: &Flight, completed: u64) {
        match &flight.request {
            Request::Write { offset_bytes, content, .. } if flight.failure != Some(ErrorKind::Invalid) => {
                for (offset_bytes, sector) in self.torn(*offset_bytes, content) {
                    self.visible.write(offset_bytes, &sector);
                    self.remember(offset_bytes, sector, flight.submitted, true);
                }
                self.mark_completed(flight.submitted, completed);
            }
            Request::Flush => {
                self.flush_failures += 1;
                for write in &mut self.volatile {
                    // As kernels do: pages of a failed write-back are marked clean and never written again.
                    let covered = write.completed.is_some_and(|completed| completed < flight.submitted);
                    write.forsaken |= covered && self.random.bool();
                }
            }
            _ => {}
        }
    }

    /// Discarded content reads as what it was, as zeroes or as anything.
    fn scramble(&mut self, offset_bytes: u64, length_bytes: u64, now: u64) {
        let content = match self.random.u8(0..3) {
            0 => return,
            1 => Content::Zeroes(length_bytes),
            _ => {
                let mut junk = vec![0; length_bytes as usize];
                self.random.fill(&mut junk);
                Content::of(&junk)
            }
        };
        self.visible.write(offset_bytes, &content);
        self.remember(offset_bytes, content, now, true);
        self.mark_completed(now, now);
    }

    fn remember(&mut self, offset_bytes: u64, content: Content, submitted: u64, taken: bool) {
        self.volatile.push(Volatile { offset_bytes, content, submitted, completed: None, taken, forsaken: false });
    }

    fn mark_completed(&mut self, submitted: u64, completed: u64) {
        for write in self.volatile.iter_mut().rev() {
            if write.submitted == submitted {
                write.completed = Some(completed);
            }
        }
    }

    /// Makes the chosen completed writes durable, in the order in which they completed.
    fn harden(&mut self, chosen: impl Fn(&Volatile) -> bool) {
        let (mut kept, left): (Vec<_>, Vec<_>) = self.volatile.drain(..).partition(chosen);
        self.volatile = left;
        kept.sort_by_key(|write| write.completed);
        for write in &kept {
            self.durable.write(write.offset_bytes, &write.content);
            self.supersede(write);
        }
    }

    /// Whatever had completed before `newer` did can no longer land on top of it.
    fn supersede(&mut self, newer: &Volatile) {
        let covered = newer.range_bytes();
        let overtaken = |older: &Volatile| {
            let range_bytes = older.range_bytes();
            range_bytes.start < covered.end
                && covered.start < range_bytes.end
                && older.completed.is_some_and(|completed| Some(completed) < newer.completed)
        };
        if !self.volatile.iter().any(overtaken) {
            return;
        }
        let mut remaining = Vec::with_capacity(self.volatile.len() + 1);
        for older in self.volatile.drain(..) {
            if !overtaken(&older) {
                remaining.push(older);
                continue;
            }
            let range_bytes = older.range_bytes();
            for piece in [range_bytes.start..covered.start, covered.end..range_bytes.end] {
                if piece.start < piece.end {
                    let skip_bytes = piece.start - range_bytes.start;
                    let content = older.content.part(skip_bytes, piece.end - piece.start);
                    remaining.push(Volatile { offset_bytes: piece.start, content, ..older.clone() });
                }
            }
        }
        self.volatile = remaining;
    }

    /// A random part of a write, by sectors: all, none, or a torn one.
    fn torn(&mut self, offset_bytes: u64, content: &Content) -> Vec<(u64, Content)> {
        match self.random.u8(0..4) {
            0 => Vec::new(),
            1 => vec![(offset_bytes, content.clone())],
            _ => {
                let sectors = (0..content.length_bytes()).step_by(TEAR_BYTES);
                let landed: Vec<u64> = sectors.filter(|_| self.random.bool()).collect();
                let part = |skip_bytes: u64| content.part(skip_bytes, TEAR_BYTES as u64);
                landed.into_iter().map(|skip_bytes| (offset_bytes + skip_bytes, part(skip_bytes))).collect()
            }
        }
    }

    /// The device as it is found after a crash; this one stays as it is.
    pub(super) fn crashed(&self, seed: u64, crash: Crash) -> Device {
        let mut after = Device::new(SimDiskOptions { seed, ..self.options.clone() });
        after.durable = self.durable.clone();
        after.clock = self.clock;
        after.events = self.events.clone();
        let mut writes = self.volatile.clone();
        if after.random.bool() {
            after.random.shuffle(&mut writes);
        }
        match crash {
            Crash::Process => after.survive(&self.visible, writes),
            Crash::Power => after.lose(writes),
        }
        after
    }

    /// The process died: what had completed is there, still volatile; what was in flight may have been cancelled.
    fn survive(&mut self, visible: &Image, writes: Vec<Volatile>) {
        self.visible = visible.clone();
        for write in writes {
            if write.completed.is_some() {
                self.volatile.push(write);
                continue;
            }
            let landed = if write.taken || self.random.u8(0..4) > 0 {
                vec![(write.offset_bytes, write.content.clone())]
            } else {
                self.torn(write.offset_bytes, &write.content)
            };
            let completed = self.now();
            for (offset_bytes, content) in landed {
                self.visible.write(offset_bytes, &content);
                self.volatile.push(Volatile { offset_bytes, content, completed: Some(completed), ..write.clone() });
            }
        }
    }

    /// Power failed: any part of what was volatile is there.
    fn lose(&mut self, writes: Vec<Volatile>) {
        let manner = self.random.u8(0..8);
        for write in writes {
            let landed = match manner {
                0 => Vec::new(),
                1 => vec![(write.offset_bytes, write.content.clone())],
                2 | 3 if self.random.bool() => Vec::new(),
                2 | 3 => vec![(write.offset_bytes, write.content.clone())],
                // Nearly everything is there, or nearly nothing: one write is what is missed or found.
                4 if self.random.u8(0..8) > 0 => vec![(write.offset_bytes, write.content.clone())],
                5 if self.random.u8(0..8) > 0 => Vec::new(),
                _ => self.torn(write.offset_bytes, &write.content),
            };
            for (offset_bytes, content) in landed {
                self.durable.write(offset_bytes, &content);
            }
        }
        self.visible = self.durable.clone();
    }

    /// What a reader would see now.
    pub(super) fn peek(&self, range_bytes: Range<u64>) -> Vec<u8> {
        let mut content = vec![0; (range_bytes.end - range_bytes.start) as usize];
        self.visible.read(range_bytes.start, &mut content);
        content
    }

    /// Changes the device behind everybody's back, durably.
    pub(super) fn poke(&mut self, offset_bytes: u64, data: &[u8]) {
        self.visible.write(offset_bytes, &Content::of(data));
        self.durable.write(offset_bytes, &Content::of(data));
    }

    /// Flips bits of one byte, as rot does.
    pub(super) fn flip(&mut self, offset_bytes: u64, mask: u8) {
        self.visible.flip(offset_bytes, mask);
        self.durable.flip(offset_bytes, mask);
    }
}

/// Counts a request by its kind.
impl IoCounts {
    fn count(&mut self, request: &Request) {
        let range_bytes = request.range_bytes();
        let length_bytes = range_bytes.end - range_bytes.start;
        let (count, bytes) = match request {
            Request::Read { .. } => (&mut self.reads, &mut self.read_bytes),
            Request::Write { durable: false, .. } => (&mut self.writes, &mut self.written_bytes),
            Request::Write { durable: true, .. } => (&mut self.durable_writes, &mut self.durable_bytes),
            Request::Discard { .. } => (&mut self.discards, &mut self.discarded_bytes),
            Request::Flush => {
                self.flushes += 1;
                return;
            }
        };
        *count += 1;
        *bytes += length_bytes;
    }
}
