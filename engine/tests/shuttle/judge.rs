//! What a snapshot may show that is taken while four lanes write.
//!
//! Invariants:
//! - Every sector has one writer, so of two writes of a sector one came first.
//! - In each sector a snapshot shows the last write that had ended when the cut was called, or a later one that had begun
//!   when it returned.
//! - A snapshot that shows a write shows, everywhere, all that had ended when that write began.
//! - A snapshot shows the same for ever.

use cairn_engine::sim::stamp::{read_stamp, Value, WriteId};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};

/// The blocks that are written: two in each of two words of the needed map.
pub const BLOCKS: Range<u64> = 62..66;
pub const SECTOR_BYTES: usize = 512;
const SECTORS_IN_BLOCK: u64 = 8;

/// A time of the schedule: what happened before has a smaller one.
type Moment = u64;

#[derive(Clone, Copy)]
struct Write {
    first_sector: u64,
    sectors: u64,
    begun: Moment,
    ended: Option<Moment>,
}

struct Snapshot {
    called: Moment,
    returned: Moment,
    shown: Option<Vec<Value>>,
}

#[derive(Default)]
struct Log {
    now: Moment,
    writes: Vec<Write>,
    snapshots: BTreeMap<String, Snapshot>,
    /// Read before the cut had returned.
    early: BTreeMap<String, Vec<Value>>,
}

impl Log {
    fn moment(&mut self) -> Moment {
        self.now += 1;
        self.now
    }
}

/// Notes what happens, and judges.
#[derive(Default)]
pub struct Judge(Mutex<Log>);

impl Judge {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Where a lane writes: first sector, and how many. All lanes meet in the same blocks; some places cross from one
    /// word of the map into the other.
    pub fn places(&self, lane: u16) -> Vec<(u64, u64)> {
        let border = |block: u64| (block * SECTORS_IN_BLOCK - 1, 2);
        let inside = |block: u64| (block * SECTORS_IN_BLOCK + 1 + u64::from(lane), 1);
        let mut places = Vec::from_iter(BLOCKS.map(inside));
        match lane {
            0 => places.push(border(64)),
            1 => places.push(border(63)),
            2 => places.push(border(65)),
            _ => {}
        }
        places
    }

    /// A write is about to be sent; its number.
    pub fn write_begins(&self, first_sector: u64, sectors: u64) -> WriteId {
        let mut log = self.log();
        let begun = log.moment();
        log.writes.push(Write { first_sector, sectors, begun, ended: None });
        log.writes.len() as WriteId
    }

    /// The write was acknowledged.
    pub fn write_ends(&self, write: WriteId) {
        let mut log = self.log();
        let moment = log.moment();
        log.writes[write as usize - 1].ended = Some(moment);
    }

    /// A snapshot is about to be taken; when.
    pub fn cut_begins(&self) -> Moment {
        self.log().moment()
    }

    /// The snapshot was taken.
    pub fn cut_ends(&self, name: &str, called: Moment) {
        let mut log = self.log();
        let returned = log.moment();
        let shown = log.early.remove(name);
        log.snapshots.insert(name.to_owned(), Snapshot { called, returned, shown });
    }

    /// The snapshot was deleted.
    pub fn forget(&self, name: &str) {
        self.log().early.remove(name);
    }

    /// Somebody read the snapshot.
    pub fn snapshot_shows(&self, name: &str, content: &[u8]) {
        let first = BLOCKS.start * SECTORS_IN_BLOCK;
        let sectors = (first..).zip(content.chunks_exact(SECTOR_BYTES));
        let values = Vec::from_iter(sectors.map(|(sector, content)| read_stamp(sector, content)));
        let mut log = self.log();
        let before = match log.snapshots.get_mut(name) {
            Some(snapshot) => snapshot.shown.get_or_insert_with(|| values.clone()),
            None => log.early.entry(name.to_owned()).or_insert_with(|| values.clone()),
        };
        assert_eq!(*before, values, "snapshot {name} shows something else than before");
    }

    /// Judges every snapshot that was read.
    pub fn judge(&self) {
        let log = self.log();
        for (name, snapshot) in &log.snapshots {
            if let Some(shown) = &snapshot.shown {
                judge_snapshot(name, snapshot, shown, &log.writes);
            }
        }
    }
}

fn judge_snapshot(name: &str, snapshot: &Snapshot, shown: &[Value], writes: &[Write]) {
    let numbers = (BLOCKS.start * SECTORS_IN_BLOCK..).zip(shown).map(|(sector, value)| match value {
        Value::Zero => (sector, 0),
        Value::Write(write) => (sector, *write),
        value => panic!("snapshot {name} shows {value} in sector {sector}"),
    });
    let numbers = Vec::from_iter(numbers);
    let begun = |write: WriteId| (write > 0).then(|| writes[write as usize - 1].begun);
    // What had ended by then has to be shown, or something later.
    let youngest = numbers.iter().filter_map(|(_, write)| begun(*write)).max().unwrap_or(0);
    let complete_until = youngest.max(snapshot.called);
    for (sector, shown) in numbers {
        assert!(
            begun(shown).is_none_or(|begun| begun < snapshot.returned),
            "snapshot {name} shows write {shown} in sector {sector}, which began after it was taken"
        );
        let of_sector = (1..)
            .zip(writes)
            .filter(|(_, write)| (write.first_sector..write.first_sector + write.sectors).contains(&sector));
        let ended = of_sector.filter(|(_, write)| write.ended.is_some_and(|ended| ended < complete_until));
        let expected = ended.map(|(number, _)| number).max().unwrap_or(0);
        assert!(
            shown >= expected,
            "snapshot {name} shows write {shown} in sector {sector}, but write {expected} had ended before"
        );
    }
}
