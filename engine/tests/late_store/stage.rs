//! A volume under a seeded scheduler, with a clock that the test moves, a model of what every snapshot holds, and a
//! judge.
//!
//! Invariants:
//! - A block holds one byte value throughout, but where the model does not know it.
//! - Time passes only in `tick`, after everything that can go on has gone on.

use cairn_engine::deadline::Deadline;
use cairn_engine::disk::{aligned_buffer, Disks};
use cairn_engine::error::{ErrorKind, Result};
use cairn_engine::lane::Lane;
use cairn_engine::lateness::{OnLate, SaveDeadline};
use cairn_engine::sim::rig::{create_options, snapshot_name, snapshot_options, Rig, StateDirectory};
use cairn_engine::sim::{block_on, Crash, Fault, FaultTarget, Handle, Scheduler, SimDisk, SimDiskOptions};
use cairn_engine::snapshot::SnapshotHandle;
use cairn_engine::volume::{create, inspect, Limits};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

pub const BLOCK: u64 = 4096;
pub const BLOCKS: u64 = 200;
/// Discarded before the first snapshot.
pub const HOLE: Range<u64> = 150..160;
pub const DEADLINE_MS: u64 = 400;
pub const TICK_MS: u64 = 100;
pub const TICKS: u64 = DEADLINE_MS / TICK_MS;
const STORE_BYTES: u64 = 8 << 20;
/// Fifteen images.
const SEGMENT_BYTES: u32 = 64 << 10;
/// The model does not know what a block holds.
pub const UNKNOWN: u8 = 255;
/// The block is not in use: it holds anything, and reads as zeroes in a snapshot that was reported.
const UNUSED: u8 = 254;
const STEPS_MAX: u64 = 2_000_000;

/// One value a block.
pub type Content = Vec<u8>;

/// What a stage is set up with.
#[derive(Clone)]
pub struct Scene {
    pub on_late: OnLate,
    pub has_fua: bool,
    pub limits: Limits,
    pub state: StateDirectory,
}

impl Scene {
    pub fn new(on_late: OnLate) -> Scene {
        let limits = Limits { reserve_segments: 4, ..Limits::default() };
        Scene { on_late, has_fua: true, limits, state: StateDirectory::default() }
    }
}

pub struct Stage {
    pub rig: Rc<Rig>,
    pub scheduler: Scheduler,
    pub content: Content,
    pub snapshots: BTreeMap<String, Content>,
    told_ms: u64,
    scene: Scene,
    segments_start: u64,
}

impl Stage {
    /// A volume with the snapshot "a", on which nothing is under way.
    pub fn new(seed: u64, scene: Scene) -> Stage {
        let origin = SimDisk::new(SimDiskOptions { seed, ..SimDiskOptions::new("origin", BLOCKS * BLOCK) });
        let store = SimDiskOptions { seed, has_fua: scene.has_fua, ..SimDiskOptions::new("store", STORE_BYTES) };
        let disks = Disks { origin, store: SimDisk::new(store) };
        block_on(create(&disks, &create_options(SEGMENT_BYTES))).expect("no fault");
        let segments_start = block_on(inspect(&disks.store)).expect("a store").superblock.geometry.segments_base_bytes;
        let rig = attach(disks, &scene);
        rig.write(0, (BLOCKS * BLOCK) as usize, 1).expect("no fault");
        block_on(rig.lane.discard(HOLE.start * BLOCK, (HOLE.end - HOLE.start) * BLOCK)).expect("no fault");
        let mut content = vec![1; BLOCKS as usize];
        content[HOLE.start as usize..HOLE.end as usize].fill(UNUSED);
        let scheduler = Scheduler::new(seed);
        let rig = Rc::new(rig);
        let mut stage =
            Stage { rig, scheduler, content, snapshots: BTreeMap::new(), told_ms: 0, scene, segments_start };
        stage.snapshot_at_once("a");
        stage.rig.volume.keep_time(0);
        stage
    }

    /// The same with a write under way that waits for the segments, which take nothing.
    pub fn late(seed: u64, scene: Scene) -> (Stage, Handle<Result<()>>) {
        let mut stage = Stage::new(seed, scene);
        stage.begin();
        stage.stall_segments();
        let late = stage.write(40..41, 2);
        (stage, late)
    }

    /// Takes a snapshot while requests complete at once.
    pub fn snapshot_at_once(&mut self, name: &str) {
        self.rig.snapshot(name).expect("no fault");
        self.rig.work().expect("no fault");
        self.snapshots.insert(name.to_owned(), self.content_of_snapshot());
    }

    /// What a snapshot holds that is taken now: in holes zeroes.
    pub fn content_of_snapshot(&self) -> Content {
        self.content.iter().map(|value| if *value == UNUSED { 0 } else { *value }).collect()
    }

    /// What a snapshot holds that was cut when nothing had been written yet, and of which nobody was told.
    pub fn content_unreported(&self) -> Content {
        self.snapshots["a"].iter().map(|value| if *value == 0 { UNKNOWN } else { *value }).collect()
    }

    /// The same of a snapshot that is cut now.
    pub fn content_unreported_now(&self) -> Content {
        self.content.iter().map(|value| if *value == UNUSED { UNKNOWN } else { *value }).collect()
    }

    /// From here on requests take time, and what requests leave behind is gone on with.
    pub fn begin(&mut self) {
        self.scheduler.drive(&self.rig.disks.origin);
        self.scheduler.drive(&self.rig.disks.store);
        let rig = Rc::clone(&self.rig);
        self.scheduler.spawn("errands", async move { rig.lane.run_errands().await });
        let rig = Rc::clone(&self.rig);
        self.scheduler.spawn("errands of control", async move { rig.control.run_errands().await });
    }

    /// From here on there is background work.
    pub fn work(&mut self) {
        let rig = Rc::clone(&self.rig);
        self.scheduler.spawn("background", async move {
            loop {
                let more = rig.volume.background_listener();
                if !matches!(rig.volume.background_step(&rig.control).await, Ok(true)) {
                    more.await;
                }
            }
        });
    }

    /// Everything goes on as far as it can.
    pub fn go(&mut self) {
        let began = self.scheduler.steps();
        while self.scheduler.step() {
            assert!(self.scheduler.steps() - began < STEPS_MAX, "it never comes to rest: {}", self.scheduler.hanging());
        }
    }

    /// So many steps are made, if there are so many.
    pub fn steps(&mut self, count: usize) {
        for _ in 0..count {
            if !self.scheduler.step() {
                return;
            }
        }
    }

    /// A tick passes, and everything goes on.
    pub fn tick(&mut self) {
        self.tell();
        self.go();
    }

    /// A tick passes.
    pub fn tell(&mut self) {
        self.told_ms += TICK_MS;
        self.rig.volume.keep_time(self.told_ms);
    }

    /// Lanes do their housekeeping.
    pub fn keep_house(&mut self) {
        for control in [false, true] {
            let rig = Rc::clone(&self.rig);
            self.scheduler.spawn("tick", async move { lane(&rig, control).tick().await });
        }
        self.go();
    }

    /// Writes each block of a range, one after the other.
    pub fn write(&mut self, blocks: Range<u64>, value: u8) -> Handle<Result<()>> {
        self.write_by(false, blocks, value)
    }

    /// The same, by the lane of background work if `control`.
    pub fn write_by(&mut self, control: bool, blocks: Range<u64>, value: u8) -> Handle<Result<()>> {
        self.content[blocks.start as usize..blocks.end as usize].fill(value);
        let rig = Rc::clone(&self.rig);
        self.scheduler.spawn(format!("write {blocks:?}"), async move {
            for block in blocks {
                let mut data = aligned_buffer(BLOCK as usize);
                data.fill(value);
                lane(&rig, control).write(block * BLOCK, &data, false).await?;
            }
            Ok(())
        })
    }

    /// Takes a snapshot.
    pub fn snapshot(&mut self, name: &'static str) -> Handle<Result<()>> {
        let rig = Rc::clone(&self.rig);
        self.scheduler.spawn(format!("snapshot {name}"), async move {
            let (name, deadline) = (snapshot_name(name), Deadline::new());
            rig.volume.snapshot(&rig.disks, &name, snapshot_options(), &deadline).await.map(drop)
        })
    }

    /// Reads a snapshot whole, one value a block.
    pub fn read(&mut self, handle: SnapshotHandle) -> Handle<Result<Content>> {
        let rig = Rc::clone(&self.rig);
        self.scheduler.spawn("read", async move {
            let mut buffer = aligned_buffer((BLOCKS * BLOCK) as usize);
            rig.volume.read_snapshot(&rig.disks, &handle, 0, &mut buffer).await?;
            Ok(values(&buffer))
        })
    }

    pub fn handle(&self, name: &str) -> SnapshotHandle {
        block_on(self.rig.volume.snapshot_handle(&self.rig.disks, &snapshot_name(name))).expect("it is whole")
    }

    /// The catalog takes nothing from the `from`-th write on.
    pub fn stall_catalog(&self, from: u64) {
        self.rig.disks.store.inject(Fault::stall(FaultTarget::Write, from).within(0..self.segments_start));
    }

    /// The segments take nothing.
    pub fn stall_segments(&self) {
        let fault = Fault::stall(FaultTarget::Write, 0);
        self.rig.disks.store.inject(fault.within(self.segments_start..STORE_BYTES));
    }

    /// The segments fail.
    pub fn fail_segments(&self) {
        let fault = Fault::persistent(FaultTarget::Write, 0);
        self.rig.disks.store.inject(fault.within(self.segments_start..STORE_BYTES));
    }

    /// The machine stops now, and its devices are attached again. This stage goes on as if nothing had happened.
    pub fn recovered(&self, seed: u64, crash: Crash) -> Rig {
        let disks =
            Disks { origin: self.rig.disks.origin.crash(seed, crash), store: self.rig.disks.store.crash(!seed, crash) };
        let state = StateDirectory::default();
        if let Some(recorded) = self.rig.state.recorded() {
            assert!(cairn_engine::volume::BrokenLog::record(&state, &recorded));
        }
        attach(disks, &Scene { state, ..self.scene.clone() })
    }

    /// Every snapshot is exact or broken; gives the whole ones. After the end of a process the volume is as it was,
    /// too.
    pub fn judge(&self, rig: &Rig, crash: Crash) -> Vec<String> {
        let mut whole = Vec::new();
        for snapshot in block_on(rig.volume.snapshots()) {
            let name = snapshot.name.to_string();
            if snapshot.broken.is_some() {
                let error = rig.read_snapshot(&name, 0, BLOCK as usize).expect_err("it is broken");
                assert_eq!(error.kind(), ErrorKind::Broken);
                continue;
            }
            let expected = self.snapshots.get(&name).unwrap_or_else(|| panic!("{name} is whole, and must not be"));
            let found = values(&rig.read_snapshot(&name, 0, (BLOCKS * BLOCK) as usize).expect("it is whole"));
            assert_eq!(first_difference(&found, expected), None, "snapshot {name}");
            whole.push(name);
        }
        if crash == Crash::Process {
            let found = values(&rig.read(0, (BLOCKS * BLOCK) as usize).expect("no fault"));
            assert_eq!(first_difference(&found, &self.content), None, "the volume");
        }
        whole
    }

    /// After the end of the process these snapshots are whole, and exact, and no others.
    pub fn judge_after_crash(&self, seed: u64, whole: &[&str]) {
        let rig = self.recovered(seed, Crash::Process);
        assert_eq!(self.judge(&rig, Crash::Process), whole, "seed {seed}");
    }

    /// The store works again, and background work goes on.
    pub fn release(&mut self) {
        self.rig.disks.store.release();
        self.work();
        self.go();
    }

    /// The store works again: everything is finished, and what is taken from here on is exact.
    pub fn release_and_judge(&mut self, expected: &[&str]) {
        self.rig.disks.store.release();
        self.rig.disks.store.clear_faults();
        self.work();
        self.go();
        self.keep_house();
        assert_eq!(self.rig.volume.lateness().given_up, None, "the store was taken back");
        assert!(!self.rig.lane.has_errands() && !self.rig.control.has_errands());
        let recorded = self.rig.state.recorded();
        assert!(recorded.is_none() || recorded.is_some_and(|left| left.through.0 == 0), "the mark is gone");
        let cut = self.snapshot("after");
        self.scheduler.run_until(&cut).expect("the store works");
        self.snapshots.insert("after".to_owned(), self.content_of_snapshot());
        let writes = [self.write(20..60, 9), self.write_by(true, HOLE.start + 5..HOLE.end + 5, 9), self.write(0..1, 9)];
        writes.iter().for_each(|write| self.scheduler.run_until(write).expect("the store works"));
        self.go();
        for (seed, crash) in [(1, Crash::Process), (2, Crash::Power), (3, Crash::Power)] {
            let rig = self.recovered(seed, crash);
            let whole = self.judge(&rig, crash);
            let all: Vec<&str> = expected.iter().copied().chain(["after"]).collect();
            for name in &all {
                assert!(whole.iter().any(|one| one == name), "{name} is whole after {crash:?}: {whole:?}");
            }
            assert_eq!(whole.len(), all.len(), "{whole:?}");
        }
    }
}

/// What is under way ends with the machine: nobody finds it half-done.
impl Drop for Stage {
    fn drop(&mut self) {
        std::mem::replace(&mut self.scheduler, Scheduler::new(0)).kill();
    }
}

fn lane(rig: &Rig, control: bool) -> &Lane<SimDisk> {
    if control {
        &rig.control
    } else {
        &rig.lane
    }
}

fn attach(disks: Disks<SimDisk>, scene: &Scene) -> Rig {
    let deadline = SaveDeadline { deadline_ms: DEADLINE_MS, on_late: scene.on_late };
    Rig::attach_with(disks, scene.limits, scene.state.clone(), deadline).expect("it can be attached")
}

/// One value a block; unknown where it holds several.
fn values(content: &[u8]) -> Content {
    let value = |block: &[u8]| if block.iter().all(|byte| *byte == block[0]) { block[0] } else { UNKNOWN };
    content.chunks(BLOCK as usize).map(value).collect()
}

fn first_difference(found: &[u8], expected: &[u8]) -> Option<String> {
    let is_known = |block: usize| expected[block] != UNKNOWN && expected[block] != UNUSED;
    let differs = |block: &usize| is_known(*block) && found[*block] != expected[*block];
    let block = (0..expected.len()).find(differs)?;
    Some(format!("block {block} holds {}, not {}", found[block], expected[block]))
}
