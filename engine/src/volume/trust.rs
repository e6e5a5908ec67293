//! Which parts of the volume's own in-use map on the store may still be believed after a crash.
//!
//! The map is written at a cut and at a detach, not at every write. So before the first write into a region since then
//! that puts something where the stored map has nothing, the region is recorded as untrusted: after a crash all of it
//! counts as in use. Discards are not recorded.
//!
//! Invariants:
//! - A region is *guarded* while a write into a free granule of it has to be recorded first. It stops being guarded only
//!   after the record is durable, and is guarded again at every cut.
//! - A guarded region is only ever released by a holder of the ledger.
//!
//! Memory orders: a region is released with release and tested with acquire: who finds it released comes after the
//! record. All regions are guarded again only with the gate closed and drained, and tested inside the gate.

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::units::{BlockIndex, BLOCK_MAX};
use std::ops::Range;

/// Regions of a volume, so that what is recorded of them is bounded. The last reaches as far as the volume ever grows.
const REGIONS_MAX: u64 = 1024;
/// The smallest region, in blocks: 16 MiB.
const REGION_BLOCKS_MIN: u64 = 4096;
const WORD_BITS: u64 = 64;

/// The regions of a volume.
pub(crate) struct Trust {
    region_blocks: u64,
    guarded: [AtomicU64; (REGIONS_MAX / WORD_BITS) as usize],
}

impl Trust {
    /// The regions of a volume of so many blocks; none is guarded.
    pub(crate) fn new(blocks: u64) -> Trust {
        let region_blocks = blocks.div_ceil(REGIONS_MAX).next_power_of_two().max(REGION_BLOCKS_MIN);
        Trust { region_blocks, guarded: std::array::from_fn(|_| AtomicU64::new(0)) }
    }

    fn region(&self, block: BlockIndex) -> u64 {
        (block / self.region_blocks).min(REGIONS_MAX - 1)
    }

    /// The blocks of a region.
    pub(crate) fn blocks(&self, region: u64) -> Range<BlockIndex> {
        assert!(region < REGIONS_MAX);
        let start = region * self.region_blocks;
        start..if region == REGIONS_MAX - 1 { BLOCK_MAX + 1 } else { start + self.region_blocks }
    }

    /// Every region is guarded, or none. The gate is closed and drained, or the volume not in use yet.
    pub(crate) fn guard_all(&self, guarded: bool) {
        self.guarded.iter().for_each(|word| word.store(if guarded { u64::MAX } else { 0 }, Ordering::Relaxed));
    }

    /// The guarded regions among those that the blocks lie in.
    pub(crate) fn guarded_in(&self, blocks: Range<BlockIndex>) -> impl Iterator<Item = u64> + '_ {
        let touched = if blocks.is_empty() { 0..0 } else { self.region(blocks.start)..self.region(blocks.end - 1) + 1 };
        touched.filter(|region| {
            let word = &self.guarded[(region / WORD_BITS) as usize];
            word.load(Ordering::Acquire) & (1 << (region % WORD_BITS)) != 0
        })
    }

    /// The region need not be recorded any more.
    pub(crate) fn release(&self, region: u64) {
        self.guarded[(region / WORD_BITS) as usize].fetch_and(!(1 << (region % WORD_BITS)), Ordering::Release);
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn every_block_lies_in_one_region_also_when_the_volume_has_grown() {
        for blocks in [1, 4096, 4097, 1 << 22, (1 << 22) + 1, 1 << 40] {
            let trust = Trust::new(blocks);
            trust.guard_all(true);
            let mut end = 0;
            for region in 0..REGIONS_MAX {
                let range = trust.blocks(region);
                assert_eq!(range.start, end);
                assert_eq!(trust.guarded_in(range.start..range.start + 1).collect::<Vec<_>>(), [region]);
                assert_eq!(trust.region(range.end - 1), region);
                end = range.end;
            }
            assert_eq!(end, BLOCK_MAX + 1);
        }
    }

    #[test]
    fn a_released_region_is_guarded_again_only_with_all() {
        let trust = Trust::new(10 * REGION_BLOCKS_MIN);
        let blocks = REGION_BLOCKS_MIN - 1..3 * REGION_BLOCKS_MIN;
        assert_eq!(trust.guarded_in(blocks.clone()).count(), 0);
        trust.guard_all(true);
        trust.release(1);
        assert_eq!(trust.guarded_in(blocks.clone()).collect::<Vec<_>>(), [0, 2]);
        trust.guard_all(true);
        assert_eq!(trust.guarded_in(blocks).count(), 3);
    }
}
