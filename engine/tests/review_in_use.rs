//! In-use maps that said less was in use than there was, or that cost more than they had to: found by a reviewer.

use cairn_engine::deadline::Deadline;
use cairn_engine::disk::{aligned_buffer, Disks};
use cairn_engine::format::geometry::Geometry;
use cairn_engine::signal::yield_now;
use cairn_engine::sim::rig::{open_options, snapshot_name, snapshot_options, Rig, StateDirectory};
use cairn_engine::sim::{block_on, Crash, Fault, FaultTarget, Scheduler, SimDiskOptions};
use cairn_engine::volume::{Limits, Volume};
use std::ops::Range;
use std::rc::Rc;

const BLOCK: u64 = 4096;
const STORE_BYTES: u64 = 64 << 20;
const SEGMENT_BYTES: u32 = 64 << 10;
/// Far from the places that are watched.
const SOME: Range<u64> = 100..400;

fn rig(seed: u64, origin_bytes: u64) -> Rig {
    let origin = SimDiskOptions { seed, ..SimDiskOptions::new("origin", origin_bytes) };
    let store = SimDiskOptions { seed, has_fua: true, ..SimDiskOptions::new("store", STORE_BYTES) };
    Rig::new(origin, store, SEGMENT_BYTES, Limits::default())
}

fn discard(rig: &Rig, blocks: Range<u64>) {
    let length_bytes = (blocks.end - blocks.start) * BLOCK;
    block_on(rig.lane.discard(blocks.start * BLOCK, length_bytes)).expect("no fault");
}

fn write(rig: &Rig, blocks: Range<u64>, value: u8) {
    let length_bytes = (blocks.end - blocks.start) * BLOCK;
    rig.write(blocks.start * BLOCK, length_bytes as usize, value).expect("writes go through");
}

fn detach(rig: &Rig) {
    rig.work().expect("no fault");
    block_on(rig.volume.close(&rig.disks, 0)).expect("no fault");
}

fn saved(rig: &Rig) -> u64 {
    block_on(rig.volume.stats()).blocks_saved
}

fn segments() -> Range<u64> {
    Geometry::plan(STORE_BYTES, SEGMENT_BYTES).expect("it fits").segments_base_bytes..STORE_BYTES
}

/// A snapshot taken now shows what was written.
fn is_kept(rig: &Rig, block: u64, value: u8) {
    rig.snapshot("now").expect("no fault");
    let content = rig.read_snapshot("now", block * BLOCK, BLOCK as usize).expect("whole");
    let holes = rig.volume.holes_now();
    assert_eq!(content[0], value, "block {block} was written, and is a hole of {:?}", holes.ranges());
}

#[test]
fn a_region_that_became_larger_with_the_volume_is_recorded_anew() {
    // With 16 GiB a region has 4,096 blocks, with more it has 8,192.
    let mut rig = rig(1, 16 << 30);
    discard(&rig, 100..8000);
    detach(&rig);
    rig = rig.recover(1, Crash::Process).expect("detached");
    write(&rig, 200..201, 1);
    rig.disks.origin.resize(17 << 30);
    block_on(rig.volume.grow(&rig.control)).expect("it grew");
    rig = rig.recover(2, Crash::Process).expect("recovered");
    write(&rig, 5000..5001, 2);
    rig = rig.recover(3, Crash::Process).expect("recovered");
    is_kept(&rig, 5000, 2);
}

#[test]
fn a_map_that_could_not_be_read_at_one_attach_is_not_believed_at_the_next() {
    let rig = rig(1, 64 << 20);
    discard(&rig, SOME);
    detach(&rig);
    let disks = rig.crash(1, Crash::Process);
    let pages: Vec<u64> = (0..STORE_BYTES).step_by(4096).filter(|at| disks.store.peek(*at, 4) == b"CrnR").collect();
    for page in pages {
        disks.store.inject(Fault::persistent(FaultTarget::Read, 0).within(page..page + 4096));
    }
    let rig = Rig::attach(disks, Limits::default(), Default::default()).expect("everything is in use");
    assert!(rig.volume.holes_now().is_empty());
    rig.disks.store.clear_faults();
    write(&rig, 200..201, 2);
    let rig = rig.recover(2, Crash::Process).expect("recovered");
    is_kept(&rig, 200, 2);
}

#[test]
fn a_map_that_the_store_did_not_confirm_hides_nothing_that_is_written_then() {
    let catalog = 0..Geometry::plan(STORE_BYTES, SEGMENT_BYTES).expect("it fits").segments_base_bytes;
    for has_map_before in [false, true] {
        for (from, seed) in (0..6).flat_map(|from| (0..8).map(move |seed| (from, seed))) {
            let rig = rig(seed, 64 << 20);
            if has_map_before {
                discard(&rig, 1000..1001);
                rig.snapshot("before").expect("no fault yet");
                // From here on the region is known as untrusted.
                write(&rig, 1000..1001, 1);
            }
            discard(&rig, SOME);
            rig.disks.store.inject(Fault::persistent(FaultTarget::Write, from).within(catalog.clone()));
            let _ = rig.snapshot("a");
            // The state directory may take what the store does not.
            write(&rig, 200..201, 2);
            rig.disks.store.clear_faults();
            let rig = rig.recover(seed, Crash::Process).expect("the store works again");
            is_kept(&rig, 200, 2);
        }
    }
}

#[test]
fn what_a_snapshot_shows_does_not_change_where_the_store_did_not_confirm_its_map() {
    let mut unconfirmed = 0;
    for seed in 0..40 {
        for from in 0..6 {
            let crash = if seed % 2 == 0 { Crash::Process } else { Crash::Power };
            let rig = rig(seed, 64 << 20);
            write(&rig, SOME, 1);
            discard(&rig, SOME);
            rig.work().expect("no fault");
            rig.disks.store.inject(Fault::persistent(FaultTarget::Write, from).within(0..segments().start));
            let cut = rig.snapshot("now");
            rig.disks.store.clear_faults();
            if cut.is_err() {
                continue;
            }
            let read = |rig: &Rig| rig.read_snapshot("now", SOME.start * BLOCK, BLOCK as usize).expect("whole")[0];
            let before = read(&rig);
            unconfirmed += u32::from(before == 1);
            let rig = rig.recover(seed, crash).expect("recovered");
            assert_eq!(read(&rig), before, "seed {seed}, {crash:?}, from {from}");
        }
    }
    assert!(unconfirmed > 0, "no map was left unconfirmed");
}

#[test]
fn what_is_written_while_a_map_is_stored_is_not_hidden_by_it() {
    for seed in 0..400 {
        let rig = Rc::new(rig(seed, 64 << 20));
        discard(&rig, SOME);
        rig.snapshot("before").expect("no fault");
        // The next snapshot's map is another.
        discard(&rig, 1000..1100);
        let mut scheduler = Scheduler::new(seed);
        scheduler.drive(&rig.disks.origin);
        scheduler.drive(&rig.disks.store);
        let (taker, writer) = (Rc::clone(&rig), Rc::clone(&rig));
        let taken = scheduler.spawn("snapshot", async move {
            let name = snapshot_name("a");
            taker.volume.snapshot(&taker.disks, &name, snapshot_options(), &Deadline::new()).await.map(drop)
        });
        let written = scheduler.spawn("write", async move {
            for _ in 0..seed % 40 {
                yield_now().await;
            }
            let mut data = aligned_buffer(BLOCK as usize);
            data.fill(2);
            writer.lane.write(200 * BLOCK, &data, false).await
        });
        scheduler.run_all();
        assert!(taken.take().is_some_and(|taken| taken.is_ok()) && written.take().is_some_and(|done| done.is_ok()));
        drop(scheduler);
        let rig = Rc::into_inner(rig).expect("both tasks have ended");
        let rig = rig.recover(seed, Crash::Process).expect("recovered");
        is_kept(&rig, 200, 2);
    }
}

#[test]
fn after_a_growth_nothing_is_saved_that_was_not_needed_before() {
    let rig = rig(1, 64 << 20);
    discard(&rig, SOME);
    rig.snapshot("a").expect("no fault");
    write(&rig, SOME, 1);
    write(&rig, 500..510, 1);
    assert_eq!(saved(&rig), 10);
    rig.disks.origin.resize(128 << 20);
    block_on(rig.volume.grow(&rig.control)).expect("it grew");
    write(&rig, SOME, 2);
    write(&rig, 500..510, 2);
    write(&rig, 20_000..20_100, 2);
    assert_eq!(saved(&rig), 10, "no snapshot has any of it, but what was saved");
    write(&rig, 510..511, 2);
    assert_eq!(saved(&rig), 11);
}

#[test]
fn maps_of_broken_snapshots_give_their_room_back() {
    let rig = rig(1, 64 << 20);
    let free = || block_on(rig.volume.stats()).segments_free;
    for round in 0..100 {
        discard(&rig, 100 + 20 * round..110 + 20 * round);
        rig.snapshot(&format!("s{round}")).expect("no fault");
    }
    rig.work().expect("no fault");
    let before = free();
    rig.disks.store.inject(Fault::persistent(FaultTarget::Write, 0).within(segments()));
    write(&rig, 10_000..10_001, 1);
    rig.disks.store.clear_faults();
    assert!(rig.snapshot_reason("s99").is_some(), "the store failed");
    rig.work().expect("the store works again");
    assert!(free() >= before + 99, "{} segments were free, now {}", before, free());
}

#[test]
fn a_mixture_that_the_owner_accepts_is_in_use_everywhere() {
    let (origin, store) = (SimDiskOptions::new("origin", 64 << 20), SimDiskOptions::new("store", STORE_BYTES));
    // The epoch of "before" has runs while the restore goes on.
    let limits = Limits { spill_entries: 8, restore_step_blocks: 8, ..Limits::default() };
    let rig = Rig::new(origin, store, SEGMENT_BYTES, limits);
    discard(&rig, 200..300);
    rig.snapshot("a").expect("no fault");
    write(&rig, SOME, 2);
    rig.work().expect("no fault");
    let (target, before, deadline) = (snapshot_name("a"), snapshot_name("before"), Deadline::new());
    block_on(rig.volume.restore(&rig.disks, &target, &before, snapshot_options(), &deadline)).expect("no fault");
    for _ in 0..20 {
        block_on(rig.volume.background_step(&rig.control)).expect("no fault");
    }
    assert!(rig.volume.restore_progress().is_some());
    let (origin, store) = (&rig.disks.origin, &rig.disks.store);
    let pages: Vec<u64> = (0..STORE_BYTES).step_by(4096).filter(|at| store.peek(*at, 4) == b"CrnR").collect();
    let mut refused = 0;
    for page in pages {
        let disks = || {
            let (origin, store) = (origin.crash(1, Crash::Process), store.crash(1, Crash::Process));
            store.flip(page + 100, 4);
            Disks { origin, store }
        };
        if Rig::attach(disks(), Limits::default(), StateDirectory::default()).is_ok() {
            continue;
        }
        let mut options = open_options(2, Limits::default(), &StateDirectory::default());
        options.accept.abandoned_restore = true;
        let volume = block_on(Volume::open(&disks(), options)).expect("the owner gives the restore up");
        assert!(volume.holes_now().is_empty(), "nobody knows which blocks are the target's");
        refused += 1;
    }
    assert!(refused > 0, "no damage stood in the way of the restore");
}
