//! Which blocks are watched: the places of superblocks and labels, of the whole disk and of each partition.
//!
//! Invariants:
//! - The set is bounded, whatever the disk holds.
//! - It changes only while the gate is closed and drained: whoever is inside the gate reads it without a lock, and it
//!   stays true until they leave.

use crate::disk::Disk;
use crate::partitions::{find_partitions, PARTITIONS_MAX, TABLE_BLOCKS_MAX};
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::units::{blocks_for, blocks_touched, BlockIndex, BLOCK_BYTES};
use std::collections::BTreeSet;
use std::ops::Range;

/// Watched blocks at the start: boot record, partition table, superblocks of ext, xfs, f2fs and swap, LVM labels and
/// their metadata header (0, 1), and the two first superblocks of btrfs (64 KiB and 64 MiB).
const START_BLOCKS: [BlockIndex; 4] = [0, 1, 16, 16384];
/// Watched blocks at the end: backup partition table, md superblocks.
const END_BLOCKS: u64 = 3;
/// Most blocks that the places of one partition touch, when it is not aligned to blocks.
const PARTITION_BLOCKS_MAX: usize = 2 * (START_BLOCKS.len() + END_BLOCKS as usize);
/// Most blocks watched at a time: twice what a disk can have, for while they change the old and the new are watched.
/// In models a few.
pub(super) const WATCHED_MAX: usize = match (cfg!(loom), cfg!(shuttle)) {
    (true, _) => 4,
    (_, true) => 16,
    _ => 2 * (TABLE_BLOCKS_MAX + (PARTITIONS_MAX + 2) * PARTITION_BLOCKS_MAX),
};

/// What is to be watched on a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Places {
    /// All blocks, those of the table too.
    pub blocks: BTreeSet<BlockIndex>,
    /// Those that hold the partition table: a write to them may move the others.
    pub table: BTreeSet<BlockIndex>,
    /// The size of the volume that this is about.
    pub size_bytes: u64,
}

impl Places {
    /// Finds them. Where a partition table cannot be read, what was watched so far stays watched.
    pub(super) async fn find<D: Disk>(origin: &D, size_bytes: u64, so_far: impl Iterator<Item = BlockIndex>) -> Places {
        let partitions = find_partitions(origin, size_bytes).await;
        let mut blocks = places_in(0..size_bytes);
        blocks.extend(&partitions.table);
        for range in partitions.ranges {
            blocks.append(&mut places_in(range));
        }
        if partitions.incomplete {
            blocks.extend(so_far.filter(|block| *block < blocks_for(size_bytes)));
        }
        Places { blocks, table: partitions.table, size_bytes }
    }

    /// The volume is about to have another size, and until then has this one, which ends elsewhere.
    pub(super) fn and_the_end_of(mut self, size_bytes: u64) -> Places {
        self.blocks.append(&mut places_in(0..size_bytes));
        self
    }
}

/// The blocks that contain the places of a disk or partition that covers these bytes.
fn places_in(bytes: Range<u64>) -> BTreeSet<BlockIndex> {
    let blocks = blocks_for(bytes.end - bytes.start);
    let last = blocks.saturating_sub(END_BLOCKS)..blocks;
    let places = START_BLOCKS.into_iter().filter(|place| *place < blocks).chain(last);
    let touched = |place: u64| {
        let start_bytes = bytes.start + place * BLOCK_BYTES as u64;
        blocks_touched(start_bytes, (bytes.end - start_bytes).min(BLOCK_BYTES as u64))
    };
    places.flat_map(touched).collect()
}

/// The watched blocks for those inside the gate: sorted, behind them nothing that is looked at.
pub(crate) struct WatchedBlocks {
    count: AtomicUsize,
    sorted: [AtomicU64; WATCHED_MAX],
    /// The longest range in front of one of them and without any, start and end: most of a disk is one.
    widest_gap: [AtomicU64; 2],
}

impl WatchedBlocks {
    /// A set with these blocks.
    pub(crate) fn new(blocks: impl Iterator<Item = BlockIndex>) -> WatchedBlocks {
        let sorted = std::array::from_fn(|_| AtomicU64::new(0));
        let widest_gap = std::array::from_fn(|_| AtomicU64::new(0));
        let watched = WatchedBlocks { count: AtomicUsize::new(0), sorted, widest_gap };
        watched.replace(blocks);
        watched
    }

    /// Replaces all of them. Nobody is inside the gate, which orders these stores before the loads of who enters next.
    pub(crate) fn replace(&self, blocks: impl Iterator<Item = BlockIndex>) {
        let sorted = BTreeSet::from_iter(blocks);
        assert!(sorted.len() <= WATCHED_MAX, "{} blocks are watched", sorted.len());
        for (slot, block) in self.sorted.iter().zip(&sorted) {
            slot.store(*block, Ordering::Relaxed);
        }
        self.count.store(sorted.len(), Ordering::Relaxed);
        let gap = widest_gap(&sorted);
        self.widest_gap[0].store(gap.start, Ordering::Relaxed);
        self.widest_gap[1].store(gap.end, Ordering::Relaxed);
    }

    /// Whether one of the range is in the set.
    #[inline]
    pub(crate) fn any_in(&self, range: Range<BlockIndex>) -> bool {
        let [start, end] = &self.widest_gap;
        if start.load(Ordering::Relaxed) <= range.start && range.end <= end.load(Ordering::Relaxed) {
            return false;
        }
        let sorted = &self.sorted[..self.count.load(Ordering::Relaxed)];
        let at = sorted.partition_point(|block| block.load(Ordering::Relaxed) < range.start);
        sorted.get(at).is_some_and(|block| block.load(Ordering::Relaxed) < range.end)
    }
}

/// The longest range in front of one of these blocks and without any of them. What lies behind the last one does not
/// count: the end of a disk is watched, so nothing lies there.
fn widest_gap(sorted: &BTreeSet<BlockIndex>) -> Range<BlockIndex> {
    let starts = std::iter::once(0).chain(sorted.iter().map(|block| block + 1));
    let gaps = starts.zip(sorted).map(|(start, &end)| start..end);
    gaps.max_by_key(|gap| gap.end - gap.start).unwrap_or(0..0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_a_partition_that_is_not_aligned_is_watched_in_both_blocks_that_hold_it() {
        let block = BLOCK_BYTES as u64;
        assert_eq!(Vec::from_iter(places_in(0..8 * block)), [0, 1, 5, 6, 7]);
        assert_eq!(Vec::from_iter(places_in(2 * block..2 * block + 512)), [2]);
        assert_eq!(Vec::from_iter(places_in(8 * block + 512..40 * block + 512)), [8, 9, 10, 24, 25, 37, 38, 39, 40]);
        for start in [0, 512, 4096] {
            let most = places_in(start..start + (1 << 40) + 512).len();
            assert!(most <= PARTITION_BLOCKS_MAX);
        }
    }

    #[test]
    fn a_range_is_found_by_any_block_of_the_set_and_by_nothing_else() {
        let blocks = BTreeSet::from([0, 1, 16, 300]);
        assert_eq!(widest_gap(&blocks), 17..300, "most requests are done with one look");
        let watched = WatchedBlocks::new(0..WATCHED_MAX as u64);
        watched.replace(blocks.iter().copied());
        for start in 0..320 {
            for end in start..320 {
                assert_eq!(watched.any_in(start..end), blocks.range(start..end).next().is_some());
            }
        }
    }
}
