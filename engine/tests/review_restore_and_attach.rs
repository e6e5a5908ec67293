//! A restore that cannot end, one that nobody ordered, an attach that a damaged index refuses: found by a reviewer.

use cairn_engine::deadline::Deadline;
use cairn_engine::disk::{aligned_buffer, Disk};
use cairn_engine::error::{ErrorKind, Result};
use cairn_engine::lane::Lane;
use cairn_engine::signal::yield_now;
use cairn_engine::sim::rig::{open_options, snapshot_name, snapshot_options, Rig, StateDirectory};
use cairn_engine::sim::{block_on, Crash, Fault, FaultTarget, Scheduler, SimDisk, SimDiskOptions};
use cairn_engine::volume::{CheckOptions, Limits, Volume};
use std::cell::Cell;
use std::rc::Rc;

const SEGMENT_BYTES: u32 = 64 << 10;
const STORE_BYTES: u64 = 8 << 20;

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

fn rig(seed: u64, origin_bytes: u64) -> Rig {
    let origin = SimDiskOptions { seed, ..SimDiskOptions::new("origin", origin_bytes) };
    let store = SimDiskOptions { seed, ..SimDiskOptions::new("store", STORE_BYTES) };
    Rig::new(origin, store, SEGMENT_BYTES, limits())
}

async fn restore(rig: &Rig, name: &str) -> Result<()> {
    let (name, before, deadline) = (snapshot_name(name), snapshot_name("before"), Deadline::new());
    rig.volume.restore(&rig.disks, &name, &before, snapshot_options(), &deadline).await.map(drop)
}

#[test]
fn an_unreadable_block_of_the_target_does_not_hold_a_restore_for_ever() {
    let rig = rig(1, 48 * 4096);
    rig.snapshot("a").expect("cut");
    rig.disks.origin.inject(Fault::persistent(FaultTarget::Read, 0).within(20 * 4096..21 * 4096));
    rig.write(20 * 4096, 4096, 2).expect("the write goes through, the old content is recorded as unreadable");
    rig.disks.origin.clear_faults();
    rig.write(21 * 4096, 4096, 2).expect("write");
    if block_on(restore(&rig, "a")).is_err() {
        return;
    }
    for _ in 0..20 {
        let _ = rig.work();
    }
    let write = rig.write(20 * 4096, 4096, 3);
    assert!(write.is_ok(), "the whole block is overwritten, its old content does not matter: {write:?}");
    rig.work().expect("the restore ends");
    let detach = block_on(rig.volume.close(&rig.disks, 0));
    assert!(detach.is_ok(), "the restore can neither end nor be given up: {detach:?}");
}

#[test]
fn a_restore_that_was_reported_as_failed_never_takes_back_later_writes() {
    for from in 0..40 {
        for seed in 0..12 {
            let rig = rig(seed, 48 * 4096);
            rig.snapshot("a").expect("cut");
            rig.write(20 * 4096, 20 * 4096, 2).expect("write");
            rig.work().expect("background");
            rig.disks.store.inject(Fault::persistent(FaultTarget::Write, from));
            if block_on(restore(&rig, "a")).is_ok() {
                continue;
            }
            let written = rig.write(20 * 4096, 4096, 9).is_ok();
            let flushed = block_on(rig.lane.flush()).is_ok();
            let rig = match rig.recover(seed, Crash::Process) {
                Ok(rig) => rig,
                Err(error) => panic!("fault {from}, seed {seed}: {error:?}"),
            };
            let content = rig.read(20 * 4096, 4096).expect("read")[0];
            assert!(!(written && flushed) || content == 9, "fault {from}, seed {seed}: a flushed write is {content}");
        }
    }
}

#[test]
fn a_damaged_page_of_the_index_does_not_keep_the_volume_from_being_attached() {
    let rig = rig(1, 48 * 4096);
    rig.snapshot("a").expect("cut");
    for block in 20..40 {
        rig.write(block * 4096, 4096, 2).expect("write");
    }
    rig.work().expect("background");
    let disks = rig.crash(1, Crash::Process);
    let mut damaged = 0;
    for address in (0..STORE_BYTES).step_by(4096) {
        if disks.store.peek(address, 4) == b"CrnR" {
            disks.store.flip(address + 100, 1);
            damaged += 1;
        }
    }
    assert!(damaged > 0, "there is a run");
    let disks = Rc::new(disks);
    let mut options = open_options(2, limits(), &StateDirectory::default());
    options.accept.changed_origin = true;
    options.accept.other_host = true;
    let volume =
        block_on(Volume::open(&disks, options)).expect("whatever the owner accepts, there is no way to attach");
    let lane = Lane::new(volume, 0, Rc::clone(&disks));
    let mut buffer = aligned_buffer(4096);
    block_on(lane.read(20 * 4096, &mut buffer)).expect("the origin works");
}

/// A disk whose reads take long.
struct SlowDisk(SimDisk, u32);

impl Disk for SlowDisk {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }
    fn sector_bytes(&self) -> u32 {
        self.0.sector_bytes()
    }
    fn discard_bytes_max(&self) -> u64 {
        self.0.discard_bytes_max()
    }
    async fn read(&self, offset_bytes: u64, buffer: &mut [u8]) -> Result<()> {
        for _ in 0..self.1 {
            yield_now().await;
        }
        self.0.read(offset_bytes, buffer).await
    }
    async fn write(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.0.write(offset_bytes, data).await
    }
    async fn write_durable(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.0.write_durable(offset_bytes, data).await
    }
    async fn write_zeroes(&self, offset_bytes: u64, length_bytes: u64, may_unmap: bool) -> Result<()> {
        self.0.write_zeroes(offset_bytes, length_bytes, may_unmap).await
    }
    async fn discard(&self, offset_bytes: u64, length_bytes: u64) -> Result<()> {
        self.0.discard(offset_bytes, length_bytes).await
    }
    fn flush_failures(&self) -> u64 {
        self.0.flush_failures()
    }

    async fn flush(&self) -> Result<()> {
        self.0.flush().await
    }
}

#[test]
fn a_check_does_not_stop_writes_and_a_cut_gives_up_at_its_deadline_meanwhile() {
    let (origin, store) = (SimDiskOptions::new("origin", 1 << 20), SimDiskOptions::new("store", STORE_BYTES));
    let rig = Rc::new(Rig::new(origin, store, SEGMENT_BYTES, Limits::default()));
    rig.snapshot("a").expect("cut");
    for block in 20..60 {
        rig.write(block * 4096, 4096, 2).expect("write");
    }
    rig.snapshot("a2").expect("cut");
    rig.work().expect("background");
    let mut scheduler = Scheduler::new(1);
    scheduler.drive(&rig.disks.origin);
    scheduler.drive(&rig.disks.store);
    let (checked, too_late) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)));
    let (checker, done) = (Rc::clone(&rig), Rc::clone(&checked));
    let check = scheduler.spawn("check", async move {
        let slow = SlowDisk(checker.disks.store.clone(), 20_000);
        checker.volume.check(&slow, CheckOptions { data: true }).await.expect("check");
        done.set(true);
    });
    for _ in 0..100 {
        scheduler.step();
    }
    let (cutter, done, late) = (Rc::clone(&rig), Rc::clone(&checked), Rc::clone(&too_late));
    scheduler.spawn("cut", async move {
        let deadline = Deadline::new();
        deadline.expire();
        let cut = cutter.volume.snapshot(&cutter.disks, &snapshot_name("b"), snapshot_options(), &deadline).await;
        assert_eq!(cut.expect_err("too late").kind(), ErrorKind::TimedOut);
        late.set(done.get());
    });
    let writer = Rc::clone(&rig);
    let write = scheduler.spawn("writer", async move {
        for block in 60..200 {
            writer.lane.write(block * 4096, &aligned_buffer(4096), false).await.expect("write");
        }
    });
    scheduler.run_until(&write);
    let stopped = checked.get();
    if !stopped {
        scheduler.run_until(&check);
    }
    scheduler.run_all();
    assert!(!stopped, "writes waited until the check was done");
    assert!(!too_late.get(), "the cut waited for the check, whatever its deadline");
}

#[test]
fn a_restore_that_a_full_store_holds_up_goes_on_when_the_store_is_enlarged() {
    const BLOCK: u64 = 4096;
    // Background work may stand still for as long as the store has room.
    let limits = Limits { spill_entries: 4096, entries_max: 8192, ..limits() };
    let (origin, store) = (SimDiskOptions::new("origin", 32 << 20), SimDiskOptions::new("store", 16 << 20));
    let rig = Rig::new(origin, store, SEGMENT_BYTES, limits);
    rig.write(0, 2 << 20, 1).expect("write");
    rig.snapshot("a").expect("cut");
    rig.write(0, 1 << 20, 2).expect("write");
    block_on(restore(&rig, "a")).expect("restore");
    // Nobody knew that so much would be overwritten: what the state before holds there is saved as well.
    let full = (512..8192).find_map(|block| rig.write(block * BLOCK, 4096, 3).err()).expect("the store is smaller");
    assert!(full.to_string().contains("enlarge the store"), "{full}");
    (0..20).for_each(|_| drop(rig.work()));
    assert!(rig.volume.restore_progress().is_some(), "the rest of this test is about a restore that is held up");
    let snapshots = block_on(rig.volume.snapshots());
    assert!(snapshots.iter().all(|snapshot| snapshot.broken.is_none()), "nothing is given up for it");
    rig.disks.store.resize(64 << 20);
    block_on(rig.volume.grow_store(&rig.disks)).expect("the store grows during a restore");
    rig.work().expect("the restore goes on");
    assert!(rig.volume.restore_progress().is_none(), "the restore has ended");
    assert!(rig.read(0, 2 << 20).expect("read").iter().all(|byte| *byte == 1));
    let before = rig.read_snapshot("before", 0, 1 << 20).expect("the state before");
    assert!(before.iter().all(|byte| *byte == 2));
    rig.write(3 << 20, 4096, 4).expect("writes go on, too");
}
