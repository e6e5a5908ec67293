//! One attachment of a volume on simulated disks, as a target runs it: lanes, background work, ticks.
//!
//! Invariants:
//! - Whatever is asked ends within [`STEPS_MAX`] steps of the scheduler, or the run fails: nothing goes round for ever.
//! - Nobody waits for something that no tick brings.

use cairn_engine::disk::{aligned_buffer, Disks};
use cairn_engine::error::{Error, ErrorKind, Result};
use cairn_engine::lane::Lane;
use cairn_engine::signal::Signal;
use cairn_engine::sim::rig::{open_options, snapshot_name, StateDirectory};
use cairn_engine::sim::{Crash, Scheduler, SimDisk};
use cairn_engine::volume::{Accept, CheckOptions, Finding, Limits, Volume};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

/// Steps that anything a target asks for may take; thousands of times what it takes.
const STEPS_MAX: u64 = 1_000_000;
/// Ticks in a row that may bring nothing.
const TICKS_MAX: u32 = 8;
/// Lanes for requests; one more is for the background.
const LANES: u16 = 2;

/// Bounds small enough that a few blocks spill, merge and fill the cache.
pub const LIMITS: Limits = Limits {
    spill_entries: 12,
    entries_max: 48,
    cache_pages: 4,
    reserve_segments: 2,
    restore_step_blocks: 4,
    bitmap_bytes: 1 << 20,
};

/// Origin and store.
pub type Pair = Disks<SimDisk>;

/// A volume that is attached.
pub struct Machine {
    scheduler: Scheduler,
    disks: Rc<Pair>,
    /// The volume.
    pub volume: Arc<Volume>,
    lanes: Rc<Vec<Lane<SimDisk>>>,
    /// Notified by every tick: background work that failed is tried again then.
    ticked: Rc<Signal>,
}

/// The same disks, so that what is done to the copy does not change them.
pub fn copy_of(disks: &Pair) -> Pair {
    Pair { origin: disks.origin.crash(1, Crash::Process), store: disks.store.crash(2, Crash::Process) }
}

impl Machine {
    /// Attaches.
    pub fn attach(disks: Pair, accept: Accept) -> Result<Machine> {
        let mut scheduler = Scheduler::new(7);
        scheduler.drive(&disks.origin);
        scheduler.drive(&disks.store);
        let disks = Rc::new(disks);
        let state = StateDirectory::default();
        let mut options = open_options(LANES + 1, LIMITS, &state);
        options.accept = accept;
        let opened = Rc::clone(&disks);
        let open = scheduler.spawn("open", async move { Volume::open(&opened, options).await });
        for _ in 0..STEPS_MAX {
            if open.is_finished() {
                break;
            }
            assert!(scheduler.step(), "the attach waits and nobody will wake it");
        }
        let volume = open.take().expect("an attach ends within its number of steps")?;
        let lane = |index| Lane::new(Arc::clone(&volume), index, Rc::clone(&disks));
        let lanes = Rc::new((0..=LANES).map(lane).collect::<Vec<_>>());
        let ticked = Rc::new(Signal::default());
        scheduler.spawn("background", work_in_background(Rc::clone(&lanes), Rc::clone(&ticked)));
        Ok(Machine { scheduler, disks, volume, lanes, ticked })
    }

    /// Runs one thing to its end, and whatever else goes on meanwhile.
    pub fn ask<T: 'static>(&mut self, what: &'static str, action: impl Future<Output = T> + 'static) -> T {
        let handle = self.scheduler.spawn(what, action);
        let mut ticks = 0;
        for _ in 0..STEPS_MAX {
            if let Some(output) = handle.take() {
                return output;
            }
            if !self.scheduler.step() {
                ticks += 1;
                assert!(ticks <= TICKS_MAX, "{what} does not end, and these hang: {}", self.scheduler.hanging());
                self.spawn_tick();
            }
        }
        panic!("{what} did not end within {STEPS_MAX} steps");
    }

    fn spawn_tick(&mut self) {
        let (lanes, ticked) = (Rc::clone(&self.lanes), Rc::clone(&self.ticked));
        self.scheduler.spawn("tick", async move {
            ticked.notify();
            for lane in lanes.iter() {
                // A store that fails is no reason to stop ticking.
                let _ = lane.tick().await;
            }
        });
    }

    /// Lets the background do all it finds to do.
    pub fn settle(&mut self) {
        self.spawn_tick();
        for _ in 0..STEPS_MAX {
            if !self.scheduler.step() {
                return;
            }
        }
        panic!("background work did not come to rest within {STEPS_MAX} steps: {}", self.scheduler.hanging());
    }

    /// Writes `length_bytes` times `value`.
    pub fn write(&mut self, lane: usize, offset_bytes: u64, length_bytes: usize, value: u8) -> Result<()> {
        let lanes = Rc::clone(&self.lanes);
        self.ask("write", async move {
            let mut data = aligned_buffer(length_bytes);
            data.fill(value);
            lanes[lane % usize::from(LANES)].write(offset_bytes, &data, false).await
        })
    }

    /// Reads the volume.
    pub fn read(&mut self, offset_bytes: u64, length_bytes: usize) -> Result<Vec<u8>> {
        let lanes = Rc::clone(&self.lanes);
        self.ask("read", async move {
            let mut buffer = aligned_buffer(length_bytes);
            lanes[0].read(offset_bytes, &mut buffer).await?;
            Ok(buffer.to_vec())
        })
    }

    /// Takes a snapshot.
    pub fn snapshot(&mut self, name: &'static str) -> Result<()> {
        let (volume, disks) = (Arc::clone(&self.volume), Rc::clone(&self.disks));
        self.ask("snapshot", async move {
            let (deadline, options) = (Default::default(), cairn_engine::sim::rig::snapshot_options());
            volume.snapshot(&disks, &snapshot_name(name), options, &deadline).await.map(drop)
        })
    }

    /// Deletes a snapshot.
    pub fn delete(&mut self, name: &'static str) -> Result<()> {
        let (volume, disks) = (Arc::clone(&self.volume), Rc::clone(&self.disks));
        self.ask("delete", async move { volume.delete(&disks, &snapshot_name(name)).await })
    }

    /// Begins a restore, and lets it go on for so many steps only.
    pub fn begin_restore(&mut self, name: &'static str, before: &'static str, steps: usize) -> Result<()> {
        let (volume, disks) = (Arc::clone(&self.volume), Rc::clone(&self.disks));
        self.ask("restore", async move {
            let (deadline, options) = (Default::default(), cairn_engine::sim::rig::snapshot_options());
            let (target, before) = (snapshot_name(name), snapshot_name(before));
            volume.restore(&disks, &target, &before, options, &deadline).await.map(drop)
        })?;
        for _ in 0..steps {
            self.scheduler.step();
        }
        Ok(())
    }

    /// Reads part of a snapshot; its size, too.
    pub fn read_snapshot(&mut self, name: &str, offset_bytes: u64, length_max: usize) -> Result<(u64, Vec<u8>)> {
        let (volume, disks, name) = (Arc::clone(&self.volume), Rc::clone(&self.disks), name.to_owned());
        self.ask("read of a snapshot", async move {
            let name = cairn_engine::snapshot::SnapshotName::new(&name)?;
            let handle = volume.snapshot_handle(&disks, &name).await?;
            let length_bytes = handle.size_bytes().saturating_sub(offset_bytes).min(length_max as u64);
            let mut buffer = aligned_buffer(length_bytes as usize);
            volume.read_snapshot(&disks, &handle, offset_bytes, &mut buffer).await?;
            Ok((handle.size_bytes(), buffer.to_vec()))
        })
    }

    /// Names of the snapshots, and why each is broken.
    pub fn snapshots(&mut self) -> Vec<(String, Option<String>)> {
        let volume = Arc::clone(&self.volume);
        self.ask("list", async move {
            let snapshots = volume.snapshots().await;
            let pair = |snapshot: &cairn_engine::snapshot::Snapshot| {
                let reason = snapshot.broken.as_ref().map(|(reason, sentence)| format!("{reason:?}: {sentence}"));
                (snapshot.name.to_string(), reason)
            };
            snapshots.iter().map(pair).collect()
        })
    }

    /// Lets the engine check its store.
    pub fn check(&mut self) -> Result<Vec<Finding>> {
        let (volume, disks) = (Arc::clone(&self.volume), Rc::clone(&self.disks));
        self.ask("check", async move { volume.check(&disks.store, CheckOptions { data: true }).await })
    }

    /// Detaches; gives the disks back, whatever came of it.
    pub fn detach(mut self) -> (Result<()>, Pair) {
        let (volume, disks) = (Arc::clone(&self.volume), Rc::clone(&self.disks));
        let result = self.ask("detach", async move { volume.close(&disks, 0).await });
        (result, self.kill())
    }

    /// The process is killed; gives the disks as they are found then.
    pub fn kill(self) -> Pair {
        let found = copy_of(&self.disks);
        self.scheduler.kill();
        found
    }
}

async fn work_in_background(lanes: Rc<Vec<Lane<SimDisk>>>, ticked: Rc<Signal>) {
    let lane = lanes.last().expect("the last lane is for background work");
    loop {
        let listener = lane.volume().background_listener();
        let next_tick = ticked.listen();
        match lane.volume().background_step(lane).await {
            Ok(true) => {}
            Ok(false) => listener.await,
            Err(_) => next_tick.await,
        }
    }
}

/// Panics where an error is of a kind that damage on a store cannot excuse.
pub fn assert_typed(what: &str, error: &Error) {
    let unexpected = [ErrorKind::Exists, ErrorKind::TimedOut, ErrorKind::Closed];
    assert!(!unexpected.contains(&error.kind()), "{what}: {error:?}");
}
