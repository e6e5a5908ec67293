//! The stamp that fills a sector: who wrote it, where, and every byte predictable.
//!
//! Invariants:
//! - A stamp covers the whole sector, so that a single wrong byte is seen.
//! - Sequence 0 is the content before the first write.

use std::fmt;

use super::SECTOR_BYTES;

const MAGIC: u64 = u64::from_le_bytes(*b"cairncut");
const WORD_BYTES: usize = size_of::<u64>();

/// Why a sector carries no valid stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadStamp {
    /// All bytes are zero.
    Zeroes,
    /// The content was written by nobody, or is damaged.
    Foreign,
    /// A stamp of another run of the writer.
    OtherSeed,
    /// The stamp of another sector.
    Misplaced {
        /// The sector it was written for.
        sector: u64,
    },
    /// The head of a stamp with another one's body.
    Torn {
        /// The write the head belongs to.
        sequence: u64,
    },
}

impl fmt::Display for BadStamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadStamp::Zeroes => write!(formatter, "zeroes"),
            BadStamp::Foreign => write!(formatter, "bytes that were never written there"),
            BadStamp::OtherSeed => write!(formatter, "a stamp of another run"),
            BadStamp::Misplaced { sector } => write!(formatter, "the content of sector {sector}"),
            BadStamp::Torn { sequence } => write!(formatter, "a damaged copy of write {sequence}"),
        }
    }
}

/// Fills `buffer`, one sector, with the stamp of write `sequence` at `sector`.
pub fn fill(buffer: &mut [u8], seed: u64, sequence: u64, sector: u64) {
    assert_eq!(buffer.len(), SECTOR_BYTES);
    for (index, word) in buffer.chunks_exact_mut(WORD_BYTES).enumerate() {
        word.copy_from_slice(&word_at(index, seed, sequence, sector).to_le_bytes());
    }
}

/// The sequence number a sector shows.
pub fn read(buffer: &[u8], seed: u64, sector: u64) -> Result<u64, BadStamp> {
    assert_eq!(buffer.len(), SECTOR_BYTES);
    if buffer.iter().all(|byte| *byte == 0) {
        return Err(BadStamp::Zeroes);
    }
    let word =
        |index: usize| u64::from_le_bytes(buffer[index * WORD_BYTES..][..WORD_BYTES].try_into().expect("eight bytes"));
    if word(0) != MAGIC {
        return Err(BadStamp::Foreign);
    }
    if word(1) != seed {
        return Err(BadStamp::OtherSeed);
    }
    if word(3) != sector {
        return Err(BadStamp::Misplaced { sector: word(3) });
    }
    let sequence = word(2);
    let whole = (4..SECTOR_BYTES / WORD_BYTES).all(|index| word(index) == word_at(index, seed, sequence, sector));
    if whole {
        Ok(sequence)
    } else {
        Err(BadStamp::Torn { sequence })
    }
}

fn word_at(index: usize, seed: u64, sequence: u64, sector: u64) -> u64 {
    match index {
        0 => MAGIC,
        1 => seed,
        2 => sequence,
        3 => sector,
        _ => mix(seed ^ mix(sequence ^ mix(sector ^ (index as u64) << 48))),
    }
}

/// The finalizer of SplitMix64: every input bit changes every output bit.
pub fn mix(value: u64) -> u64 {
    let mut mixed = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_reads_back_and_every_flipped_bit_is_seen() {
        let mut sector = [0; SECTOR_BYTES];
        fill(&mut sector, 7, 42, 9);
        assert_eq!(read(&sector, 7, 9), Ok(42));
        for bit in 0..SECTOR_BYTES * 8 {
            sector[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&sector, 7, 9).is_err(), "bit {bit}");
            sector[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_stamp_of_another_place_run_or_write_is_named() {
        let mut sector = [0; SECTOR_BYTES];
        assert_eq!(read(&sector, 7, 9), Err(BadStamp::Zeroes));
        fill(&mut sector, 7, 42, 10);
        assert_eq!(read(&sector, 7, 9), Err(BadStamp::Misplaced { sector: 10 }));
        assert_eq!(read(&sector, 8, 10), Err(BadStamp::OtherSeed));
        let mut other = [0; SECTOR_BYTES];
        fill(&mut other, 7, 43, 10);
        sector[256..].copy_from_slice(&other[256..]);
        assert_eq!(read(&sector, 7, 10), Err(BadStamp::Torn { sequence: 42 }));
    }
}
