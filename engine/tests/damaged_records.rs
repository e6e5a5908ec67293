//! Records and images that are damaged or cannot be read: the snapshot breaks or the read fails, never wrong data.

use cairn_engine::disk::Disks;
use cairn_engine::error::ErrorKind;
use cairn_engine::sim::rig::{Rig, StateDirectory};
use cairn_engine::sim::{block_on, Crash, Fault, FaultTarget, SimDisk, SimDiskOptions};
use cairn_engine::volume::{inspect, Limits};

/// Blocks that are overwritten after the snapshot, one record each.
const BLOCKS: std::ops::Range<u64> = 20..23;

fn limits() -> Limits {
    Limits {
        spill_entries: 16,
        entries_max: 64,
        cache_pages: 8,
        reserve_segments: 4,
        restore_step_blocks: 8,
        ..Limits::default()
    }
}

/// A volume with a snapshot full of zeroes, and what followed it.
fn rig() -> Rig {
    let origin = SimDiskOptions::new("origin", 48 * 4096);
    let rig = Rig::new(origin, SimDiskOptions::new("store", 8 << 20), 64 << 10, limits());
    rig.snapshot("a").expect("cut");
    for block in BLOCKS {
        rig.write(block * 4096, 4096, 7).expect("write");
    }
    rig
}

/// The store byte at which the lane's record of this block begins: a header and one image each.
fn record_bytes(store: &SimDisk, block: u64) -> u64 {
    let geometry = block_on(inspect(store)).expect("a store").superblock.geometry;
    geometry.segments_base_bytes + (block - BLOCKS.start) * 2 * 4096
}

/// Recovers; no block of the snapshot may be anything but zeroes without a word.
fn assert_exact_or_broken(disks: Disks<SimDisk>, what: &str) {
    let rig = Rig::attach(disks, limits(), StateDirectory::default()).expect("attach");
    for block in BLOCKS {
        if let Ok(content) = rig.read_snapshot("a", block * 4096, 4096) {
            assert!(content.iter().all(|byte| *byte == 0), "{what}: block {block} is silently wrong");
        }
    }
}

#[test]
fn a_header_that_cannot_be_read_is_never_the_end_of_the_log() {
    for block in BLOCKS {
        let disks = rig().crash(1, Crash::Process);
        let header = record_bytes(&disks.store, block);
        disks.store.inject(Fault::persistent(FaultTarget::Read, 0).within(header..header + 4096));
        assert_exact_or_broken(disks, &format!("the header of block {block} cannot be read"));
    }
}

#[test]
fn a_record_that_a_later_one_confirms_is_never_lost_without_a_word() {
    for block in BLOCKS.start..BLOCKS.end - 1 {
        let disks = rig().crash(1, Crash::Process);
        disks.store.flip(record_bytes(&disks.store, block) + 20, 1);
        assert_exact_or_broken(disks, &format!("the header of block {block} is damaged"));
    }
}

#[test]
fn a_damaged_image_is_an_error_and_never_data() {
    let rig = rig();
    rig.disks.store.flip(record_bytes(&rig.disks.store, BLOCKS.start) + 4096 + 100, 1);
    let read = rig.read_snapshot("a", BLOCKS.start * 4096, 4096);
    assert_eq!(read.expect_err("a byte of it is wrong").kind(), ErrorKind::Corrupt);
    let next = rig.read_snapshot("a", (BLOCKS.start + 1) * 4096, 4096).expect("nothing happened to it");
    assert!(next.iter().all(|byte| *byte == 0));
}
