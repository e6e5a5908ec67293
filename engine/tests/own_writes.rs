//! A frontend that submits its reads and writes itself: when it may, and what a cut does meanwhile.

use cairn_engine::deadline::Deadline;
use cairn_engine::disk::{aligned_buffer, Disk};
use cairn_engine::error::ErrorKind;
use cairn_engine::sim::executor::block_on;
use cairn_engine::sim::rig::{snapshot_name, snapshot_options, Rig};
use cairn_engine::sim::SimDiskOptions;
use cairn_engine::units::{BLOCK_BYTES, PIECE_BLOCKS_MAX};
use cairn_engine::volume::Limits;

const BLOCK: u64 = BLOCK_BYTES as u64;
const ORIGIN_BYTES: u64 = 16 << 20;
/// Away from what the watch looks at.
const PLACE: u64 = 4 << 20;

fn rig() -> Rig {
    let (origin, store) = (SimDiskOptions::new("origin", ORIGIN_BYTES), SimDiskOptions::new("store", 64 << 20));
    Rig::new(origin, store, 1 << 20, Limits::default())
}

#[test]
fn the_way_is_free_until_a_snapshot_needs_what_is_there_and_again_once_that_is_saved() {
    let rig = rig();
    let is_free = || rig.lane.way_for_write(PLACE, BLOCK).is_some();
    assert!(is_free(), "nothing is needed yet");
    rig.snapshot("first").expect("a snapshot");
    assert!(!is_free(), "the snapshot needs what is there");
    rig.write(PLACE, BLOCK_BYTES, 1).expect("it is saved and written");
    assert!(is_free());
    rig.snapshot("second").expect("a snapshot");
    assert!(!is_free());
    assert!(rig.lane.is_on_origin(PLACE, BLOCK), "the volume's content is always there");
}

#[test]
fn a_cut_waits_for_whoever_was_let_in_and_its_write_is_in_the_snapshot() {
    let rig = rig();
    rig.write(PLACE, BLOCK_BYTES, 1).expect("a write");
    let way = rig.lane.way_for_write(PLACE, BLOCK).expect("nothing is in the way");
    let deadline = Deadline::new();
    deadline.expire();
    let late = snapshot_name("late");
    let cut = rig.volume.snapshot(&rig.disks, &late, snapshot_options(), &deadline);
    let refused = block_on(cut).expect_err("somebody is inside");
    assert_eq!(refused.kind(), ErrorKind::TimedOut);
    let mut data = aligned_buffer(BLOCK_BYTES);
    data.fill(2);
    block_on(rig.disks.origin.write(PLACE, &data)).expect("the write that was let in");
    drop(way);
    rig.snapshot("after").expect("a snapshot");
    rig.write(PLACE, BLOCK_BYTES, 3).expect("a write");
    assert_eq!(rig.read_snapshot("after", PLACE, BLOCK_BYTES).expect("whole"), [2; BLOCK_BYTES]);
}

#[test]
fn what_a_single_write_cannot_do_is_not_let_in() {
    let rig = rig();
    let whole = PIECE_BLOCKS_MAX * BLOCK;
    assert!(rig.lane.way_for_write(PLACE, whole).is_some());
    assert!(rig.lane.way_for_write(PLACE, whole + BLOCK).is_none(), "two pieces");
    assert!(rig.lane.way_for_write(PLACE + 512, whole).is_none(), "two pieces, as the first ends where a block does");
    assert!(rig.lane.way_for_write(PLACE, 0).is_none(), "nothing");
    assert!(rig.lane.way_for_write(ORIGIN_BYTES - BLOCK, 2 * BLOCK).is_none(), "behind the end");
    assert!(!rig.lane.is_on_origin(ORIGIN_BYTES - BLOCK, 2 * BLOCK), "behind the end");
    assert!(rig.lane.way_for_write(u64::MAX - 511, 512).is_none(), "behind all numbers");
}

#[test]
fn during_a_restore_only_what_is_moved_is_on_the_origin_and_may_be_written() {
    let rig = rig();
    rig.write(PLACE, BLOCK_BYTES, 1).expect("a write");
    rig.snapshot("target").expect("a snapshot");
    rig.write(PLACE, BLOCK_BYTES, 2).expect("a write");
    let (target, before) = (snapshot_name("target"), snapshot_name("before"));
    let deadline = Deadline::new();
    let restore = rig.volume.restore(&rig.disks, &target, &before, snapshot_options(), &deadline);
    block_on(restore).expect("it begins");
    assert!(!rig.lane.is_on_origin(PLACE, BLOCK));
    assert!(rig.lane.way_for_write(PLACE, BLOCK).is_none());
    assert_eq!(rig.read(PLACE, BLOCK_BYTES).expect("the snapshot's"), [1; BLOCK_BYTES]);
    rig.work().expect("it is moved");
    assert!(rig.lane.is_on_origin(PLACE, BLOCK));
    assert!(rig.lane.way_for_write(PLACE, BLOCK).is_some(), "what was there is saved, and nobody needs the rest");
}

#[test]
fn a_closed_volume_lets_nobody_in() {
    let rig = rig();
    block_on(rig.volume.close(&rig.disks, 0)).expect("it is closed");
    assert!(rig.lane.way_for_write(PLACE, BLOCK).is_none());
    assert!(!rig.lane.is_on_origin(PLACE, BLOCK));
}
