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

    /// These ranges, which ascend and do not overlap.
    pub fn of(ranges: impl IntoIterator<Item = Range<BlockIndex>>) -> Holes {
        let mut holes = HolesBuilder::default();
        ranges.into_iter().for_each(|range| holes.push(range));
        holes.finish()
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

    /// The same without these blocks. The ranges are in ascending order of their starts; they may overlap.
    pub fn without(&self, in_use: impl IntoIterator<Item = Range<BlockIndex>>) -> Holes {
        let (mut rest, mut in_use) = (HolesBuilder::default(), in_use.into_iter().peekable());
        // Up to here the ranges so far reach.
        let mut reached = 0;
        for hole in &self.ranges {
            let mut at = hole.start.max(reached);
            while let Some(range) = in_use.next_if(|range| range.start < hole.end) {
                rest.push(at.min(range.start)..range.start);
                reached = reached.max(range.end);
                at = at.max(reached);
            }
            rest.push(at.min(hole.end)..hole.end);
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
        Holes::of(ranges.iter().cloned())
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
        assert_eq!(one.without([2..3, 8..21, 9..10, 25..26, 30..31]).ranges(), [0..2, 3..8, 21..25, 26..30]);
        assert_eq!(one.without([0..50, 7..8]), Holes::none());
        assert_eq!(one.without([]), one);
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
