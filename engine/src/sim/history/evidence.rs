//! Which logs on the store end in a record that nothing confirms yet: the windows in which a loss goes unseen, as
//! docs/DURABILITY.md states them.
//!
//! Invariants:
//! - A lane's record is confirmed by its next record, a catalog's by its next record or by a superblock.
//! - Only what the store reported as done counts, and only what landed confirms.
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

/// The last record of a log.
struct Last {
    range_bytes: Range<u64>,
    /// It is lost, or damaged as a whole.
    gone: bool,
}

/// The last records of all logs of an attachment.
#[derive(Default)]
pub(super) struct Evidence {
    last: BTreeMap<Log, Last>,
}

impl Evidence {
    /// Takes in what the store reported as done.
    pub(super) fn absorb(&mut self, written: impl IntoIterator<Item = Written>) {
        for written in written {
            self.absorb_one(&written);
        }
    }

    fn absorb_one(&mut self, written: &Written) {
        let range_bytes = written.offset_bytes..written.offset_bytes + written.length_bytes();
        let head = written.head();
        let is_lost_confirmation = written.effect.is_some() && is_confirmation(&head);
        if let Some(log) = log_of(&head).filter(|log| !is_lost_confirmation || !self.last.contains_key(log)) {
            self.last.insert(log, Last { range_bytes, gone: written.effect.is_some() });
        } else if SUPERBLOCKS_BYTES.contains(&written.offset_bytes) && written.effect.is_none() {
            // It counts the records of the catalog.
            self.last.retain(|log, _| !matches!(log, Log::Catalog { .. }));
        }
        if let Some(Effect::Misdirect(to_bytes)) = written.effect {
            let hit = to_bytes..to_bytes + written.length_bytes();
            for last in self.last.values_mut().filter(|last| overlap(&last.range_bytes, &hit)) {
                last.gone = true;
            }
        }
    }

    /// Whether a crash now could hide a loss.
    pub(super) fn is_window_open(&self) -> bool {
        self.last.values().any(|last| last.gone)
    }

    /// Whether a byte belongs to the last record of a lane.
    pub(super) fn is_in_last_record(&self, offset_bytes: u64) -> bool {
        let is_lane = |log: &Log| matches!(log, Log::Lane { .. });
        self.last.iter().any(|(log, last)| is_lane(log) && last.range_bytes.contains(&offset_bytes))
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
