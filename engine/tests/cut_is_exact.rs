//! The cut against writes that are in flight: what a snapshot shows once, it shows for ever.

use cairn_engine::deadline::Deadline;
use cairn_engine::disk::aligned_buffer;
use cairn_engine::sim::rig::{snapshot_name, snapshot_options, Rig, StateDirectory};
use cairn_engine::sim::{Crash, Scheduler, SimDiskOptions};
use cairn_engine::volume::Limits;
use std::rc::Rc;

const SEEDS: u64 = 200;
const BLOCKS: std::ops::Range<u64> = 20..24;

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

fn rig(seed: u64) -> Rc<Rig> {
    let origin = SimDiskOptions { seed, ..SimDiskOptions::new("origin", 48 * 4096) };
    Rc::new(Rig::new(origin, SimDiskOptions { seed, ..SimDiskOptions::new("store", 8 << 20) }, 64 << 10, limits()))
}

/// Takes a snapshot while blocks are being written for the first time; gives the scheduler at the moment of its return.
fn cut_under_load(rig: &Rc<Rig>, seed: u64) -> Scheduler {
    let mut scheduler = Scheduler::new(seed);
    scheduler.drive(&rig.disks.origin);
    scheduler.drive(&rig.disks.store);
    for block in BLOCKS {
        let writer = Rc::clone(rig);
        scheduler.spawn(format!("writer of block {block}"), async move {
            let mut data = aligned_buffer(4096);
            data.fill(7);
            writer.lane.write(block * 4096, &data, false).await.expect("write");
        });
    }
    let cutter = Rc::clone(rig);
    let cut = scheduler.spawn("cut", async move {
        cutter.volume.snapshot(&cutter.disks, &snapshot_name("a"), snapshot_options(), &Deadline::new()).await
    });
    scheduler.run_until(&cut).expect("cut");
    scheduler
}

fn show(rig: &Rc<Rig>, scheduler: &mut Scheduler) -> Vec<u8> {
    let reader = Rc::clone(rig);
    let read = scheduler.spawn("reader", async move {
        let handle = reader.volume.snapshot_handle(&reader.disks, &snapshot_name("a")).await.expect("it is whole");
        let mut content = aligned_buffer((BLOCKS.end - BLOCKS.start) as usize * 4096);
        let read = reader.volume.read_snapshot(&reader.disks, &handle, BLOCKS.start * 4096, &mut content).await;
        read.map(|()| content.to_vec()).expect("read")
    });
    scheduler.run_until(&read)
}

#[test]
fn a_cut_waits_for_the_writes_in_flight() {
    for seed in 0..SEEDS {
        let rig = rig(seed);
        let mut scheduler = cut_under_load(&rig, seed);
        let at_once = show(&rig, &mut scheduler);
        scheduler.run_all();
        assert!(show(&rig, &mut scheduler) == at_once, "seed {seed}: the snapshot changed after the cut");
    }
}

#[test]
fn what_a_snapshot_shows_is_durable() {
    for seed in 0..SEEDS {
        let rig = rig(seed);
        let mut scheduler = cut_under_load(&rig, seed);
        let before = show(&rig, &mut scheduler);
        let disks = cairn_engine::disk::Disks {
            origin: rig.disks.origin.crash(seed, Crash::Power),
            store: rig.disks.store.crash(!seed, Crash::Power),
        };
        scheduler.kill();
        let rig = Rig::attach(disks, limits(), StateDirectory::default()).expect("attach");
        let length_bytes = (BLOCKS.end - BLOCKS.start) as usize * 4096;
        let after = rig.read_snapshot("a", BLOCKS.start * 4096, length_bytes).expect("it is whole");
        assert!(after == before, "seed {seed}: the snapshot changed in a power cut");
    }
}
