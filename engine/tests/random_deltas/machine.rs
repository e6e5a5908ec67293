//! A volume with a random history, and the questions asked of it, attached and detached.

use crate::model::{sectors, Model, BLOCK, SECTOR};
use cairn_engine::deadline::Deadline;
use cairn_engine::delta::{DeltaPoint, Extent, ExtentKind};
use cairn_engine::disk::{aligned_buffer, Disks};
use cairn_engine::error::{ErrorKind, Result};
use cairn_engine::holes::Holes;
use cairn_engine::sim::rig::{snapshot_name, snapshot_options, Rig, StateDirectory};
use cairn_engine::sim::{block_on, Crash, SimDisk, SimDiskOptions};
use cairn_engine::volume::{Limits, OfflineStore};
use fastrand::Rng;

const POINTS_MAX: usize = 12;
const STEPS: usize = 60;
/// Blocks that the origin grows by at once, at most.
const ORIGIN_GROWTHS_MAX: u64 = 4;

/// What was reached, to be told at the end.
#[derive(Debug, Default)]
pub struct Reached {
    pub triples: u64,
    pub triples_of_bookmarks: u64,
    pub triples_of_the_live_volume: u64,
    pub triples_detached: u64,
    pub triples_across_sizes: u64,
    pub applied: u64,
    pub crashes: u64,
    pub restores: u64,
    pub broken: u64,
    pub overwrites_without_snapshots: u64,
}

/// Who is asked.
enum Source<'a> {
    Attached(&'a Rig),
    Detached(&'a OfflineStore, &'a Disks<SimDisk>),
}

impl Source<'_> {
    fn point(&self, name: Option<&str>) -> DeltaPoint {
        let Some(name) = name else { return DeltaPoint::live() };
        match self {
            Source::Attached(rig) => block_on(rig.volume.delta_point(&rig.disks, &snapshot_name(name))),
            Source::Detached(store, disks) => block_on(store.delta_point(&disks.store, &snapshot_name(name))),
        }
        .expect("it is whole")
    }

    fn changes(&self, ends: (Option<&DeltaPoint>, &DeltaPoint), from: u64, most: usize) -> Result<Vec<Extent>> {
        block_on(async {
            match self {
                Source::Attached(rig) => rig.volume.changes(&rig.disks, ends.0, ends.1, from, most).await,
                Source::Detached(store, disks) => store.changes(&disks.store, ends.0, ends.1, from, most).await,
            }
        })
    }

    /// What is not in use in the live volume.
    fn holes_now(&self) -> Holes {
        match self {
            Source::Attached(rig) => rig.volume.holes_now(),
            Source::Detached(store, disks) => block_on(store.holes_now(&disks.store)),
        }
    }

    fn read(&self, name: &str, length_bytes: u64) -> Vec<u8> {
        match self {
            Source::Attached(rig) => rig.read_snapshot(name, 0, length_bytes as usize).expect("it is whole"),
            Source::Detached(store, disks) => {
                let mut content = aligned_buffer(length_bytes as usize);
                let point = self.point(Some(name));
                block_on(store.read_snapshot(disks, &point, 0, &mut content)).expect("it is whole");
                content.to_vec()
            }
        }
    }
}

/// One history.
pub struct Machine {
    seed: u64,
    random: Rng,
    rig: Option<Rig>,
    model: Model,
    limits: Limits,
    tight: bool,
    names: u32,
    pub reached: Reached,
}

impl Machine {
    pub fn new(seed: u64) -> Machine {
        let mut random = Rng::with_seed(seed);
        let size_bytes = random.u64(10 * BLOCK / SECTOR..160 * BLOCK / SECTOR) * SECTOR;
        let tight = random.u8(..8) == 0;
        let store_bytes = if tight { random.u64(3..5) << 20 } else { 24 << 20 };
        let discard_bytes_max = *random.choice(&[0, 64 << 10]).expect("not empty");
        let origin = SimDiskOptions { seed, discard_bytes_max, ..SimDiskOptions::new("origin", size_bytes) };
        let store = SimDiskOptions { seed: !seed, ..SimDiskOptions::new("store", store_bytes) };
        let spill_entries = random.usize(4..40);
        let limits = Limits {
            spill_entries,
            // Requests complete at once here: nobody would write runs while a save waits.
            entries_max: 1 << 16,
            cache_pages: 16,
            bitmap_bytes: *random.choice(&[0, 32 << 10, 4 << 20]).expect("not empty"),
            reserve_segments: 2,
            restore_step_blocks: random.u64(1..20),
        };
        let rig = Rig::new(origin, store, 64 << 10, limits);
        let model = Model::new(&rig.read(0, size_bytes as usize).expect("a new volume is read"));
        let reached = Reached::default();
        Machine { seed, random, rig: Some(rig), model, limits, tight, names: 0, reached }
    }

    fn rig(&self) -> &Rig {
        self.rig.as_ref().expect("it is attached between two steps")
    }

    /// Runs the history, asking all along.
    pub fn run(&mut self) {
        for _ in 0..STEPS {
            self.step();
            self.forget_broken();
            if self.random.u8(..3) == 0 {
                self.ask_attached(4);
            }
        }
        self.reattach();
    }

    fn step(&mut self) {
        match self.random.u8(..40) {
            0..=16 => self.write(),
            17..=19 => self.discard(),
            20..=24 => self.cut(),
            25..=26 => self.delete(),
            27..=29 => self.bookmark(),
            30..=33 => self.work_some(),
            34 => self.restore(),
            35 => self.grow(),
            36 => block_on(self.rig().lane.flush()).expect("nothing fails"),
            37 => block_on(self.rig().lane.tick()).expect("nothing fails"),
            _ => self.reattach(),
        }
    }

    fn random_range(&mut self) -> std::ops::Range<u64> {
        let sectors = self.model.content.len() as u64;
        let start = self.random.u64(..sectors);
        let longest = if self.random.u8(..4) == 0 { 400 } else { 24 };
        let length = self.random.u64(1..=longest);
        start..(start + length).min(sectors)
    }

    fn write(&mut self) {
        let (range, value) = (self.random_range(), self.random.u8(..));
        let (offset_bytes, length_bytes) = (range.start * SECTOR, (range.end - range.start) * SECTOR);
        let lane = &self.rig().lane;
        let written = match value {
            0 => block_on(lane.write_zeroes(offset_bytes, length_bytes, false, true)),
            value => self.rig().write(offset_bytes, length_bytes as usize, value),
        };
        written.expect("the disk works");
        let is_snapshot = |point: &crate::model::Point| !point.is_bookmark;
        let only_bookmarks = !self.model.points.is_empty() && !self.model.points.values().any(is_snapshot);
        self.reached.overwrites_without_snapshots += u64::from(only_bookmarks);
        self.model.write(range, value);
    }

    fn discard(&mut self) {
        let range = self.random_range();
        let length_bytes = (range.end - range.start) * SECTOR;
        block_on(self.rig().lane.discard(range.start * SECTOR, length_bytes)).expect("the disk works");
        self.model.discard(range);
        self.follow();
    }

    fn follow(&mut self) {
        let size_bytes = self.rig().volume.size_bytes() as usize;
        let content = self.rig().read(0, size_bytes).expect("the disk works");
        self.model.follow(&content);
    }

    fn cut(&mut self) {
        if self.model.points.len() >= POINTS_MAX {
            return self.delete();
        }
        self.names += 1;
        let name = format!("p{}", self.names);
        match self.rig().snapshot(&name) {
            Ok(_) => {
                let holes = self.holes_of(&name);
                self.model.cut(&name, holes);
            }
            Err(error) => assert!(self.tight && error.kind() == ErrorKind::NoSpace, "{error:?}"),
        }
    }

    fn holes_of(&self, name: &str) -> Holes {
        let rig = self.rig();
        let handle = block_on(rig.volume.snapshot_handle(&rig.disks, &snapshot_name(name))).expect("it was just taken");
        handle.holes().as_ref().clone()
    }

    fn random_point(&mut self) -> Option<String> {
        let names = self.model.in_order();
        self.random.choice(names).map(str::to_owned)
    }

    fn delete(&mut self) {
        let Some(name) = self.random_point() else { return };
        block_on(self.rig().volume.delete(&self.rig().disks, &snapshot_name(&name))).expect("nobody holds it");
        self.model.points.remove(&name);
    }

    fn bookmark(&mut self) {
        let Some(name) = self.random_point() else { return };
        let result = block_on(self.rig().volume.bookmark(&self.rig().disks, &snapshot_name(&name)));
        let point = self.model.points.get_mut(&name).expect("it was chosen");
        match result {
            Ok(_) => assert!(!point.is_bookmark, "{name} was one already"),
            Err(error) => assert!(point.is_bookmark && error.kind() == ErrorKind::Exists, "{error:?}"),
        }
        point.is_bookmark = true;
        let rig = self.rig();
        let handle = block_on(rig.volume.snapshot_handle(&rig.disks, &snapshot_name(&name)));
        assert_eq!(handle.expect_err("nobody reads a bookmark").kind(), ErrorKind::NotFound);
    }

    fn work_some(&mut self) {
        for _ in 0..self.random.usize(1..8) {
            let rig = self.rig();
            if !block_on(rig.volume.background_step(&rig.control)).expect("the store works") {
                return;
            }
        }
    }

    /// Restores a snapshot; now and then a crash comes before it is done.
    fn restore(&mut self) {
        let Some(name) = self.random_point() else { return };
        self.names += 1;
        let before = format!("p{}", self.names);
        let result = block_on(self.rig().volume.restore(
            &self.rig().disks,
            &snapshot_name(&name),
            &snapshot_name(&before),
            snapshot_options(),
            &Deadline::new(),
        ));
        let target = &self.model.points[&name];
        if let Err(error) = result {
            let excused = match error.kind() {
                ErrorKind::NotFound => target.is_bookmark,
                ErrorKind::Invalid => target.size_bytes() != self.model.size_bytes(),
                ErrorKind::NoSpace => true,
                _ => false,
            };
            assert!(excused, "{error:?}");
            return;
        }
        self.reached.restores += 1;
        let mut moved = self.model.touched_between(&name, None);
        moved.retain(|block| !target.holes.contains(*block));
        let holes = self.holes_of(&before);
        self.model.cut(&before, holes);
        self.model.restore(&name, moved);
        self.ask_while_restoring(&name);
        if self.random.u8(..4) == 0 {
            self.work_some();
            self.ask_while_restoring(&name);
            let seed = self.random.u64(..);
            let crash = *self.random.choice(&[Crash::Process, Crash::Power]).expect("not empty");
            self.rig = Some(self.rig.take().expect("attached").recover(seed, crash).expect("it goes on"));
            self.reached.crashes += 1;
        }
        self.rig().work().expect("the store works");
        assert_eq!(self.rig().volume.restore_progress(), None);
        self.follow();
        self.model.follow_holes(&self.rig().volume.holes_now());
    }

    /// While blocks move back, what is reported since a snapshot is at least what differs.
    fn ask_while_restoring(&mut self, target: &str) {
        for name in self.model.in_order() {
            let source = Source::Attached(self.rig());
            let (older, newer) = (source.point(Some(name)), DeltaPoint::live());
            let found = source.changes((Some(&older), &newer), 0, usize::MAX).expect("both are whole");
            let (was, is) = (&self.model.points[name].content, &self.model.points[target].content);
            let differs = (0..is.len()).filter(|&sector| was.get(sector) != Some(&is[sector]));
            for offset_bytes in differs.map(|sector| sector as u64 * SECTOR) {
                let holds = |extent: &Extent| (extent.offset_bytes..end_of(extent)).contains(&offset_bytes);
                assert!(found.iter().any(holds), "seed {}: {name}, byte {offset_bytes}", self.seed);
            }
        }
    }

    fn grow(&mut self) {
        let added = self.random.u64(1..ORIGIN_GROWTHS_MAX * BLOCK / SECTOR) * SECTOR;
        let rig = self.rig();
        rig.disks.origin.resize(rig.volume.size_bytes() + added);
        block_on(rig.volume.grow(&rig.control)).expect("a larger disk");
        self.follow();
    }

    /// The end of an attachment, clean or not; questions while nobody has it; and the next attachment.
    fn reattach(&mut self) {
        let rig = self.rig.take().expect("attached");
        let (seed, end) = (self.random.u64(..), self.random.u8(..4));
        if end == 0 {
            let is_closed = block_on(rig.volume.close(&rig.disks, 1));
            is_closed.unwrap_or_else(|error| assert!(self.tight && error.kind() == ErrorKind::NoSpace, "{error:?}"));
        }
        let crash = if end == 1 { Crash::Power } else { Crash::Process };
        self.reached.crashes += u64::from(end != 0);
        let disks = rig.crash(seed, crash);
        self.ask_detached(&disks);
        let rig = Rig::attach(disks, self.limits, StateDirectory::default()).expect("it is attached again");
        self.rig = Some(rig);
        self.follow();
        self.model.follow_holes(&self.rig().volume.holes_now());
    }

    /// What broke because the store was full is no longer asked for.
    fn forget_broken(&mut self) {
        let (volume, disks) = (self.rig().volume.clone(), self.rig().disks.clone());
        let all = block_on(async { [volume.snapshots().await, volume.bookmarks().await].concat() });
        for point in all.iter().filter(|point| point.broken.is_some()) {
            assert!(self.tight, "seed {}: {} broke: {:?}", self.seed, point.name, point.broken);
            let refused = block_on(volume.delta_point(&disks, &point.name)).expect_err("it is broken");
            assert_eq!(refused.kind(), ErrorKind::Broken);
            block_on(volume.delete(&disks, &point.name)).expect("nobody holds it");
            self.model.points.remove(point.name.as_str());
            self.reached.broken += 1;
        }
        assert_eq!(all.len() - all.iter().filter(|point| point.broken.is_some()).count(), self.model.points.len());
    }

    fn ask_attached(&mut self, times: usize) {
        let rig = self.rig.take().expect("attached");
        for _ in 0..times {
            self.ask(&Source::Attached(&rig));
        }
        if self.random.u8(..8) == 0 {
            let findings = block_on(rig.volume.check(&rig.disks.store, Default::default())).expect("it is read");
            assert!(findings.iter().all(|finding| self.tight || !finding.serious), "seed {}: {findings:?}", self.seed);
        }
        self.rig = Some(rig);
    }

    fn ask_detached(&mut self, disks: &Disks<SimDisk>) {
        let before = disks.store.counts();
        let store = block_on(OfflineStore::open(&disks.store, None)).expect("a whole store");
        assert_eq!(store.snapshots().len() + store.bookmarks().len(), self.model.points.len(), "seed {}", self.seed);
        let all = [store.snapshots(), store.bookmarks()].concat();
        for point in all.iter().filter(|point| point.broken.is_some()) {
            // The end of the attachment needed the room.
            assert!(self.tight, "seed {}: {} broke: {:?}", self.seed, point.name, point.broken);
            self.model.points.remove(point.name.as_str());
        }
        block_on(store.verify_origin(&disks.origin)).expect("nobody wrote it");
        let size_bytes = store.size_bytes() as usize;
        let mut content = aligned_buffer(size_bytes);
        block_on(store.read_snapshot(disks, &DeltaPoint::live(), 0, &mut content)).expect("the disk works");
        self.model.follow(&content);
        for _ in 0..4 {
            self.ask(&Source::Detached(&store, disks));
            self.reached.triples_detached += 1;
        }
        let after = disks.store.counts();
        assert_eq!((before.writes, before.durable_writes), (after.writes, after.durable_writes), "it was written");
    }

    /// One question: random ends, a random place, a random number of extents at a time.
    fn ask(&mut self, source: &Source<'_>) {
        let names: Vec<Option<String>> = self.model.in_order().iter().map(|name| Some((*name).to_owned())).collect();
        let all = [vec![None], names, vec![None]].concat();
        // The first stands for no older end, the last for the live volume.
        let newer_at = self.random.usize(1..all.len());
        let older_at = if self.random.u8(..12) == 0 { 0 } else { self.random.usize(..newer_at) };
        let (older, newer) = (all[older_at].as_deref(), all[newer_at].as_deref());
        let end_bytes = newer.map_or(self.model.size_bytes(), |newer| self.model.points[newer].size_bytes());
        let from = if self.random.bool() { 0 } else { self.random.u64(..=end_bytes) };
        let most = *self.random.choice(&[1, 2, 5, usize::MAX]).expect("not empty");
        let (older_point, newer_point) = (older.map(|name| source.point(Some(name))), source.point(newer));
        let (mut found, mut at): (Vec<Extent>, u64) = (Vec::new(), from);
        loop {
            let more = source.changes((older_point.as_ref(), &newer_point), at, most).expect("both are whole");
            assert!(more.len() <= most);
            let is_last = more.len() < most;
            at = more.last().map_or(at, end_of);
            found.extend(more);
            if is_last {
                break;
            }
        }
        let live = source.holes_now();
        self.model.assert_free(&live);
        let expected = self.model.delta(older, newer, &live, from);
        assert_eq!(found, expected, "seed {}: from {older:?} to {newer:?} at {from}", self.seed);
        self.reached.triples += 1;
        self.reached.triples_of_the_live_volume += u64::from(newer.is_none());
        let Some(older) = older else { return };
        self.reached.triples_of_bookmarks += u64::from(self.model.points[older].is_bookmark);
        self.reached.triples_across_sizes += u64::from(self.model.points[older].size_bytes() != end_bytes);
        if from == 0 {
            self.apply(source, older, newer, &found);
        }
    }

    /// The older content with the delta upon it is the newer content. Bookmarks are known to the model alone.
    fn apply(&mut self, source: &Source<'_>, older: &str, newer: Option<&str>, delta: &[Extent]) {
        let content = |name: Option<&str>| match name {
            None => Model::without(&self.model.content, &source.holes_now()),
            Some(name) => {
                let point = &self.model.points[name];
                let read = (!point.is_bookmark).then(|| sectors(&source.read(name, point.size_bytes())));
                assert!(read.is_none_or(|read| read == point.content), "seed {}: {name} is wrong", self.seed);
                point.content.clone()
            }
        };
        let (mut result, newer) = (content(Some(older)), content(newer));
        let zeroes = crc32c::crc32c(&[0; SECTOR as usize]);
        result.resize(newer.len(), 0);
        for extent in delta {
            let range = (extent.offset_bytes / SECTOR) as usize..(end_of(extent) / SECTOR) as usize;
            match extent.kind {
                ExtentKind::Data => result[range.clone()].copy_from_slice(&newer[range]),
                ExtentKind::NotInUse => result[range].fill(zeroes),
            }
        }
        assert!(result == newer, "seed {}: the delta from {older} does not lead there", self.seed);
        self.reached.applied += 1;
    }
}

fn end_of(extent: &Extent) -> u64 {
    extent.offset_bytes + extent.length_bytes
}
