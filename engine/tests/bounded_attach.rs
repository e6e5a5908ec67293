//! What an attach after a crash reads: bounded by the active epoch, however much is saved (law 7).
//!
//! CAIRN_SIM_SAVED_GIB sets the size of the large store; the images are zeroes, so that the simulation stays small.

use cairn_engine::format::record::RECORD_BYTES_MAX;
use cairn_engine::sim::rig::Rig;
use cairn_engine::sim::{Crash, IoCounts, SimDiskOptions};
use cairn_engine::volume::Limits;

const GIB: u64 = 1 << 30;
const SMALL_GIB: u64 = 1;
const LARGE_GIB_DEFAULT: u64 = 8;
const VOLUME_BYTES: u64 = GIB;
const STORE_BYTES: u64 = 160 * GIB;
const SEGMENT_BYTES: u32 = 64 << 20;
const WRITE_BYTES: usize = 512 << 10;
/// Blocks saved since the last snapshot when the crash comes: the active epoch.
const ACTIVE_BLOCKS: u64 = 1000;

/// Fills a store with so much saved data, crashes, attaches; gives what the attach asked of origin and store.
fn attach_cost(saved_gib: u64) -> (IoCounts, IoCounts) {
    let origin = SimDiskOptions::new("origin", VOLUME_BYTES);
    let rig = Rig::new(origin, SimDiskOptions::new("store", STORE_BYTES), SEGMENT_BYTES, Limits::default());
    for epoch in 0..saved_gib {
        rig.snapshot(&format!("epoch-{epoch}")).expect("no fault");
        for offset_bytes in (0..VOLUME_BYTES).step_by(WRITE_BYTES) {
            rig.write(offset_bytes, WRITE_BYTES, 0).expect("no fault");
            rig.work().expect("no fault");
        }
    }
    rig.snapshot("last").expect("no fault");
    rig.work().expect("no fault");
    for block in 0..ACTIVE_BLOCKS {
        rig.write((1000 + block) * 4096, 4096, 1).expect("no fault");
    }
    let expected_blocks = saved_gib * VOLUME_BYTES / 4096 + ACTIVE_BLOCKS;
    println!("{saved_gib} GiB: {expected_blocks} blocks saved, crash");
    let rig = rig.recover(1, Crash::Process).expect("no fault");
    let cost = (rig.disks.origin.counts(), rig.disks.store.counts());
    let oldest = rig.read_snapshot("epoch-0", 4096 * 1000, 8192).expect("no fault");
    assert!(oldest.iter().all(|byte| *byte == 0), "the oldest snapshot has what was there before everything");
    cost
}

#[test]
fn an_attach_after_a_crash_reads_no_more_when_more_is_saved() {
    let large_gib = std::env::var("CAIRN_SIM_SAVED_GIB").ok();
    let large_gib = large_gib.map_or(LARGE_GIB_DEFAULT, |text| text.parse().expect("CAIRN_SIM_SAVED_GIB is a number"));
    let small = attach_cost(SMALL_GIB);
    let large = attach_cost(large_gib);
    for (saved_gib, (origin, store)) in [(SMALL_GIB, small), (large_gib, large)] {
        println!(
            "{saved_gib:>4} GiB saved: the attach does {} origin reads ({} bytes), {} store reads ({} bytes), {} store \
             writes ({} bytes), {} flushes",
            origin.reads,
            origin.read_bytes,
            store.reads,
            store.read_bytes,
            store.writes + store.durable_writes,
            store.written_bytes + store.durable_bytes,
            store.flushes
        );
    }
    // The catalog names every segment and run, some bytes each, and keeps a log of at most a MiB. Everything else is
    // the active epoch's.
    let active_bytes = ACTIVE_BLOCKS * 2 * 4096;
    let catalog_bytes = (1 << 20) + (large_gib - SMALL_GIB) * (GIB / u64::from(SEGMENT_BYTES)) * 256;
    println!("the active epoch saved {} bytes", ACTIVE_BLOCKS * 4096);
    let bound_bytes = small.1.read_bytes + active_bytes / 2 + catalog_bytes;
    assert!(large.1.read_bytes <= bound_bytes, "{} bytes read, at most {bound_bytes} allowed", large.1.read_bytes);
    // Behind the last record of the catalog the attach looks as far as one write can destroy, where the area goes on.
    let behind_bytes = RECORD_BYTES_MAX as u64 + (256 << 10);
    let windows = 2 + (catalog_bytes + behind_bytes).div_ceil(256 << 10);
    assert!(large.1.reads <= small.1.reads + windows, "{} reads, {} for the small store", large.1.reads, small.1.reads);
    assert_eq!(large.0.reads, small.0.reads, "the origin is read alike");
}
