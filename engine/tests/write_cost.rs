//! What a write costs, counted on the simulated disks (mission X2; law 6): flat in the number of snapshots.

use cairn_engine::sim::rig::Rig;
use cairn_engine::sim::{IoCounts, SimDiskOptions};
use cairn_engine::volume::Limits;

const VOLUME_BYTES: u64 = 256 << 20;
const STORE_BYTES: u64 = 1 << 30;
const SEGMENT_BYTES: u32 = 1 << 20;
const BLOCK: u64 = 4096;
/// Far from the places of superblocks and partition tables, which are watched and cost more.
const FIRST_BLOCK: u64 = 32;

fn rig(has_fua: bool) -> Rig {
    let origin = SimDiskOptions::new("origin", VOLUME_BYTES);
    let store = SimDiskOptions { has_fua, ..SimDiskOptions::new("store", STORE_BYTES) };
    Rig::new(origin, store, SEGMENT_BYTES, Limits::default())
}

/// Writes one block and gives what that cost: (origin, store).
fn cost(rig: &Rig, block: u64) -> (IoCounts, IoCounts) {
    rig.reset_counts();
    rig.write(block * BLOCK, BLOCK as usize, 1).expect("no fault");
    (rig.disks.origin.counts(), rig.disks.store.counts())
}

fn one_origin_write() -> IoCounts {
    IoCounts { writes: 1, written_bytes: BLOCK, ..IoCounts::default() }
}

fn one_record(has_fua: bool) -> IoCounts {
    let record_bytes = 2 * BLOCK;
    match has_fua {
        true => IoCounts { durable_writes: 1, durable_bytes: record_bytes, ..IoCounts::default() },
        false => IoCounts { writes: 1, written_bytes: record_bytes, flushes: 1, ..IoCounts::default() },
    }
}

fn assert_first_write(rig: &Rig, block: u64, has_fua: bool, when: &str) {
    let (origin, store) = cost(rig, block);
    let expected = IoCounts { reads: 1, read_bytes: BLOCK, ..one_origin_write() };
    assert_eq!(origin, expected, "origin, {when}, FUA {has_fua}");
    assert_eq!(store, one_record(has_fua), "store, {when}, FUA {has_fua}");
}

fn assert_free_write(rig: &Rig, block: u64, when: &str) {
    let (origin, store) = cost(rig, block);
    assert_eq!(origin, one_origin_write(), "origin, {when}");
    assert_eq!(store, IoCounts::default(), "store, {when}");
}

#[test]
fn a_first_write_costs_one_read_one_durable_record_and_one_write_with_1_and_with_1000_snapshots() {
    for has_fua in [true, false] {
        let rig = rig(has_fua);
        assert_free_write(&rig, FIRST_BLOCK, "without snapshots");
        rig.snapshot("first").expect("no fault");
        assert_first_write(&rig, FIRST_BLOCK, has_fua, "right after the first cut");
        rig.work().expect("no fault");
        assert_first_write(&rig, FIRST_BLOCK + 1, has_fua, "1 snapshot");
        assert_free_write(&rig, FIRST_BLOCK + 1, "saved already, 1 snapshot");
        for number in 2..=1000 {
            // Every epoch saves something, so that none is trivially empty.
            rig.write((FIRST_BLOCK + 100 + number) * BLOCK, BLOCK as usize, 2).expect("no fault");
            rig.snapshot(&format!("snapshot-{number}")).expect("no fault");
            rig.work().expect("no fault");
        }
        assert_first_write(&rig, FIRST_BLOCK, has_fua, "right after the cut, 1,000 snapshots");
        for block in 1..8 {
            assert_first_write(&rig, FIRST_BLOCK + block, has_fua, "steady state, 1,000 snapshots");
        }
        assert_free_write(&rig, FIRST_BLOCK + 3, "saved already, 1,000 snapshots");
        println!("FUA {has_fua}: a first 4 KiB write costs the same with 1 and with 1,000 snapshots");
    }
}

#[test]
fn a_steady_stream_of_first_writes_pays_nothing_but_its_records() {
    let rig = rig(true);
    rig.snapshot("only").expect("no fault");
    rig.work().expect("no fault");
    let (blocks, segment_blocks) = (1000, u64::from(SEGMENT_BYTES) / BLOCK);
    assert!(blocks > 4 * segment_blocks / 2, "the stream passes through several segments");
    for block in 0..blocks {
        assert_first_write(&rig, FIRST_BLOCK + block, true, &format!("block {block} of the stream"));
        // Segments are handed out ahead of need, beside the writes.
        rig.work().expect("no fault");
    }
}
