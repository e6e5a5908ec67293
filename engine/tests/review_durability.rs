//! Combinations of a fault, a crash and a recovery that docs/DURABILITY.md speaks of: each test is one that a reader
//! who tried to prove a line of it false found.

use cairn_engine::deadline::Deadline;
use cairn_engine::disk::{aligned_buffer, Disks};
use cairn_engine::error::Result;
use cairn_engine::lane::Lane;
use cairn_engine::signal::yield_now;
use cairn_engine::sim::rig::{create_options, open_options, snapshot_name, snapshot_options, Rig, StateDirectory};
use cairn_engine::sim::{block_on, Crash, Fault, FaultTarget, Scheduler, SimDisk, SimDiskOptions};
use cairn_engine::units::Epoch;
use cairn_engine::volume::{create, inspect, BrokenElsewhere, CreateOptions, Limits, Volume};
use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;

const SEGMENT_BYTES: u32 = 64 << 10;
const STORE_BYTES: u64 = 8 << 20;
const BLOCKS: Range<u64> = 20..60;

fn limits() -> Limits {
    Limits {
        spill_entries: 16,
        entries_max: 256,
        cache_pages: 8,
        reserve_segments: 4,
        restore_step_blocks: 8,
        ..Limits::default()
    }
}

fn rig_with(seed: u64, store_has_fua: bool, limits: Limits) -> Rig {
    let origin = SimDiskOptions { seed, ..SimDiskOptions::new("origin", 96 * 4096) };
    let store = SimDiskOptions { seed, has_fua: store_has_fua, ..SimDiskOptions::new("store", STORE_BYTES) };
    Rig::new(origin, store, SEGMENT_BYTES, limits)
}

fn rig(seed: u64) -> Rig {
    rig_with(seed, true, limits())
}

fn fill(rig: &Rig, value: u8) {
    for block in BLOCKS {
        rig.write(block * 4096, 4096, value).expect("write");
    }
}

async fn restore(rig: &Rig, name: &str) -> Result<()> {
    let (name, before, deadline) = (snapshot_name(name), snapshot_name("before"), Deadline::new());
    rig.volume.restore(&rig.disks, &name, &before, snapshot_options(), &deadline).await.map(drop)
}

/// The bytes of superblocks and catalog.
fn catalog(disks: &Disks<SimDisk>) -> Range<u64> {
    0..block_on(inspect(&disks.store)).expect("a store").superblock.geometry.segments_base_bytes
}

/// The devices after a power cut so many steps into an attach.
fn power_cut_while_attaching(disks: Rc<Disks<SimDisk>>, seed: u64, steps: u64) -> Disks<SimDisk> {
    let mut scheduler = Scheduler::new(seed);
    scheduler.drive(&disks.origin);
    scheduler.drive(&disks.store);
    let attaching = Rc::clone(&disks);
    scheduler.spawn("attach", async move {
        let options = open_options(2, limits(), &StateDirectory::default());
        let _ = Volume::open(&attaching, options).await;
    });
    for _ in 0..steps {
        scheduler.step();
    }
    let (origin, store) = (disks.origin.crash(seed, Crash::Power), disks.store.crash(!seed, Crash::Power));
    scheduler.kill();
    Disks { origin, store }
}

/// Addresses of all pages of runs, whether they count or not.
fn pages(store: &SimDisk) -> Vec<u64> {
    (0..STORE_BYTES).step_by(4096).filter(|address| store.peek(*address, 4) == b"CrnR").collect()
}

fn is_broken(volume: &Volume, name: &str) -> bool {
    let snapshots = block_on(volume.snapshots());
    let found = snapshots.iter().find(|snapshot| snapshot.name == snapshot_name(name));
    found.expect("the snapshot exists").broken.is_some()
}

/// Promise 3: the block of the snapshot is `value` throughout, or the snapshot is broken, or the read fails.
fn assert_exact_or_broken(rig: &Rig, name: &str, block: u64, value: u8, what: &str) {
    if is_broken(&rig.volume, name) {
        return;
    }
    if let Ok(content) = rig.read_snapshot(name, block * 4096, 4096) {
        assert_eq!(content[0], value, "{what}: block {block} of {name} is silently wrong");
    }
}

#[test]
fn a_restore_in_doubt_moves_nothing_that_a_crash_would_not_know_of() {
    for (from, seed) in (0..24).flat_map(|from| (0..8).map(move |seed| (from, seed))) {
        let rig = rig_with(seed, true, Limits { restore_step_blocks: 64, ..limits() });
        fill(&rig, 1);
        rig.snapshot("a").expect("cut");
        fill(&rig, 2);
        rig.work().expect("background");
        let fault = Fault::persistent(FaultTarget::Write, from).within(catalog(&rig.disks));
        rig.disks.store.inject(fault);
        let begun = block_on(restore(&rig, "a"));
        for _ in 0..20 {
            let _ = rig.work();
        }
        let what = format!("fault {from}, seed {seed}, restore {begun:?}");
        let crash = if seed % 2 == 0 { Crash::Process } else { Crash::Power };
        let rig = rig.recover(seed, crash).unwrap_or_else(|error| panic!("{what}: {error:?}"));
        let content = rig.read(BLOCKS.start * 4096, 40 * 4096).expect("read");
        let values: Vec<u8> = content.chunks(4096).map(|block| block[0]).collect();
        let is_uniform = values.iter().all(|value| *value == values[0]);
        assert!(is_uniform, "{what}: restoring {:?}, {values:?}", rig.volume.restore_progress());
    }
}

#[test]
fn an_unreadable_block_of_the_target_is_never_passed_over_by_a_restore() {
    for seed in 0..60 {
        let rig = Rc::new(rig(seed));
        for block in BLOCKS {
            rig.write(block * 4096, 4096, block as u8).expect("write");
        }
        rig.snapshot("a").expect("cut");
        fill(&rig, 200);
        rig.work().expect("background");
        let image = (catalog(&rig.disks).end..STORE_BYTES).step_by(4096);
        let mut image = image.filter(|address| rig.disks.store.peek(*address, 4096) == [25; 4096]);
        rig.disks.store.flip(image.next().expect("block 25 was saved"), 1);
        block_on(restore(&rig, "a")).expect("restore");
        let mut scheduler = Scheduler::new(seed);
        scheduler.drive(&rig.disks.origin);
        scheduler.drive(&rig.disks.store);
        let worker = Rc::clone(&rig);
        let stop = Rc::new(Cell::new(false));
        let stopped = Rc::clone(&stop);
        scheduler.spawn("background", async move {
            while !stopped.get() {
                let _ = worker.volume.background_step(&worker.control).await;
                yield_now().await;
            }
        });
        let (ticker, stopped) = (Rc::clone(&rig), Rc::clone(&stop));
        scheduler.spawn("a second, and a second", async move {
            while !stopped.get() {
                let _ = ticker.lane.tick().await;
                yield_now().await;
            }
        });
        for _ in 0..6000 {
            scheduler.step();
        }
        stop.set(true);
        scheduler.run_all();
        drop(scheduler);
        let rig = Rc::into_inner(rig).expect("the tasks are gone").recover(seed, Crash::Process).expect("attach");
        let read = rig.read(25 * 4096, 4096).map(|content| content[0]);
        let progress = rig.volume.restore_progress();
        assert!(read.is_err(), "seed {seed}: block 25 cannot be restored, and reads as {read:?}: {progress:?}");
    }
}

#[test]
fn a_flush_that_comes_after_a_failed_one_never_succeeds() {
    let mut lost = Vec::new();
    for seed in 0..600 {
        let rig = Rc::new(rig(seed));
        rig.write(30 * 4096, 4096, 1).expect("write");
        rig.disks.origin.inject(Fault::once(FaultTarget::Flush, 0));
        let mut scheduler = Scheduler::new(seed);
        scheduler.drive(&rig.disks.origin);
        scheduler.drive(&rig.disks.store);
        let flushes: Vec<_> = (0..3)
            .map(|turn| {
                let rig = Rc::clone(&rig);
                scheduler.spawn(format!("flush {turn}"), async move {
                    for _ in 0..2 * turn {
                        yield_now().await;
                    }
                    [&rig.lane, &rig.control][turn % 2].flush().await.is_ok()
                })
            })
            .collect();
        let succeeded = flushes.iter().filter(|flush| scheduler.run_until(flush)).count();
        let origin = rig.disks.origin.crash(seed, Crash::Power);
        if succeeded > 0 && origin.peek(30 * 4096, 1) != [1] {
            lost.push(seed);
        }
    }
    assert!(lost.is_empty(), "flushed, and lost by a power cut: seeds {lost:?}");
}

#[test]
fn an_unreadable_page_of_the_index_does_not_keep_the_volume_from_being_attached() {
    let rig = rig(1);
    rig.snapshot("a").expect("cut");
    fill(&rig, 2);
    rig.work().expect("background");
    let disks = rig.crash(1, Crash::Process);
    for page in pages(&disks.store) {
        disks.store.inject(Fault::persistent(FaultTarget::Read, 0).within(page..page + 4096));
    }
    let rig = Rig::attach(disks, limits(), StateDirectory::default()).expect("the origin works");
    for block in BLOCKS {
        assert_exact_or_broken(&rig, "a", block, 0, "an unreadable page");
        assert_eq!(rig.read(block * 4096, 4096).expect("the origin works"), [2; 4096]);
    }
}

#[test]
fn a_restore_can_be_abandoned_where_the_index_is_damaged() {
    let rig = rig(1);
    fill(&rig, 1);
    rig.snapshot("a").expect("cut");
    fill(&rig, 2);
    rig.work().expect("background");
    block_on(restore(&rig, "a")).expect("restore");
    while rig.volume.restore_progress().expect("under way").cursor_block < 40 {
        block_on(rig.volume.background_step(&rig.control)).expect("background");
    }
    let rig = rig.recover(1, Crash::Process).expect("attach");
    let disks = Rc::new(rig.crash(1, Crash::Process));
    for page in pages(&disks.store) {
        disks.store.flip(page + 100, 1);
    }
    let mut options = open_options(2, limits(), &StateDirectory::default());
    let refused = block_on(Volume::open(&disks, options)).err().map(|error| error.kind());
    assert!(refused.is_some(), "the target cannot be read, and the disk holds a mixture");
    options = open_options(2, limits(), &StateDirectory::default());
    options.accept.abandoned_restore = true;
    let volume = block_on(Volume::open(&disks, options)).expect("the owner accepts the mixture");
    assert!(volume.restore_progress().is_none() && is_broken(&volume, "a"));
    let lane = Lane::new(volume, 0, Rc::clone(&disks));
    let mut content = aligned_buffer(4096);
    block_on(lane.read(20 * 4096, &mut content)).expect("the origin works");
}

#[test]
fn a_damaged_page_of_the_index_does_not_hold_a_restore_for_ever() {
    let rig = rig(1);
    for value in 1..=3 {
        rig.snapshot(&format!("s{value}")).expect("cut");
        rig.write(30 * 4096, 4096, value).expect("write");
        rig.work().expect("background");
    }
    for page in pages(&rig.disks.store) {
        rig.disks.store.flip(page + 100, 1);
    }
    for value in 4..=6 {
        rig.snapshot(&format!("s{value}")).expect("cut");
        rig.write(30 * 4096, 4096, value).expect("write");
        let _ = rig.work();
    }
    block_on(restore(&rig, "s5")).expect("restore");
    for _ in 0..1000 {
        let _ = block_on(rig.volume.background_step(&rig.control));
    }
    assert_eq!(rig.volume.restore_progress(), None, "the snapshot is readable, the restore ends by itself");
    assert_eq!(rig.read(30 * 4096, 4096).expect("read"), [4; 4096]);
}

#[test]
fn a_superblock_never_counts_a_record_that_may_be_lost() {
    for (from, seed) in (0..3).flat_map(|from| (0..12).map(move |seed| (from, seed))) {
        for steps in 1..40 {
            let rig = rig_with(seed, false, limits());
            rig.snapshot("a").expect("cut");
            rig.work().expect("background");
            rig.disks.store.inject(Fault::persistent(FaultTarget::Flush, from));
            let _ = rig.snapshot("b");
            let disks = Rc::new(rig.crash(seed, Crash::Process));
            // The write that would have made the last record durable fails, once.
            disks.store.inject(Fault::once(FaultTarget::Write, 0));
            let after = Rig::attach(power_cut_while_attaching(disks, seed, steps), limits(), StateDirectory::default());
            assert!(after.is_ok(), "flush {from}, seed {seed}, {steps} steps: {:?}", after.err());
        }
    }
}

#[test]
fn a_record_that_cannot_be_written_again_still_counts() {
    for (seed, steps) in (0..12).flat_map(|seed| (1..40).map(move |steps| (seed, steps))) {
        let rig = rig(seed);
        for name in ["a", "b"] {
            rig.snapshot(name).expect("cut");
        }
        let disks = Rc::new(rig.crash(seed, Crash::Process));
        disks.store.inject(Fault::once(FaultTarget::Write, 0));
        let disks = power_cut_while_attaching(disks, seed, steps);
        let rig = Rig::attach(disks, limits(), StateDirectory::default()).expect("attach");
        assert!(["a", "b"].iter().all(|name| !is_broken(&rig.volume, name)), "seed {seed}, {steps} steps");
    }
}

#[test]
fn two_damaged_records_in_a_row_do_not_hide_those_behind_them() {
    let limits = Limits { spill_entries: 4096, entries_max: 8192, ..limits() };
    let origin = SimDiskOptions::new("origin", 1024 * 4096);
    let rig = Rig::new(origin, SimDiskOptions::new("store", 64 << 20), 4 << 20, limits);
    rig.snapshot("a").expect("cut");
    for request in 0..4 {
        rig.write((100 + request * 128) * 4096, 128 * 4096, 7).expect("write");
    }
    let disks = rig.crash(1, Crash::Process);
    let headers = (0..64 << 20).step_by(4096).filter(|address| disks.store.peek(*address, 8) == b"CairnRec");
    let headers: Vec<u64> = headers.collect();
    assert_eq!(headers.len(), 4);
    for header in &headers[..2] {
        disks.store.flip(header + 100, 1);
    }
    let rig = Rig::attach(disks, limits, StateDirectory::default()).expect("attach");
    for request in 0..4 {
        assert_exact_or_broken(&rig, "a", 100 + request * 128, 0, "two damaged records");
    }
}

#[test]
fn a_merge_that_failed_once_is_made_up_for() {
    let free_after = |fault: Option<u64>| {
        let rig = rig(1);
        for (value, name) in [(1, "a"), (2, "b"), (3, "c"), (4, "d"), (5, "e")] {
            rig.snapshot(name).expect("cut");
            fill(&rig, value);
            rig.work().expect("background");
        }
        for name in ["b", "c", "d"] {
            block_on(rig.volume.delete(&rig.disks, &snapshot_name(name))).expect("delete");
        }
        if let Some(from) = fault {
            rig.disks.store.inject(Fault::once(FaultTarget::Write, from));
        }
        let mut failures = 0;
        while let Err(error) = rig.work() {
            failures += 1;
            assert!(failures < 20, "{error:?}");
        }
        block_on(rig.volume.stats()).segments_free
    };
    let expected = free_after(None);
    for from in 0..12 {
        assert_eq!(free_after(Some(from)), expected, "write {from} failed once: space that never comes back");
    }
}

#[test]
fn pages_of_an_earlier_store_on_the_same_device_never_count() {
    let history = |rig: &Rig, blocks: Range<u64>| {
        rig.snapshot("a").expect("cut");
        for block in blocks {
            rig.write(block * 4096, 4096, 1).expect("write");
        }
        // The same bounds make the same root.
        rig.write(59 * 4096, 4096, 1).expect("write");
        rig.snapshot("b").expect("cut");
        rig.work().expect("background");
    };
    let first = rig(1);
    history(&first, 20..25);
    let disks = first.crash(1, Crash::Process);
    let before: Vec<(u64, Vec<u8>)> =
        pages(&disks.store).iter().map(|page| (*page, disks.store.peek(*page, 4096))).collect();
    assert!(!before.is_empty());
    disks.origin.poke(0, &[0; 96 * 4096]);
    let again = CreateOptions {
        store_id: [11; 16],
        volume_id: [12; 16],
        sample_key: [13; 32],
        ..create_options(SEGMENT_BYTES)
    };
    block_on(create(&disks, &again)).expect("the device is made a store again");
    let rig = Rig::attach(disks, limits(), StateDirectory::default()).expect("attach");
    history(&rig, 40..45);
    let disks = rig.crash(1, Crash::Process);
    // The device lost the writes of the new pages.
    for (page, content) in before {
        disks.store.poke(page, &content);
    }
    let rig = Rig::attach(disks, limits(), StateDirectory::default()).expect("attach");
    for block in BLOCKS {
        assert_exact_or_broken(&rig, "a", block, 0, "a page of an earlier store");
    }
}

#[test]
fn a_store_without_room_for_a_moment_gives_no_reason_to_doubt_the_origin() {
    for (times, from) in [(1, 0), (2, 0), (3, 0), (4, 0), (2, 1), (3, 1)] {
        let rig = rig(1);
        rig.snapshot("a").expect("cut");
        rig.write(30 * 4096, 4096, 1).expect("write");
        // The block is saved already: only its hashes are still to be logged.
        rig.write(0, 4096, 1).expect("write");
        rig.disks.store.inject(Fault { times, ..Fault::no_space(from) });
        rig.write(0, 4096, 2).expect("write");
        block_on(rig.lane.flush()).expect("flush");
        rig.disks.store.clear_faults();
        rig.write(4096, 4096, 3).expect("write");
        let after = rig.recover(1, Crash::Process);
        assert!(after.is_ok(), "{times} from {from}: nobody wrote the disk: {:?}", after.err());
    }
}

#[test]
fn a_deleted_snapshot_that_comes_back_is_exact() {
    let rig = rig(1);
    rig.snapshot("a").expect("cut");
    rig.work().expect("background");
    let catalog = catalog(&rig.disks);
    let before = rig.disks.store.peek(catalog.start, catalog.end - catalog.start);
    block_on(rig.volume.delete(&rig.disks, &snapshot_name("a"))).expect("delete");
    fill(&rig, 7);
    let disks = rig.crash(1, Crash::Process);
    let after = disks.store.peek(catalog.start, catalog.end - catalog.start);
    // The device loses the last record of the catalog, both copies, after it said that it was durable.
    let changed = (catalog.start..catalog.end).step_by(4096).filter(|at| {
        let block = *at as usize..*at as usize + 4096;
        before[block.clone()] != after[block]
    });
    let lost = changed.last().expect("the deletion was recorded") - 4096;
    disks.store.poke(lost, &before[lost as usize..lost as usize + 8192]);
    let rig = Rig::attach(disks, limits(), StateDirectory::default()).expect("attach");
    if block_on(rig.volume.snapshots()).is_empty() {
        return;
    }
    for block in BLOCKS {
        assert_exact_or_broken(&rig, "a", block, 0, "a deletion was lost");
    }
}

#[test]
fn an_attach_finds_room_for_the_index_of_many_epochs() {
    let origin = SimDiskOptions::new("origin", 96 * 4096);
    let rig = Rig::new(origin, SimDiskOptions::new("store", 4 << 20), SEGMENT_BYTES, limits());
    for value in 1.. {
        rig.snapshot(&format!("s{value}")).expect("cut");
        rig.write((20 + u64::from(value)) * 4096, 4096, value).expect("write");
        if block_on(rig.volume.stats()).segments_free < 6 {
            break;
        }
    }
    let taken = block_on(rig.volume.snapshots());
    assert!(taken.len() > 8 && taken.iter().all(|snapshot| snapshot.broken.is_none()), "{taken:?}");
    let rig = rig.recover(1, Crash::Power).expect("attach");
    let found = block_on(rig.volume.snapshots());
    assert_eq!(found, taken, "there is room for a few entries");
    for value in 1..taken.len() as u64 {
        let content = rig.read_snapshot("s1", (20 + value) * 4096, 4096).expect("whole");
        assert_eq!(content, [0; 4096]);
    }
}

#[test]
fn a_mark_outside_of_the_store_breaks_no_snapshot_taken_after_it_was_heeded() {
    for (from, seed) in (0..12).flat_map(|from| (0..8).map(move |seed| (from, seed))) {
        let rig = rig(seed);
        rig.snapshot("a").expect("cut");
        rig.disks.store.inject(Fault::persistent(FaultTarget::Write, from));
        for name in ["b", "c", "d"] {
            rig.write(30 * 4096, 4096, 1).expect("production goes on");
            let _ = rig.snapshot(name);
        }
        rig.write(30 * 4096, 4096, 2).expect("production goes on");
        let rig = rig.recover(seed, Crash::Process).expect("the store works again");
        rig.snapshot("e").expect("cut");
        rig.write(30 * 4096, 4096, 3).expect("write");
        // The mark was removed, and the power went before that was durable.
        let rig = rig.recover(seed, Crash::Process).expect("attach");
        assert!(!is_broken(&rig.volume, "e"), "{from}, {seed}: it was taken when the store worked again");
        assert_eq!(rig.read_snapshot("e", 30 * 4096, 4096).expect("whole"), [2; 4096]);
    }
}

#[test]
fn a_mark_outside_of_the_store_may_say_anything() {
    for reason in [String::new(), "x".repeat(10_000), "\u{fc}".repeat(128), "\u{1f4a5}".repeat(64)] {
        let rig = rig(1);
        rig.snapshot("a").expect("cut");
        let disks = rig.crash(1, Crash::Process);
        for through in [Epoch(0), Epoch(u64::MAX - 1), Epoch(u64::MAX)] {
            let mut options = open_options(2, limits(), &StateDirectory::default());
            options.broken_elsewhere = Some(BrokenElsewhere { through, reason: reason.clone(), flush_failed: false });
            let volume = block_on(Volume::open(&disks, options)).expect("attach");
            assert_eq!(is_broken(&volume, "a"), through > Epoch(0));
        }
        let rig = Rig::attach(disks, limits(), StateDirectory::default()).expect("attach");
        rig.snapshot("b").expect("cut");
        fill(&rig, 1);
        rig.work().expect("background");
        assert!(!is_broken(&rig.volume, "b"));
    }
}
