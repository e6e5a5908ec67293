//! What a sector holds, in the words of the reference model.
//!
//! Invariants:
//! - Every write stamps every sector with its own number and the sector's, so a wrong byte names its writer.
//! - No two different contents have the same value, short of a hash collision.

use crate::units::TEAR_BYTES;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

const MAGIC: u64 = 0x706d_6174_736e_7243;
const WORDS: usize = TEAR_BYTES / 8;

/// The number of a write.
pub type WriteId = u64;

/// The content of one 512-byte sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// All zeroes.
    Zero,
    /// What this write put here.
    Write(WriteId),
    /// What this write put into another sector.
    Misplaced {
        /// The write.
        write: WriteId,
        /// The sector it was meant for.
        sector: u64,
    },
    /// Nothing that any write ever put anywhere; by hash.
    Foreign(u64),
}

impl fmt::Display for Value {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Zero => write!(formatter, "zeroes"),
            Value::Write(write) => write!(formatter, "write {write}"),
            Value::Misplaced { write, sector } => write!(formatter, "write {write}'s sector {sector}, misplaced"),
            Value::Foreign(hash) => write!(formatter, "foreign bytes {hash:016x}"),
        }
    }
}

fn word(write: WriteId, sector: u64, index: usize) -> u64 {
    match index {
        0 => MAGIC,
        1 => write,
        2 => sector,
        _ => (write ^ sector.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(index as u64),
    }
}

/// Fills `data`, which starts at volume sector `first_sector`, with what `write` puts there.
pub fn stamp(write: WriteId, first_sector: u64, data: &mut [u8]) {
    assert_eq!(data.len() % TEAR_BYTES, 0);
    for (sector, content) in (first_sector..).zip(data.chunks_exact_mut(TEAR_BYTES)) {
        for (index, bytes) in content.chunks_exact_mut(8).enumerate() {
            bytes.copy_from_slice(&word(write, sector, index).to_le_bytes());
        }
    }
}

/// What volume sector `sector` holds, given its 512 bytes.
pub fn read_stamp(sector: u64, content: &[u8]) -> Value {
    assert_eq!(content.len(), TEAR_BYTES);
    if content.iter().all(|byte| *byte == 0) {
        return Value::Zero;
    }
    let mut words = [0; WORDS];
    for (word, bytes) in words.iter_mut().zip(content.chunks_exact(8)) {
        *word = u64::from_le_bytes(bytes.try_into().expect("chunks of eight"));
    }
    let (write, meant_for) = (words[1], words[2]);
    if words.iter().enumerate().all(|(index, found)| *found == word(write, meant_for, index)) {
        if meant_for == sector {
            return Value::Write(write);
        }
        return Value::Misplaced { write, sector: meant_for };
    }
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    Value::Foreign(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sector_names_its_writer_and_its_place() {
        let mut data = vec![0; 1024];
        assert_eq!(read_stamp(3, &data[..512]), Value::Zero);
        stamp(9, 3, &mut data);
        assert_eq!(read_stamp(3, &data[..512]), Value::Write(9));
        assert_eq!(read_stamp(4, &data[512..]), Value::Write(9));
        assert_eq!(read_stamp(5, &data[512..]), Value::Misplaced { write: 9, sector: 4 });
        data[511] ^= 1;
        assert!(matches!(read_stamp(3, &data[..512]), Value::Foreign(_)));
    }
}
