//! Which logs on the store end in a record that nothing confirms yet: the windows in which a loss goes unseen, as
//! docs/DURABILITY.md states them.
//!
//! Invariants:
//! - A lane's record is confirmed by its next record, a catalog's by its next record or by a superblock.
//! - Only what the store reported as done counts, and only what landed confirms, once no power cut can take it.
//! - A lost confirmation hides nothing, as long as the record that it confirmed is there.

use crate::sim::{Effect, Written};
use std::collections::BTreeMap;
use std::ops::Range;

const SUPERBLOCKS_BYTES: Range<u64> = 0..128 << 10;

/// A log on the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Log {
    Lane { lane: u16, session: u64 },
    Catalog { generation: u64 },
}

/// A record at the end of a log, or a superblock, which counts the records of a catalog.
struct Record {
    id: u64,
    range_bytes: Range<u64>,
    /// It is lost, or damaged as a whole.
    gone: bool,
}

/// The ends of all logs of an attachment: the last record that is there whatever happens, and all behind it.
#[derive(Default)]
pub(super) struct Evidence {
    ends: BTreeMap<Log, Vec<Record>>,
}

impl Evidence {
    /// Takes in what the store reported as done, in that order; `is_volatile` says which of it a power cut could take.
    pub(super) fn absorb(&mut self, written: Vec<Written>, is_volatile: impl Fn(u64) -> bool) {
        for written in &written {
            self.absorb_one(written);
        }
        for end in self.ends.values_mut() {
            let confirms = |record: &Record| !record.gone && !is_volatile(record.id);
            let last_sure = end.iter().rposition(confirms).unwrap_or(0);
            end.drain(..last_sure);
        }
    }

    fn absorb_one(&mut self, written: &Written) {
        let range_bytes = written.offset_bytes..written.offset_bytes + written.length_bytes();
        let head = written.head();
        let gone = written.effect.is_some();
        let is_lost_confirmation = gone && is_confirmation(&head);
        if let Some(log) = log_of(&head).filter(|log| !is_lost_confirmation || !self.ends.contains_key(log)) {
            self.ends.entry(log).or_default().push(Record { id: written.id, range_bytes, gone });
        } else if SUPERBLOCKS_BYTES.contains(&written.offset_bytes) && !gone {
            let catalogs = self.ends.iter_mut().filter(|(log, _)| matches!(log, Log::Catalog { .. }));
            for (_, end) in catalogs {
                end.push(Record { id: written.id, range_bytes: 0..0, gone });
            }
        }
        if let Some(Effect::Misdirect(to_bytes)) = written.effect {
            let hit = to_bytes..to_bytes + written.length_bytes();
            for record in self.ends.values_mut().flatten().filter(|record| overlap(&record.range_bytes, &hit)) {
                record.gone = true;
            }
        }
    }

    /// Whether a crash now could hide a loss.
    pub(super) fn is_window_open(&self) -> bool {
        self.ends.values().flatten().any(|record| record.gone)
    }

    /// Whether a byte belongs to what may be the last record of a lane after a crash.
    pub(super) fn is_in_last_record(&self, offset_bytes: u64) -> bool {
        let lanes = self.ends.iter().filter(|(log, _)| matches!(log, Log::Lane { .. }));
        lanes.flat_map(|(_, end)| end).any(|record| record.range_bytes.contains(&offset_bytes))
    }
}

fn overlap(left: &Range<u64>, right: &Range<u64>) -> bool {
    left.start < right.end && right.start < left.end
}

/// A record of a lane without entries.
fn is_confirmation(head: &[u8]) -> bool {
    head.starts_with(b"CairnRec") && head.get(12..14) == Some(&[0, 0])
}

/// Which log a write belongs to; see FORMAT.md for the places of the fields.
fn log_of(head: &[u8]) -> Option<Log> {
    let number =
        |at: usize| head.get(at..at + 8).map(|bytes| u64::from_le_bytes(bytes.try_into().expect("eight bytes")));
    if head.starts_with(b"CairnRec") {
        let lane = u16::from_le_bytes(head.get(14..16)?.try_into().expect("two bytes"));
        return Some(Log::Lane { lane, session: number(16)? });
    }
    if head.starts_with(b"CnCt") {
        return Some(Log::Catalog { generation: number(24)? });
    }
    None
}
