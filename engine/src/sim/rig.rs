//! A volume on two simulated disks, for tests that want one thing after the other.
//!
//! Invariants:
//! - Requests complete at once; nothing is left under way between two calls.

use super::disk::{Crash, SimDisk, SimDiskOptions};
use super::executor::block_on;
use crate::deadline::Deadline;
use crate::disk::{aligned_buffer, Disks};
use crate::error::Result;
use crate::lane::Lane;
use crate::lateness::SaveDeadline;
use crate::snapshot::{BrokenReason, Consistency, Snapshot, SnapshotName, SnapshotOptions};
use crate::volume::{self, Accept, BrokenElsewhere, BrokenLog, CreateOptions, Limits, OpenOptions, Volume};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

type Action = Box<dyn FnOnce() + Send>;

/// Where the simulated machine records what its store cannot.
#[derive(Clone, Default)]
pub struct StateDirectory {
    recorded: Arc<Mutex<Option<BrokenElsewhere>>>,
    failing: Arc<AtomicBool>,
    before_next: Arc<Mutex<Option<Action>>>,
}

impl StateDirectory {
    /// One in which nothing can be recorded.
    pub fn failing() -> StateDirectory {
        let state = StateDirectory::default();
        state.fail();
        state
    }

    /// From now on nothing can be recorded.
    pub fn fail(&self) {
        self.failing.store(true, Ordering::Relaxed);
    }

    /// From now on things can be recorded.
    pub fn repair(&self) {
        self.failing.store(false, Ordering::Relaxed);
    }

    /// What is done before the next thing is recorded.
    pub fn before_next(&self, action: impl FnOnce() + Send + 'static) {
        *self.before_next.lock().expect("no holder of this lock panics") = Some(Box::new(action));
    }

    /// Whether nothing can be recorded.
    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Forgets what was recorded: the store has it.
    pub fn clear(&self) {
        *self.recorded.lock().expect("no holder of this lock panics") = None;
    }

    /// What was recorded last.
    pub fn recorded(&self) -> Option<BrokenElsewhere> {
        self.recorded.lock().expect("no holder of this lock panics").clone()
    }
}

impl BrokenLog for StateDirectory {
    fn record(&self, elsewhere: &BrokenElsewhere) -> bool {
        let action = self.before_next.lock().expect("no holder of this lock panics").take();
        action.into_iter().for_each(|action| action());
        if !self.is_failing() {
            *self.recorded.lock().expect("no holder of this lock panics") = Some(elsewhere.clone());
        }
        !self.is_failing()
    }

    fn clear(&self) {
        StateDirectory::clear(self);
    }
}

/// Options for a store with segments of `segment_bytes`, on the one host that simulations know.
pub fn create_options(segment_bytes: u32) -> CreateOptions {
    CreateOptions {
        granule_blocks: 1,
        store_id: [1; 16],
        volume_id: [2; 16],
        sample_key: [3; 32],
        segment_bytes: Some(segment_bytes),
        store_bytes: None,
        host_id: [4; 16],
        now_unix_ms: 0,
    }
}

/// Options for an attach on that host.
pub fn open_options(lanes: u16, limits: Limits, state: &StateDirectory) -> OpenOptions {
    OpenOptions {
        host_id: [4; 16],
        boot_id: [5; 16],
        now_unix_ms: 0,
        lanes,
        accept: Accept::default(),
        broken_elsewhere: state.recorded(),
        broken_log: Box::new(state.clone()),
        save_deadline: SaveDeadline::default(),
        limits,
    }
}

/// A snapshot name that is known to be legal.
pub fn snapshot_name(name: &str) -> SnapshotName {
    SnapshotName::new(name).expect("a legal name")
}

/// Options for a snapshot: crash-consistent, at the beginning of time.
pub fn snapshot_options() -> SnapshotOptions {
    SnapshotOptions { now_unix_ms: 0, consistency: Consistency::Crash }
}

/// An attached volume with a lane for requests and one for background work.
pub struct Rig {
    /// The devices.
    pub disks: Rc<Disks<SimDisk>>,
    /// The volume.
    pub volume: Arc<Volume>,
    /// The lane for requests.
    pub lane: Lane<SimDisk>,
    /// The lane of background work.
    pub control: Lane<SimDisk>,
    /// The machine's state directory.
    pub state: StateDirectory,
    limits: Limits,
}

impl Rig {
    /// Makes a store and attaches the volume.
    pub fn new(origin: SimDiskOptions, store: SimDiskOptions, segment_bytes: u32, limits: Limits) -> Rig {
        let disks = Disks { origin: SimDisk::new(origin), store: SimDisk::new(store) };
        block_on(volume::create(&disks, &create_options(segment_bytes))).expect("the store is large enough");
        Rig::attach(disks, limits, StateDirectory::default()).expect("a new store can be attached")
    }

    /// Attaches an existing store.
    pub fn attach(disks: Disks<SimDisk>, limits: Limits, state: StateDirectory) -> Result<Rig> {
        Rig::attach_with(disks, limits, state, SaveDeadline::default())
    }

    /// Attaches an existing store whose saves have this deadline.
    pub fn attach_with(
        disks: Disks<SimDisk>,
        limits: Limits,
        state: StateDirectory,
        save_deadline: SaveDeadline,
    ) -> Result<Rig> {
        let disks = Rc::new(disks);
        let options = OpenOptions { save_deadline, ..open_options(2, limits, &state) };
        let volume = block_on(Volume::open(&disks, options))?;
        let lane = Lane::new(Arc::clone(&volume), 0, Rc::clone(&disks));
        let control = Lane::new(Arc::clone(&volume), 1, Rc::clone(&disks));
        Ok(Rig { disks, volume, lane, control, state, limits })
    }

    /// Crashes; gives the devices as they are found afterwards.
    pub fn crash(self, seed: u64, crash: Crash) -> Disks<SimDisk> {
        Disks { origin: self.disks.origin.crash(seed, crash), store: self.disks.store.crash(!seed, crash) }
    }

    /// Crashes and attaches again.
    pub fn recover(self, seed: u64, crash: Crash) -> Result<Rig> {
        let (limits, state) = (self.limits, self.state.clone());
        Rig::attach(self.crash(seed, crash), limits, state)
    }

    /// Writes `length_bytes` times `value`.
    pub fn write(&self, offset_bytes: u64, length_bytes: usize, value: u8) -> Result<()> {
        let mut data = aligned_buffer(length_bytes);
        data.fill(value);
        block_on(self.lane.write(offset_bytes, &data, false))
    }

    /// Reads the volume.
    pub fn read(&self, offset_bytes: u64, length_bytes: usize) -> Result<Vec<u8>> {
        let mut buffer = aligned_buffer(length_bytes);
        block_on(self.lane.read(offset_bytes, &mut buffer))?;
        Ok(buffer.to_vec())
    }

    /// Takes a snapshot.
    pub fn snapshot(&self, name: &str) -> Result<Snapshot> {
        let (name, deadline) = (snapshot_name(name), Deadline::new());
        block_on(self.volume.snapshot(&self.disks, &name, snapshot_options(), &deadline))
    }

    /// Why a snapshot is broken, if it is.
    pub fn snapshot_reason(&self, name: &str) -> Option<BrokenReason> {
        let snapshots = block_on(self.volume.snapshots());
        let snapshot = snapshots.iter().find(|snapshot| snapshot.name.as_str() == name).expect("it exists");
        snapshot.broken.as_ref().map(|(reason, _)| *reason)
    }

    /// Reads a snapshot.
    pub fn read_snapshot(&self, name: &str, offset_bytes: u64, length_bytes: usize) -> Result<Vec<u8>> {
        block_on(async {
            let handle = self.volume.snapshot_handle(&self.disks, &snapshot_name(name)).await?;
            let mut buffer = aligned_buffer(length_bytes);
            self.volume.read_snapshot(&self.disks, &handle, offset_bytes, &mut buffer).await?;
            Ok(buffer.to_vec())
        })
    }

    /// Does all background work there is.
    pub fn work(&self) -> Result<()> {
        block_on(async {
            while self.volume.background_step(&self.control).await? {}
            Ok(())
        })
    }

    /// Starts counting requests anew on both devices.
    pub fn reset_counts(&self) {
        self.disks.origin.reset_counts();
        self.disks.store.reset_counts();
    }
}
