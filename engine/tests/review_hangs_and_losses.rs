//! Ways in which production hangs or snapshots break without need: each test is one that a reviewer found.

use cairn_engine::deadline::Deadline;
use cairn_engine::disk::{aligned_buffer, Disk, Disks};
use cairn_engine::error::{ErrorKind, Result};
use cairn_engine::lane::Lane;
use cairn_engine::signal::yield_now;
use cairn_engine::sim::rig::{create_options, open_options, snapshot_name, snapshot_options, Rig, StateDirectory};
use cairn_engine::sim::{block_on, Crash, Fault, FaultTarget, Scheduler, SimDisk, SimDiskOptions};
use cairn_engine::volume::{create, inspect, Activity, CreateOptions, Limits, Volume};
use std::rc::Rc;

const SEGMENT_BYTES: u32 = 64 << 10;

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

fn rig(origin_bytes: u64, store_bytes: u64, limits: Limits) -> Rig {
    let (origin, store) = (SimDiskOptions::new("origin", origin_bytes), SimDiskOptions::new("store", store_bytes));
    Rig::new(origin, store, SEGMENT_BYTES, limits)
}

async fn restore(rig: &Rig, name: &str) {
    let (name, before, deadline) = (snapshot_name(name), snapshot_name("before"), Deadline::new());
    rig.volume.restore(&rig.disks, &name, &before, snapshot_options(), &deadline).await.expect("restore");
}

fn broken(volume: &Volume) -> Vec<String> {
    let snapshots = block_on(volume.snapshots());
    let broken = snapshots.iter().filter(|snapshot| snapshot.broken.is_some());
    broken.map(|snapshot| snapshot.name.to_string()).collect()
}

#[test]
fn a_write_to_a_watched_block_during_a_restore_does_not_wait_for_itself() {
    let rig = rig(48 * 4096, 8 << 20, limits());
    rig.snapshot("a").expect("cut");
    rig.write(0, 4096, 2).expect("write");
    block_on(restore(&rig, "a"));
    // What every mount does: it writes the superblock, while the restore still moves blocks.
    rig.write(0, 4096, 3).expect("write");
    assert_eq!(rig.read(0, 4096).expect("read")[0], 3);
}

#[test]
fn watched_blocks_are_moved_and_written_at_once_without_a_deadlock() {
    for seed in 0..50 {
        let rig = Rc::new(rig(48 * 4096, 8 << 20, limits()));
        rig.snapshot("a").expect("cut");
        rig.write(0, 48 * 4096, 2).expect("write");
        block_on(restore(&rig, "a"));
        let mut scheduler = Scheduler::new(seed);
        scheduler.drive(&rig.disks.origin);
        scheduler.drive(&rig.disks.store);
        let worker = Rc::clone(&rig);
        scheduler.spawn("background", async move {
            while worker.volume.background_step(&worker.control).await.expect("background") {}
        });
        let writer = Rc::clone(&rig);
        scheduler.spawn("write", async move {
            writer.lane.write(46 * 4096, &aligned_buffer(4096), false).await.expect("write");
        });
        scheduler.run_all();
    }
}

#[test]
fn random_writes_during_a_restore_never_fail_because_of_what_the_catalog_holds() {
    let rig = rig(48 << 20, 64 << 20, Limits { restore_step_blocks: 8, ..Limits::default() });
    rig.snapshot("a").expect("cut");
    rig.write(8 * 4096, 4096, 2).expect("write");
    block_on(restore(&rig, "a"));
    for block in (10..12_000).step_by(2) {
        let result = rig.write(block * 4096, 4096, 3);
        assert!(result.is_ok(), "block {block}: {result:?}");
    }
}

#[test]
fn a_restore_with_many_writers_does_not_wait_for_its_own_sealing() {
    for seed in 0..20 {
        let rig = Rc::new(rig(400 * 4096, 16 << 20, limits()));
        rig.snapshot("a").expect("cut");
        for block in 20..200 {
            rig.write(block * 4096, 4096, 2).expect("write");
            if block % 8 == 0 {
                rig.work().expect("background");
            }
        }
        block_on(restore(&rig, "a"));
        let mut scheduler = Scheduler::new(seed);
        scheduler.drive(&rig.disks.origin);
        scheduler.drive(&rig.disks.store);
        let worker = Rc::clone(&rig);
        let done = scheduler.spawn("background", async move {
            while worker.volume.background_step(&worker.control).await.expect("background") {}
        });
        let mut writers = Vec::new();
        for part in 0..10 {
            let writer = Rc::clone(&rig);
            writers.push(scheduler.spawn(format!("writer {part}"), async move {
                for block in 0..20 {
                    let offset = (200 + part * 20 + block) * 4096;
                    writer.lane.write(offset, &aligned_buffer(4096), false).await.expect("write");
                }
            }));
        }
        let _ = done;
        let ticker = Rc::clone(&rig);
        let mut idle = 0;
        while scheduler.tasks() > 0 {
            if scheduler.step() {
                continue;
            }
            idle += 1;
            assert!(idle < 100, "seed {seed}: ticks do not help: {}", scheduler.hanging());
            let (ticker, worker) = (Rc::clone(&ticker), Rc::clone(&rig));
            scheduler.spawn("tick", async move { ticker.lane.tick().await.expect("tick") });
            if !scheduler.hanging().contains("background") {
                scheduler.spawn("background", async move {
                    while worker.volume.background_step(&worker.control).await.expect("background") {}
                });
            }
        }
    }
}

/// A volume with as many snapshots as the catalog takes.
fn rig_with_full_catalog() -> Rig {
    let rig = rig(48 * 4096, 8 << 20, limits());
    let long = "x".repeat(100);
    for number in 0.. {
        if let Err(error) = rig.snapshot(&format!("{long}{number}")) {
            assert_eq!(error.kind(), ErrorKind::NoSpace);
            println!("{number} snapshots: {error}");
            break;
        }
        if number % 64 == 0 {
            rig.work().expect("background");
        }
    }
    rig.work().expect("background");
    rig
}

#[test]
fn a_catalog_full_of_snapshots_still_takes_the_runs_of_what_they_need() {
    let rig = rig_with_full_catalog();
    for round in 0..40u64 {
        let block = 20 + round % 20;
        rig.write(block * 4096, 4096, 2).expect("write");
        if round % 3 == 0 {
            // Every attach indexes what was saved last, as a run.
            rig.work().expect("the runs of the snapshots there are");
        }
    }
    let rig = rig.recover(1, Crash::Process).expect("a full catalog can be attached");
    assert_eq!(broken(&rig.volume), Vec::<String>::new());
}

#[test]
fn a_volume_with_a_full_catalog_can_be_detached() {
    let rig = rig_with_full_catalog();
    rig.write(20 * 4096, 4096, 2).expect("write");
    block_on(rig.volume.close(&rig.disks, 0)).expect("detach");
}

#[test]
fn a_store_grown_far_takes_snapshots() {
    let origin = SimDisk::new(SimDiskOptions::new("origin", 1 << 20));
    let store = SimDisk::new(SimDiskOptions::new("store", 1 << 30));
    let disks = Disks { origin, store };
    let options = CreateOptions { store_bytes: Some(16 << 20), ..create_options(SEGMENT_BYTES) };
    block_on(create(&disks, &options)).expect("create");
    let rig = Rig::attach(disks, limits(), StateDirectory::default()).expect("attach");
    rig.snapshot("small").expect("cut");
    block_on(rig.volume.grow_store(&rig.disks)).expect("the store grows, or says that it cannot grow so far");
    rig.snapshot("large").expect("cut");
    rig.write(20 * 4096, 4096, 1).expect("write");
    rig.work().expect("background");
    assert_eq!(broken(&rig.volume), Vec::<String>::new());
}

#[test]
fn one_failed_write_during_an_attach_breaks_no_snapshot() {
    let rig = rig(48 * 4096, 8 << 20, limits());
    rig.snapshot("a").expect("cut");
    rig.write(20 * 4096, 4096, 7).expect("write");
    let disks = Rc::new(rig.crash(1, Crash::Process));
    let base = block_on(inspect(&disks.store)).expect("a store").superblock.geometry.segments_base_bytes;
    disks.store.inject(Fault::once(FaultTarget::Write, 0).within(base..8 << 20));
    let options = || open_options(2, limits(), &StateDirectory::default());
    // It may fail; tried again, nothing is lost.
    let volume = block_on(Volume::open(&disks, options()));
    assert_eq!(disks.store.faults_struck(), 1);
    let volume = volume.or_else(|_| block_on(Volume::open(&disks, options()))).expect("attach");
    assert_eq!(broken(&volume), Vec::<String>::new());
}

/// A disk whose reads take long.
struct SlowDisk {
    disk: SimDisk,
    turns: u32,
}

impl Disk for SlowDisk {
    fn size_bytes(&self) -> u64 {
        self.disk.size_bytes()
    }
    fn sector_bytes(&self) -> u32 {
        self.disk.sector_bytes()
    }
    fn discard_bytes_max(&self) -> u64 {
        self.disk.discard_bytes_max()
    }
    async fn read(&self, offset_bytes: u64, buffer: &mut [u8]) -> Result<()> {
        for _ in 0..self.turns {
            yield_now().await;
        }
        self.disk.read(offset_bytes, buffer).await
    }
    async fn write(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.disk.write(offset_bytes, data).await
    }
    async fn write_durable(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.disk.write_durable(offset_bytes, data).await
    }
    async fn write_zeroes(&self, offset_bytes: u64, length_bytes: u64, may_unmap: bool) -> Result<()> {
        self.disk.write_zeroes(offset_bytes, length_bytes, may_unmap).await
    }
    async fn discard(&self, offset_bytes: u64, length_bytes: u64) -> Result<()> {
        self.disk.discard(offset_bytes, length_bytes).await
    }
    fn flush_failures(&self) -> u64 {
        self.disk.flush_failures()
    }

    async fn flush(&self) -> Result<()> {
        self.disk.flush().await
    }
}

/// Fills a small store under eight snapshots; says which broke.
fn fill_with_reader(turns: u32) -> Vec<String> {
    let rig = Rc::new(rig(4 << 20, 12 << 20, limits()));
    for number in 0..8 {
        rig.snapshot(&format!("s{number}")).expect("cut");
        for block in 20..120 {
            rig.write(block * 4096, 4096, number + 1).expect("write");
            if block % 8 == 0 {
                rig.work().expect("background");
            }
        }
        assert_eq!(broken(&rig.volume), Vec::<String>::new(), "not full yet: {number}");
        if block_on(rig.volume.stats()).segments_free < 50 {
            break;
        }
    }
    let youngest = block_on(rig.volume.snapshots()).last().expect("one").name.clone();
    let handle = block_on(rig.volume.snapshot_handle(&rig.disks, &youngest)).expect("whole");
    rig.snapshot("last").expect("cut");
    let mut scheduler = Scheduler::new(1);
    scheduler.drive(&rig.disks.origin);
    scheduler.drive(&rig.disks.store);
    let reader = Rc::clone(&rig);
    scheduler.spawn("reader", async move {
        let slow = |disk: &SimDisk| SlowDisk { disk: disk.clone(), turns };
        let disks = Disks { origin: slow(&reader.disks.origin), store: slow(&reader.disks.store) };
        let _ = reader.volume.read_snapshot(&disks, &handle, 20 * 4096, &mut aligned_buffer(4096)).await;
    });
    let writer = Rc::clone(&rig);
    scheduler.spawn("writer", async move {
        for block in 20..420 {
            writer.lane.write(block * 4096, &aligned_buffer(4096), false).await.expect("write");
            while writer.volume.background_step(&writer.control).await.expect("background") {}
        }
    });
    scheduler.run_all();
    let stats = block_on(rig.volume.stats());
    println!("{} free of {}, {:?}", stats.segments_free, stats.segments_total, broken(&rig.volume));
    broken(&rig.volume)
}

#[test]
fn a_reader_of_a_snapshot_does_not_make_a_full_store_break_more_snapshots() {
    let (without, with) = (fill_with_reader(0), fill_with_reader(3000));
    assert!(!without.is_empty(), "the store was full");
    assert_eq!(without, with);
}

#[test]
fn a_lane_made_anew_in_the_same_attachment_never_repeats_a_sequence() {
    let rig = rig(48 * 4096, 8 << 20, limits());
    rig.snapshot("a").expect("cut");
    for block in 20..30 {
        rig.write(block * 4096, 4096, 7).expect("write");
    }
    rig.work().expect("background");
    let again = Lane::new(rig.volume.clone(), 0, Rc::clone(&rig.disks));
    let mut data = aligned_buffer(4096);
    data.fill(7);
    block_on(again.write(40 * 4096, &data, false)).expect("write");
    drop(again);
    let rig = rig.recover(1, Crash::Process).expect("attach");
    if broken(&rig.volume).is_empty() {
        assert_eq!(rig.read_snapshot("a", 40 * 4096, 4096).expect("whole")[0], 0, "silently wrong");
    }
}

#[test]
fn a_store_that_fails_for_long_during_a_restore_does_not_run_out_of_segments() {
    let rig = rig(256 * 4096, 8 << 20, limits());
    rig.snapshot("a").expect("cut");
    for block in 0..200 {
        rig.write(block * 4096, 4096, 2).expect("write");
        rig.work().expect("no fault");
    }
    block_on(restore(&rig, "a"));
    let free_before = block_on(rig.volume.stats()).segments_free;
    rig.disks.store.inject(Fault::persistent(FaultTarget::Write, 0));
    for round in 0..100 {
        // Nothing can be saved, and while a restore needs its snapshot nothing can be given up for it.
        rig.write((round % 200) * 4096, 4096, 3).expect_err("the store fails");
        block_on(rig.volume.background_step(&rig.control)).expect_err("the store fails");
    }
    rig.disks.store.clear_faults();
    let free_after = block_on(rig.volume.stats()).segments_free;
    assert!(free_after + 16 >= free_before, "{free_before} segments were free, now {free_after}");
    // What could not be moved is tried again from time to time.
    for _ in 0..120 {
        block_on(rig.lane.tick()).expect("the store works again");
        rig.work().expect("the store works again");
    }
    assert!(rig.volume.restore_progress().is_none(), "the restore has ended");
}

#[test]
fn a_long_merge_keeps_no_write_waiting_for_memory() {
    let mut unhindered = 0;
    for seed in 0..3 {
        let rig = rig(64 << 20, 1 << 30, Limits::default());
        for epoch in 0..6 {
            rig.snapshot(&format!("s{epoch}")).expect("no fault");
            rig.write(1 << 20, 48 << 20, epoch + 1).expect("no fault");
        }
        // A run for each epoch, and nothing merged yet.
        block_on(rig.volume.close(&rig.disks, 0)).expect("no fault");
        let limits = Limits { spill_entries: 128, entries_max: 256, ..Limits::default() };
        let disks = rig.crash(seed, Crash::Process);
        let rig = Rc::new(Rig::attach(disks, limits, StateDirectory::default()).expect("it was detached"));
        let mut scheduler = Scheduler::new(seed);
        scheduler.drive(&rig.disks.origin);
        scheduler.drive(&rig.disks.store);
        let context = Rc::clone(&rig);
        scheduler.spawn("background", async move {
            loop {
                let more = context.volume.background_listener();
                if !context.volume.background_step(&context.control).await.expect("no fault") {
                    more.await;
                }
            }
        });
        while rig.volume.background_activity() != Activity::Merging {
            assert!(scheduler.step(), "there is something to merge");
        }
        let context = Rc::clone(&rig);
        let writer = scheduler.spawn("writer", async move {
            let mut data = aligned_buffer(64 << 10);
            data.fill(9);
            for offset_bytes in (56 << 20..58 << 20).step_by(64 << 10) {
                context.lane.write(offset_bytes, &data, false).await.expect("no fault");
            }
            context.volume.stats().await.merges
        });
        unhindered += u32::from(scheduler.run_until(&writer) == 0);
        scheduler.kill();
    }
    assert!(unhindered > 0, "all waited for the merge to end");
}

#[test]
fn a_store_that_takes_no_index_during_a_restore_fails_writes_and_keeps_none_waiting() {
    let limits = Limits { spill_entries: 16, entries_max: 32, reserve_segments: 16, ..limits() };
    let rig = rig(16 << 20, 64 << 20, limits);
    rig.snapshot("a").expect("no fault");
    rig.write(12 << 20, 64 << 10, 1).expect("no fault");
    rig.work().expect("no fault");
    block_on(restore(&rig, "a"));
    // Nothing in front of it has to move.
    while rig.volume.restore_progress().expect("under way").cursor_block < 1000 {
        block_on(rig.volume.background_step(&rig.control)).expect("no fault");
    }
    let segments_start = block_on(inspect(&rig.disks.store)).expect("a store").superblock.geometry.segments_base_bytes;
    rig.disks.store.inject(Fault::persistent(FaultTarget::Write, 0).within(0..segments_start));
    let (rig, mut scheduler) = (Rc::new(rig), Scheduler::new(1));
    let context = Rc::clone(&rig);
    let writer = scheduler.spawn("writer", async move {
        for block in 100..200 {
            context.lane.write(block * 4096, &aligned_buffer(4096), false).await?;
        }
        Ok::<(), cairn_engine::error::Error>(())
    });
    for _ in 0..24 {
        let context = Rc::clone(&rig);
        scheduler.spawn("a second passes", async move {
            // What fails is tried again.
            let _ = context.volume.background_step(&context.control).await;
            let _ = context.lane.tick().await;
        });
        while scheduler.step() {}
    }
    let error = writer.take().expect("nobody waits for ever").expect_err("nothing can be saved");
    assert_eq!(error.kind(), ErrorKind::Io);
    rig.disks.store.clear_faults();
    rig.work().expect("the store works again");
    assert!(rig.volume.restore_progress().is_none() && broken(&rig.volume).is_empty());
    scheduler.kill();
}
