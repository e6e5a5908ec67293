//! Holes: the blocks that are not in use, as a list of ranges (mission A4).
//!
//! Invariants:
//! - Ranges ascend, are not empty, and neither overlap nor touch.
//! - A list has at most [`HOLES_MAX`] ranges. Where there are more the shortest count as in use: every error is towards
//!   in use.

use crate::units::BlockIndex;
use std::ops::Range;

/// Ranges in a list: 20 MiB on the store.
pub const HOLES_MAX: usize = 1 << 20;

/// Blocks that are not in use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holes {
    ranges: Vec<Range<BlockIndex>>,
}

impl Holes {
    /// Everything is in use.
    pub fn none() -> Holes {
        Holes::default()
    }

    /// The ranges, ascending.
    pub fn ranges(&self) -> &[Range<BlockIndex>] {
        &self.ranges
    }

    /// Whether everything is in use.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many blocks are not in use.
    pub fn blocks(&self) -> u64 {
        self.ranges.iter().map(|range| range.end - range.start).sum()
    }

    /// Whether this block is not in use.
    pub fn contains(&self, block: BlockIndex) -> bool {
        self.within(block..block + 1).next().is_some()
    }

    /// The holes inside a range, clipped to it, ascending.
    pub fn within(&self, range: Range<BlockIndex>) -> impl Iterator<Item = Range<BlockIndex>> + '_ {
        let first = self.ranges.partition_point(|hole| hole.end <= range.start);
        let reaches = move |hole: &&Range<BlockIndex>| hole.start < range.end;
        let clipped = move |hole: &Range<BlockIndex>| hole.start.max(range.start)..hole.end.min(range.end);
        self.ranges[first..].iter().take_while(reaches).map(clipped)
    }

    /// What is a hole in both.
    pub fn intersection(&self, other: &Holes) -> Holes {
        let mut common = HolesBuilder::default();
        for hole in &self.ranges {
            other.within(hole.clone()).for_each(|range| common.push(range));
        }
        common.finish()
    }

    /// The same without those blocks of which `is_in_use` says so, in pieces that end at multiples of `piece_blocks`.
    pub fn without(&self, piece_blocks: u64, is_in_use: impl Fn(BlockIndex) -> bool) -> Holes {
        let mut rest = HolesBuilder::default();
        for hole in &self.ranges {
            let mut at = hole.start;
            while at < hole.end {
                let end = hole.end.min((at / piece_blocks + 1) * piece_blocks);
                if !is_in_use(at) {
                    rest.push(at..end);
                }
                at = end;
            }
        }
        rest.finish()
    }
}

/// Makes a list of ranges that come in ascending order; what touches is joined.
#[derive(Default)]
pub struct HolesBuilder {
    ranges: Vec<Range<BlockIndex>>,
    /// Shorter holes count as in use; grows when there are too many.
    length_min: u64,
}

impl HolesBuilder {
    /// Adds a range that begins at or behind the end of the last.
    pub fn push(&mut self, range: Range<BlockIndex>) {
        if range.is_empty() {
            return;
        }
        match self.ranges.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            last => {
                assert!(last.is_none_or(|last| last.end < range.start), "holes come in ascending order");
                // The last one has its whole length only now.
                if self.ranges.last().is_some_and(|last| last.end - last.start < self.length_min) {
                    self.ranges.pop();
                }
                self.ranges.push(range);
            }
        }
        if self.ranges.len() > 2 * HOLES_MAX {
            self.shorten();
        }
    }

    /// The list.
    pub fn finish(mut self) -> Holes {
        while self.ranges.len() > HOLES_MAX {
            self.shorten();
        }
        self.ranges.shrink_to_fit();
        Holes { ranges: self.ranges }
    }

    fn shorten(&mut self) {
        self.length_min = (2 * self.length_min).max(2);
        let length_min = self.length_min;
        self.ranges.retain(|range| range.end - range.start >= length_min);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holes(ranges: &[Range<u64>]) -> Holes {
        let mut builder = HolesBuilder::default();
        ranges.iter().cloned().for_each(|range| builder.push(range));
        builder.finish()
    }

    #[test]
    fn ranges_that_touch_are_one_hole() {
        let holes = holes(&[1..3, 3..5, 7..7, 8..9]);
        assert_eq!(holes.ranges(), [1..5, 8..9]);
        assert_eq!(holes.blocks(), 5);
        assert!(holes.contains(4) && !holes.contains(5) && holes.contains(8) && !holes.contains(0));
        assert_eq!(holes.within(4..9).collect::<Vec<_>>(), [4..5, 8..9]);
        assert_eq!(holes.within(5..8).count(), 0);
    }

    #[test]
    fn common_holes_and_holes_without_what_is_in_use_after_all() {
        let one = holes(&[0..10, 20..30]);
        assert_eq!(one.intersection(&holes(&[5..22, 29..40])).ranges(), [5..10, 20..22, 29..30]);
        assert!(one.intersection(&Holes::none()).is_empty());
        assert_eq!(one.without(8, |block| block / 8 == 1 || block / 8 == 3).ranges(), [0..8, 20..24]);
    }

    #[test]
    fn where_there_are_too_many_holes_the_shortest_count_as_in_use() {
        let mut builder = HolesBuilder::default();
        let long = 10 * HOLES_MAX as u64;
        (0..2 * HOLES_MAX as u64 + 9).for_each(|index| builder.push(2 * index..2 * index + 1));
        builder.push(long..long + 100);
        let holes = builder.finish();
        assert!(holes.ranges().len() <= HOLES_MAX);
        assert!(holes.contains(long) && holes.contains(long + 99));
    }
}
