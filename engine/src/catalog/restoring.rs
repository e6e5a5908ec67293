//! A restore under way, as the catalog knows it: a cursor, and what was moved ahead of it.
//!
//! Invariants:
//! - The marks ahead of the cursor are disjoint and never adjacent to each other or to the cursor.
//! - A change says what it replaced, so that it can be taken back at the cost of making it.

use crate::units::{BlockIndex, Epoch};
use std::collections::BTreeMap;
use std::ops::Range;

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

/// What a change of the cursor or the marks replaced.
#[derive(Debug)]
pub(super) struct Replaced {
    cursor_block: BlockIndex,
    inserted: Option<BlockIndex>,
    removed: Vec<(BlockIndex, u64)>,
}

impl RestoreRecord {
    /// Is this block where the restored volume has it?
    pub fn is_moved(&self, block: BlockIndex) -> bool {
        let covers = |(start, count): (&u64, &u64)| block < start + count;
        block < self.cursor_block || self.moved.range(..=block).next_back().is_some_and(covers)
    }

    /// Where the blocks end that are moved with this one; `None` where it is not moved.
    pub fn moved_until(&self, block: BlockIndex) -> Option<BlockIndex> {
        if block < self.cursor_block {
            return Some(self.cursor_block);
        }
        let (start, count) = self.moved.range(..=block).next_back()?;
        Some(start + count).filter(|end| block < *end)
    }

    /// The narrowest gap before a mark, once there are `marks_max` of them.
    pub fn gap_to_close(&self, marks_max: usize) -> Option<Range<BlockIndex>> {
        if self.moved.len() < marks_max {
            return None;
        }
        let ends = std::iter::once(self.cursor_block).chain(self.moved.iter().map(|(start, count)| start + count));
        ends.zip(self.moved.keys()).map(|(end, &start)| end..start).min_by_key(|gap| gap.end - gap.start)
    }

    /// Advances the cursor; what it has passed needs no mark.
    pub(super) fn advance(&mut self, cursor_block: BlockIndex) -> Replaced {
        let mut replaced = Replaced { cursor_block: self.cursor_block, inserted: None, removed: Vec::new() };
        self.cursor_block = cursor_block;
        self.pass_marks(&mut replaced);
        replaced
    }

    /// Marks blocks as moved, joined with their neighbours.
    pub(super) fn mark(&mut self, start_block: BlockIndex, end_block: BlockIndex) -> Replaced {
        let mut replaced = Replaced { cursor_block: self.cursor_block, inserted: None, removed: Vec::new() };
        let (mut start, mut end) = (start_block, end_block);
        while let Some((&other_start, &other_count)) = self.moved.range(..=end).next_back() {
            if other_start + other_count < start {
                break;
            }
            self.moved.remove(&other_start);
            replaced.removed.push((other_start, other_count));
            start = start.min(other_start);
            end = end.max(other_start + other_count);
        }
        self.moved.insert(start, end - start);
        replaced.inserted = Some(start);
        self.pass_marks(&mut replaced);
        replaced
    }

    /// Takes a change back; the latest first.
    pub(super) fn take_back(&mut self, replaced: Replaced) {
        self.cursor_block = replaced.cursor_block;
        if let Some(start) = replaced.inserted {
            self.moved.remove(&start);
        }
        self.moved.extend(replaced.removed);
    }

    /// Removes the marks that the cursor touches and moves it behind them.
    fn pass_marks(&mut self, replaced: &mut Replaced) {
        while let Some((&start, &count)) = self.moved.first_key_value() {
            if start > self.cursor_block {
                break;
            }
            self.moved.remove(&start);
            match replaced.inserted {
                Some(inserted) if inserted == start => replaced.inserted = None,
                _ => replaced.removed.push((start, count)),
            }
            self.cursor_block = self.cursor_block.max(start + count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastrand::Rng;

    #[test]
    fn moved_blocks_are_remembered_exactly_and_every_change_can_be_taken_back() {
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
                let before = restore.clone();
                let advances = random.u32(..6) == 0 && start as u64 > restore.cursor_block;
                let change = |restore: &mut RestoreRecord| match advances {
                    true => restore.advance(start as u64),
                    false => restore.mark(start as u64, end as u64),
                };
                let replaced = change(&mut restore);
                restore.take_back(replaced);
                assert_eq!(restore, before, "seed {seed}");
                change(&mut restore);
                model[if advances { 0..start } else { start..end }].fill(true);
                for (block, moved) in model.iter().enumerate() {
                    assert_eq!(restore.is_moved(block as u64), *moved, "seed {seed} block {block}");
                }
            }
        }
    }
}
