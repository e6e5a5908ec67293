//! Power cuts at every point of a recorded run: images built from the logs.
//!
//! Invariants:
//! - What a device wrote up to the last flush in front of the cut is there. Of what it wrote later, each write that was
//!   not durable by itself is there, or not, or in part, sector by sector; of two that overlap either may have won.
//! - Origin and store are cut independently, within one interval between two steps of the timeline.

use super::judge::{judge, Found, Terms};
use super::timeline::{Model, Step};
use super::write_log::{Entry, Write, WriteLog};
use super::SECTOR_BYTES;
use cairn_engine::disk::{Disk, Disks};
use cairn_engine::sim::rig::StateDirectory;
use cairn_engine::sim::{Crash, SimDisk};
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// Images of devices at earlier flushes that are kept: intervals overlap a little.
const BASES_MAX: usize = 8;
/// The most points in one interval: more entries than that at once say nothing new.
const CUTS_MAX: usize = 16;

/// One device of a run.
pub struct Recorded {
    /// What it held before its log began.
    pub initial: SimDisk,
    /// Its log.
    pub log: WriteLog,
}

/// A run, to be cut anywhere.
pub struct Recording {
    /// What the volume held at first.
    pub content: Vec<u8>,
    /// The origin.
    pub origin: Recorded,
    /// The store.
    pub store: Recorded,
    /// The timeline.
    pub steps: Vec<Step>,
    /// Where in it the store is made and attached.
    pub first: usize,
}

/// Which volatile writes are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    Nothing,
    /// Only the last: it overtook the others.
    Last,
    Everything,
    Any {
        seed: u64,
    },
}

/// A power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    step: usize,
    entries: [usize; 2],
    kept: [Kept; 2],
}

/// What the points of a recording gave.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Points looked at.
    pub points: usize,
    /// Snapshots compared, at all points together.
    pub snapshots: usize,
    /// What was wrong, and where.
    pub failures: Vec<(Point, String)>,
}

impl Recorded {
    /// Entries of the log up to the last flush among the first `count`.
    fn flushed(&self, count: usize) -> usize {
        self.log.entries()[..count].iter().rposition(|entry| entry.is_flush).map_or(0, |flush| flush + 1)
    }

    fn is_at_flush(&self, count: usize) -> bool {
        let is_flush = |index: usize| self.log.entries().get(index).is_some_and(|entry| entry.is_flush);
        is_flush(count) || count > 0 && is_flush(count - 1)
    }

    /// Which parts of what is volatile after the first `count` entries to look at, what tells most in front.
    fn choices(&self, count: usize, random: &mut fastrand::Rng) -> Vec<Kept> {
        let any = Kept::Any { seed: random.u64(..) };
        match self.log.entries()[self.flushed(count)..count].iter().filter(|entry| entry.write.is_some()).count() {
            0 => vec![Kept::Nothing],
            1 => vec![Kept::Nothing, Kept::Everything, any],
            _ => vec![Kept::Nothing, Kept::Last, Kept::Everything, any],
        }
    }

    fn apply(&self, disk: &SimDisk, write: &Write) {
        match self.log.data(write) {
            Some(data) => disk.poke(write.offset_bytes, data),
            None => disk.poke(write.offset_bytes, &vec![0; write.length_bytes as usize]),
        }
    }

    /// Applies a part of a write, sector by sector.
    fn apply_torn(&self, disk: &SimDisk, write: &Write, random: &mut fastrand::Rng) {
        for sector in 0..write.length_bytes as usize / SECTOR_BYTES {
            if random.bool() {
                let start = sector * SECTOR_BYTES;
                let zeroes = [0; SECTOR_BYTES];
                let data = self.log.data(write).map_or(&zeroes[..], |data| &data[start..start + SECTOR_BYTES]);
                disk.poke(write.offset_bytes + start as u64, data);
            }
        }
    }

    fn applied<'a>(&self, entries: impl Iterator<Item = &'a Entry>) -> SimDisk {
        let disk = self.initial.crash(0, Crash::Process);
        entries.filter_map(|entry| entry.write).for_each(|write| self.apply(&disk, &write));
        disk
    }

    /// The whole of it, every entry applied.
    pub fn whole(&self) -> SimDisk {
        self.applied(self.log.entries().iter())
    }

    /// The same without one of the entries.
    pub fn without(&self, victim: usize) -> SimDisk {
        let others = self.log.entries().iter().enumerate().filter(|(index, _)| *index != victim);
        self.applied(others.map(|(_, entry)| entry))
    }

    /// Entries with a write that changed something and that no later one touched, flushed. What was discarded may be
    /// anything, so its loss is none.
    pub fn lasting_writes(&self) -> Vec<usize> {
        let whole = self.whole();
        let entries = &self.log.entries()[..self.flushed(self.log.entries().len())];
        let lasts = |index: &usize| {
            let Some(write) = entries[*index].write.filter(|write| !write.is_discard) else { return false };
            let read = |disk: &SimDisk| disk.peek(write.offset_bytes, write.length_bytes);
            let later = self.log.entries()[index + 1..].iter().filter_map(|entry| entry.write);
            later.into_iter().all(|later| !later.overlaps(&write)) && read(&whole) != read(&self.without(*index))
        };
        (0..entries.len()).filter(lasts).collect()
    }

    /// Where the last byte of an entry's data lies on the device.
    pub fn last_byte(&self, entry: usize) -> Option<u64> {
        self.log.entries()[entry].write.map(|write| write.offset_bytes + write.length_bytes - 1)
    }
}

/// Builds images of one device, mostly at later and later cuts.
struct Builder<'a> {
    device: &'a Recorded,
    bases: VecDeque<(usize, SimDisk)>,
}

impl<'a> Builder<'a> {
    fn new(device: &'a Recorded) -> Builder<'a> {
        Builder { device, bases: VecDeque::new() }
    }

    /// A copy of what is durable after the first `flushed` entries.
    fn base(&mut self, flushed: usize) -> SimDisk {
        let known = self.bases.iter().rev().find(|(count, _)| *count <= flushed);
        let (count, disk) = known.map_or((0, &self.device.initial), |(count, disk)| (*count, disk));
        let disk = disk.crash(0, Crash::Process);
        if count < flushed || self.bases.is_empty() {
            let entries = &self.device.log.entries()[count..flushed];
            entries.iter().filter_map(|entry| entry.write).for_each(|write| self.device.apply(&disk, &write));
            self.bases.push_back((flushed, disk.crash(0, Crash::Process)));
            if self.bases.len() > BASES_MAX {
                self.bases.pop_front();
            }
        }
        disk
    }

    fn image(&mut self, count: usize, kept: Kept) -> SimDisk {
        let flushed = self.device.flushed(count);
        let disk = self.base(flushed);
        let pending = self.device.log.entries()[flushed..count].iter().filter_map(|entry| entry.write);
        match kept {
            Kept::Nothing => {
                pending.filter(|write| write.is_durable).for_each(|write| self.device.apply(&disk, &write))
            }
            Kept::Last => {
                let last = pending.clone().next_back();
                let kept = pending.filter(|write| write.is_durable || Some(*write) == last);
                kept.for_each(|write| self.device.apply(&disk, &write));
            }
            Kept::Everything => pending.for_each(|write| self.device.apply(&disk, &write)),
            Kept::Any { seed } => self.keep_some(&disk, pending.collect(), seed),
        }
        disk
    }

    fn keep_some(&self, disk: &SimDisk, mut writes: Vec<Write>, seed: u64) {
        let mut random = fastrand::Rng::with_seed(seed);
        // What is durable by itself is not overtaken by what completed before it.
        let fence = writes.iter().rposition(|write| write.is_durable).map_or(0, |durable| durable + 1);
        if random.bool() {
            random.shuffle(&mut writes[fence..]);
        }
        for write in &writes {
            match random.u8(0..4) {
                _ if write.is_durable => self.device.apply(disk, write),
                0 => {}
                1 => self.device.apply_torn(disk, write, &mut random),
                _ => self.device.apply(disk, write),
            }
        }
    }
}

impl Recording {
    /// Power cuts to look at: all at flushes of either device, and others up to `wanted` in all.
    pub fn points(&self, wanted: usize, seed: u64) -> Vec<Point> {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut chosen, mut others) = (Vec::new(), Vec::new());
        let [origin, store] = [&self.origin, &self.store];
        for (step, from, to) in self.intervals() {
            for entries in cuts(from, to) {
                let is_at_flush = origin.is_at_flush(entries[0]) || store.is_at_flush(entries[1]);
                let on_origin = origin.choices(entries[0], &mut random);
                let on_store = store.choices(entries[1], &mut random);
                // One device loses what the other keeps, and the other way round; and everything else.
                let all = on_origin.iter().flat_map(|first| on_store.iter().map(move |second| [*first, *second]));
                for kept in all {
                    let point = Point { step, entries, kept };
                    let is_telling =
                        kept == [Kept::Nothing; 2] || kept.contains(&Kept::Last) && kept.contains(&Kept::Nothing);
                    if is_at_flush && is_telling {
                        chosen.push(point);
                    } else {
                        others.push(point);
                    }
                }
            }
        }
        random.shuffle(&mut others);
        others.truncate(wanted.saturating_sub(chosen.len()));
        chosen.extend(others);
        chosen.sort_by_key(|point| (point.step, point.entries));
        chosen
    }

    /// The end of the run: the model, and both devices with everything that they were sent.
    pub fn end(&self) -> (Model, [SimDisk; 2]) {
        let mut model = Model::new(&self.content);
        hear(&mut model, &self.steps);
        (model, [self.origin.whole(), self.store.whole()])
    }

    /// Flushes of both devices.
    pub fn flushes(&self) -> usize {
        let flushes = |device: &Recorded| device.log.entries().iter().filter(|entry| entry.is_flush).count();
        flushes(&self.origin) + flushes(&self.store)
    }

    /// Steps, each with the entries of both logs at it and at the next one. Of steps at one place the last knows most.
    fn intervals(&self) -> Vec<(usize, [usize; 2], [usize; 2])> {
        let place = |step: usize| {
            self.steps.get(step).map_or([self.origin.log.entries().len(), self.store.log.entries().len()], |step| {
                [
                    self.origin.log.entries_within(step.origin_log_bytes),
                    self.store.log.entries_within(step.store_log_bytes),
                ]
            })
        };
        let all = (self.first..self.steps.len()).map(|step| (step, place(step), place(step + 1)));
        all.filter(|(step, from, to)| from != to || *step == self.steps.len() - 1).collect()
    }

    /// Recovers at each of the points, which are in order.
    pub fn judge(&self, points: &[Point]) -> Verdict {
        let terms = Terms { crash: Crash::Power, may_be_broken: false, state: StateDirectory::failing() };
        let mut verdict = Verdict::default();
        let mut model = Model::new(&self.content);
        let mut heard = 0;
        let (mut origin, mut store) = (Builder::new(&self.origin), Builder::new(&self.store));
        for point in points {
            hear(&mut model, &self.steps[heard..=point.step]);
            heard = point.step + 1;
            let disks = Disks {
                origin: origin.image(point.entries[0], point.kept[0]),
                store: store.image(point.entries[1], point.kept[1]),
            };
            verdict.points += 1;
            match judge(disks, &model, &terms) {
                Ok(Found { whole, .. }) => verdict.snapshots += whole,
                Err(message) => verdict.failures.push((*point, message)),
            }
        }
        verdict
    }

    /// Writes to a directory what is needed to look into a point: both images, both logs, and what happened before.
    pub fn keep(&self, point: &Point, directory: &Path) -> std::io::Result<()> {
        for (index, (name, device)) in [("origin", &self.origin), ("store", &self.store)].into_iter().enumerate() {
            let image = Builder::new(device).image(point.entries[index], point.kept[index]);
            fs::write(directory.join(format!("{name}.img")), image.peek(0, image.size_bytes()))?;
            let log: String = device.log.entries().iter().map(|entry| format!("{entry:?}\n")).collect();
            fs::write(directory.join(format!("{name}.entries")), log)?;
        }
        let mut story = format!("{point:?}\n");
        for (index, step) in self.steps.iter().enumerate() {
            let origin = self.origin.log.entries_within(step.origin_log_bytes);
            let store = self.store.log.entries_within(step.store_log_bytes);
            writeln!(story, "{index}: origin {origin}, store {store}: {:.200?}", step.event)
                .expect("a string takes text");
        }
        fs::write(directory.join("story"), story)
    }
}

fn hear(model: &mut Model, steps: &[Step]) {
    for event in steps.iter().filter_map(|step| step.event.as_ref()) {
        model.hear(event).expect("the run itself was right");
    }
}

/// All pairs between two places, but for the last one, which the next step knows more about.
fn cuts(from: [usize; 2], to: [usize; 2]) -> Vec<[usize; 2]> {
    let pairs = (from[0]..=to[0]).flat_map(|origin| (from[1]..=to[1]).map(move |store| [origin, store]));
    pairs.filter(|pair| *pair != to || from == to).take(CUTS_MAX).collect()
}
