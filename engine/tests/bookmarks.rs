//! Bookmarks: what a deleted snapshot leaves, what it costs, and when it breaks.

use cairn_engine::delta::{DeltaPoint, Extent};
use cairn_engine::error::{ErrorKind, Result};
use cairn_engine::format::superblock::{self, Superblock, INCOMPATIBLE_BOOKMARKS};
use cairn_engine::sim::rig::{snapshot_name, Rig};
use cairn_engine::sim::{block_on, Crash, Fault, FaultTarget, SimDiskOptions};
use cairn_engine::snapshot::BrokenReason;
use cairn_engine::volume::Limits;

const BLOCK: u64 = 4096;

fn rig(store_bytes: u64) -> Rig {
    let limits = Limits { spill_entries: 64, entries_max: 1 << 16, reserve_segments: 2, ..Limits::default() };
    let (origin, store) = (SimDiskOptions::new("origin", 512 * BLOCK), SimDiskOptions::new("store", store_bytes));
    Rig::new(origin, store, 64 << 10, limits)
}

fn write(rig: &Rig, blocks: std::ops::Range<u64>, value: u8) {
    for block in blocks {
        rig.write(block * BLOCK, BLOCK as usize, value).expect("write");
    }
}

fn bookmark(rig: &Rig, name: &str) -> Result<()> {
    block_on(rig.volume.bookmark(&rig.disks, &snapshot_name(name))).map(drop)
}

fn changed_since(rig: &Rig, older: &str, newer: Option<&str>) -> Result<Vec<(u64, u64)>> {
    block_on(async {
        let older = rig.volume.delta_point(&rig.disks, &snapshot_name(older)).await?;
        let newer = match newer {
            Some(newer) => rig.volume.delta_point(&rig.disks, &snapshot_name(newer)).await?,
            None => DeltaPoint::live(),
        };
        let found = rig.volume.changes(&rig.disks, Some(&older), &newer, 0, usize::MAX).await?;
        let blocks = |extent: &Extent| (extent.offset_bytes / BLOCK, extent.length_bytes / BLOCK);
        Ok(found.iter().map(blocks).collect())
    })
}

fn free_segments(rig: &Rig) -> u64 {
    block_on(rig.volume.stats()).segments_free
}

fn superblock_of(rig: &Rig) -> Superblock {
    block_on(superblock::read(&rig.disks.store)).expect("a store").superblock
}

fn features(rig: &Rig) -> u64 {
    superblock_of(rig).incompatible
}

#[test]
fn the_first_bookmark_keeps_programs_away_that_do_not_know_any_and_no_crash_lets_them_in() {
    let mut rig = rig(64 << 20);
    write(&rig, 20..40, 1);
    rig.snapshot("a").expect("snapshot");
    rig.snapshot("b").expect("snapshot");
    assert_eq!(features(&rig), 0, "without bookmarks any program may read the store");
    bookmark(&rig, "a").expect("it is whole");
    assert_eq!(features(&rig), INCOMPATIBLE_BOOKMARKS);
    let sequence = superblock_of(&rig).sequence;
    bookmark(&rig, "b").expect("it is whole");
    assert_eq!(superblock_of(&rig).sequence, sequence, "a second one has nothing to say");
    for seed in 0..8 {
        rig = rig.recover(seed, Crash::Power).expect("attach");
        assert_eq!(features(&rig), INCOMPATIBLE_BOOKMARKS, "seed {seed}");
    }
    for name in ["a", "b"] {
        block_on(rig.volume.delete(&rig.disks, &snapshot_name(name))).expect("delete");
    }
    rig.work().expect("work");
    assert_eq!(features(&rig), INCOMPATIBLE_BOOKMARKS, "entries without images may be left");
}

#[test]
fn a_store_that_does_not_take_the_feature_gets_no_bookmark() {
    let rig = rig(64 << 20);
    rig.snapshot("a").expect("snapshot");
    let superblock_b = (64 << 10)..(68 << 10);
    rig.disks.store.inject(Fault { range_bytes: Some(superblock_b), ..Fault::once(FaultTarget::Write, 0) });
    bookmark(&rig, "a").expect_err("the store failed");
    assert_eq!(block_on(rig.volume.bookmarks()).len(), 0);
    let rig = rig.recover(1, Crash::Power).expect("attach");
    assert_eq!(block_on(rig.volume.snapshots()).len(), 1, "it is a snapshot still");
    bookmark(&rig, "a").expect("it is whole");
    assert_eq!(features(&rig), INCOMPATIBLE_BOOKMARKS);
}

#[test]
fn a_bookmark_gives_the_space_back_and_keeps_the_delta() {
    let rig = rig(64 << 20);
    write(&rig, 20..220, 1);
    rig.snapshot("a").expect("snapshot");
    write(&rig, 20..220, 2);
    rig.snapshot("b").expect("snapshot");
    write(&rig, 300..310, 3);
    rig.work().expect("work");
    let before = free_segments(&rig);
    bookmark(&rig, "a").expect("it is whole");
    rig.work().expect("work");
    let images_segments = 200 / 16;
    assert!(free_segments(&rig) >= before + images_segments, "the images of a bookmark are gone");
    assert_eq!(changed_since(&rig, "a", Some("b")).expect("exact"), [(20, 200)]);
    assert_eq!(changed_since(&rig, "a", None).expect("exact"), [(20, 200), (300, 10)]);
    assert_eq!(rig.read_snapshot("b", 300 * BLOCK, 1).expect("whole"), [0]);
    assert_eq!(block_on(rig.volume.snapshots()).len(), 1);
    assert_eq!(block_on(rig.volume.bookmarks()).len(), 1);
    assert_eq!(block_on(rig.volume.check(&rig.disks.store, Default::default())).expect("check"), []);
}

#[test]
fn images_that_an_older_snapshot_shows_stay_when_a_younger_one_becomes_a_bookmark() {
    let rig = rig(64 << 20);
    write(&rig, 20..40, 1);
    rig.snapshot("a").expect("snapshot");
    rig.snapshot("b").expect("snapshot");
    write(&rig, 20..30, 2);
    rig.snapshot("c").expect("snapshot");
    write(&rig, 20..40, 3);
    rig.work().expect("work");
    bookmark(&rig, "b").expect("it is whole");
    rig.work().expect("work");
    assert_eq!(changed_since(&rig, "b", Some("c")).expect("exact"), [(20, 10)]);
    assert_eq!(rig.read_snapshot("a", 20 * BLOCK, 1).expect("whole"), [1]);
    assert_eq!(rig.read_snapshot("c", 20 * BLOCK, 1).expect("whole"), [2]);
    // Now the images between the bookmark and the snapshot are shown by the older one alone.
    block_on(rig.volume.delete(&rig.disks, &snapshot_name("c"))).expect("delete");
    rig.work().expect("work");
    assert_eq!(rig.read_snapshot("a", 35 * BLOCK, 1).expect("whole"), [1]);
    assert_eq!(changed_since(&rig, "b", None).expect("exact"), [(20, 20)]);
}

#[test]
fn where_only_bookmarks_are_left_an_overwrite_is_recorded_without_its_image_and_survives_a_crash() {
    let rig = rig(64 << 20);
    rig.snapshot("a").expect("snapshot");
    bookmark(&rig, "a").expect("it is whole");
    let before = block_on(rig.volume.stats());
    write(&rig, 50..58, 7);
    let after = block_on(rig.volume.stats());
    assert_eq!((after.records, after.blocks_saved), (before.records + 8, before.blocks_saved));
    let rig = rig.recover(3, Crash::Power).expect("attach");
    assert_eq!(changed_since(&rig, "a", None).expect("exact"), [(50, 8)]);
    write(&rig, 60..61, 7);
    rig.work().expect("work");
    let rig = rig.recover(4, Crash::Process).expect("attach");
    assert_eq!(changed_since(&rig, "a", None).expect("exact"), [(50, 8), (60, 1)]);
    // What was recorded is not recorded again.
    rig.reset_counts();
    write(&rig, 50..58, 8);
    let counts = rig.disks.store.counts();
    assert_eq!((counts.writes, counts.durable_writes), (0, 0));
    // A snapshot begins to keep images again, and the bookmark goes on.
    rig.snapshot("b").expect("snapshot");
    write(&rig, 50..51, 9);
    assert_eq!(rig.read_snapshot("b", 50 * BLOCK, 1).expect("whole"), [8]);
    assert_eq!(changed_since(&rig, "a", Some("b")).expect("exact"), [(50, 8), (60, 1)]);
    assert_eq!(changed_since(&rig, "b", None).expect("exact"), [(50, 1)]);
}

#[test]
fn runs_of_marks_survive_a_crash_before_the_catalog_learns_of_their_epoch() {
    let rig = rig(64 << 20);
    rig.snapshot("a").expect("snapshot");
    bookmark(&rig, "a").expect("it is whole");
    write(&rig, 20..200, 1);
    rig.work().expect("what was recorded becomes a run");
    let rig = rig.recover(5, Crash::Process).expect("its runs are younger than the epoch that the catalog names");
    assert_eq!(changed_since(&rig, "a", None).expect("exact"), [(20, 180)]);
    rig.snapshot("b").expect("snapshot");
    assert_eq!(changed_since(&rig, "a", Some("b")).expect("exact"), [(20, 180)]);
}

#[test]
fn a_bookmark_is_never_read_nor_restored_and_is_deleted_like_a_snapshot() {
    let rig = rig(64 << 20);
    rig.snapshot("a").expect("snapshot");
    rig.snapshot("b").expect("snapshot");
    let handle = block_on(rig.volume.snapshot_handle(&rig.disks, &snapshot_name("a"))).expect("whole");
    assert_eq!(bookmark(&rig, "a").expect_err("somebody reads it").kind(), ErrorKind::Busy);
    drop(handle);
    bookmark(&rig, "a").expect("nobody reads it");
    assert_eq!(rig.read_snapshot("a", 0, 1).expect_err("a bookmark").kind(), ErrorKind::NotFound);
    assert_eq!(bookmark(&rig, "a").expect_err("it is one").kind(), ErrorKind::Exists);
    assert_eq!(bookmark(&rig, "c").expect_err("there is none").kind(), ErrorKind::NotFound);
    assert_eq!(rig.snapshot("a").expect_err("the name is taken").kind(), ErrorKind::Exists);
    block_on(rig.volume.delete(&rig.disks, &snapshot_name("a"))).expect("delete");
    assert_eq!(changed_since(&rig, "a", None).expect_err("it is gone").kind(), ErrorKind::NotFound);
    assert_eq!(changed_since(&rig, "b", Some("b")).expect_err("the same").kind(), ErrorKind::Invalid);
}

#[test]
fn the_order_of_the_ends_and_their_volume_matter() {
    let (rig, other) = (rig(64 << 20), rig(64 << 20));
    for rig in [&rig, &other] {
        rig.snapshot("a").expect("snapshot");
        rig.snapshot("b").expect("snapshot");
    }
    assert_eq!(changed_since(&rig, "b", Some("a")).expect_err("the wrong order").kind(), ErrorKind::Invalid);
    block_on(async {
        let point = other.volume.delta_point(&other.disks, &snapshot_name("a")).await.expect("whole");
        let live = DeltaPoint::live();
        let foreign = rig.volume.changes(&rig.disks, Some(&point), &live, 0, 1).await;
        assert_eq!(foreign.expect_err("another volume").kind(), ErrorKind::Invalid);
        let behind = other.volume.changes(&other.disks, Some(&point), &live, 512 * BLOCK + 1, 1).await;
        assert_eq!(behind.expect_err("behind the end").kind(), ErrorKind::Invalid);
        let at_the_end = other.volume.changes(&other.disks, Some(&point), &live, 512 * BLOCK, 1).await;
        assert_eq!(at_the_end.expect("nothing"), []);
    });
}

#[test]
fn a_bookmark_breaks_with_the_store_and_says_so() {
    let rig = rig(64 << 20);
    rig.snapshot("a").expect("snapshot");
    bookmark(&rig, "a").expect("it is whole");
    // The store fails from now on: production goes on, and what is not recorded breaks the bookmark.
    rig.disks.store.inject(Fault::persistent(FaultTarget::Write, 0));
    write(&rig, 50..51, 7);
    assert_eq!(rig.read(50 * BLOCK, BLOCK as usize).expect("production goes on")[..2], [7, 7]);
    assert_eq!(changed_since(&rig, "a", None).expect_err("it is broken").kind(), ErrorKind::Broken);
    let bookmarks = block_on(rig.volume.bookmarks());
    let reason = bookmarks[0].broken.as_ref().map(|(reason, _)| *reason);
    assert_eq!(reason, Some(BrokenReason::StoreFailed));
}
