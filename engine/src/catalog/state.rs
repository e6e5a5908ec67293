//! The state that the catalog's items add up to.
//!
//! Invariants:
//! - Applying `checkpoint()` to an empty state of the same size gives an equal state.
//! - It is large and never copied outside of tests: an append must not cost what the store is big.
//! - What is counted and looked up by name is in step with the snapshots and the watch (`apply.rs` keeps it so).

use crate::catalog::record::RECORD_ALIGN_BYTES;
use crate::error::{Error, ErrorKind, Result};
use crate::format::item::{Item, RunRecord, SegmentState, SnapshotRecord, VolumeFacts, TEXT_BYTES_MAX};
use crate::units::{BlockIndex, Epoch, SegmentIndex};
use std::collections::BTreeMap;

pub use crate::catalog::restoring::RestoreRecord;

/// What one segment is used for, and how often it was handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SegmentRecord {
    /// What it is used for.
    pub state: SegmentState,
    /// Grows every time the segment is handed out.
    pub incarnation: u32,
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
    /// The highest identity a run ever had; the next run takes one above it, for pages of a deleted run may still lie
    /// on the store.
    pub run_floor: u64,
    /// Runs of holes by identity.
    pub holes: BTreeMap<u64, RunRecord>,
    /// Snapshot -> the run of its holes. In one without everything is in use.
    pub maps: BTreeMap<Epoch, u64>,
    /// The run of the volume's own holes, as of some moment since which [`State::untrusted`] was kept.
    pub live_map: Option<u64>,
    /// First block -> number of blocks that may be in use though the live map has holes there.
    pub untrusted: BTreeMap<BlockIndex, u64>,
    /// Lane -> the last sequence that runs cover.
    pub lanes_indexed: BTreeMap<u16, u64>,
    /// The restore under way.
    pub restore: Option<RestoreRecord>,
    /// Watched block -> every content logged since the last reset, oldest first.
    pub watch: BTreeMap<BlockIndex, Vec<[u64; 8]>>,
    /// Sampled block -> its hash.
    pub samples: BTreeMap<BlockIndex, u64>,
    /// Name of a snapshot -> its epoch.
    pub(super) names: BTreeMap<String, Epoch>,
    /// Bytes of all names of snapshots.
    pub(super) names_bytes: usize,
    /// Bytes of all reasons why snapshots are broken.
    pub(super) reasons_bytes: usize,
    /// Contents in `watch`, of all blocks together.
    pub(super) watched_contents: usize,
}

/// The error for an item that makes no sense.
pub(super) fn nonsense(message: String) -> Error {
    Error::new(ErrorKind::Corrupt, "apply a catalog item", "store")
        .saying(format!("{message}; run `cairn check`, the origin is whole and can be used without Cairn"))
}

impl State {
    /// An empty state for a store of so many segments.
    pub fn new(segment_count: u32) -> State {
        State { segments: vec![SegmentRecord::default(); segment_count as usize], ..State::default() }
    }

    /// The snapshot with that name.
    pub fn snapshot_named(&self, name: &str) -> Option<&SnapshotRecord> {
        self.names.get(name).map(|epoch| &self.snapshots[epoch])
    }

    /// Whether a snapshot, or the volume itself, has its holes in this run.
    pub fn is_map_of_something(&self, run: u64) -> bool {
        self.live_map == Some(run) || self.maps.values().any(|other| *other == run)
    }

    /// The segments of every run, those of holes too, in the order of its pages, in one pass over all segments; `Corrupt` for a run where
    /// one is missing or there twice.
    pub fn segments_by_run(&self) -> BTreeMap<u64, Result<Vec<SegmentIndex>>> {
        let mut by_run: BTreeMap<u64, Vec<(u32, SegmentIndex)>> =
            self.runs.keys().chain(self.holes.keys()).map(|&run| (run, Vec::new())).collect();
        for (index, record) in self.segments.iter().enumerate() {
            if let SegmentState::Run { run, ordinal } = record.state {
                by_run.entry(run).or_default().push((ordinal, index as SegmentIndex));
            }
        }
        by_run.into_iter().map(|(run, segments)| (run, in_order(run, segments))).collect()
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
        items.extend(self.holes.values().copied().map(Item::HolesPut));
        let last = |runs: &BTreeMap<u64, RunRecord>| runs.keys().last().copied().unwrap_or(0);
        if self.run_floor > last(&self.runs).max(last(&self.holes)) {
            items.push(Item::RunFloor { run: self.run_floor });
        }
        items.extend(self.maps.iter().map(|(&epoch, &run)| Item::MapPut { epoch, run }));
        items.extend(self.live_map.map(|run| Item::LiveMap { run }));
        let untrusted = self.untrusted.iter();
        items.extend(untrusted.map(|(&start_block, &count_blocks)| Item::Untrusted { start_block, count_blocks }));
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
        let others = self.lanes_indexed.len() + self.watched_contents + self.samples.len();
        let maps = self.holes.len() + self.maps.len() + self.untrusted.len() + usize::from(self.live_map.is_some());
        self.snapshots.len() + self.runs.len() + moved + others + maps
    }

    /// Bytes that a checkpoint may take, both copies of its records counted: every segment apart from its neighbours,
    /// and with `all_broken` every snapshot marked broken with the longest reason.
    pub fn checkpoint_bytes(&self, all_broken: bool) -> u64 {
        const ITEM_BYTES_MAX: usize = 76;
        let reasons = if all_broken { TEXT_BYTES_MAX * self.snapshots.len() } else { self.reasons_bytes };
        let texts = self.names_bytes + reasons;
        let items = 32 * self.segments.len() + ITEM_BYTES_MAX * (3 + self.entries()) + texts;
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

/// The segments of one run by their ordinals, which are to count up from 0.
fn in_order(run: u64, mut segments: Vec<(u32, SegmentIndex)>) -> Result<Vec<SegmentIndex>> {
    segments.sort_unstable();
    if let Some(pair) = segments.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(nonsense(format!("run {run} has segment {} twice", pair[0].0)));
    }
    if segments.iter().map(|(ordinal, _)| *ordinal).ne(0..segments.len() as u32) {
        return Err(nonsense(format!("run {run} lacks a segment")));
    }
    Ok(segments.into_iter().map(|(_, segment)| segment).collect())
}

/// The state of the segment `offset` places behind the first of a range.
pub(super) fn state_at(state: SegmentState, offset: u32) -> SegmentState {
    match state {
        SegmentState::Run { run, ordinal } => SegmentState::Run { run, ordinal: ordinal.wrapping_add(offset) },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let mut by_run = state.segments_by_run();
        assert_eq!(by_run.remove(&1).expect("it has segments").expect("whole"), [4, 5, 0, 1]);
        assert!(by_run.is_empty());
        state.apply(&put(2, 1, 5)).expect("free");
        let gap = state.segments_by_run().remove(&1).expect("it has segments");
        assert_eq!(gap.expect_err("a gap").kind(), ErrorKind::Corrupt);
        state.apply(&put(3, 1, 0)).expect("free");
        let twice = state.segments_by_run().remove(&1).expect("it has segments");
        assert!(twice.expect_err("twice").message().contains("segment 0 twice"));
    }
}
