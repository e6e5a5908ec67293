//! What the catalog promises: the same state whatever happened to one spot, to a torn write, to a crash.

use super::memory_disk::{run, MemoryDisk};
use super::*;
use crate::format::geometry::{Geometry, AREA_BYTES_MIN, SUPERBLOCK_A_BYTES, SUPERBLOCK_B_BYTES};
use crate::format::item::{Consistency, SegmentState, SnapshotRecord, VolumeFacts};
use crate::format::superblock::OriginIdentity;
use crate::units::Epoch;

const STORE_BYTES: usize = 2 << 20;

fn blank() -> Superblock {
    let geometry = Geometry::plan_with_area(STORE_BYTES as u64, 64 << 10, AREA_BYTES_MIN).expect("it fits");
    let origin = OriginIdentity { size_bytes: 1 << 30, sector_bytes: 512 };
    Superblock::new([7; 16], [8; 16], geometry, origin)
}

fn volume(epoch: u64) -> Item {
    Item::Volume(VolumeFacts { size_bytes: 1 << 30, active_epoch: Epoch(epoch), flush_failed: false })
}

fn snapshot(epoch: u64) -> Item {
    Item::SnapshotPut(SnapshotRecord {
        epoch: Epoch(epoch),
        created_unix_ms: 1_000 * epoch,
        size_bytes: 1 << 30,
        flags: 0,
        consistency: Consistency::Crash,
        broken: None,
        name: format!("s{epoch}"),
        reason: String::new(),
    })
}

fn cut(epoch: u64) -> [Item; 2] {
    [volume(epoch), snapshot(epoch)]
}

fn samples(count: u64, salt: u64) -> Vec<Item> {
    (0..count).map(|block| Item::Sample { block, hash: block * 31 + salt }).collect()
}

/// A store with so many snapshots, each in a record of its own.
fn store_with(snapshots: u64) -> (MemoryDisk, Catalog) {
    let disk = MemoryDisk::new(STORE_BYTES);
    let mut catalog = run(Catalog::create(&disk, blank(), &[volume(1)])).expect("created");
    for epoch in 2..2 + snapshots {
        run(catalog.append(&disk, &cut(epoch))).expect("appended");
    }
    (disk, catalog)
}

fn reopened(bytes: &[u8]) -> Result<Catalog> {
    run(Catalog::open(&MemoryDisk::with(bytes.to_vec())))
}

/// Opens, and makes sure that the catalog goes on working: it takes another record and is still right after that.
fn reopened_and_used(bytes: &[u8]) -> Result<State> {
    let disk = MemoryDisk::with(bytes.to_vec());
    let mut catalog = run(Catalog::open(&disk))?;
    let state = catalog.state().clone();
    run(catalog.append(&disk, &[Item::Sample { block: 9, hash: 9 }])).expect("appended");
    assert!(run(Catalog::open(&disk)).expect("opened again").state() == catalog.state());
    Ok(state)
}

#[test]
fn what_was_appended_is_there_after_open() {
    let (disk, mut catalog) = store_with(5);
    run(catalog.append(&disk, &[Item::SnapshotDelete { epoch: Epoch(3) }])).expect("appended");
    let again = run(Catalog::open(&disk)).expect("opened");
    assert_eq!(again.state(), catalog.state());
    assert_eq!(again.superblock(), catalog.superblock());
    assert_eq!((again.sequence, again.position_bytes), (catalog.sequence, catalog.position_bytes));
    assert_eq!(again.repairs(), 0);
    assert_eq!(again.state().snapshots.len(), 4);
}

#[test]
fn one_damaged_byte_anywhere_never_changes_the_state() {
    let (disk, mut catalog) = store_with(2);
    run(catalog.compact(&disk)).expect("compacted");
    run(catalog.append(&disk, &cut(4))).expect("appended");
    let mut places: Vec<usize> = Vec::new();
    for superblock_bytes in [SUPERBLOCK_A_BYTES, SUPERBLOCK_B_BYTES] {
        places.extend(superblock_bytes as usize..superblock_bytes as usize + 4096);
    }
    let area = catalog.superblock().area();
    places.extend(area.offset_bytes as usize..catalog.position_bytes as usize);
    let other = catalog.superblock().area_other();
    places.extend((other.offset_bytes as usize..other.offset_bytes as usize + 24 * 1024).step_by(64));
    for place in places {
        for flip in [1, 0x80] {
            disk.bytes.borrow_mut()[place] ^= flip;
            let again = run(Catalog::open(&disk)).unwrap_or_else(|error| panic!("byte {place}: {error}"));
            assert!(again.state() == catalog.state(), "byte {place}");
            disk.bytes.borrow_mut()[place] ^= flip;
        }
    }
}

#[test]
fn a_damaged_copy_is_replaced_by_the_next_append() {
    let (disk, catalog) = store_with(2);
    for place in [SUPERBLOCK_A_BYTES, SUPERBLOCK_B_BYTES, catalog.superblock().area().offset_bytes] {
        let mut bytes = disk.bytes.borrow().clone();
        bytes[place as usize + 100] ^= 1;
        let damaged = MemoryDisk::with(bytes);
        let mut again = run(Catalog::open(&damaged)).expect("opened");
        assert_eq!(again.repairs(), 1, "byte {place}");
        run(again.append(&damaged, &cut(4))).expect("appended");
        let repaired = run(Catalog::open(&damaged)).expect("opened");
        assert_eq!(repaired.repairs(), 0, "byte {place}");
        assert_eq!(repaired.state(), again.state());
    }
}

#[test]
fn a_record_with_both_copies_gone_is_an_error_never_an_older_state() {
    let (disk, catalog) = store_with(4);
    let area = catalog.superblock().area();
    let records = (catalog.position_bytes - area.offset_bytes) / 8192;
    assert_eq!(records, 5);
    for record in 0..records - 1 {
        let mut bytes = disk.bytes.borrow().clone();
        let start = (area.offset_bytes + record * 8192) as usize;
        bytes[start..start + 8192].fill(0xa5);
        assert_eq!(reopened(&bytes).expect_err("lost").kind(), ErrorKind::Corrupt, "record {record}");
    }
}

#[test]
fn the_last_record_is_missed_when_the_superblock_knows_of_it() {
    let (disk, mut catalog) = store_with(4);
    run(catalog.superblock_update(&disk, |superblock| superblock.clean = true)).expect("updated");
    let mut bytes = disk.bytes.borrow().clone();
    let end = catalog.position_bytes as usize;
    bytes[end - 8192..end].fill(0);
    assert_eq!(reopened(&bytes).expect_err("lost").kind(), ErrorKind::Corrupt);
}

#[test]
fn an_unreadable_checkpoint_is_replaced_by_the_log_it_was_made_of() {
    let (disk, mut catalog) = store_with(4);
    run(catalog.compact(&disk)).expect("compacted");
    run(catalog.append(&disk, &cut(6))).expect("appended");
    let start = catalog.superblock().area().offset_bytes as usize;
    let mut bytes = disk.bytes.borrow().clone();
    bytes[start..start + 8192].fill(0);
    assert!(reopened_and_used(&bytes).expect("opened") == *catalog.state());
}

/// A store whose current checkpoint, of several records, cannot be read; with the state that is to come out.
fn store_with_a_lost_checkpoint(lost: impl Fn(u64) -> bool) -> (MemoryDisk, State) {
    let disk = MemoryDisk::new(STORE_BYTES);
    let geometry = Geometry::plan_with_area(STORE_BYTES as u64, 64 << 10, 640 << 10).expect("it fits");
    let mut catalog = run(Catalog::create(&disk, Superblock { geometry, ..blank() }, &[volume(1)])).expect("created");
    for block in [0, 1] {
        let contents: Vec<Item> = (0..750).map(|hash| Item::WatchAdd { block, hashes: [hash; 8] }).collect();
        run(catalog.append(&disk, &contents)).expect("appended");
    }
    for epoch in 2..10 {
        run(catalog.append(&disk, &cut(epoch))).expect("appended");
    }
    run(catalog.compact(&disk)).expect("compacted");
    run(catalog.append(&disk, &cut(10))).expect("appended");
    let start = catalog.superblock().area().offset_bytes;
    let place = catalog.superblock().catalog;
    assert!(place.checkpoint_records > 1);
    for block in (0..place.checkpoint_bytes / 4096).filter(|block| lost(*block)) {
        disk.bytes.borrow_mut()[(start + block * 4096) as usize..][..4096].fill(0xa5);
    }
    let state = catalog.state().clone();
    (disk, state)
}

#[test]
fn a_lost_checkpoint_is_put_back_by_the_next_append() {
    for lost in [|block| block % 16 < 2, |_| true, |block| block % 3 == 0] {
        let (disk, state) = store_with_a_lost_checkpoint(lost);
        let mut catalog = run(Catalog::open(&disk)).expect("the log before stands in");
        assert!(catalog.repairs() > 0 && *catalog.state() == state);
        let before = catalog.superblock().catalog;
        run(catalog.append(&disk, &cut(11))).expect("appended");
        assert_eq!(catalog.superblock().catalog.generation, before.generation, "in its own place");
        let again = run(Catalog::open(&disk)).expect("opened");
        assert!(again.repairs() == 0 && again.state() == catalog.state());
    }
}

#[test]
fn a_crash_while_a_lost_checkpoint_is_put_back_and_compacted_keeps_the_state() {
    let (disk, old) = store_with_a_lost_checkpoint(|_| true);
    // The last record is worn as well, so that a checkpoint to the other area follows at once.
    let end = run(Catalog::open(&disk)).expect("opened").position_bytes as usize;
    disk.bytes.borrow_mut()[end - 1] ^= 1;
    let mut catalog = run(Catalog::open(&disk)).expect("opened");
    disk.record_from_here();
    run(catalog.append(&disk, &cut(11))).expect("appended");
    run(catalog.compact(&disk)).expect("compacted");
    let new = catalog.state().clone();
    let steps = disk.steps.borrow().len();
    assert!(steps > 15);
    let mut random = fastrand::Rng::with_seed(6);
    for at in 0..=steps {
        for round in 0..20 {
            let density = if round < 2 { [0, 255][round] } else { random.u8(..) };
            let bytes = disk.crashed(at, || density == 255 || random.u8(..) < density);
            let state = reopened_and_used(&bytes).unwrap_or_else(|error| panic!("step {at}: {error}"));
            assert!(state == old || state == new, "step {at}");
        }
    }
}

#[test]
fn a_lost_checkpoint_that_cannot_be_put_back_stops_no_append() {
    let (disk, _) = store_with_a_lost_checkpoint(|block| block % 16 < 2);
    for failures in [1, 2] {
        let mut catalog = run(Catalog::open(&disk)).expect("opened");
        // Behind the flush, the last record written as it is, and both copies of the superblock.
        disk.failing.set((4, failures));
        let epoch = catalog.state().volume.active_epoch.0 + 1;
        run(catalog.append(&disk, &cut(epoch))).expect("appended");
        assert_eq!(disk.failing.get(), (0, 0));
        assert!(run(Catalog::open(&disk)).expect("opened").state() == catalog.state());
    }
}

#[test]
fn a_torn_append_gives_the_old_state_or_the_new_one() {
    let (disk, mut catalog) = store_with(2);
    let old = catalog.state().clone();
    let items = samples(400, 0);
    disk.record_from_here();
    run(catalog.append(&disk, &items)).expect("appended");
    let new = catalog.state().clone();
    assert_eq!(disk.steps.borrow().len(), 1);
    let check = |bytes: &[u8]| {
        let state = reopened_and_used(bytes).expect("opened");
        assert!(state == old || state == new);
    };
    for kept in 0..=32 {
        let mut sector = 0;
        check(&disk.crashed(0, || {
            sector += 1;
            sector <= kept
        }));
        sector = 0;
        check(&disk.crashed(0, || {
            sector += 1;
            sector > kept
        }));
    }
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..200 {
        let density = random.u8(..);
        check(&disk.crashed(0, || random.u8(..) <= density));
    }
}

/// Two power cuts in appends to the same place: what the first left and what the second left add up to the record of the
/// first, which nobody knows of any more.
#[test]
fn two_torn_appends_do_not_add_up_to_the_first() {
    const SECTOR_BYTES: usize = 512;
    let (disk, catalog) = store_with(2);
    let at = catalog.position_bytes as usize;
    let before = disk.bytes.borrow().clone();
    let [first, second] = [1, 2].map(|hash| {
        let mut items = samples(40, 0);
        items[0] = Item::Sample { block: 0, hash };
        items
    });
    let disk = MemoryDisk::with(before);
    let mut catalog = run(Catalog::open(&disk)).expect("opened");
    run(catalog.prepare_append(&disk, &first)).expect("prepared");
    let mut torn = disk.bytes.borrow().clone();
    run(catalog.append(&disk, &first)).expect("appended");
    torn[at..at + SECTOR_BYTES].copy_from_slice(&disk.bytes.borrow()[at..at + SECTOR_BYTES]);

    let disk = MemoryDisk::with(torn);
    let mut catalog = run(Catalog::open(&disk)).expect("opened");
    assert!(catalog.state().samples.is_empty(), "a torn record does not count");
    run(catalog.prepare_append(&disk, &second)).expect("prepared");
    let mut torn = disk.bytes.borrow().clone();
    run(catalog.append(&disk, &second)).expect("appended");
    let copy_bytes = at + SECTOR_BYTES..at + record::RECORD_ALIGN_BYTES;
    torn[copy_bytes.clone()].copy_from_slice(&disk.bytes.borrow()[copy_bytes]);

    let catalog = reopened(&torn).expect("opened");
    assert!(catalog.state().samples.is_empty(), "a record of two halves was taken for the first");
}

#[test]
fn a_crash_at_any_step_of_a_compaction_keeps_the_state() {
    let (disk, mut catalog) = store_with(3);
    run(catalog.append(&disk, &samples(700, 0))).expect("appended");
    // A checkpoint that crashed before has left its records in the other area.
    disk.failing.set((4, 1));
    run(catalog.compact(&disk)).expect_err("the disk failed");
    run(catalog.append(&disk, &[Item::SampleReset])).expect("appended");
    let state = catalog.state().clone();
    disk.record_from_here();
    run(catalog.compact(&disk)).expect("compacted");
    let steps = disk.steps.borrow().len();
    assert!(steps >= 6);
    let mut random = fastrand::Rng::with_seed(2);
    for at in 0..=steps {
        for round in 0..40 {
            let density = if round < 2 { [0, 255][round] } else { random.u8(..) };
            let bytes = disk.crashed(at, || density == 255 || random.u8(..) < density);
            assert!(reopened_and_used(&bytes).expect("opened") == state, "step {at}");
        }
    }
}

#[test]
fn the_log_compacts_when_it_is_full() {
    let (disk, mut catalog) = store_with(1);
    let mut random = fastrand::Rng::with_seed(3);
    let mut generations = std::collections::BTreeSet::new();
    for round in 0..300u64 {
        let items = samples(random.u64(1..500), round);
        run(catalog.append(&disk, &items)).expect("appended");
        generations.insert(catalog.superblock().catalog.generation);
        assert_eq!(run(Catalog::open(&disk)).expect("opened").state(), catalog.state(), "round {round}");
    }
    assert!(generations.len() > 5);
}

#[test]
fn items_too_many_for_a_record_are_all_there_or_none() {
    let (disk, mut catalog) = store_with(2);
    let old = catalog.state().clone();
    let mut items = samples(4_000, 0);
    items.push(Item::SampleReset);
    items.extend(samples(10, 1));
    disk.record_from_here();
    run(catalog.append(&disk, &items)).expect("appended");
    assert_eq!(run(Catalog::open(&disk)).expect("opened").state(), catalog.state());
    let mut random = fastrand::Rng::with_seed(5);
    for at in 0..disk.steps.borrow().len() {
        for _ in 0..30 {
            let state = reopened_and_used(&disk.crashed(at, || random.bool())).expect("opened");
            assert!(state == old || state == *catalog.state());
        }
    }
    // The log before lacks the items: it must not stand in for the checkpoint.
    let start = catalog.superblock().area().offset_bytes as usize;
    disk.bytes.borrow_mut()[start..start + 8192].fill(0);
    assert_eq!(run(Catalog::open(&disk)).expect_err("lost").kind(), ErrorKind::Corrupt);
}

#[test]
fn the_identity_of_a_deleted_run_is_not_forgotten() {
    let (disk, mut catalog) = store_with(1);
    let run_record = crate::format::item::RunRecord {
        run: 9,
        first_epoch: Epoch(1),
        last_epoch: Epoch(1),
        entries: 1,
        pages: 1,
        height: 1,
        first_block: 0,
        last_block: 0,
    };
    run(catalog.append(&disk, &[Item::RunPut(run_record)])).expect("appended");
    run(catalog.append(&disk, &[Item::RunDelete { run: 9 }])).expect("appended");
    run(catalog.compact(&disk)).expect("compacted");
    assert_eq!(run(Catalog::open(&disk)).expect("opened").state().run_floor, 9);
}

#[test]
fn a_failed_append_is_decided_by_a_checkpoint() {
    for lands in [false, true] {
        let (disk, mut catalog) = store_with(2);
        disk.failing_writes_land.set(lands);
        disk.failing.set((0, 1));
        run(catalog.append(&disk, &cut(4))).expect("the checkpoint took it");
        assert!(!catalog.failed());
        assert_eq!(run(Catalog::open(&disk)).expect("opened").state(), catalog.state());
        assert_eq!(catalog.state().snapshots.len(), 3);
    }
}

#[test]
fn an_append_that_fails_for_good_is_latched_and_settled_later() {
    for lands in [false, true] {
        for failures in 2..5 {
            let (disk, mut catalog) = store_with(2);
            let old = catalog.state().clone();
            disk.failing_writes_land.set(lands);
            disk.failing.set((0, failures));
            let result = run(catalog.append(&disk, &cut(4)));
            assert_eq!(result.expect_err("the disk failed").kind(), ErrorKind::Io);
            assert!(catalog.failed());
            assert_eq!(catalog.state(), &old);
            disk.failing.set((0, 0));
            if failures % 2 == 0 {
                run(catalog.append(&disk, &[Item::Sample { block: 1, hash: 1 }])).expect("appended");
                assert!(catalog.state().snapshot_named("s4").is_none());
            } else {
                catalog.apply_in_memory(&cut(4)).expect("makes sense");
                run(catalog.compact(&disk)).expect("compacted");
                assert!(catalog.state().snapshot_named("s4").is_some());
            }
            assert!(!catalog.failed());
            assert_eq!(run(Catalog::open(&disk)).expect("opened").state(), catalog.state());
        }
    }
}

#[test]
fn any_failing_step_leaves_a_catalog_that_opens() {
    for lands in [false, true] {
        for good in 0..12 {
            for bad in 1..4 {
                let (disk, mut catalog) = store_with(2);
                disk.failing_writes_land.set(lands);
                disk.failing.set((good, bad));
                let _ = run(catalog.append(&disk, &cut(4)));
                let _ = run(catalog.compact(&disk));
                let _ = run(catalog.superblock_update(&disk, |superblock| superblock.last_activity_unix_ms += 1));
                disk.failing.set((0, 0));
                let acknowledged = catalog.state().clone();
                let doubt = catalog.doubt;
                let found = run(Catalog::open(&disk)).expect("opened");
                assert!(doubt || found.state() == &acknowledged);
                run(catalog.append(&disk, &[Item::Sample { block: 5, hash: 5 }])).expect("appended");
                assert_eq!(run(Catalog::open(&disk)).expect("opened").state(), catalog.state());
            }
        }
    }
}

#[test]
fn a_read_error_is_never_the_end_of_the_log() {
    let (disk, catalog) = store_with(4);
    let first = catalog.superblock().area().offset_bytes / 4096;
    let end = catalog.position_bytes / 4096;
    for block in first..end {
        disk.unreadable.replace([block].into());
        let again = run(Catalog::open(&disk)).expect("the other copy is there");
        assert_eq!(again.state(), catalog.state());
        assert_eq!(again.repairs(), 1);
    }
    disk.unreadable.replace([end].into());
    assert_eq!(run(Catalog::open(&disk)).expect_err("the end cannot be told").kind(), ErrorKind::Io);
}

#[test]
fn items_that_make_no_sense_are_refused_before_they_are_written() {
    let (disk, mut catalog) = store_with(1);
    let before = disk.bytes.borrow().clone();
    let items = [snapshot(1), Item::SnapshotDelete { epoch: Epoch(77) }];
    assert_eq!(run(catalog.append(&disk, &items)).expect_err("nonsense").kind(), ErrorKind::Corrupt);
    assert!(*disk.bytes.borrow() == before);
}

#[test]
fn what_would_take_long_is_done_before_the_append() {
    let (disk, mut catalog) = store_with(1);
    let mut compacted = 0;
    for epoch in 3..200 {
        let items = cut(epoch);
        run(catalog.append(&disk, &samples(200, epoch))).expect("appended");
        let before = catalog.superblock().catalog.generation;
        run(catalog.prepare_append(&disk, &items)).expect("prepared");
        compacted += u64::from(catalog.superblock().catalog.generation != before);
        disk.record_from_here();
        run(catalog.append(&disk, &items)).expect("appended");
        assert_eq!(disk.steps.borrow().len(), 1, "epoch {epoch}");
    }
    assert!(compacted > 2);
    let error = run(catalog.prepare_append(&disk, &[Item::RunDelete { run: 1 }])).expect_err("nonsense");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn a_full_catalog_says_so_and_still_takes_deletions() {
    let (disk, mut catalog) = store_with(0);
    let mut epoch = 2;
    let error = loop {
        match run(catalog.append(&disk, &cut(epoch))) {
            Ok(()) => epoch += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert!(epoch > 100);
    for epoch in 2..epoch {
        run(catalog.append(&disk, &[Item::SnapshotDelete { epoch: Epoch(epoch) }])).expect("deleted");
    }
    assert_eq!(run(Catalog::open(&disk)).expect("opened").state(), catalog.state());
}

#[test]
fn a_store_made_again_knows_nothing_of_its_former_life() {
    let (disk, _) = store_with(6);
    let superblock = Superblock { store_id: [9; 16], ..blank() };
    let catalog = run(Catalog::create(&disk, superblock, &[volume(1)])).expect("created");
    let again = run(Catalog::open(&disk)).expect("opened");
    assert_eq!(again.state(), catalog.state());
    assert!(again.state().snapshots.is_empty());
}

#[test]
fn a_crash_while_a_store_is_made_again_leaves_no_store_or_the_new_one() {
    let (disk, _) = store_with(6);
    disk.record_from_here();
    let superblock = Superblock { store_id: [9; 16], ..blank() };
    let catalog = run(Catalog::create(&disk, superblock, &[volume(1)])).expect("created");
    let steps = disk.steps.borrow().len();
    let mut random = fastrand::Rng::with_seed(4);
    for at in 1..=steps {
        for _ in 0..20 {
            match reopened(&disk.crashed(at, || random.bool())) {
                Ok(again) if again.superblock().store_id == [9; 16] => assert_eq!(again.state(), catalog.state()),
                Ok(again) => assert_eq!(again.state().snapshots.len(), 6),
                Err(error) => assert!(matches!(error.kind(), ErrorKind::NotAStore | ErrorKind::Corrupt), "{error}"),
            }
        }
    }
}

#[test]
fn a_truncated_store_is_a_typed_error() {
    let (disk, _) = store_with(2);
    let bytes = disk.bytes.borrow().clone();
    for length_bytes in (0..STORE_BYTES).step_by(4096) {
        let kind = reopened(&bytes[..length_bytes]).expect_err("truncated").kind();
        assert!(matches!(kind, ErrorKind::Corrupt | ErrorKind::NotAStore), "{length_bytes}: {kind:?}");
    }
}

#[test]
fn a_grown_store_has_more_segments() {
    let (disk, mut catalog) = store_with(1);
    let count = catalog.superblock().geometry.segment_count;
    disk.bytes.borrow_mut().resize(2 * STORE_BYTES, 0);
    run(catalog.grow_store(&disk, 2 * STORE_BYTES as u64, count + 32)).expect("grown");
    let handed = Item::Segments { first: count, count: 32, state: SegmentState::Lane { lane: 1 }, incarnation: 1 };
    run(catalog.append(&disk, &[handed])).expect("appended");
    assert_eq!(run(Catalog::open(&disk)).expect("opened").state(), catalog.state());
}

#[test]
fn a_catalog_may_live_behind_a_mutex_shared_by_threads() {
    fn send<T: Send>() {}
    send::<Catalog>();
}
