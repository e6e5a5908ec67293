//! Transient faults of the store while several lanes write, cuts and deletions run, and then a crash: every snapshot
//! is exact or broken, and no flushed write is lost. CAIRN_REVIEW_SEEDS sets how many histories.

use cairn_engine::deadline::Deadline;
use cairn_engine::disk::{aligned_buffer, Disks};
use cairn_engine::error::ErrorKind;
use cairn_engine::holes::Holes;
use cairn_engine::lane::Lane;
use cairn_engine::signal::yield_now;
use cairn_engine::sim::oracle::{Change, Existence};
use cairn_engine::sim::picture::Picture;
use cairn_engine::sim::rig::{create_options, open_options, snapshot_name, snapshot_options, StateDirectory};
use cairn_engine::sim::stamp::stamp;
use cairn_engine::sim::{block_on, Crash, Fault, FaultTarget, Oracle, Scheduler, SimDisk, SimDiskOptions};
use cairn_engine::volume::{create, Limits, Volume};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

const BLOCKS: u64 = 96;
const SECTORS: u64 = BLOCKS * 8;
const LANES: usize = 3;

struct Machine {
    volume: Arc<Volume>,
    disks: Rc<Disks<SimDisk>>,
    lanes: Vec<Lane<SimDisk>>,
    oracle: Rc<RefCell<Oracle>>,
    /// A restore is under way when the round begins: then a write needs the store.
    restoring: bool,
}

fn limits() -> Limits {
    Limits {
        spill_entries: 12,
        entries_max: 64,
        cache_pages: 8,
        reserve_segments: 2,
        restore_step_blocks: 8,
        ..Limits::default()
    }
}

async fn write(machine: Rc<Machine>, seed: u64, lane: usize, part: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..random.usize(4..30) {
        for _ in 0..random.usize(0..20) {
            yield_now().await;
        }
        if random.u8(0..6) == 0 {
            let ticket = machine.oracle.borrow_mut().start_flush();
            let result = machine.lanes[lane].flush().await;
            machine.oracle.borrow_mut().end_flush(ticket, result.is_ok());
            continue;
        }
        // Not the watched blocks at the ends: their detection is another matter.
        // Writers share blocks at the borders of their parts, but never sectors.
        let (start, end) = (163 + part * 121, 163 + (part + 1) * 121);
        let first = random.u64(start..end);
        let sectors = random.u64(1..=80).min(end - first);
        let write = machine.oracle.borrow_mut().next_write();
        let ticket = machine.oracle.borrow_mut().start_change(first..first + sectors, Change::Stamp(write));
        let mut data = aligned_buffer((sectors * 512) as usize);
        stamp(write, first, &mut data);
        let durable = random.u8(0..4) == 0;
        let result = machine.lanes[lane].write(first * 512, &data, durable).await;
        machine.oracle.borrow_mut().end_change(ticket, result.is_ok(), durable);
        assert!(result.is_ok() || machine.restoring, "production fails only where the origin does: {result:?}");
    }
}

async fn cut_and_delete(machine: Rc<Machine>, seed: u64, round: usize) {
    let mut random = fastrand::Rng::with_seed(seed);
    for number in 0..random.usize(1..5) {
        for _ in 0..random.usize(0..60) {
            yield_now().await;
        }
        let name = format!("r{round}n{number}");
        let ticket = machine.oracle.borrow_mut().start_snapshot(&name);
        let deadline = Deadline::new();
        let result =
            machine.volume.snapshot(&machine.disks, &snapshot_name(&name), snapshot_options(), &deadline).await;
        let existence = if result.is_ok() { Existence::Sure } else { Existence::Doubtful };
        machine.oracle.borrow_mut().end_snapshot(&name, ticket, Some(existence), true);
        if random.u8(0..3) == 0 {
            let known: Vec<String> = machine.oracle.borrow().snapshots().map(|(name, _)| name.to_owned()).collect();
            let victim = random.choice(known).expect("one was just taken");
            machine.oracle.borrow_mut().set_existence(&victim, Existence::Doubtful);
            if machine.volume.delete(&machine.disks, &snapshot_name(&victim)).await.is_ok() {
                machine.oracle.borrow_mut().remove_snapshot(&victim);
            }
        }
    }
}

fn inspect(volume: &Arc<Volume>, disks: &Disks<SimDisk>, oracle: &mut Oracle, what: &str) -> usize {
    let found = block_on(volume.snapshots());
    let mut exact = 0;
    for snapshot in &found {
        let name = snapshot.name.as_str();
        assert!(oracle.snapshot_sectors(name).is_some(), "{what}: {name} exists and should not");
        oracle.set_existence(name, Existence::Sure);
        if snapshot.broken.is_some() {
            continue;
        }
        let mut content = aligned_buffer((SECTORS * 512) as usize);
        let read = block_on(async {
            let handle = volume.snapshot_handle(disks, &snapshot.name).await?;
            volume.read_snapshot(disks, &handle, 0, &mut content).await
        });
        assert!(read.is_ok(), "{what}: {name} passes for whole and cannot be read: {read:?}");
        assert_eq!(oracle.observe_snapshot(name, 0, &content), Ok(()), "{what}");
        exact += 1;
    }
    let known: Vec<(String, Existence)> = oracle.snapshots().map(|(name, e)| (name.to_owned(), e)).collect();
    for (name, existence) in known {
        if !found.iter().any(|snapshot| snapshot.name.as_str() == name) {
            assert_eq!(existence, Existence::Doubtful, "{what}: {name} is lost");
            oracle.remove_snapshot(&name);
        }
    }
    exact
}

fn random_fault(random: &mut fastrand::Rng) -> Option<Fault> {
    let target = match random.u8(0..6) {
        0 => return None,
        1..=3 => FaultTarget::Write,
        4 => FaultTarget::Read,
        _ => FaultTarget::Flush,
    };
    let times = [1, 1, 2, 3, 5, 9][random.usize(0..6)];
    Some(Fault { times, ..Fault::once(target, random.u64(0..60)) })
}

/// Attaches; `None` where the attach is refused for a reason that other tests judge.
fn attach(disks: &Rc<Disks<SimDisk>>, state: &mut StateDirectory, what: &str) -> Option<Arc<Volume>> {
    for _ in 0..2 {
        let fresh = StateDirectory::default();
        let mut options = open_options(LANES as u16, limits(), &fresh);
        options.broken_elsewhere = state.recorded();
        match block_on(Volume::open(disks, options)) {
            Ok(volume) => {
                *state = fresh;
                disks.store.clear_faults();
                return Some(volume);
            }
            Err(error) if error.kind() == ErrorKind::OriginChanged => return None,
            Err(error) => {
                assert!(disks.store.faults_struck() > 0, "{what}: attach: {error:?}");
                disks.store.clear_faults();
            }
        }
    }
    panic!("{what}: the attach fails without a fault");
}

/// Takes the volume back to some snapshot; the blocks move while the writers run.
fn restore(machine: &Machine, random: &mut fastrand::Rng, round: usize) {
    let mut whole = block_on(machine.volume.snapshots());
    whole.retain(|snapshot| snapshot.broken.is_none());
    let Some(target) = random.choice(whole) else { return };
    let mut content = aligned_buffer((SECTORS * 512) as usize);
    let (before, deadline) = (format!("before{round}"), Deadline::new());
    let holes = block_on(async {
        let handle = machine.volume.snapshot_handle(&machine.disks, &target.name).await.expect("whole");
        machine.volume.read_snapshot(&machine.disks, &handle, 0, &mut content).await.expect("no fault");
        Holes::clone(handle.holes())
    });
    let ticket = machine.oracle.borrow_mut().start_snapshot(&before);
    let (disks, name) = (&machine.disks, snapshot_name(&before));
    let restore = machine.volume.restore(disks, &target.name, &name, snapshot_options(), &deadline);
    let result = block_on(restore);
    let existence = if result.is_ok() { Existence::Sure } else { Existence::Doubtful };
    machine.oracle.borrow_mut().end_snapshot(&before, ticket, Some(existence), true);
    if result.is_ok() {
        let picture = Picture { content: content.to_vec(), holes };
        machine.oracle.borrow_mut().replace_volume(&picture);
    }
}

/// One history; how many snapshots were found exact.
fn history(seed: u64, has_fua: bool) -> usize {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut content = vec![0; (SECTORS * 512) as usize];
    stamp(0, 0, &mut content);
    let store_bytes = if random.u8(0..4) == 0 { 7 << 19 } else { 8 << 20 };
    let origin = SimDisk::new(SimDiskOptions { seed, ..SimDiskOptions::new("origin", SECTORS * 512) });
    let store = SimDisk::new(SimDiskOptions { seed: !seed, has_fua, ..SimDiskOptions::new("store", store_bytes) });
    origin.poke(0, &content);
    let mut disks = Rc::new(Disks { origin, store });
    block_on(create(&disks, &create_options(64 << 10))).expect("create");
    let oracle = Rc::new(RefCell::new(Oracle::new(&content)));
    let mut state = StateDirectory::default();
    let (mut exact, mut last) = (0, Crash::Process);
    for round in 0..4 {
        let what = format!("seed {seed}, round {round}");
        let Some(volume) = attach(&disks, &mut state, &what) else { return exact };
        if round > 0 {
            let mut seen = aligned_buffer((SECTORS * 512) as usize);
            let lane = Lane::new(Arc::clone(&volume), LANES as u16 - 1, Rc::clone(&disks));
            block_on(lane.read(0, &mut seen)).expect("the devices work");
            let verdict = oracle.borrow_mut().observe_volume(&seen, last == Crash::Power);
            assert_eq!(verdict, Ok(()), "{what}, {last:?}");
        }
        exact += inspect(&volume, &disks, &mut oracle.borrow_mut(), &what);
        let lanes = (0..LANES as u16).map(|lane| Lane::new(Arc::clone(&volume), lane, Rc::clone(&disks))).collect();
        let (lent, oracle_lent) = (Rc::clone(&disks), Rc::clone(&oracle));
        let mut machine = Machine { volume, disks: lent, lanes, oracle: oracle_lent, restoring: false };
        if random.u8(0..3) == 0 && machine.volume.restore_progress().is_none() {
            restore(&machine, &mut random, round);
        }
        machine.restoring = machine.volume.restore_progress().is_some();
        let machine = Rc::new(machine);
        if let Some(fault) = random_fault(&mut random) {
            disks.store.inject(fault);
        }
        let mut scheduler = Scheduler::new(random.u64(..));
        scheduler.drive(&disks.origin);
        scheduler.drive(&disks.store);
        for part in 0..4 {
            let lane = part as usize / 2;
            scheduler.spawn("writer", write(Rc::clone(&machine), random.u64(..), lane, part));
        }
        scheduler.spawn("cutter", cut_and_delete(Rc::clone(&machine), random.u64(..), round));
        let worker = Rc::clone(&machine);
        scheduler.spawn("background", async move {
            loop {
                let listener = worker.volume.background_listener();
                match worker.volume.background_step(&worker.lanes[2]).await {
                    Ok(true) => {}
                    _ => listener.await,
                }
            }
        });
        let end = if random.bool() { random.u64(0..1500) } else { 200_000 };
        let mut idle = 0;
        while scheduler.steps() < end && idle < 30 {
            let turn = scheduler.steps();
            if turn % 150 == 149 || !scheduler.step() {
                idle += u32::from(turn % 150 != 149);
                let ticker = Rc::clone(&machine);
                scheduler.spawn("tick", async move {
                    for lane in &ticker.lanes {
                        let _ = lane.tick().await;
                    }
                });
                scheduler.step();
            }
        }
        if end == 200_000 {
            assert!(!scheduler.hanging().contains("writer"), "{what}: these hang: {}", scheduler.hanging());
        }
        let crash = if random.bool() { Crash::Process } else { Crash::Power };
        oracle.borrow_mut().crash(crash);
        let crash_seed = random.u64(..);
        let after =
            Disks { origin: disks.origin.crash(crash_seed, crash), store: disks.store.crash(!crash_seed, crash) };
        scheduler.kill();
        disks = Rc::new(after);
        last = crash;
        if random.u8(0..4) == 0 {
            if let Some(fault) = random_fault(&mut random) {
                disks.store.inject(fault);
            }
        }
    }
    exact
}

#[test]
fn snapshots_are_exact_or_broken_after_transient_store_faults_under_load_and_a_crash() {
    judge(true);
}

#[test]
fn they_are_on_a_store_without_fua_too_where_one_flush_fails_for_everybody() {
    judge(false);
}

fn judge(has_fua: bool) {
    let seeds = std::env::var("CAIRN_REVIEW_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let first = std::env::var("CAIRN_REVIEW_FIRST").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut failed = Vec::new();
    let mut exact = 0;
    for seed in first..first + seeds {
        match std::panic::catch_unwind(|| history(seed, has_fua)) {
            Ok(found) => exact += found,
            Err(_) => failed.push(seed),
        }
    }
    println!("{exact} snapshots read exact");
    assert!(failed.is_empty(), "seeds that fail: {failed:?}");
}
