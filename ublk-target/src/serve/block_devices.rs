//! What is shown of a volume beside its NBD exports: its own ublk device, and its exposed snapshots; started, adopted
//! from a killed predecessor, stopped.
//!
//! Invariants:
//! - A device is in the run state before anybody can open it, so that a successor finds whatever may be in use.
//! - An exposed snapshot is kept from being deleted, whether it has a device or, without ublk, its NBD export only.
//! - A scratch device is not adopted: its overlay died with its worker. It is removed, and its users see errors.

use super::open::{Devices, ServedDisk};
use crate::device::Limits;
use crate::nbd::{SnapshotExport, VolumeExport};
use crate::paths::VolumePaths;
use crate::run_state::{link_device, unlink_device, Exposed, RunState};
use crate::scratch::{create_overlay, ScratchExport};
use crate::stats::Stats;
use crate::ublk::control::{self, DeviceState};
use crate::ublk::service::ServiceFactory;
use crate::ublk::{Options, Origin, QueueDisk, QueueRing, Refused, Shape, UblkDevice};
use cairn_engine::error::{Error, ErrorKind, Result};
use cairn_engine::lane::Lane;
use cairn_engine::snapshot::{SnapshotHandle, SnapshotName};
use cairn_engine::volume::Volume;
use libublk::UblkError;
use std::collections::BTreeMap;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

/// Requests a snapshot's device holds.
const SNAPSHOT_DEPTH: u16 = 64;
/// Largest write-zeroes a scratch device takes at once.
const SCRATCH_ZEROES_BYTES_MAX: u64 = 1 << 20;

/// Lanes used by others than queue threads: the control thread's and NBD's.
pub const LANES_BEFORE_QUEUES: u16 = 2;

struct VolumeFactory {
    volume: Arc<Volume>,
    devices: Devices,
    stats: Arc<Stats>,
}

impl ServiceFactory for VolumeFactory {
    type Service = VolumeExport<ServedDisk<QueueRing>>;

    fn files(&self) -> Vec<RawFd> {
        self.devices.files()
    }

    fn make(&self, queue: u16, ring: QueueRing) -> std::result::Result<Self::Service, UblkError> {
        let lane = Lane::new(self.volume.clone(), LANES_BEFORE_QUEUES + queue, self.devices.disks(ring));
        Ok(VolumeExport::new(Rc::new(lane), self.stats.recorder()))
    }
}

struct SnapshotFactory {
    volume: Arc<Volume>,
    devices: Devices,
    handle: SnapshotHandle,
    stats: Arc<Stats>,
}

impl ServiceFactory for SnapshotFactory {
    type Service = SnapshotExport<ServedDisk<QueueRing>>;

    fn files(&self) -> Vec<RawFd> {
        self.devices.files()
    }

    fn make(&self, _queue: u16, ring: QueueRing) -> std::result::Result<Self::Service, UblkError> {
        let disks = self.devices.disks(ring);
        Ok(SnapshotExport::new(self.volume.clone(), disks, self.handle.clone(), self.stats.recorder()))
    }
}

struct ScratchFactory {
    below: SnapshotFactory,
    overlay: Arc<crate::device::Device>,
}

impl ServiceFactory for ScratchFactory {
    type Service = ScratchExport<SnapshotExport<ServedDisk<QueueRing>>, QueueDisk>;

    fn files(&self) -> Vec<RawFd> {
        let mut files = self.below.files();
        files.push(self.overlay.raw_fd());
        files
    }

    fn make(&self, queue: u16, ring: QueueRing) -> std::result::Result<Self::Service, UblkError> {
        assert_eq!(queue, 0, "a scratch device has one queue, which owns the overlay");
        Ok(ScratchExport::new(self.below.make(queue, ring.clone())?, QueueDisk::new(self.overlay.clone(), ring)))
    }
}

/// What shows a snapshot.
struct Exposure {
    /// None: its NBD export, which is always there.
    device: Option<UblkDevice>,
    /// Keeps the snapshot.
    _handle: SnapshotHandle,
}

/// All ublk devices of one volume. Its calls block: they are made off the control thread.
pub struct BlockDevices {
    paths: VolumePaths,
    volume: Arc<Volume>,
    devices: Devices,
    stats: Arc<Stats>,
    state: Mutex<State>,
}

struct State {
    run: RunState,
    volume: Option<UblkDevice>,
    exposures: BTreeMap<String, Exposure>,
}

impl BlockDevices {
    /// None yet. `run` is what is recorded from here on.
    pub fn new(
        paths: VolumePaths,
        volume: Arc<Volume>,
        devices: Devices,
        stats: Arc<Stats>,
        run: RunState,
    ) -> BlockDevices {
        let state = State { run, volume: None, exposures: BTreeMap::new() };
        BlockDevices { paths, volume, devices, stats, state: Mutex::new(state) }
    }

    /// Writes the run state, so that a successor knows this process and what it is responsible for.
    pub fn record(&self) -> Result<()> {
        self.lock().run.save(&self.paths)
    }

    /// Gives up a device of the volume that a predecessor left and that cannot be adopted.
    pub fn forget_volume(&self, left: u32) -> Result<()> {
        remove_orphan(left);
        let mut state = self.lock();
        state.run.volume_device = None;
        state.run.save(&self.paths)
    }

    /// Serves the volume as a block device, by the one a predecessor left, where it did.
    pub fn start_volume(&self, left: Option<u32>, queues: u16, depth: u16) -> Result<()> {
        let mut state = self.lock();
        assert!(state.volume.is_none(), "a volume has one block device");
        let shape = Shape {
            size_bytes: self.volume.size_bytes(),
            limits: self.devices.origin.limits().of_volume(),
            read_only: false,
        };
        let origin = left.map_or(Origin::New, Origin::Recover);
        let (volume, devices) = (self.volume.clone(), self.devices.clone());
        let factory = VolumeFactory { volume, devices, stats: self.stats.clone() };
        let run = &mut state.run;
        let device = UblkDevice::start(Options { queues, depth, shape, origin }, factory, |id| {
            run.volume_device = Some(id);
            run.save(&self.paths)
        })?;
        let path = device.path();
        state.volume = Some(device);
        link_device(&self.paths.device_link(), &path)
    }

    /// Adopts or removes what a predecessor exposed.
    pub fn take_over_exposed(&self, left: Vec<(Exposed, Result<SnapshotHandle>)>) {
        for (exposed, handle) in left {
            let Exposed { snapshot, device, scratch } = exposed;
            let adopted = match (handle, device) {
                (Ok(handle), None) => self.expose_over_nbd(&snapshot, handle).map(|()| true),
                (Ok(handle), Some(id)) if !scratch && is_adoptable(id) => {
                    self.start_snapshot(&snapshot, handle, false, Origin::Recover(id)).map(|()| true)
                }
                (Ok(_), Some(_)) => Ok(false),
                (Err(error), _) => Err(error),
            };
            match adopted {
                Ok(true) => tracing::info!(snapshot, device, "an exposed snapshot was adopted"),
                outcome => {
                    let reason = match outcome {
                        Err(error) => error.to_string(),
                        Ok(_) => "its overlay or its device died with the worker".to_owned(),
                    };
                    tracing::error!(snapshot, device, reason, "an exposed snapshot is gone");
                    device.into_iter().for_each(remove_orphan);
                    unlink_device(&self.paths.snapshot_link(&snapshot));
                    self.forget_exposed(&snapshot);
                }
            }
        }
    }

    fn forget_exposed(&self, name: &str) {
        let mut state = self.lock();
        state.run.remove_exposed(name);
        if let Err(error) = state.run.save(&self.paths) {
            tracing::warn!(%error, "the run state still names what is gone; the next worker looks again");
        }
    }

    /// Shows a snapshot as a block device. `Exists` when it is shown already.
    pub fn expose(&self, name: &SnapshotName, handle: SnapshotHandle, scratch: bool) -> Result<()> {
        self.start_snapshot(name.as_str(), handle, scratch, Origin::New)
    }

    /// Records that somebody relies on the NBD export of a snapshot. `Exists` when it is shown already.
    pub fn expose_over_nbd(&self, name: &str, handle: SnapshotHandle) -> Result<()> {
        let mut state = self.lock();
        self.refuse_exposed(&state, name)?;
        state.run.put_exposed(Exposed { snapshot: name.to_owned(), device: None, scratch: false });
        state.run.save(&self.paths)?;
        state.exposures.insert(name.to_owned(), Exposure { device: None, _handle: handle });
        Ok(())
    }

    fn start_snapshot(&self, name: &str, handle: SnapshotHandle, scratch: bool, origin: Origin) -> Result<()> {
        let mut state = self.lock();
        self.refuse_exposed(&state, name)?;
        let size_bytes = handle.size_bytes();
        let limits = snapshot_limits(self.devices.origin.limits(), scratch);
        let shape = Shape { size_bytes, limits, read_only: !scratch };
        let options = Options { queues: 1, depth: SNAPSHOT_DEPTH, shape, origin };
        let (volume, devices) = (self.volume.clone(), self.devices.clone());
        let below = SnapshotFactory { volume, devices, handle: handle.clone(), stats: self.stats.clone() };
        let run = &mut state.run;
        let record = |id| {
            run.put_exposed(Exposed { snapshot: name.to_owned(), device: Some(id), scratch });
            run.save(&self.paths)
        };
        let started = if scratch {
            let forbidden = [self.devices.origin.path(), &self.paths.device_link()];
            crate::device::refuse_recursion("scratch overlay", &self.paths.scratch_dir, &forbidden)?;
            let overlay = create_overlay(&self.paths.scratch_dir, size_bytes)?;
            UblkDevice::start(options, ScratchFactory { below, overlay }, record)
        } else {
            UblkDevice::start(options, below, record)
        };
        let device = match started {
            Ok(device) => device,
            Err(error) => {
                state.run.remove_exposed(name);
                state.run.save(&self.paths)?;
                return Err(error);
            }
        };
        let path = device.path();
        state.exposures.insert(name.to_owned(), Exposure { device: Some(device), _handle: handle });
        link_device(&self.paths.snapshot_link(name), &path)
    }

    fn refuse_exposed(&self, state: &State, name: &str) -> Result<()> {
        let Some(exposure) = state.exposures.get(name) else { return Ok(()) };
        let link = self.paths.snapshot_link(name);
        let shown = if exposure.device.is_some() { link.display().to_string() } else { "its NBD export".to_owned() };
        Err(Error::new(ErrorKind::Exists, "expose", name.to_owned()).saying(format!("it is shown already, as {shown}")))
    }

    /// Ends what shows a snapshot. Refused while anybody uses its device.
    pub fn unexpose(&self, name: &str) -> Result<()> {
        let mut state = self.lock();
        let Some(Exposure { device, _handle }) = state.exposures.remove(name) else {
            return Err(Error::new(ErrorKind::NotFound, "unexpose", name.to_owned()).saying("it is not exposed"));
        };
        if let Some(Err(refused)) = device.map(UblkDevice::stop) {
            let Refused { device, error } = *refused;
            state.exposures.insert(name.to_owned(), Exposure { device: Some(device), _handle });
            return Err(error);
        }
        unlink_device(&self.paths.snapshot_link(name));
        state.run.remove_exposed(name);
        state.run.save(&self.paths)
    }

    /// How a snapshot is exposed; none when it is not.
    pub fn exposure(&self, name: &str) -> Option<Exposed> {
        self.exposed().into_iter().find(|entry| entry.snapshot == name)
    }

    /// Everything that is exposed.
    pub fn exposed(&self) -> Vec<Exposed> {
        self.lock().run.exposed.clone()
    }

    /// Refuses when anybody uses the volume's device or any snapshot's.
    pub fn check_unused(&self, snapshots_too: bool) -> Result<()> {
        let state = self.lock();
        let snapshots = state.exposures.values().filter_map(|shown| shown.device.as_ref()).filter(|_| snapshots_too);
        state.volume.iter().chain(snapshots).try_for_each(UblkDevice::check_unused)
    }

    /// Tells the kernel of the volume's new size; a sentence for people where it cannot be told.
    pub fn grow(&self, size_bytes: u64) -> Result<Option<String>> {
        match &self.lock().volume {
            Some(device) => match device.grow(size_bytes) {
                Ok(()) => Ok(None),
                Err(error) if error.kind() == ErrorKind::Invalid => Ok(Some(error.message().to_owned())),
                Err(error) => Err(error),
            },
            None => Ok(None),
        }
    }

    /// Stops everything. Refused, as far as possible with nothing changed, while anything is in use.
    pub fn stop_all(&self) -> Result<()> {
        self.check_unused(true)?;
        let names: Vec<String> = self.lock().exposures.keys().cloned().collect();
        for name in names {
            self.unexpose(&name)?;
        }
        let mut state = self.lock();
        if let Some(device) = state.volume.take() {
            if let Err(refused) = device.stop() {
                state.volume = Some(refused.device);
                return Err(refused.error);
            }
            unlink_device(&self.paths.device_link());
        }
        RunState::remove(&self.paths);
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("a panic ends the process")
    }
}

fn snapshot_limits(origin: &Limits, scratch: bool) -> Limits {
    let write_zeroes_bytes_max = if scratch { SCRATCH_ZEROES_BYTES_MAX } else { 0 };
    Limits { discard_bytes_max: 0, write_zeroes_bytes_max, ..origin.clone() }
}

/// Whether a device that a predecessor left waits for a successor, or soon will.
pub fn is_adoptable(id: u32) -> bool {
    let info = control::device_info(id);
    info.is_ok_and(|info| matches!(info.state, DeviceState::Quiesced | DeviceState::Live | DeviceState::FailIo))
}

/// Removes what a killed worker had added and not recorded yet: devices without a block device, which nobody can have
/// opened. They carry the mark of the process that added them.
pub fn sweep_added(worker_pid: u32, recorded: &[u32]) {
    for id in control::device_ids() {
        let is_left = |info: control::DeviceInfo| info.state == DeviceState::Dead && info.added_by == Some(worker_pid);
        if !recorded.contains(&id) && control::device_info(id).is_ok_and(is_left) {
            tracing::warn!(device = id, "a killed worker left a device that it had not started; it is removed");
            remove_orphan(id);
        }
    }
}

/// Removes a device that nobody serves and nobody will.
pub fn remove_orphan(id: u32) {
    for result in [control::stop(id), control::delete(id)] {
        if let Err(error) = result {
            if error.kind() != ErrorKind::NotFound {
                tracing::warn!(%error, "a device that a killed worker left could not be removed");
            }
        }
    }
}
