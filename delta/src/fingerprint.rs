//! The fingerprint of a volume: a sum over its blocks, so that it can follow every change without reading the rest.
//!
//! `sum mod 2^128 of XXH3-128(content, seed = index)` over the blocks of 4 KiB that are not all zeroes; a last block that
//! is shorter counts as if zeroes followed. Why this hash: docs/decisions/0010-delta-stream.md.
//!
//! Invariants:
//! - The order in which blocks are added is of no importance, and parts can be added up: `result = base - old + new`.
//! - A block that is zero, that is not in use, or that lies beyond the end adds nothing: growing changes nothing.
//! - It tells accidents and divergence. It is no protection against somebody who makes up blocks to match a sum.

use crate::zeroes::is_zero;
use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::str::FromStr;
use twox_hash::XxHash3_128;

/// Bytes of a block, whatever the blocks of a stream are.
pub const FINGERPRINT_BLOCK_BYTES: usize = 4096;

/// A fingerprint; the default is that of a volume of zeroes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    sum: u128,
}

impl Fingerprint {
    /// Of a volume of zeroes.
    pub const EMPTY: Fingerprint = Fingerprint { sum: 0 };

    /// Of a volume that holds this block and nothing else. `content` is at most a block; zeroes are thought behind it.
    pub fn of_block(index: u64, content: &[u8]) -> Fingerprint {
        assert!(content.len() <= FINGERPRINT_BLOCK_BYTES, "a block has at most 4 KiB");
        if is_zero(content) {
            return Fingerprint::EMPTY;
        }
        let hash = |block: &[u8]| XxHash3_128::oneshot_with_seed(index, block);
        let sum = match content.len() {
            FINGERPRINT_BLOCK_BYTES => hash(content),
            length => {
                let mut block = [0; FINGERPRINT_BLOCK_BYTES];
                block[..length].copy_from_slice(content);
                hash(&block)
            }
        };
        Fingerprint { sum }
    }

    /// Of a volume that holds this content at this offset, a multiple of 4 KiB, and nothing else.
    pub fn of_content(offset_bytes: u64, content: &[u8]) -> Fingerprint {
        let block_bytes = FINGERPRINT_BLOCK_BYTES as u64;
        assert!(offset_bytes.is_multiple_of(block_bytes), "content begins at a block");
        let first = offset_bytes / block_bytes;
        content
            .chunks(FINGERPRINT_BLOCK_BYTES)
            .enumerate()
            .map(|(number, block)| Fingerprint::of_block(first + number as u64, block))
            .sum()
    }

    /// As it is written: 16 bytes, little-endian.
    pub fn to_bytes(self) -> [u8; 16] {
        self.sum.to_le_bytes()
    }

    /// The same read.
    pub fn from_bytes(bytes: [u8; 16]) -> Fingerprint {
        Fingerprint { sum: u128::from_le_bytes(bytes) }
    }
}

impl AddAssign for Fingerprint {
    fn add_assign(&mut self, other: Fingerprint) {
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

impl SubAssign for Fingerprint {
    fn sub_assign(&mut self, other: Fingerprint) {
        self.sum = self.sum.wrapping_sub(other.sum);
    }
}

impl Add for Fingerprint {
    type Output = Fingerprint;

    fn add(mut self, other: Fingerprint) -> Fingerprint {
        self += other;
        self
    }
}

impl Sub for Fingerprint {
    type Output = Fingerprint;

    fn sub(mut self, other: Fingerprint) -> Fingerprint {
        self -= other;
        self
    }
}

impl Sum for Fingerprint {
    fn sum<I: Iterator<Item = Fingerprint>>(all: I) -> Fingerprint {
        all.fold(Fingerprint::EMPTY, Add::add)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_bytes().iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Fingerprint({self})")
    }
}

impl FromStr for Fingerprint {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Fingerprint, &'static str> {
        const WRONG: &str = "a fingerprint has 32 hexadecimal digits";
        if text.len() != 32 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(WRONG);
        }
        let mut bytes = [0; 16];
        for (number, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * number..2 * number + 2], 16).map_err(|_| WRONG)?;
        }
        Ok(Fingerprint::from_bytes(bytes))
    }
}
