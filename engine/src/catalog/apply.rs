//! Applying items to the state, and taking them back.
//!
//! Invariants:
//! - An item that makes no sense is refused with `Corrupt` and changes nothing; a batch is applied whole or not at all.
//! - A segment that is in use is never given to another owner: it becomes free first.
//! - Applying and taking back cost what the items name, whatever else exists: neither copies the state.

use crate::catalog::restoring::{Replaced, RestoreRecord};
use crate::catalog::state::{nonsense, state_at, SegmentRecord, State};
use crate::error::Result;
use crate::format::item::{Item, RunRecord, SegmentState, SnapshotRecord, VolumeFacts, NO_HOLES};
use crate::snapshot::SnapshotName;
use crate::units::{BlockIndex, Epoch, BLOCK_MAX, COUNTER_MAX};
use std::collections::BTreeMap;

/// Takes back the items of one batch.
#[derive(Debug, Default)]
#[must_use = "dropping it makes the change final"]
pub struct UndoList(Vec<Undo>);

/// What one item replaced.
#[derive(Debug)]
enum Undo {
    Nothing,
    Volume(VolumeFacts),
    Snapshot { epoch: Epoch, before: Option<SnapshotRecord>, map: Option<u64> },
    Holes { run: u64, before: Option<RunRecord>, floor: u64 },
    Map { epoch: Epoch, before: Option<u64> },
    LiveMap { run: Option<u64>, untrusted: BTreeMap<BlockIndex, u64> },
    Untrusted { start_block: BlockIndex, before: Option<u64> },
    Segments { first: usize, before: Vec<SegmentRecord> },
    Run { run: u64, before: Option<RunRecord>, floor: u64 },
    RunFloor(u64),
    LaneIndexed { lane: u16, before: Option<u64> },
    Restore(Option<RestoreRecord>),
    RestoreMarks(Replaced),
    WatchAdd { block: BlockIndex },
    Watch { contents: BTreeMap<BlockIndex, Vec<[u64; 8]>>, count: usize },
    Sample { block: BlockIndex, before: Option<u64> },
    Samples(BTreeMap<BlockIndex, u64>),
}

impl State {
    /// Applies one item for good; on an error nothing has changed.
    pub fn apply(&mut self, item: &Item) -> Result<()> {
        self.apply_one(item).map(|_| ())
    }

    /// Applies all items in their order; on an error nothing has changed.
    pub fn apply_all(&mut self, items: &[Item]) -> Result<UndoList> {
        let mut list = UndoList(Vec::with_capacity(items.len()));
        for item in items {
            match self.apply_one(item) {
                Ok(undo) => list.0.push(undo),
                Err(error) => {
                    self.take_back(list);
                    return Err(error);
                }
            }
        }
        Ok(list)
    }

    /// Takes back what `apply_all` did. Nothing else was applied since.
    pub fn take_back(&mut self, list: UndoList) {
        for undo in list.0.into_iter().rev() {
            self.take_back_one(undo);
        }
    }

    fn apply_one(&mut self, item: &Item) -> Result<Undo> {
        match item {
            Item::Volume(facts) => self.apply_volume(facts),
            Item::SnapshotPut(snapshot) => self.apply_snapshot(snapshot),
            Item::SnapshotDelete { epoch } => match self.set_snapshot(*epoch, None) {
                before @ Some(_) => Ok(Undo::Snapshot { epoch: *epoch, before, map: self.maps.remove(epoch) }),
                None => Err(nonsense(format!("the snapshot of epoch {epoch} is deleted but does not exist"))),
            },
            Item::Segments { first, count, state, incarnation } => {
                self.apply_segments(*first, *count, *state, *incarnation)
            }
            Item::RunPut(run) => self.apply_run(run),
            Item::RunDelete { run } => match self.runs.remove(run) {
                before @ Some(_) => Ok(Undo::Run { run: *run, before, floor: self.run_floor }),
                None => Err(nonsense(format!("the run {run} is deleted but does not exist"))),
            },
            Item::RestorePut { target_epoch, before_epoch, cursor_block } => {
                self.apply_restore(*target_epoch, *before_epoch, *cursor_block)
            }
            Item::RestoreMoved { start_block, count_blocks } => self.apply_moved(*start_block, *count_blocks),
            Item::RestoreEnd => match self.restore.take() {
                before @ Some(_) => Ok(Undo::Restore(before)),
                None => Err(nonsense("a restore ends that never began".into())),
            },
            Item::Sample { block, .. } | Item::WatchAdd { block, .. } if *block > BLOCK_MAX => {
                Err(nonsense(format!("hashes of block {block}")))
            }
            Item::WatchAdd { block, hashes } => Ok(self.apply_watch(*block, hashes)),
            Item::WatchReset => {
                let contents = std::mem::take(&mut self.watch);
                Ok(Undo::Watch { contents, count: std::mem::take(&mut self.watched_contents) })
            }
            Item::Sample { block, hash } => {
                Ok(Undo::Sample { block: *block, before: self.samples.insert(*block, *hash) })
            }
            Item::SampleReset => Ok(Undo::Samples(std::mem::take(&mut self.samples))),
            Item::RunFloor { run } => {
                let floor = self.run_floor.max(*run);
                Ok(Undo::RunFloor(std::mem::replace(&mut self.run_floor, floor)))
            }
            Item::LaneIndexed { sequence, .. } if *sequence >= COUNTER_MAX => {
                Err(nonsense(format!("{sequence} records of a lane")))
            }
            Item::LaneIndexed { lane, sequence } => {
                Ok(Undo::LaneIndexed { lane: *lane, before: self.lanes_indexed.insert(*lane, *sequence) })
            }
            Item::HolesPut(run) => self.apply_holes(run),
            Item::HolesDelete { run } if self.is_map_of_something(*run) => {
                Err(nonsense(format!("the holes {run} are deleted but are somebody's map")))
            }
            Item::HolesDelete { run } => match self.holes.remove(run) {
                before @ Some(_) => Ok(Undo::Holes { run: *run, before, floor: self.run_floor }),
                None => Err(nonsense(format!("the holes {run} are deleted but do not exist"))),
            },
            Item::MapPut { epoch, run } if !self.snapshots.contains_key(epoch) || !self.holes.contains_key(run) => {
                Err(nonsense(format!("the holes {run} are the map of epoch {epoch}, and one of them does not exist")))
            }
            Item::MapPut { epoch, run } => Ok(Undo::Map { epoch: *epoch, before: self.maps.insert(*epoch, *run) }),
            Item::LiveMap { run } => self.apply_live_map(*run),
            Item::Untrusted { start_block, count_blocks } => self.apply_untrusted(*start_block, *count_blocks),
        }
    }

    fn apply_holes(&mut self, run: &RunRecord) -> Result<Undo> {
        check_run(run)?;
        if self.runs.contains_key(&run.run) {
            return Err(nonsense(format!("the run {} is there twice", run.run)));
        }
        let floor = self.run_floor;
        self.run_floor = floor.max(run.run);
        Ok(Undo::Holes { run: run.run, before: self.holes.insert(run.run, *run), floor })
    }

    fn apply_live_map(&mut self, run: u64) -> Result<Undo> {
        if run != NO_HOLES && !self.holes.contains_key(&run) {
            return Err(nonsense(format!("the holes {run} are the volume's map but do not exist")));
        }
        let untrusted = std::mem::take(&mut self.untrusted);
        let run = std::mem::replace(&mut self.live_map, Some(run).filter(|run| *run != NO_HOLES));
        Ok(Undo::LiveMap { run, untrusted })
    }

    fn apply_untrusted(&mut self, start_block: BlockIndex, count_blocks: u64) -> Result<Undo> {
        if count_blocks == 0 || start_block > BLOCK_MAX || count_blocks > BLOCK_MAX {
            return Err(nonsense(format!("{count_blocks} blocks from block {start_block} are not trusted")));
        }
        let known = self.untrusted.get(&start_block).copied().unwrap_or(0);
        let before = self.untrusted.insert(start_block, count_blocks.max(known));
        Ok(Undo::Untrusted { start_block, before })
    }

    fn take_back_one(&mut self, undo: Undo) {
        match undo {
            Undo::Nothing => {}
            Undo::Volume(facts) => self.volume = facts,
            Undo::Snapshot { epoch, before, map } => {
                self.set_snapshot(epoch, before);
                self.maps.extend(map.map(|run| (epoch, run)));
            }
            Undo::Holes { run, before, floor } => {
                put_back(&mut self.holes, run, before);
                self.run_floor = floor;
            }
            Undo::Map { epoch, before } => put_back(&mut self.maps, epoch, before),
            Undo::LiveMap { run, untrusted } => {
                self.live_map = run;
                self.untrusted = untrusted;
            }
            Undo::Untrusted { start_block, before } => put_back(&mut self.untrusted, start_block, before),
            Undo::Segments { first, before } => self.segments[first..first + before.len()].copy_from_slice(&before),
            Undo::Run { run, before, floor } => {
                put_back(&mut self.runs, run, before);
                self.run_floor = floor;
            }
            Undo::RunFloor(floor) => self.run_floor = floor,
            Undo::LaneIndexed { lane, before } => put_back(&mut self.lanes_indexed, lane, before),
            Undo::Restore(before) => self.restore = before,
            Undo::RestoreMarks(replaced) => {
                self.restore.as_mut().expect("its marks were changed").take_back(replaced);
            }
            Undo::WatchAdd { block } => {
                let known = self.watch.get_mut(&block).expect("a content was added");
                known.pop();
                if known.is_empty() {
                    self.watch.remove(&block);
                }
                self.watched_contents -= 1;
            }
            Undo::Watch { contents, count } => {
                self.watch = contents;
                self.watched_contents = count;
            }
            Undo::Sample { block, before } => put_back(&mut self.samples, block, before),
            Undo::Samples(samples) => self.samples = samples,
        }
    }

    fn apply_volume(&mut self, facts: &VolumeFacts) -> Result<Undo> {
        if facts.size_bytes == 0 || !facts.size_bytes.is_multiple_of(512) {
            return Err(nonsense(format!("a volume of {} bytes", facts.size_bytes)));
        }
        if facts.active_epoch >= Epoch::LAST {
            return Err(nonsense(format!("the epoch {}", facts.active_epoch)));
        }
        if facts.active_epoch < self.volume.active_epoch {
            return Err(nonsense(format!("epoch {} follows {}", facts.active_epoch, self.volume.active_epoch)));
        }
        Ok(Undo::Volume(std::mem::replace(&mut self.volume, *facts)))
    }

    fn apply_snapshot(&mut self, snapshot: &SnapshotRecord) -> Result<Undo> {
        if snapshot.epoch > self.volume.active_epoch.next() {
            return Err(nonsense(format!("the snapshot {} is from the future", snapshot.name)));
        }
        if SnapshotName::new(&snapshot.name).is_err() {
            let (epoch, name) = (snapshot.epoch, snapshot.name.escape_debug());
            return Err(nonsense(format!("the snapshot of epoch {epoch} has the illegal name \"{name}\"")));
        }
        if self.names.get(&snapshot.name).is_some_and(|epoch| *epoch != snapshot.epoch) {
            return Err(nonsense(format!("two snapshots have the name {}", snapshot.name)));
        }
        let epoch = snapshot.epoch;
        // Nobody reads a broken snapshot: its map would only take room.
        let map = snapshot.broken.and_then(|_| self.maps.remove(&epoch));
        Ok(Undo::Snapshot { epoch, before: self.set_snapshot(epoch, Some(snapshot.clone())), map })
    }

    /// Puts, replaces or removes the snapshot of an epoch, and keeps what is counted and looked up by name in step.
    fn set_snapshot(&mut self, epoch: Epoch, snapshot: Option<SnapshotRecord>) -> Option<SnapshotRecord> {
        let before = self.snapshots.remove(&epoch);
        if let Some(before) = &before {
            self.names.remove(&before.name);
            self.names_bytes -= before.name.len();
            self.reasons_bytes -= before.reason.len();
        }
        if let Some(snapshot) = snapshot {
            self.names.insert(snapshot.name.clone(), epoch);
            self.names_bytes += snapshot.name.len();
            self.reasons_bytes += snapshot.reason.len();
            self.snapshots.insert(epoch, snapshot);
        }
        before
    }

    fn apply_segments(&mut self, first: u32, count: u32, state: SegmentState, incarnation: u32) -> Result<Undo> {
        let range = first as usize..first as usize + count as usize;
        let ordinal_overflow =
            matches!(state, SegmentState::Run { ordinal, .. } if ordinal.checked_add(count).is_none());
        // The last incarnation is never given out, so that counting on from any other cannot overflow.
        let worn_out = incarnation == u32::MAX;
        if count == 0 || range.end > self.segments.len() || ordinal_overflow || worn_out {
            return Err(nonsense(format!("{count} segments from segment {first}")));
        }
        for (offset, record) in self.segments[range.clone()].iter().enumerate() {
            let next = state_at(state, offset as u32);
            if incarnation < record.incarnation || !may_follow(record.state, next) {
                let index = first as usize + offset;
                return Err(nonsense(format!(
                    "segment {index} goes from {record:?} to {next:?} of incarnation {incarnation}"
                )));
            }
        }
        let before = self.segments[range.clone()].to_vec();
        for (offset, record) in self.segments[range].iter_mut().enumerate() {
            *record = SegmentRecord { state: state_at(state, offset as u32), incarnation };
        }
        Ok(Undo::Segments { first: first as usize, before })
    }

    fn apply_run(&mut self, run: &RunRecord) -> Result<Undo> {
        check_run(run)?;
        if self.holes.contains_key(&run.run) {
            return Err(nonsense(format!("the run {} is there twice", run.run)));
        }
        let floor = self.run_floor;
        self.run_floor = floor.max(run.run);
        Ok(Undo::Run { run: run.run, before: self.runs.insert(run.run, *run), floor })
    }

    fn apply_restore(&mut self, target_epoch: Epoch, before_epoch: Epoch, cursor_block: BlockIndex) -> Result<Undo> {
        match &mut self.restore {
            Some(restore) if (restore.target_epoch, restore.before_epoch) != (target_epoch, before_epoch) => {
                Err(nonsense(format!("a restore of epoch {target_epoch} begins inside another")))
            }
            Some(restore) if cursor_block < restore.cursor_block => {
                Err(nonsense(format!("a restore goes back to block {cursor_block}")))
            }
            Some(restore) => Ok(Undo::RestoreMarks(restore.advance(cursor_block))),
            None => {
                self.restore = Some(RestoreRecord { target_epoch, before_epoch, cursor_block, moved: BTreeMap::new() });
                Ok(Undo::Restore(None))
            }
        }
    }

    fn apply_moved(&mut self, start_block: BlockIndex, count_blocks: u64) -> Result<Undo> {
        let restore =
            self.restore.as_mut().ok_or_else(|| nonsense("blocks are moved but no restore is under way".into()))?;
        let end_block = start_block
            .checked_add(count_blocks)
            .filter(|_| count_blocks > 0)
            .ok_or_else(|| nonsense(format!("{count_blocks} blocks are moved from block {start_block}")))?;
        Ok(Undo::RestoreMarks(restore.mark(start_block, end_block)))
    }

    fn apply_watch(&mut self, block: BlockIndex, hashes: &[u64; 8]) -> Undo {
        let known = self.watch.entry(block).or_default();
        if known.contains(hashes) {
            return Undo::Nothing;
        }
        known.push(*hashes);
        self.watched_contents += 1;
        Undo::WatchAdd { block }
    }
}

fn check_run(run: &RunRecord) -> Result<()> {
    let in_order = run.first_epoch <= run.last_epoch && run.first_block <= run.last_block;
    let in_bounds = run.last_epoch <= Epoch::LAST && run.last_block <= BLOCK_MAX;
    if !in_order || !in_bounds || run.pages == 0 || run.height == 0 {
        return Err(nonsense(format!("the run {run:?}")));
    }
    Ok(())
}

fn put_back<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, before: Option<V>) {
    match before {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}

/// May a segment change its use like this?
fn may_follow(before: SegmentState, after: SegmentState) -> bool {
    use SegmentState::{Data, Free, Lane};
    matches!((before, after), (Free, _) | (_, Free) | (Lane { .. }, Data { .. }) | (Data { .. }, Data { .. }))
        || before == after
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::format::item::{BrokenReason, Consistency};
    use fastrand::Rng;

    const SEGMENT_COUNT: u32 = 40;

    fn random_state(random: &mut Rng) -> SegmentState {
        match random.u32(..5) {
            0 | 1 => SegmentState::Free,
            2 => SegmentState::Lane { lane: random.u16(..3) },
            3 => SegmentState::Data { epoch: Epoch(random.u64(..4)) },
            _ => SegmentState::Run { run: random.u64(..3), ordinal: random.u32(..4) },
        }
    }

    fn random_snapshot(random: &mut Rng) -> SnapshotRecord {
        let epoch = random.u64(..40);
        SnapshotRecord {
            epoch: Epoch(epoch),
            created_unix_ms: random.u64(..),
            size_bytes: 4096,
            flags: random.u32(..2),
            consistency: Consistency::Filesystem,
            broken: random.bool().then_some(BrokenReason::StoreFull),
            name: format!("s{}", if random.bool() { epoch } else { random.u64(..40) }),
            reason: "r".repeat(random.usize(..20)),
        }
    }

    fn random_item(random: &mut Rng) -> Item {
        match random.u32(..21) {
            0 => Item::Volume(VolumeFacts {
                size_bytes: 512 * random.u64(..9),
                active_epoch: Epoch(random.u64(..40)),
                flush_failed: random.bool(),
            }),
            1 => Item::SnapshotPut(random_snapshot(random)),
            2 => Item::SnapshotDelete { epoch: Epoch(random.u64(..40)) },
            3..=6 => Item::Segments {
                first: random.u32(..SEGMENT_COUNT),
                count: random.u32(..6),
                state: random_state(random),
                incarnation: random.u32(..4),
            },
            7 => Item::RunPut(RunRecord {
                run: random.u64(..9),
                first_epoch: Epoch(random.u64(..5)),
                last_epoch: Epoch(4),
                entries: random.u64(..),
                pages: random.u64(..3),
                height: 1,
                first_block: 1,
                last_block: random.u64(..4),
            }),
            8 => Item::RunDelete { run: random.u64(..9) },
            9 => Item::RestorePut {
                target_epoch: Epoch(1),
                before_epoch: Epoch(random.u64(2..4)),
                cursor_block: random.u64(..30),
            },
            10 | 11 => Item::RestoreMoved { start_block: random.u64(..60), count_blocks: random.u64(..9) },
            12 if random.u32(..4) == 0 => {
                [Item::RestoreEnd, Item::WatchReset, Item::SampleReset][random.usize(..3)].clone()
            }
            15 | 16 => Item::HolesPut(RunRecord {
                run: random.u64(7..12),
                first_epoch: Epoch(2),
                last_epoch: Epoch(4),
                entries: 1,
                pages: random.u64(..3),
                height: 1,
                first_block: 1,
                last_block: random.u64(..4),
            }),
            17 => Item::HolesDelete { run: random.u64(7..12) },
            18 => Item::MapPut { epoch: Epoch(random.u64(..40)), run: random.u64(7..12) },
            19 => match random.u32(..4) {
                0 => Item::LiveMap { run: NO_HOLES },
                1 => Item::LiveMap { run: random.u64(7..12) },
                _ => Item::Untrusted { start_block: random.u64(..9), count_blocks: random.u64(..9) },
            },
            13 => Item::WatchAdd { block: random.u64(..5), hashes: [random.u64(..3); 8] },
            14 => Item::Sample { block: random.u64(..9), hash: random.u64(..) },
            _ => Item::LaneIndexed { lane: random.u16(..5), sequence: random.u64(..) },
        }
    }

    fn rebuilt(state: &State) -> State {
        let mut again = State::new(state.segments.len() as u32);
        for item in state.checkpoint() {
            again.apply(&item).expect("a checkpoint makes sense");
        }
        again
    }

    #[test]
    fn a_checkpoint_rebuilds_the_state_and_refused_items_change_nothing() {
        for seed in 0..300 {
            let mut random = Rng::with_seed(seed);
            let mut state = State::new(SEGMENT_COUNT);
            for _ in 0..random.usize(..200) {
                let before = state.clone();
                if state.apply(&random_item(&mut random)).is_err() {
                    assert!(state == before, "seed {seed}");
                }
            }
            assert!(rebuilt(&state) == state, "seed {seed}");
            let bytes = crate::catalog::record::encode_items(&state.checkpoint()).len() as u64;
            assert!(2 * bytes <= state.checkpoint_bytes(false), "seed {seed}");
        }
    }

    #[test]
    fn a_batch_taken_back_or_refused_leaves_no_trace() {
        let (mut applied, mut refused) = (0, 0);
        for seed in 0..300 {
            let mut random = Rng::with_seed(seed);
            let mut state = State::new(SEGMENT_COUNT);
            for _ in 0..random.usize(..60) {
                let _ = state.apply(&random_item(&mut random));
                let items: Vec<Item> = (0..random.usize(1..6)).map(|_| random_item(&mut random)).collect();
                let before = state.clone();
                match state.apply_all(&items) {
                    Ok(list) => {
                        applied += 1;
                        state.take_back(list);
                    }
                    Err(_) => refused += 1,
                }
                assert!(state == before, "seed {seed}: {items:?}");
            }
        }
        assert!(applied > 1000 && refused > 1000, "{applied} {refused}");
    }

    #[test]
    fn a_segment_in_use_is_never_given_to_another() {
        let mut state = State::new(4);
        let hand =
            |lane, incarnation| Item::Segments { first: 1, count: 2, state: SegmentState::Lane { lane }, incarnation };
        state.apply(&hand(1, 1)).expect("free");
        assert_eq!(state.apply(&hand(2, 2)).expect_err("in use").kind(), ErrorKind::Corrupt);
        let free = Item::Segments { first: 0, count: 4, state: SegmentState::Free, incarnation: 1 };
        state.apply(&free).expect("freed");
        state.apply(&hand(2, 2)).expect("free again");
        assert_eq!(state.apply(&hand(2, 1)).expect_err("goes back").kind(), ErrorKind::Corrupt);
    }
}
