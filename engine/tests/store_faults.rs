//! Faults of either disk in every phase of a fixed workload: production goes on (law 5), and every snapshot is exact
//! or broken with a reason (law 3).

use cairn_engine::deadline::Deadline;
use cairn_engine::disk::{aligned_buffer, Disks};
use cairn_engine::error::{ErrorKind, Result};
use cairn_engine::lane::Lane;
use cairn_engine::sim::oracle::{Change, Existence};
use cairn_engine::sim::rig::{create_options, open_options, snapshot_name, snapshot_options, Rig, StateDirectory};
use cairn_engine::sim::stamp::stamp;
use cairn_engine::sim::{block_on, Crash, Fault, FaultTarget, Oracle, Scheduler, SimDisk, SimDiskOptions};
use cairn_engine::volume::{self, Limits, Volume};
use std::rc::Rc;
use std::sync::Arc;

const BLOCKS: u64 = 48;
const SECTORS: u64 = BLOCKS * 8;
const SECTOR_BYTES: u64 = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Device {
    Origin,
    Store,
}

/// One run of the workload with one fault.
struct Run {
    rig: Rig,
    oracle: Oracle,
    faulty: Device,
    what: String,
}

fn limits() -> Limits {
    Limits {
        spill_entries: 16,
        entries_max: 64,
        cache_pages: 8,
        reserve_segments: 2,
        restore_step_blocks: 8,
        ..Limits::default()
    }
}

fn small_rig() -> Rig {
    let origin = SimDiskOptions::new("origin", SECTORS * SECTOR_BYTES);
    Rig::new(origin, SimDiskOptions::new("store", 8 << 20), 64 << 10, limits())
}

fn device(disks: &Disks<SimDisk>, device: Device) -> &SimDisk {
    match device {
        Device::Origin => &disks.origin,
        Device::Store => &disks.store,
    }
}

impl Run {
    fn new(faulty: Device, store_has_fua: bool, fault: &Fault) -> Run {
        let store = SimDiskOptions { has_fua: store_has_fua, ..SimDiskOptions::new("store", 8 << 20) };
        let origin = SimDiskOptions::new("origin", SECTORS * SECTOR_BYTES);
        let disks = Disks { origin: SimDisk::new(origin), store: SimDisk::new(store) };
        let mut content = vec![0; (SECTORS * SECTOR_BYTES) as usize];
        stamp(0, 0, &mut content);
        disks.origin.poke(0, &content);
        block_on(volume::create(&disks, &create_options(64 << 10))).expect("the store is large enough");
        let rig = Rig::attach(disks, limits(), StateDirectory::default()).expect("a new store can be attached");
        device(&rig.disks, faulty).inject(fault.clone());
        let what = format!("{faulty:?} with {fault:?}, FUA {store_has_fua}");
        Run { oracle: Oracle::new(&content), rig, faulty, what }
    }

    /// Requests of production fail only where the origin does.
    fn production<T>(&self, result: &Result<T>, operation: &str) {
        let excused = self.faulty == Device::Origin && self.rig.disks.origin.faults_struck() > 0;
        if let Err(error) = result {
            assert!(excused, "{}: {operation} failed: {error:?}", self.what);
        }
    }

    fn write(&mut self, first: u64, sectors: u64, durable: bool) {
        let write = self.oracle.next_write();
        let ticket = self.oracle.start_change(first..first + sectors, Change::Stamp(write));
        let mut data = aligned_buffer((sectors * SECTOR_BYTES) as usize);
        stamp(write, first, &mut data);
        let result = block_on(self.rig.lane.write(first * SECTOR_BYTES, &data, durable));
        self.oracle.end_change(ticket, result.is_ok(), durable);
        self.production(&result, "write");
    }

    fn zeroes(&mut self, first: u64, sectors: u64) {
        let ticket = self.oracle.start_change(first..first + sectors, Change::Zero);
        let lane = &self.rig.lane;
        let result = block_on(lane.write_zeroes(first * SECTOR_BYTES, sectors * SECTOR_BYTES, false, true));
        self.oracle.end_change(ticket, result.is_ok(), false);
        self.production(&result, "write of zeroes");
    }

    fn discard(&mut self, first: u64, sectors: u64) {
        let ticket = self.oracle.start_change(first..first + sectors, Change::Discard);
        let result = block_on(self.rig.lane.discard(first * SECTOR_BYTES, sectors * SECTOR_BYTES));
        self.oracle.end_change(ticket, result.is_ok(), false);
        self.production(&result, "discard");
    }

    fn flush(&mut self) {
        let ticket = self.oracle.start_flush();
        let result = block_on(self.rig.lane.flush());
        self.oracle.end_flush(ticket, result.is_ok());
        self.production(&result, "flush");
    }

    fn snapshot(&mut self, name: &str) {
        let ticket = self.oracle.start_snapshot(name);
        let existence = match self.rig.snapshot(name) {
            Ok(_) => Existence::Sure,
            // It may have been recorded all the same; if so it is exact.
            Err(_) => Existence::Doubtful,
        };
        self.oracle.end_snapshot(name, ticket, Some(existence), true);
    }

    fn delete(&mut self, name: &str) {
        match block_on(self.rig.volume.delete(&self.rig.disks, &snapshot_name(name))) {
            Ok(()) => self.oracle.remove_snapshot(name),
            Err(_) => self.oracle.set_existence(name, Existence::Doubtful),
        }
    }

    fn work(&self) {
        // Failed background work is retried later; it must not be wrong, only late.
        let _ = self.rig.work();
    }

    /// First writes, rewrites, partial ones, three snapshots, a deletion, spills and seals.
    fn workload(&mut self) {
        self.write(0, 64, false);
        self.snapshot("a");
        self.write(8, 24, false);
        self.write(100, 3, false);
        self.flush();
        self.work();
        self.snapshot("b");
        self.write(0, 16, true);
        self.write(101, 30, false);
        self.discard(200, 40);
        self.discard(104, 24);
        self.work();
        self.snapshot("c");
        self.write(0, SECTORS, false);
        self.zeroes(64, 20);
        let _ = block_on(self.rig.lane.tick());
        self.delete("b");
        self.work();
        self.write(96, 64, false);
        self.delete("a");
        self.work();
        self.write(4, 9, false);
        self.flush();
    }

    fn read_volume(&mut self) {
        let ticket = self.oracle.start_read(0..SECTORS);
        let result = self.rig.read(0, (SECTORS * SECTOR_BYTES) as usize);
        let verdict = self.oracle.end_read(ticket, result.as_deref().ok());
        assert_eq!(verdict, Ok(()), "{}", self.what);
        self.production(&result, "read");
    }

    /// Every snapshot is exact, or broken, or (while the fault lasts or where an old block was unreadable) an error.
    fn inspect_snapshots(&mut self) {
        let found = block_on(self.rig.volume.snapshots());
        let known: Vec<(String, Existence)> =
            self.oracle.snapshots().map(|(name, existence)| (name.to_owned(), existence)).collect();
        for (name, existence) in known {
            match found.iter().find(|snapshot| snapshot.name.as_str() == name) {
                None => assert_eq!(existence, Existence::Doubtful, "{}: snapshot {name} is lost", self.what),
                Some(snapshot) if snapshot.broken.is_some() => {
                    let struck = device(&self.rig.disks, self.faulty).faults_struck() > 0;
                    assert!(struck, "{}: {name} is broken before any fault", self.what);
                }
                Some(_) => self.inspect_snapshot(&name),
            }
        }
    }

    fn inspect_snapshot(&mut self, name: &str) {
        for block in 0..BLOCKS {
            match self.rig.read_snapshot(name, block * 4096, 4096) {
                Ok(content) => {
                    let verdict = self.oracle.observe_snapshot(name, block * 8, &content);
                    assert_eq!(verdict, Ok(()), "{}", self.what);
                }
                Err(error) => {
                    let allowed = matches!(error.kind(), ErrorKind::Io | ErrorKind::NoSpace);
                    assert!(allowed, "{}: block {block} of {name}: {error:?}", self.what);
                }
            }
        }
    }

    /// The fault goes, the machine crashes, the volume is attached again.
    fn crash_and_inspect(mut self, seed: u64, crash: Crash) {
        let (state, struck) = (self.rig.state.clone(), device(&self.rig.disks, self.faulty).faults_struck());
        self.oracle.crash(crash);
        let disks = self.rig.crash(seed, crash);
        let mut options = open_options(2, limits(), &state);
        options.accept.failed_flush = true;
        let disks = Rc::new(disks);
        let volume = match block_on(Volume::open(&disks, options)) {
            // The store did not take what it should know of the disk any more; accepted, that costs the snapshots.
            Err(error) if error.kind() == ErrorKind::OriginChanged && self.faulty == Device::Store && struck > 0 => {
                let mut options = open_options(2, limits(), &state);
                options.accept.changed_origin = true;
                block_on(Volume::open(&disks, options))
            }
            volume => volume,
        };
        let volume = volume.unwrap_or_else(|error| panic!("{}: attach after {crash:?}: {error:?}", self.what));
        let lane = Lane::new(Arc::clone(&volume), 0, Rc::clone(&disks));
        let mut content = aligned_buffer((SECTORS * SECTOR_BYTES) as usize);
        block_on(lane.read(0, &mut content)).expect("the devices work again");
        let verdict = self.oracle.observe_volume(&content, crash == Crash::Power);
        assert_eq!(verdict, Ok(()), "{} after {crash:?} with seed {seed}", self.what);
        let what = format!("{} after {crash:?} with seed {seed}", self.what);
        inspect_recovered(&volume, &disks, &mut self.oracle, &what, struck);
    }
}

fn inspect_recovered(volume: &Volume, disks: &Disks<SimDisk>, oracle: &mut Oracle, what: &str, struck: u64) {
    for snapshot in block_on(volume.snapshots()) {
        let name = snapshot.name.as_str();
        let known = oracle.snapshot_sectors(name).is_some();
        assert!(known, "{what}: snapshot {name} exists and should not");
        if snapshot.broken.is_some() {
            assert!(struck > 0, "{what}: {name} is broken and no fault struck");
            continue;
        }
        for block in 0..BLOCKS {
            let mut content = aligned_buffer(4096);
            let read = block_on(async {
                let handle = volume.snapshot_handle(disks, &snapshot.name).await?;
                volume.read_snapshot(disks, &handle, block * 4096, &mut content).await
            });
            match read {
                Ok(()) => assert_eq!(oracle.observe_snapshot(name, block * 8, &content), Ok(()), "{what}"),
                // A block that could not be read before it was overwritten stays an error for ever.
                Err(error) => assert!(error.kind() == ErrorKind::Io && struck > 0, "{what}: {name}: {error:?}"),
            }
        }
    }
    let sure: Vec<String> = oracle
        .snapshots()
        .filter(|(_, existence)| *existence == Existence::Sure)
        .map(|(name, _)| name.to_owned())
        .collect();
    let found = block_on(volume.snapshots());
    for name in sure {
        assert!(found.iter().any(|snapshot| snapshot.name.as_str() == name), "{what}: snapshot {name} is lost");
    }
}

/// Runs the workload with the fault at the first, second, ... matching operation until it strikes no more.
fn sweep(faulty: Device, store_has_fua: bool, fault_from: impl Fn(u64) -> Fault) -> u64 {
    for from in 0.. {
        let fault = fault_from(from);
        let mut struck = 0;
        for (seed, crash) in [(from, Crash::Process), (from, Crash::Power), (!from, Crash::Power)] {
            let mut run = Run::new(faulty, store_has_fua, &fault);
            run.workload();
            run.read_volume();
            run.inspect_snapshots();
            struck = device(&run.rig.disks, faulty).faults_struck();
            run.crash_and_inspect(seed, crash);
        }
        if struck == 0 {
            return from;
        }
    }
    unreachable!("some workload ends before the fault");
}

fn sweep_once_and_for_ever(faulty: Device, target: FaultTarget) {
    for store_has_fua in [true, false] {
        let once = sweep(faulty, store_has_fua, |from| Fault::once(target, from));
        let persistent = sweep(faulty, store_has_fua, |from| Fault::persistent(target, from));
        println!("{faulty:?} {target:?}, FUA {store_has_fua}: {once} places once, {persistent} for ever");
        let never_asked = target == FaultTarget::Flush && store_has_fua && faulty == Device::Store;
        assert!(once > 0 || never_asked, "the workload has no such operation");
    }
}

#[test]
fn a_failing_store_write_breaks_snapshots_at_worst_and_never_production() {
    sweep_once_and_for_ever(Device::Store, FaultTarget::Write);
}

#[test]
fn a_failing_store_read_gives_an_error_and_never_wrong_bytes() {
    sweep_once_and_for_ever(Device::Store, FaultTarget::Read);
}

#[test]
fn a_failing_store_flush_is_never_trusted_afterwards() {
    sweep_once_and_for_ever(Device::Store, FaultTarget::Flush);
}

#[test]
fn a_full_store_device_breaks_snapshots_and_never_production() {
    let places = sweep(Device::Store, true, Fault::no_space);
    assert!(places > 0);
}

#[test]
fn an_unreadable_origin_block_is_recorded_as_unreadable_and_the_write_goes_through() {
    sweep_once_and_for_ever(Device::Origin, FaultTarget::Read);
}

#[test]
fn a_failing_origin_write_is_reported_and_spoils_no_snapshot() {
    sweep_once_and_for_ever(Device::Origin, FaultTarget::Write);
}

#[test]
fn a_failing_origin_flush_spoils_no_snapshot() {
    sweep_once_and_for_ever(Device::Origin, FaultTarget::Flush);
}

#[test]
fn a_failing_origin_discard_spoils_no_snapshot() {
    sweep_once_and_for_ever(Device::Origin, FaultTarget::Discard);
}

#[test]
fn a_failed_flush_stays_failed_across_restarts_until_the_owner_clears_it() {
    let fault = Fault::once(FaultTarget::Flush, 0);
    let mut run = Run::new(Device::Origin, true, &fault);
    run.write(8, 8, false);
    let first = block_on(run.rig.lane.flush()).expect_err("the flush was struck");
    assert_eq!(first.kind(), ErrorKind::FlushFailed);
    let again = block_on(run.rig.lane.flush()).expect_err("a later flush does not bring back what was lost");
    assert_eq!(again.kind(), ErrorKind::FlushFailed);
    let mut data = aligned_buffer(4096);
    data.fill(1);
    assert!(block_on(run.rig.lane.write(0, &data, true)).is_err(), "a durable write promises what a flush does");
    block_on(run.rig.lane.write(0, &data, false)).expect("plain writes go on");

    let rig = run.rig.recover(1, Crash::Process).expect("attach works");
    assert!(block_on(rig.lane.flush()).is_err(), "the latch outlives the process");
    let disks = rig.crash(2, Crash::Process);
    let mut options = open_options(2, limits(), &StateDirectory::default());
    options.accept.failed_flush = true;
    let disks = Rc::new(disks);
    let volume = block_on(Volume::open(&disks, options)).expect("attach works");
    let lane = Lane::new(volume, 0, Rc::clone(&disks));
    block_on(lane.flush()).expect("the owner cleared the latch");
}

#[test]
fn first_writes_wait_where_neither_store_nor_state_directory_can_record_broken_snapshots() {
    let rig = small_rig();
    rig.snapshot("a").expect("no fault yet");
    let disks = rig.crash(1, Crash::Process);
    let state = StateDirectory::failing();
    let rig = Rc::new(Rig::attach(disks, limits(), state).expect("no fault yet"));
    let mut scheduler = Scheduler::new(1);
    scheduler.drive(&rig.disks.origin);
    scheduler.drive(&rig.disks.store);
    rig.disks.store.inject(Fault::persistent(FaultTarget::Write, 0));
    let writer = Rc::clone(&rig);
    let write = scheduler.spawn("write", async move {
        let mut data = aligned_buffer(4096);
        data.fill(7);
        writer.lane.write(20 * 4096, &data, false).await
    });
    while scheduler.step() {}
    assert!(!write.is_finished(), "the write waits");
    assert_eq!(rig.disks.origin.peek(20 * 4096, 4096), vec![0; 4096], "nothing was overwritten unsaved");
    rig.disks.store.clear_faults();
    let ticker = Rc::clone(&rig);
    scheduler.spawn("tick", async move { ticker.lane.tick().await });
    scheduler.run_until(&write).expect("the store works again");
    assert_eq!(rig.disks.origin.peek(20 * 4096, 4096), vec![7; 4096]);
    let reader = Rc::clone(&rig);
    let read = scheduler.spawn("read snapshot", async move {
        let handle = reader.volume.snapshot_handle(&reader.disks, &snapshot_name("a")).await?;
        let mut buffer = aligned_buffer(4096);
        reader.volume.read_snapshot(&reader.disks, &handle, 20 * 4096, &mut buffer).await.map(|()| buffer.to_vec())
    });
    match scheduler.run_until(&read) {
        Ok(content) => assert_eq!(content, vec![0; 4096]),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Broken),
    }
}

#[test]
fn a_cut_gives_up_at_its_deadline_and_writes_go_on() {
    let rig = small_rig();
    let rig = Rc::new(rig);
    let mut scheduler = Scheduler::new(1);
    scheduler.drive(&rig.disks.origin);
    scheduler.drive(&rig.disks.store);
    let deadline = Deadline::new();
    deadline.expire();
    let cutter = Rc::clone(&rig);
    let cut = scheduler.spawn("cut", async move {
        cutter.volume.snapshot(&cutter.disks, &snapshot_name("late"), snapshot_options(), &deadline).await
    });
    assert_eq!(scheduler.run_until(&cut).expect_err("it is too late").kind(), ErrorKind::TimedOut);
    let writer = Rc::clone(&rig);
    let write = scheduler.spawn("write", async move { writer.lane.write(0, &aligned_buffer(4096), false).await });
    scheduler.run_until(&write).expect("the gate is open");
    let lister = Rc::clone(&rig);
    let list = scheduler.spawn("list", async move { lister.volume.snapshots().await });
    assert!(scheduler.run_until(&list).is_empty(), "nothing was changed");
}
