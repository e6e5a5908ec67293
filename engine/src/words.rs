//! A range of bits as the words of a bitmap: what the tests of the write path go through.
//!
//! Invariants:
//! - Each word comes once, ascending, with the mask of its bits inside the range; a mask is never empty.

use std::ops::Range;

/// Bits of a word.
pub const WORD_BITS: u64 = 64;

/// The words that a range of bits touches; see [`words_of`].
pub struct Words {
    at: u64,
    end: u64,
}

/// The words that a range of bits touches, each with the mask of its bits inside the range.
#[inline]
pub fn words_of(range: Range<u64>) -> Words {
    Words { at: range.start, end: range.end }
}

impl Iterator for Words {
    type Item = (u64, u64);

    #[inline]
    fn next(&mut self) -> Option<(u64, u64)> {
        if self.at >= self.end {
            return None;
        }
        let (word, low) = (self.at / WORD_BITS, self.at % WORD_BITS);
        let count = (WORD_BITS - low).min(self.end - self.at);
        self.at += count;
        Some((word, (u64::MAX >> (WORD_BITS - count)) << low))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_of_the_range_is_in_one_mask_and_no_other_bit() {
        for start in 0..200 {
            for end in start..=200 {
                let found: Vec<(u64, u64)> = words_of(start..end).collect();
                assert!(found.windows(2).all(|pair| pair[0].0 + 1 == pair[1].0), "{start}..{end}");
                let bits = found.iter().flat_map(|&(word, mask)| {
                    assert_ne!(mask, 0);
                    (0..WORD_BITS).filter(move |bit| mask >> bit & 1 == 1).map(move |bit| word * WORD_BITS + bit)
                });
                assert!(bits.eq(start..end), "{start}..{end}");
            }
        }
    }
}
