//! The units everything is measured in.
//!
//! Invariants:
//! - A *block* is 4 KiB, everywhere and for ever; a volume's last block may be partial.
//! - Offsets and lengths are bytes and say so (`_bytes`); counts of blocks say `blocks`.
//! - An epoch number only grows.

use std::fmt;
use std::ops::Range;

/// Bytes in a block: the unit in which content is saved and addressed.
pub const BLOCK_BYTES: usize = 4096;
/// The same as a shift.
pub const BLOCK_SHIFT: u32 = 12;
/// Disks are torn at this size when power fails.
pub const TEAR_BYTES: usize = 512;
/// A request is served in pieces of at most this many blocks (512 KiB).
pub const PIECE_BLOCKS_MAX: u64 = 128;

const _: () = assert!(BLOCK_BYTES == 1 << BLOCK_SHIFT);

/// Index of a block of the volume, from its start.
pub type BlockIndex = u64;
/// Index of a 4 KiB block of the store device, from its start.
pub type StoreBlock = u64;
/// Index of a segment of the store.
pub type SegmentIndex = u32;
/// Blocks of the volume and of the store are numbered with 48 bits, up to this one.
pub const BLOCK_MAX: u64 = (1 << 48) - 1;
/// What only grows (sequences, generations) never gets here. A store that says so is damaged, and adding to it cannot
/// overflow.
pub const COUNTER_MAX: u64 = 1 << 62;

/// The time between two cuts. Everything first overwritten during it is saved in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The last epoch a store may have: one cut a second for a hundred years. So the distance of any two fits in the
    /// 32 bits that a run has for it.
    pub const LAST: Epoch = Epoch(u32::MAX as u64);

    /// The epoch a cut opens after this one.
    pub fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// How many blocks it takes to hold `size_bytes`; the last may be partial.
pub fn blocks_for(size_bytes: u64) -> u64 {
    size_bytes.div_ceil(BLOCK_BYTES as u64)
}

/// The blocks that a range of bytes touches, whole or in part. `length_bytes` may be zero.
#[inline]
pub fn blocks_touched(offset_bytes: u64, length_bytes: u64) -> Range<BlockIndex> {
    let start = offset_bytes >> BLOCK_SHIFT;
    if length_bytes == 0 {
        return start..start;
    }
    start..((offset_bytes + length_bytes - 1) >> BLOCK_SHIFT) + 1
}

/// The blocks that lie whole inside a range of bytes. A volume that ends within a block counts that
/// block as whole when the range reaches the end.
pub fn blocks_inside(offset_bytes: u64, length_bytes: u64, size_bytes: u64) -> Range<BlockIndex> {
    let end_bytes = offset_bytes + length_bytes;
    let start = blocks_for(offset_bytes);
    let end = if end_bytes == size_bytes { blocks_for(end_bytes) } else { end_bytes >> BLOCK_SHIFT };
    start..end.max(start)
}

/// The pieces in which a request is served: (offset, length) in bytes. They end on block boundaries, so that no block
/// is in two of them.
#[inline]
pub fn pieces(offset_bytes: u64, length_bytes: u64) -> impl Iterator<Item = (u64, u64)> {
    let (mut at, mut left) = (offset_bytes, length_bytes);
    std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let piece_bytes = left.min((PIECE_BLOCKS_MAX << BLOCK_SHIFT) - at % BLOCK_BYTES as u64);
        let piece = (at, piece_bytes);
        at += piece_bytes;
        left -= piece_bytes;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_blocks_are_touched_but_not_inside() {
        assert_eq!(blocks_touched(512, 4096), 0..2);
        assert_eq!(blocks_inside(512, 8192, 1 << 20), 1..2);
        assert_eq!(blocks_touched(4096, 4096), 1..2);
        assert_eq!(blocks_inside(4096, 4096, 1 << 20), 1..2);
        assert_eq!(blocks_inside(512, 512, 1 << 20), 1..1);
    }

    #[test]
    fn pieces_follow_each_other_and_end_on_block_boundaries() {
        let piece_bytes = PIECE_BLOCKS_MAX * BLOCK_BYTES as u64;
        let found: Vec<(u64, u64)> = pieces(512, piece_bytes).collect();
        assert_eq!(found, [(512, piece_bytes - 512), (piece_bytes, 512)]);
        assert_eq!(pieces(4096, 0).count(), 0);
    }

    #[test]
    fn the_partial_last_block_is_inside_when_the_range_reaches_the_end() {
        let size_bytes = 3 * 4096 + 512;
        assert_eq!(blocks_for(size_bytes), 4);
        assert_eq!(blocks_inside(8192, size_bytes - 8192, size_bytes), 2..4);
    }
}
