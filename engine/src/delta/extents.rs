//! From changed blocks and holes to extents.
//!
//! Invariants:
//! - Extents ascend, are not empty, do not overlap; two that touch are of different kinds.
//! - No extent begins before the place that was asked for or ends behind the newer one's end. The last of a full list
//!   is as long as it gets: the next question begins where it ends.

use super::{Extent, ExtentKind, REGION_BLOCKS};
use crate::holes::Holes;
use crate::units::{blocks_for, BlockIndex, BLOCK_BYTES};
use std::ops::Range;

/// What of both ends of a delta decides about a block that was not saved.
pub(crate) struct Ends<'a> {
    /// None: everything in use is wanted.
    pub(crate) older: Option<End<'a>>,
    pub(crate) newer: End<'a>,
}

/// One end of a delta.
pub(crate) struct End<'a> {
    /// Blocks behind these are new.
    pub(crate) blocks: u64,
    pub(crate) holes: &'a Holes,
}

impl<'a> End<'a> {
    /// The older end of so many bytes. Where the newer one is larger, what follows within the older one's last block is
    /// new as well.
    pub(crate) fn older(older_bytes: u64, newer_bytes: u64, holes: &'a Holes) -> End<'a> {
        let blocks = match newer_bytes > older_bytes {
            true => older_bytes / BLOCK_BYTES as u64,
            false => blocks_for(older_bytes),
        };
        End { blocks, holes }
    }
}

/// The extents found so far.
pub(crate) struct Extents {
    found: Vec<Extent>,
    results_max: usize,
    start_bytes: u64,
    end_bytes: u64,
    /// The first block that was not looked at yet.
    next_block: BlockIndex,
    is_full: bool,
}

impl Extents {
    /// At most `results_max` extents between two places of the newer one.
    pub(crate) fn new(bytes: Range<u64>, results_max: usize) -> Extents {
        let Range { start: start_bytes, end: end_bytes } = bytes;
        let next_block = start_bytes / BLOCK_BYTES as u64;
        Extents { found: Vec::new(), results_max, start_bytes, end_bytes, next_block, is_full: false }
    }

    /// The blocks to look at next, all of one region; none when everything was looked at, or another extent was found
    /// than there is room for.
    pub(crate) fn next_region(&self) -> Option<Range<BlockIndex>> {
        let region_end = (self.next_block / REGION_BLOCKS + 1) * REGION_BLOCKS;
        let blocks = self.next_block..region_end.min(blocks_for(self.end_bytes));
        (!blocks.is_empty() && !self.is_full).then_some(blocks)
    }

    /// What was found.
    pub(crate) fn finish(self) -> Vec<Extent> {
        self.found
    }

    fn push(&mut self, blocks: Range<BlockIndex>, kind: ExtentKind) {
        let start = (blocks.start * BLOCK_BYTES as u64).max(self.start_bytes);
        let end = blocks.end.saturating_mul(BLOCK_BYTES as u64).min(self.end_bytes);
        if start >= end {
            return;
        }
        let count = self.found.len();
        match self.found.last_mut() {
            Some(last) if last.kind == kind && last.offset_bytes + last.length_bytes == start => {
                last.length_bytes = end - last.offset_bytes;
            }
            _ if count == self.results_max => self.is_full = true,
            _ => self.found.push(Extent { offset_bytes: start, length_bytes: end - start, kind }),
        }
    }

    /// Adds the blocks of `range`, which are the next: `changed` are those that were saved, as ascending ranges.
    pub(crate) fn add(
        &mut self,
        range: Range<BlockIndex>,
        changed: impl Iterator<Item = Range<BlockIndex>>,
        ends: &Ends<'_>,
    ) {
        self.next_block = range.end;
        let has_holes = |end: &End| end.holes.within(range.clone()).next().is_some();
        let is_plain = |older: &End| range.end <= older.blocks && !has_holes(older) && !has_holes(&ends.newer);
        if ends.older.as_ref().is_some_and(is_plain) {
            for range in changed {
                self.push(range, ExtentKind::Data);
                if self.is_full {
                    return;
                }
            }
            return;
        }
        self.sweep(range, changed, ends);
    }

    /// The same where holes or the older one's end lie in the range.
    fn sweep(&mut self, range: Range<BlockIndex>, changed: impl Iterator<Item = Range<BlockIndex>>, ends: &Ends<'_>) {
        let mut newer_holes = Sweep::new(ends.newer.holes.within(range.clone()));
        let is_changed_anyhow = ends.older.is_none();
        let mut changed = Sweep::new(changed);
        let none = Holes::none();
        let older_holes = ends.older.as_ref().map_or(&none, |older| older.holes);
        let mut older_holes = Sweep::new(older_holes.within(range.clone()));
        let older_blocks = ends.older.as_ref().map_or(u64::MAX, |older| older.blocks);
        let mut at = range.start;
        while at < range.end && !self.is_full {
            let (is_hole, hole_until) = newer_holes.at(at);
            let (was_hole, was_until) = older_holes.at(at);
            let (is_saved, saved_until) = changed.at(at);
            let is_new = at >= older_blocks;
            let new_until = if is_new { u64::MAX } else { older_blocks };
            let until = range.end.min(hole_until).min(was_until).min(saved_until).min(new_until);
            match is_hole {
                true if !is_changed_anyhow && (!was_hole || is_new) => self.push(at..until, ExtentKind::NotInUse),
                false if is_changed_anyhow || is_saved || was_hole || is_new => self.push(at..until, ExtentKind::Data),
                _ => {}
            }
            at = until;
        }
    }
}

/// Ascending ranges, walked along.
struct Sweep<I> {
    ranges: I,
    current: Option<Range<BlockIndex>>,
}

impl<I: Iterator<Item = Range<BlockIndex>>> Sweep<I> {
    fn new(mut ranges: I) -> Sweep<I> {
        let current = ranges.next();
        Sweep { ranges, current }
    }

    /// Whether a range holds `at`, and up to where that is so. Places are asked for in ascending order.
    fn at(&mut self, at: BlockIndex) -> (bool, BlockIndex) {
        while self.current.as_ref().is_some_and(|range| range.end <= at) {
            self.current = self.ranges.next();
        }
        match &self.current {
            Some(range) if range.start <= at => (true, range.end),
            Some(range) => (false, range.start),
            None => (false, BlockIndex::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::holes::HolesBuilder;

    const BLOCK: u64 = BLOCK_BYTES as u64;

    fn holes(ranges: &[Range<u64>]) -> Holes {
        let mut builder = HolesBuilder::default();
        ranges.iter().cloned().for_each(|range| builder.push(range));
        builder.finish()
    }

    fn data(blocks: Range<u64>) -> Extent {
        let length_bytes = (blocks.end - blocks.start) * BLOCK;
        Extent { offset_bytes: blocks.start * BLOCK, length_bytes, kind: ExtentKind::Data }
    }

    fn not_in_use(blocks: Range<u64>) -> Extent {
        Extent { kind: ExtentKind::NotInUse, ..data(blocks) }
    }

    #[test]
    fn a_block_is_reported_as_b2_says() {
        let (older, newer) = (holes(&[10..15, 15..20]), holes(&[15..30, 95..100]));
        let ends = Ends { older: Some(End { blocks: 90, holes: &older }), newer: End { blocks: 110, holes: &newer } };
        let mut extents = Extents::new(0..110 * BLOCK, 100);
        extents.add(0..110, [5..8, 8..12, 25..35, 50..51].into_iter(), &ends);
        let expected = [
            data(5..15),
            not_in_use(20..30),
            data(30..35),
            data(50..51),
            data(90..95),
            not_in_use(95..100),
            data(100..110),
        ];
        assert_eq!(extents.finish(), expected);
    }

    #[test]
    fn without_an_older_one_everything_in_use_is_data() {
        let newer = holes(&[0..5, 50..60]);
        let ends = Ends { older: None, newer: End { blocks: 100, holes: &newer } };
        let mut extents = Extents::new(7 * BLOCK + 512..99 * BLOCK + 512, 100);
        extents.add(7..100, std::iter::empty(), &ends);
        let found = extents.finish();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].offset_bytes, found[0].length_bytes), (7 * BLOCK + 512, 43 * BLOCK - 512));
        assert_eq!(found[1].offset_bytes + found[1].length_bytes, 99 * BLOCK + 512);
    }

    #[test]
    fn a_full_list_ends_with_a_whole_extent() {
        let none = Holes::none();
        let ends = Ends { older: Some(End { blocks: 100, holes: &none }), newer: End { blocks: 100, holes: &none } };
        let mut extents = Extents::new(0..100 * BLOCK, 1);
        extents.add(0..50, [10..12, 12..20, 49..50].into_iter(), &ends);
        assert!(extents.is_full && extents.next_region().is_none());
        assert_eq!(extents.finish(), [data(10..20)]);
        let mut extents = Extents::new(0..100 * BLOCK, 1);
        extents.add(0..50, std::iter::once(49..50), &ends);
        extents.add(50..100, std::iter::once(50..60), &ends);
        assert!(!extents.is_full);
        assert_eq!(extents.finish(), [data(49..60)]);
    }
}
