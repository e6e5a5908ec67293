//! What one write that went astray can do to the store at most: it destroys as many neighbouring bytes as the largest
//! write has. Whatever lies behind them still counts, and what they held is known to be lost.

use cairn_engine::error::ErrorKind;
use cairn_engine::sim::rig::{Rig, StateDirectory};
use cairn_engine::sim::{Crash, SimDisk, SimDiskOptions};
use cairn_engine::snapshot::BrokenReason;
use cairn_engine::volume::Limits;

/// A record with as many images as it takes.
const LARGEST_WRITE_BYTES: u64 = 249 * 4096;
const BLOCKS: u64 = 1024;

fn limits() -> Limits {
    Limits {
        spill_entries: 64 << 10,
        entries_max: 512 << 10,
        cache_pages: 64,
        reserve_segments: 1,
        restore_step_blocks: 64,
        ..Limits::default()
    }
}

fn rig() -> Rig {
    Rig::new(SimDiskOptions::new("origin", BLOCKS * 4096), SimDiskOptions::new("store", 64 << 20), 4 << 20, limits())
}

/// Where the blocks lie that begin like this.
fn find(store: &SimDisk, magic: &[u8]) -> Vec<u64> {
    (0..64 << 20).step_by(4096).filter(|at| store.peek(*at, magic.len() as u64) == magic).collect()
}

fn overwrite(store: &SimDisk, from: u64, length_bytes: u64) {
    store.poke(from, &vec![0x5a; length_bytes as usize]);
}

#[test]
fn records_behind_as_much_damage_as_one_write_can_do_still_count() {
    let rig = rig();
    rig.snapshot("before").expect("no fault yet");
    // A small record, one as large as they get, and small ones that confirm it.
    rig.write(0, 4096, 1).expect("no fault yet");
    rig.write(4096, 248 * 4096, 1).expect("no fault yet");
    rig.write(300 * 4096, 4096, 1).expect("no fault yet");
    let records = find(&rig.disks.store, b"CairnRec");
    let destroyed = records.iter().filter(|at| **at < records[0] + LARGEST_WRITE_BYTES).count();
    assert!(destroyed >= 2 && destroyed < records.len(), "some are destroyed, some lie behind: {records:?}");
    let disks = rig.crash(1, Crash::Process);
    overwrite(&disks.store, records[0], LARGEST_WRITE_BYTES);
    let rig = Rig::attach(disks, limits(), StateDirectory::default()).expect("the catalog is whole");
    let reason = rig.snapshot_reason("before");
    assert_eq!(reason, Some(BrokenReason::RecordLost), "two records that had been confirmed are gone");
}

#[test]
fn catalog_records_behind_as_much_damage_as_one_write_can_do_are_missed() {
    const DAMAGE_BYTES: u64 = 512 << 10;
    let (origin, store) = (SimDiskOptions::new("origin", BLOCKS * 4096), SimDiskOptions::new("store", 1 << 30));
    let rig = Rig::new(origin, store, 4 << 20, limits());
    for number in 0..100 {
        rig.snapshot(&format!("s{number}")).expect("no fault yet");
    }
    let records = find(&rig.disks.store, b"CnCt");
    // Of the last record the first copy; the second follows it.
    let last = records[records.len() - 2];
    assert!(last - DAMAGE_BYTES > records[0] + 16384, "the log is long enough for this test");
    let disks = rig.crash(1, Crash::Process);
    overwrite(&disks.store, last - DAMAGE_BYTES, DAMAGE_BYTES);
    let error = Rig::attach(disks, limits(), StateDirectory::default()).err().map(|error| error.kind());
    assert_eq!(error, Some(ErrorKind::Corrupt), "an older state must never pass for the present one");
}
