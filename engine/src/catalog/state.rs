//! The state that the catalog's items add up to.
//!
//! Invariants:
//! - Applying `checkpoint()` to an empty state of the same size gives an equal state.
//! - An item that makes no sense is refused with `Corrupt` and changes nothing.
//! - A segment that is in use is never given to another owner: it becomes free first.

use crate::catalog::record::RECORD_ALIGN_BYTES;
use crate::error::{Error, ErrorKind, Result};
use crate::format::item::{Item, RunRecord, SegmentState, SnapshotRecord, VolumeFacts, TEXT_BYTES_MAX};
use crate::units::{BlockIndex, Epoch, SegmentIndex};
use std::collections::BTreeMap;

/// What one segment is used for, and how often it was handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SegmentRecord {
    /// What it is used for.
    pub state: SegmentState,
    /// Grows every time the segment is handed out.
    pub incarnation: u32,
}

/// A restore under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreRecord {
    /// The snapshot being restored.
    pub target_epoch: Epoch,
    /// The automatic snapshot of the state before.
    pub before_epoch: Epoch,
    /// Every block below it is moved.
    pub cursor_block: BlockIndex,
    /// Blocks moved ahead of the cursor: first block -> number of blocks; disjoint and never adjacent.
    pub moved: BTreeMap<BlockIndex, u64>,
}

/// Everything the catalog knows.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct State {
    /// The volume's own facts.
    pub volume: VolumeFacts,
    /// Snapshots by epoch, oldest first.
    pub snapshots: BTreeMap<Epoch, SnapshotRecord>,
    /// Every segment of the store.
    pub segments: Vec<SegmentRecord>,
    /// Runs by identity.
    pub runs: BTreeMap<u64, RunRecord>,
    /// Lane -> the last sequence that runs cover.
    pub lanes_indexed: BTreeMap<u16, u64>,
    /// The restore under way.
    pub restore: Option<RestoreRecord>,
    /// Watched block -> every content logged since the last reset, oldest first.
    pub watch: BTreeMap<BlockIndex, Vec<[u64; 8]>>,
    /// Sampled block -> its hash.
    pub samples: BTreeMap<BlockIndex, u64>,
}

fn nonsense(message: String) -> Error {
    Error::new(ErrorKind::Corrupt, "apply a catalog item", "store")
        .saying(format!("{message}; run `cairn check`, the origin is whole and can be used without Cairn"))
}

impl RestoreRecord {
    /// Is this block where the restored volume has it?
    pub fn is_moved(&self, block: BlockIndex) -> bool {
        let covers = |(start, count): (&u64, &u64)| block < start + count;
        block < self.cursor_block || self.moved.range(..=block).next_back().is_some_and(covers)
    }

    /// Advances the cursor; what it has passed needs no mark.
    fn advance(&mut self, cursor_block: BlockIndex) {
        self.cursor_block = cursor_block;
        while let Some((&start, &count)) = self.moved.first_key_value() {
            if start > cursor_block {
                break;
            }
            self.moved.remove(&start);
            self.cursor_block = self.cursor_block.max(start + count);
        }
    }

    /// Marks blocks as moved, joined with their neighbours.
    fn mark(&mut self, start_block: BlockIndex, end_block: BlockIndex) {
        let (mut start, mut end) = (start_block, end_block);
        while let Some((&other_start, &other_count)) = self.moved.range(..=end).next_back() {
            if other_start + other_count < start {
                break;
            }
            self.moved.remove(&other_start);
            start = start.min(other_start);
            end = end.max(other_start + other_count);
        }
        self.moved.insert(start, end - start);
        self.advance(self.cursor_block);
    }
}

impl State {
    /// An empty state for a store of so many segments.
    pub fn new(segment_count: u32) -> State {
        State { segments: vec![SegmentRecord::default(); segment_count as usize], ..State::default() }
    }

    /// Applies one item; on an error nothing has changed.
    pub fn apply(&mut self, item: &Item) -> Result<()> {
        match item {
            Item::Volume(facts) => self.apply_volume(facts),
            Item::SnapshotPut(snapshot) => self.apply_snapshot(snapshot),
            Item::SnapshotDelete { epoch } => match self.snapshots.remove(epoch) {
                Some(_) => Ok(()),
                None => Err(nonsense(format!("the snapshot of epoch {epoch} is deleted but does not exist"))),
            },
            Item::Segments { first, count, state, incarnation } => {
                self.apply_segments(*first, *count, *state, *incarnation)
            }
            Item::RunPut(run) => self.apply_run(run),
            Item::RunDelete { run } => match self.runs.remove(run) {
                Some(_) => Ok(()),
                None => Err(nonsense(format!("the run {run} is deleted but does not exist"))),
            },
            Item::RestorePut { target_epoch, before_epoch, cursor_block } => {
                self.apply_restore(*target_epoch, *before_epoch, *cursor_block)
            }
            Item::RestoreMoved { start_block, count_blocks } => self.apply_moved(*start_block, *count_blocks),
            Item::RestoreEnd => match self.restore.take() {
                Some(_) => Ok(()),
                None => Err(nonsense("a restore ends that never began".into())),
            },
            Item::WatchAdd { block, hashes } => {
                let known = self.watch.entry(*block).or_default();
                if !known.contains(hashes) {
                    known.push(*hashes);
                }
                Ok(())
            }
            Item::WatchReset => {
                self.watch.clear();
                Ok(())
            }
            Item::Sample { block, hash } => {
                self.samples.insert(*block, *hash);
                Ok(())
            }
            Item::SampleReset => {
                self.samples.clear();
                Ok(())
            }
            Item::LaneIndexed { lane, sequence } => {
                self.lanes_indexed.insert(*lane, *sequence);
                Ok(())
            }
        }
    }

    fn apply_volume(&mut self, facts: &VolumeFacts) -> Result<()> {
        if facts.size_bytes == 0 || facts.size_bytes % 512 != 0 {
            return Err(nonsense(format!("a volume of {} bytes", facts.size_bytes)));
        }
        if facts.active_epoch < self.volume.active_epoch {
            return Err(nonsense(format!("epoch {} follows {}", facts.active_epoch, self.volume.active_epoch)));
        }
        self.volume = *facts;
        Ok(())
    }

    fn apply_snapshot(&mut self, snapshot: &SnapshotRecord) -> Result<()> {
        if snapshot.epoch > self.volume.active_epoch.next() {
            return Err(nonsense(format!("the snapshot {} is from the future", snapshot.name)));
        }
        if snapshot.name.is_empty() {
            return Err(nonsense(format!("the snapshot of epoch {} has no name", snapshot.epoch)));
        }
        let namesake = self.snapshots.values().find(|other| other.name == snapshot.name);
        if namesake.is_some_and(|other| other.epoch != snapshot.epoch) {
            return Err(nonsense(format!("two snapshots have the name {}", snapshot.name)));
        }
        self.snapshots.insert(snapshot.epoch, snapshot.clone());
        Ok(())
    }

    fn apply_segments(&mut self, first: u32, count: u32, state: SegmentState, incarnation: u32) -> Result<()> {
        let range = first as usize..first as usize + count as usize;
        let ordinal_overflow =
            matches!(state, SegmentState::Run { ordinal, .. } if ordinal.checked_add(count).is_none());
        if count == 0 || range.end > self.segments.len() || ordinal_overflow {
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
        for (offset, record) in self.segments[range].iter_mut().enumerate() {
            *record = SegmentRecord { state: state_at(state, offset as u32), incarnation };
        }
        Ok(())
    }

    fn apply_run(&mut self, run: &RunRecord) -> Result<()> {
        if run.first_epoch > run.last_epoch || run.first_block > run.last_block || run.pages == 0 || run.height == 0 {
            return Err(nonsense(format!("the run {run:?}")));
        }
        self.runs.insert(run.run, *run);
        Ok(())
    }

    fn apply_restore(&mut self, target_epoch: Epoch, before_epoch: Epoch, cursor_block: BlockIndex) -> Result<()> {
        match &mut self.restore {
            Some(restore) if (restore.target_epoch, restore.before_epoch) != (target_epoch, before_epoch) => {
                Err(nonsense(format!("a restore of epoch {target_epoch} begins inside another")))
            }
            Some(restore) if cursor_block < restore.cursor_block => {
                Err(nonsense(format!("a restore goes back to block {cursor_block}")))
            }
            Some(restore) => {
                restore.advance(cursor_block);
                Ok(())
            }
            None => {
                self.restore = Some(RestoreRecord { target_epoch, before_epoch, cursor_block, moved: BTreeMap::new() });
                Ok(())
            }
        }
    }

    fn apply_moved(&mut self, start_block: BlockIndex, count_blocks: u64) -> Result<()> {
        let restore =
            self.restore.as_mut().ok_or_else(|| nonsense("blocks are moved but no restore is under way".into()))?;
        let end_block = start_block
            .checked_add(count_blocks)
            .filter(|_| count_blocks > 0)
            .ok_or_else(|| nonsense(format!("{count_blocks} blocks are moved from block {start_block}")))?;
        restore.mark(start_block, end_block);
        Ok(())
    }

    /// The snapshot with that name.
    pub fn snapshot_named(&self, name: &str) -> Option<&SnapshotRecord> {
        self.snapshots.values().find(|snapshot| snapshot.name == name)
    }

    /// The segments of a run in the order of its pages; `Corrupt` where one is missing or there twice.
    pub fn run_segments(&self, run: u64) -> Result<Vec<SegmentIndex>> {
        let mut ordered = BTreeMap::new();
        for (index, record) in self.segments.iter().enumerate() {
            match record.state {
                SegmentState::Run { run: owner, ordinal } if owner == run => {
                    if ordered.insert(ordinal, index as SegmentIndex).is_some() {
                        return Err(nonsense(format!("run {run} has segment {ordinal} twice")));
                    }
                }
                _ => {}
            }
        }
        if ordered.keys().copied().ne(0..ordered.len() as u32) {
            return Err(nonsense(format!("run {run} lacks a segment")));
        }
        Ok(ordered.into_values().collect())
    }

    /// The items that rebuild this state from an empty one of the same number of segments.
    pub fn checkpoint(&self) -> Vec<Item> {
        let mut items = Vec::new();
        if self.volume != VolumeFacts::default() {
            items.push(Item::Volume(self.volume));
        }
        items.extend(self.snapshots.values().cloned().map(Item::SnapshotPut));
        self.checkpoint_segments(&mut items);
        items.extend(self.runs.values().copied().map(Item::RunPut));
        items.extend(self.lanes_indexed.iter().map(|(&lane, &sequence)| Item::LaneIndexed { lane, sequence }));
        if let Some(restore) = &self.restore {
            items.push(Item::RestorePut {
                target_epoch: restore.target_epoch,
                before_epoch: restore.before_epoch,
                cursor_block: restore.cursor_block,
            });
            items.extend(
                restore
                    .moved
                    .iter()
                    .map(|(&start_block, &count_blocks)| Item::RestoreMoved { start_block, count_blocks }),
            );
        }
        for (&block, contents) in &self.watch {
            items.extend(contents.iter().map(|&hashes| Item::WatchAdd { block, hashes }));
        }
        items.extend(self.samples.iter().map(|(&block, &hash)| Item::Sample { block, hash }));
        items
    }

    /// Number of entries that take room in a checkpoint, segments apart: they have theirs for good.
    pub fn entries(&self) -> usize {
        let moved = self.restore.as_ref().map_or(0, |restore| 1 + restore.moved.len());
        let watched: usize = self.watch.values().map(Vec::len).sum();
        self.snapshots.len() + self.runs.len() + self.lanes_indexed.len() + moved + watched + self.samples.len()
    }

    /// Bytes that a checkpoint may take, both copies of its records counted: every segment apart from its neighbours,
    /// and with `all_broken` every snapshot marked broken with the longest reason.
    pub fn checkpoint_bytes(&self, all_broken: bool) -> u64 {
        const ITEM_BYTES_MAX: usize = 76;
        let reason = |snapshot: &SnapshotRecord| if all_broken { TEXT_BYTES_MAX } else { snapshot.reason.len() };
        let texts: usize = self.snapshots.values().map(|snapshot| snapshot.name.len() + reason(snapshot)).sum();
        let items = 32 * self.segments.len() + ITEM_BYTES_MAX * (2 + self.entries()) + texts;
        // Less than a 50th is lost at the ends of records, and one record's rounding at the end.
        2 * (items + items / 50 + RECORD_ALIGN_BYTES) as u64
    }

    fn checkpoint_segments(&self, items: &mut Vec<Item>) {
        let mut first = 0;
        while first < self.segments.len() {
            let head = self.segments[first];
            let alike = |(offset, record): &(usize, &SegmentRecord)| {
                record.incarnation == head.incarnation && record.state == state_at(head.state, *offset as u32)
            };
            let count = self.segments[first..].iter().enumerate().take_while(alike).count();
            if head != SegmentRecord::default() {
                items.push(Item::Segments {
                    first: first as SegmentIndex,
                    count: count as u32,
                    state: head.state,
                    incarnation: head.incarnation,
                });
            }
            first += count;
        }
    }
}

/// The state of the segment `offset` places behind the first of a range.
fn state_at(state: SegmentState, offset: u32) -> SegmentState {
    match state {
        SegmentState::Run { run, ordinal } => SegmentState::Run { run, ordinal: ordinal.wrapping_add(offset) },
        other => other,
    }
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
        match random.u32(..16) {
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
    fn moved_blocks_are_remembered_exactly() {
        for seed in 0..200 {
            let mut random = Rng::with_seed(seed);
            let mut restore = RestoreRecord {
                target_epoch: Epoch(1),
                before_epoch: Epoch(2),
                cursor_block: 0,
                moved: BTreeMap::new(),
            };
            let mut model = [false; 100];
            for _ in 0..30 {
                let start = random.usize(..80);
                let end = start + random.usize(1..20);
                if random.u32(..6) == 0 && start as u64 > restore.cursor_block {
                    restore.advance(start as u64);
                    model[..start].fill(true);
                } else {
                    restore.mark(start as u64, end as u64);
                    model[start..end].fill(true);
                }
                for (block, moved) in model.iter().enumerate() {
                    assert_eq!(restore.is_moved(block as u64), *moved, "seed {seed} block {block}");
                }
            }
        }
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

    #[test]
    fn the_segments_of_a_run_come_in_order_or_not_at_all() {
        let mut state = State::new(6);
        let put = |first, count, ordinal| Item::Segments {
            first,
            count,
            state: SegmentState::Run { run: 1, ordinal },
            incarnation: 1,
        };
        state.apply(&put(4, 2, 0)).expect("free");
        state.apply(&put(0, 2, 2)).expect("free");
        assert_eq!(state.run_segments(1).expect("whole"), [4, 5, 0, 1]);
        assert_eq!(state.run_segments(9).expect("none"), Vec::<u32>::new());
        state.apply(&put(2, 1, 5)).expect("free");
        assert_eq!(state.run_segments(1).expect_err("a gap").kind(), ErrorKind::Corrupt);
    }
}
