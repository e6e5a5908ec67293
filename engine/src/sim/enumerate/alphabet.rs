//! The operations that workloads are made of, and the workloads of a length in their order.
//!
//! Invariants:
//! - A workload has one number, and one line of text.
//! - Of two workloads that differ only in the names of the blocks one is left out.

use std::fmt;

/// Raised whenever the alphabet, the order of workloads or what is counted as a state changes: figures of different
/// versions do not add up to the coverage of one.
pub const ALPHABET_VERSION: u32 = 4;

/// From one beginning of a workload to the next. Without a factor in common with the number of operations, so that
/// none is left out.
const PREFIX_STRIDE: u64 = 6_700_417;

/// Block `a`; `b` follows it. Neither is watched, both neighbours are.
pub(super) const BLOCK_A: u64 = 2;
/// Blocks of the volume: two that are not watched, between those at the start and those at the end.
pub(super) const VOLUME_BLOCKS: u64 = 7;
/// Blocks by which it may grow, one at a time.
pub(super) const GROWTH_BLOCKS: u64 = 2;

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// All of block a.
    WriteA,
    /// All of block b.
    WriteB,
    /// The first sectors of a.
    WriteHead,
    /// The last sectors of a.
    WriteTail,
    /// The last sectors of a and the first of b.
    WriteAcross,
    /// All of a, durable.
    DurableA,
    /// All of a and b, durable.
    DurableBoth,
    /// The last sectors of a watched block and the first of a.
    WriteWatched,
    /// Discards a and b.
    Discard,
    /// Zeroes a.
    ZeroesA,
    /// Zeroes the last sectors of a and the first of b, durable.
    ZeroesAcross,
    /// Flush.
    Flush,
    /// A snapshot.
    Snapshot,
    /// Deletes the oldest snapshot.
    DeleteOldest,
    /// Deletes the youngest snapshot.
    DeleteYoungest,
    /// Deletes the oldest snapshot, but leaves a bookmark; where there is none, of one taken just now.
    Bookmark,
    /// Reads the volume and every snapshot.
    Read,
    /// Restores the oldest snapshot.
    Restore,
    /// Detaches and attaches.
    Reattach,
    /// The process is killed; the next one attaches.
    Kill,
    /// All background work there is.
    Work,
    /// One step of background work.
    Step,
    /// What a lane does once a second.
    Tick,
    /// The origin has grown by a block, and the volume grows with it.
    Grow,
    /// The store grows.
    GrowStore,
}

use Operation::*;

/// Every operation with its name.
const NAMES: [(Operation, &str); 25] = [
    (WriteA, "write-a"),
    (WriteB, "write-b"),
    (WriteHead, "write-head"),
    (WriteTail, "write-tail"),
    (WriteAcross, "write-across"),
    (DurableA, "durable-a"),
    (DurableBoth, "durable-both"),
    (WriteWatched, "write-watched"),
    (Discard, "discard"),
    (ZeroesA, "zeroes-a"),
    (ZeroesAcross, "zeroes-across"),
    (Flush, "flush"),
    (Snapshot, "snapshot"),
    (DeleteOldest, "delete-oldest"),
    (DeleteYoungest, "delete-youngest"),
    (Bookmark, "bookmark"),
    (Read, "read"),
    (Restore, "restore"),
    (Reattach, "reattach"),
    (Kill, "kill"),
    (Work, "work"),
    (Step, "step"),
    (Tick, "tick"),
    (Grow, "grow"),
    (GrowStore, "grow-store"),
];

impl fmt::Display for Operation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES.iter().find(|(operation, _)| operation == self).expect("every operation is listed").1;
        formatter.write_str(name)
    }
}

/// Operations one after the other, on disks of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Whether a durable write is one command; else it is a write and a flush.
    pub has_fua: bool,
    /// The operations.
    pub operations: Vec<Operation>,
}

impl Workload {
    /// So many neighbours, from a multiple of it on, differ only in the last operation and in the kind of disk.
    pub const FAMILY: u64 = 2 * NAMES.len() as u64;

    /// How many workloads have this length, those that are left out counted.
    pub fn count(length: u32) -> u64 {
        2 * (NAMES.len() as u64).pow(length)
    }

    /// The workload with this number; none where it is left out. Neighbours differ in the kind of disk, then in the
    /// last operation: so they leave the same images more often. What stands before the last operation follows in an
    /// order that soon has a bit of everything: a run of the longer ones does not come to its end.
    pub fn numbered(length: u32, number: u64) -> Option<Workload> {
        assert!(number < Workload::count(length), "workload {number} of length {length}");
        let letters = NAMES.len() as u64;
        let (has_fua, mut rest) = (number.is_multiple_of(2), number / 2);
        let mut operations = vec![NAMES[(rest % letters) as usize].0];
        rest = (rest / letters).wrapping_mul(PREFIX_STRIDE) % letters.pow(length - 1);
        for _ in 1..length {
            operations.push(NAMES[(rest % letters) as usize].0);
            rest /= letters;
        }
        operations.reverse();
        let workload = Workload { has_fua, operations };
        (!workload.is_renamed()).then_some(workload)
    }

    /// It is another one with the names of the blocks exchanged, and that one comes first.
    fn is_renamed(&self) -> bool {
        let names_a_block =
            |operation: &Operation| matches!(operation, WriteA | WriteB | WriteHead | WriteTail | DurableA | ZeroesA);
        let joins = |operation: &Operation| matches!(operation, WriteAcross | WriteWatched | ZeroesAcross);
        let mut named = self.operations.iter().filter(|operation| names_a_block(operation));
        let plain = named.clone().all(|operation| matches!(operation, WriteA | WriteB));
        plain && !self.operations.iter().any(joins) && named.next() == Some(&WriteB)
    }

    /// Reads what `Display` writes.
    pub fn parse(text: &str) -> Result<Workload, String> {
        let (kind, operations) = text.split_once(':').ok_or_else(|| format!("'{text}' names no kind of disk"))?;
        let has_fua = match kind {
            "fua" => true,
            "flush" => false,
            _ => return Err(format!("'{kind}' is neither 'fua' nor 'flush'")),
        };
        let operation = |name: &str| {
            let known = NAMES.iter().find(|(_, known)| *known == name);
            known.map(|(operation, _)| *operation).ok_or_else(|| format!("'{name}' is no operation"))
        };
        let operations = operations.split(',').map(operation).collect::<Result<Vec<Operation>, String>>()?;
        Ok(Workload { has_fua, operations })
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.has_fua { "fua" } else { "flush" })?;
        for (index, operation) in self.operations.iter().enumerate() {
            write!(formatter, "{}{operation}", if index == 0 { ':' } else { ',' })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_is_what_its_line_and_its_number_say() {
        let workload = Workload { has_fua: false, operations: vec![Snapshot, WriteAcross, Flush] };
        assert_eq!(workload.to_string(), "flush:snapshot,write-across,flush");
        assert_eq!(Workload::parse(&workload.to_string()), Ok(workload));
        let all: Vec<Workload> = (0..Workload::count(2)).filter_map(|number| Workload::numbered(2, number)).collect();
        let lines: std::collections::BTreeSet<String> = all.iter().map(Workload::to_string).collect();
        assert_eq!(lines.len(), all.len());
        assert!(lines.contains("fua:write-a,write-b") && !lines.contains("fua:write-b,write-a"));
        assert!(lines.contains("fua:write-b,write-head") && lines.contains("flush:tick,tick"));
        assert!(Workload::parse("fua:paint").is_err());
    }
}
