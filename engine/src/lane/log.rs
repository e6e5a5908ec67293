//! The lane's log: records of before-images, one in flight at a time, everything that waits shares the next (group
//! commit).
//!
//! Invariants:
//! - At most one record of the lane is in flight; record n + 1 is submitted only after record n completed, so its
//!   existence confirms record n.
//! - A record that failed may have landed all the same. Whatever is written after it, be it the same images or others,
//!   has the same sequence and a higher attempt, and lies in another segment; the failed segment takes no more records.
//! - Published before settled, durable before published.
//! - A lone saver never waits for company.
//! - A record that completes when a saver has left, because the store was given up, counts all the same, and publishes
//!   nothing of that saver's: the claims were given back.

use super::save::Images;
use crate::disk::{aligned_buffer, AlignedBuffer, Disk, Disks};
use crate::entry::{Entry, MARK, UNREADABLE};
use crate::epoch::{EpochState, Keeping};
use crate::error::{Error, ErrorKind, Result};
use crate::format::checksum;
use crate::format::record::{RecordEntry, RecordHeader, RECORD_BYTES_MAX, RECORD_ENTRIES_MAX};
use crate::sync::{Arc, Mutex};
use crate::units::{Epoch, SegmentIndex, BLOCK_BYTES};
use crate::volume::Volume;
use crate::waits::Waits;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Waker;

/// Segments a record is tried in before the store is given up.
const ATTEMPTS_MAX: u32 = 3;

/// A segment handed to a lane, with the incarnation that makes its older records void.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Handed {
    pub(crate) segment: SegmentIndex,
    pub(crate) incarnation: u32,
}

/// A segment the lane will not append to any more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClosedSegment {
    pub(crate) segment: SegmentIndex,
    pub(crate) epoch: Epoch,
    /// Its last record; everything in it is covered once the lane's records up to here are.
    pub(crate) last_sequence: u64,
}

/// How far a lane's log is in this session.
#[derive(Clone, Copy, Default)]
struct Progress {
    /// Records that completed.
    sequence: u64,
    /// Tries of the next one that failed.
    attempt: u32,
    /// The attempt with which the last one completed.
    last_attempt: u32,
}

/// What of a lane other threads look at, and what outlives it in a session.
#[derive(Default)]
pub struct LaneShared {
    progress: Mutex<Progress>,
    /// Segments handed out and not used yet.
    pub(crate) reserve: Mutex<VecDeque<Handed>>,
    /// Segments that became full or were abandoned, and are not data segments in the catalog yet.
    pub(crate) closed: Mutex<Vec<ClosedSegment>>,
    /// Writes that wait for the store.
    pub(crate) waits: Waits,
}

/// How a save ended.
pub(super) enum SaveOutcome {
    /// Durable, published, settled.
    Saved,
    /// The epoch was over before everything was appended, or needs nothing any more.
    Stale,
    /// The store took it nowhere.
    Failed(Error),
}

struct OpenSegment {
    handed: Handed,
    epoch: Epoch,
    next_block: u32,
    last_sequence: u64,
}

/// A saver's images on their way into one or more records.
pub(super) struct Pending {
    epoch: Arc<EpochState>,
    images: RefCell<Option<Images>>,
    count: usize,
    taken: Cell<usize>,
    settled: Cell<usize>,
    outcome: RefCell<Option<SaveOutcome>>,
    waker: RefCell<Option<Waker>>,
}

impl Pending {
    /// How it ended, once, with the images.
    pub(super) fn take_outcome(&self) -> Option<(SaveOutcome, Option<Images>)> {
        let outcome = self.outcome.borrow_mut().take()?;
        Some((outcome, self.images.borrow_mut().take()))
    }

    pub(super) fn has_ended(&self) -> bool {
        self.outcome.borrow().is_some()
    }

    /// Whom to wake when it has ended, or is to lead.
    pub(super) fn wake_by(&self, waker: &Waker) {
        *self.waker.borrow_mut() = Some(waker.clone());
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    fn end(&self, outcome: SaveOutcome) {
        let mut slot = self.outcome.borrow_mut();
        if slot.is_none() {
            *slot = Some(outcome);
        }
        drop(slot);
        self.wake();
    }
}

/// The part of a pending save that one record carries.
struct Share {
    pending: Rc<Pending>,
    from: usize,
    count: usize,
}

/// The entries, which are in the order of the shares, whose savers have not left.
fn awaited<'a>(shares: &'a [Share], entries: &'a [Entry]) -> impl Iterator<Item = &'a Entry> {
    let mut rest = entries;
    shares.iter().flat_map(move |share| {
        let (own, behind) = rest.split_at(share.count);
        rest = behind;
        let has_left = share.pending.has_ended() && !planted!("late-record-published");
        if has_left {
            &[]
        } else {
            own
        }
    })
}

/// The lane's own side of the log.
pub(super) struct LaneLog<D> {
    volume: Arc<Volume>,
    index: u16,
    disks: Rc<Disks<D>>,
    queue: RefCell<VecDeque<Rc<Pending>>>,
    in_flight: Cell<bool>,
    segment: RefCell<Option<OpenSegment>>,
    unconfirmed: Cell<bool>,
    /// The lane of background work: it must not wait for memory that only background work frees. What it appends
    /// between two chances to write runs is bounded by a restore's step.
    is_background: Cell<bool>,
    /// As long as the longest record so far, rounded up.
    buffer: RefCell<AlignedBuffer>,
}

impl<D: Disk> LaneLog<D> {
    pub(super) fn new(volume: Arc<Volume>, index: u16, disks: Rc<Disks<D>>) -> LaneLog<D> {
        LaneLog {
            volume,
            index,
            disks,
            queue: RefCell::default(),
            in_flight: Cell::new(false),
            segment: RefCell::default(),
            unconfirmed: Cell::new(false),
            is_background: Cell::new(false),
            buffer: RefCell::new(aligned_buffer(0)),
        }
    }

    /// See [`super::Lane::work_in_background`].
    pub(super) fn work_in_background(&self) {
        self.is_background.set(true);
    }

    /// Puts images in the queue for the next record.
    pub(super) fn enqueue(&self, epoch: Arc<EpochState>, images: Images) -> Rc<Pending> {
        let pending = Rc::new(Pending {
            epoch,
            count: images.blocks.len(),
            images: RefCell::new(Some(images)),
            taken: Cell::new(0),
            settled: Cell::new(0),
            outcome: RefCell::default(),
            waker: RefCell::default(),
        });
        self.queue.borrow_mut().push_back(Rc::clone(&pending));
        pending
    }

    /// Nobody waits for it any more. A record that carries it goes on.
    pub(super) fn abandon(&self, pending: &Rc<Pending>) {
        pending.end(SaveOutcome::Stale);
        self.forget(pending);
        // It may be the one that was woken to lead.
        self.wake_next();
    }

    /// Whether a save is still to be made: its epoch is the active one, and needs something.
    pub(super) fn wants(&self, pending: &Pending) -> bool {
        self.is_wanted(&pending.epoch)
    }

    /// Whether somebody leads a record.
    pub(super) fn is_led(&self) -> bool {
        self.in_flight.get()
    }

    /// True for who is to lead the next record, and then does.
    pub(super) fn take_lead(&self) -> bool {
        !self.in_flight.replace(true)
    }

    /// Writes a record of what waits. It owns all that it uses: whoever leads may leave, and the record goes on.
    pub(super) async fn lead(self: Rc<Self>) {
        self.write_next_record().await;
        self.hand_lead_on();
    }

    /// The next in the queue leads the next record.
    fn hand_lead_on(&self) {
        self.in_flight.set(false);
        self.wake_next();
    }

    fn wake_next(&self) {
        if let Some(next) = self.queue.borrow().front().filter(|_| !self.is_led()) {
            next.wake();
        }
    }

    /// Takes everything that waits, as far as one record and one segment hold it, and writes it durably.
    async fn write_next_record(&self) {
        let mut attempts = 0;
        let mut shares: Vec<Share> = Vec::new();
        loop {
            if shares.first().is_some_and(|share| !self.is_wanted(&share.pending.epoch)) {
                self.drop_stale(&mut shares);
                // What comes next has not failed yet.
                attempts = 0;
            }
            let Some(epoch) = self.next_epoch(&shares) else { return };
            if let Err(error) = self.wait_for_memory(&epoch).await {
                return self.fail(shares, error);
            }
            let room = match self.open_segment(&epoch).await {
                Ok(room) => room,
                Err(_) if !self.is_wanted(&epoch) => {
                    attempts = 0;
                    continue;
                }
                Err(error) => {
                    attempts += 1;
                    if attempts == ATTEMPTS_MAX || error.kind() == ErrorKind::NoSpace {
                        return self.fail(shares, error);
                    }
                    continue;
                }
            };
            epoch.record_begins();
            // Counted first, looked at second: see the head of epoch.rs.
            if !self.is_wanted(&epoch) {
                self.record_ends(&epoch);
                continue;
            }
            if shares.is_empty() {
                let room = if epoch.keeping == Keeping::Marks { RECORD_ENTRIES_MAX } else { room };
                shares = self.take_shares(&epoch, room);
            }
            let result = self.write_record(&epoch, &shares).await;
            match result {
                Ok(entries) => {
                    self.volume.stats.records_retried.add(u64::from(attempts > 0));
                    self.publish(&epoch, &shares, &entries);
                }
                Err(error) => {
                    attempts += 1;
                    tracing::error!(%error, attempts, "a record of before-images could not be written");
                    self.close_segment();
                    self.record_ends(&epoch);
                    if attempts == ATTEMPTS_MAX && self.is_wanted(&epoch) {
                        return self.fail(shares, error);
                    }
                    continue;
                }
            }
            self.record_ends(&epoch);
            return;
        }
    }

    /// Waits while too many entries are in memory that no run holds yet: memory has a bound, and the background is
    /// writing runs. Fails where it cannot, and nothing may break for that.
    async fn wait_for_memory(&self, epoch: &EpochState) -> Result<()> {
        while !self.is_background.get() {
            let listener = self.volume.retry.listen();
            if !self.is_wanted(epoch) || self.volume.entries_in_memory() < self.volume.limits.entries_max {
                return Ok(());
            }
            self.volume.refuse_to_wait_for_memory()?;
            self.volume.work.notify();
            listener.await;
        }
        Ok(())
    }

    /// Whether anything is to be saved in this epoch: it is the active one, and needs something.
    fn is_wanted(&self, epoch: &EpochState) -> bool {
        self.volume.active.number() == epoch.number && epoch.needed.saving()
    }

    /// The epoch of what comes next; saves of epochs that are over are sent back to start again.
    fn next_epoch(&self, shares: &[Share]) -> Option<Arc<EpochState>> {
        if let Some(share) = shares.first() {
            return Some(share.pending.epoch.clone());
        }
        let mut queue = self.queue.borrow_mut();
        while let Some(front) = queue.front() {
            if self.is_wanted(&front.epoch) {
                return Some(front.epoch.clone());
            }
            let stale = queue.pop_front().expect("there is a front");
            stale.end(SaveOutcome::Stale);
        }
        None
    }

    /// The last record of an epoch that is over: it can be sealed now.
    fn record_ends(&self, epoch: &EpochState) {
        epoch.record_ends();
        if self.volume.active.number() != epoch.number {
            self.volume.work.notify();
        }
    }

    fn drop_stale(&self, shares: &mut Vec<Share>) {
        for share in shares.drain(..) {
            self.forget(&share.pending);
            share.pending.end(SaveOutcome::Stale);
        }
    }

    fn fail(&self, shares: Vec<Share>, error: Error) {
        // Everyone who waits fails with the first: the store has been tried in several places by now.
        let mut failed: Vec<Rc<Pending>> = shares.into_iter().map(|share| share.pending).collect();
        failed.extend(self.queue.borrow_mut().drain(..));
        for pending in failed {
            let error = Error::new(error.kind(), "save old content", "store").saying(error.to_string());
            pending.end(SaveOutcome::Failed(error));
        }
    }

    fn forget(&self, pending: &Rc<Pending>) {
        self.queue.borrow_mut().retain(|queued| !Rc::ptr_eq(queued, pending));
    }

    /// Makes sure a segment of this epoch is open; says how many images still fit.
    async fn open_segment(&self, epoch: &EpochState) -> Result<usize> {
        loop {
            let segment_blocks = self.volume.geometry().segment_blocks();
            if let Some(open) = &*self.segment.borrow() {
                if open.epoch == epoch.number && open.next_block + 2 <= segment_blocks {
                    return Ok((segment_blocks - open.next_block - 1) as usize);
                }
            }
            self.close_segment();
            let handed = self.volume.take_segment(&self.disks, self.index, || self.is_wanted(epoch)).await?;
            let open = OpenSegment { handed, epoch: epoch.number, next_block: 0, last_sequence: 0 };
            *self.segment.borrow_mut() = Some(open);
        }
    }

    fn close_segment(&self) {
        if let Some(open) = self.segment.borrow_mut().take() {
            let closed =
                ClosedSegment { segment: open.handed.segment, epoch: open.epoch, last_sequence: open.last_sequence };
            self.shared().closed.lock().expect("no holder of this lock panics").push(closed);
        }
    }

    fn shared(&self) -> &LaneShared {
        &self.volume.lanes[self.index as usize]
    }

    fn take_shares(&self, epoch: &Arc<EpochState>, room: usize) -> Vec<Share> {
        let mut room = room.min(RECORD_ENTRIES_MAX);
        let mut shares = Vec::new();
        let mut queue = self.queue.borrow_mut();
        while let Some(front) = queue.front().filter(|front| room > 0 && Arc::ptr_eq(&front.epoch, epoch)) {
            let from = front.taken.get();
            let count = (front.count - from).min(room);
            assert!(count > 0);
            room -= count;
            front.taken.set(from + count);
            shares.push(Share { pending: front.clone(), from, count });
            if from + count == front.count {
                queue.pop_front();
            }
        }
        shares
    }

    /// Writes one record into the open segment; returns its entries.
    async fn write_record(&self, epoch: &Arc<EpochState>, shares: &[Share]) -> Result<Vec<Entry>> {
        let mut buffer = self.buffer.replace(aligned_buffer(0));
        let images = match epoch.keeping {
            Keeping::Marks => 0,
            _ => shares.iter().map(|share| share.count).sum(),
        };
        let needed_bytes = (1 + images) * BLOCK_BYTES;
        if buffer.len() < needed_bytes {
            buffer = aligned_buffer(needed_bytes.next_power_of_two().min(RECORD_BYTES_MAX));
        }
        let (address_bytes, entries) = self.fill_record(epoch, shares, &mut buffer);
        let length = (1 + images) * BLOCK_BYTES;
        planted!("settled-before-durable", entries.iter().for_each(|entry| epoch.needed.settle(entry.block)));
        let (store, at, data) = (&self.disks.store, address_bytes, &buffer[..length]);
        let result = planted!("record-left-volatile", store.write(at, data).await, store.write_durable(at, data).await);
        self.buffer.replace(buffer);
        let sequence = self.note_written(result.is_ok());
        result?;
        self.unconfirmed.set(!entries.is_empty());
        let mut segment = self.segment.borrow_mut();
        let open = segment.as_mut().expect("the record lies in the open segment");
        open.next_block += 1 + images as u32;
        open.last_sequence = sequence;
        self.volume.stats.records.add(1);
        self.volume.stats.blocks_saved.add(images as u64);
        Ok(entries)
    }

    /// Counts a record that completed, or a try that failed; gives the last sequence that completed.
    fn note_written(&self, completed: bool) -> u64 {
        let mut progress = self.shared().progress.lock().expect("no holder of this lock panics");
        *progress = match completed {
            true => Progress { sequence: progress.sequence + 1, attempt: 0, last_attempt: progress.attempt },
            false => Progress { attempt: progress.attempt + planted!("attempt-used-twice", 0, 1), ..*progress },
        };
        progress.sequence
    }

    fn progress(&self) -> Progress {
        *self.shared().progress.lock().expect("no holder of this lock panics")
    }

    fn fill_record(&self, epoch: &EpochState, shares: &[Share], buffer: &mut [u8]) -> (u64, Vec<Entry>) {
        let segment = self.segment.borrow();
        let open = segment.as_ref().expect("a segment is open");
        assert_eq!(open.epoch, epoch.number);
        let geometry = self.volume.geometry();
        let address_bytes = geometry.segment_start_bytes(open.handed.segment) + u64::from(open.next_block) * 4096;
        let progress = self.progress();
        let mut header = RecordHeader {
            lane: self.index,
            session: self.volume.session,
            sequence: progress.sequence + 1,
            epoch: epoch.number,
            attempt: progress.attempt,
            predecessor_attempt: progress.last_attempt,
            store: self.volume.store_id,
            segment: open.handed.segment,
            incarnation: open.handed.incarnation,
            entries: Vec::with_capacity(shares.iter().map(|share| share.count).sum()),
        };
        let mut entries = Vec::with_capacity(header.entries.capacity());
        for share in shares {
            let images = share.pending.images.borrow();
            let images = images.as_ref().expect("images stay until the outcome is taken");
            if epoch.keeping == Keeping::Marks {
                for &block in &images.blocks[share.from..share.from + share.count] {
                    header.entries.push(RecordEntry { block, checksum: 0, unreadable: false, is_mark: true });
                    entries.push(Entry { block, epoch: epoch.number, address: MARK, checksum: 0 });
                }
                continue;
            }
            for index in share.from..share.from + share.count {
                let image = &images.data[index * BLOCK_BYTES..(index + 1) * BLOCK_BYTES];
                let at = (1 + entries.len()) * BLOCK_BYTES;
                buffer[at..at + BLOCK_BYTES].copy_from_slice(image);
                let (block, unreadable) = (images.blocks[index], images.unreadable[index]);
                let checksum = checksum::image(image);
                header.entries.push(RecordEntry { block, checksum, unreadable, is_mark: false });
                let stored_at = (address_bytes + at as u64) / BLOCK_BYTES as u64;
                let address = if unreadable { UNREADABLE } else { stored_at };
                entries.push(Entry { block, epoch: epoch.number, address, checksum });
            }
        }
        assert!(address_bytes + header.length_bytes() as u64 <= geometry.segment_end_bytes(open.handed.segment));
        header.encode(address_bytes, &mut buffer[..BLOCK_BYTES]);
        (address_bytes, entries)
    }

    /// The record is durable: its entries become visible, then its blocks may be overwritten.
    fn publish(&self, epoch: &EpochState, shares: &[Share], entries: &[Entry]) {
        {
            let saved = epoch.saved.read().expect("no holder of this lock panics");
            for entry in awaited(shares, entries) {
                saved.publish(entry);
            }
            epoch.note_published(self.index, self.progress().sequence);
            if saved.len() >= self.volume.limits.spill_entries {
                self.volume.work.notify();
            }
        }
        for entry in awaited(shares, entries) {
            epoch.needed.settle(entry.block);
        }
        planted!("next-batch-acknowledged", self.queue.take().iter().for_each(|next| next.end(SaveOutcome::Saved)));
        for share in shares {
            let settled = share.pending.settled.get() + share.count;
            share.pending.settled.set(settled);
            if settled == share.pending.count {
                share.pending.end(SaveOutcome::Saved);
            }
        }
    }

    /// An idle lane confirms its last record by an empty one, so that losing the last record is noticed.
    pub(super) async fn confirm_last_record(&self) -> Result<()> {
        if !self.unconfirmed.get() || self.in_flight.get() || !self.queue.borrow().is_empty() {
            return Ok(());
        }
        let epoch = self.volume.active_epoch();
        if !self.has_room_for_confirmation(epoch.number) {
            // Not worth a segment; the lane's next record confirms.
            return Ok(());
        }
        let led = self.take_lead();
        assert!(led, "nobody leads, as was just seen");
        let result = self.write_confirmation(&epoch).await;
        self.hand_lead_on();
        result
    }

    fn has_room_for_confirmation(&self, epoch: Epoch) -> bool {
        let segment_blocks = self.volume.geometry().segment_blocks();
        let open = self.segment.borrow();
        let fits = open.as_ref().is_some_and(|open| open.epoch == epoch && open.next_block + 2 <= segment_blocks);
        fits || !self.shared().reserve.lock().expect("no holder of this lock panics").is_empty()
    }

    async fn write_confirmation(&self, epoch: &Arc<EpochState>) -> Result<()> {
        self.open_segment(epoch).await?;
        epoch.record_begins();
        let mut result = Ok(());
        if self.volume.active.number() == epoch.number {
            match self.write_record(epoch, &[]).await {
                Ok(entries) => self.publish(epoch, &[], &entries),
                Err(error) => {
                    self.close_segment();
                    result = Err(error);
                }
            }
        }
        self.record_ends(epoch);
        result
    }
}
