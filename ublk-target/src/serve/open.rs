//! From a configuration to an open volume: every reason to refuse is looked at before anything is changed.
//!
//! Invariants:
//! - Origin and store are different devices, and neither the store nor what Cairn writes beside it lies on the origin or
//!   on the volume.
//! - Both devices are held exclusively before the store is read.

use crate::broken_log::BrokenMark;
use crate::config::VolumeConfig;
use crate::device::{refuse_recursion, Access, Device};
use crate::own_ring::OwnRing;
use crate::paths::{Paths, VolumePaths};
use crate::process::{boot_id, host_id, now_unix_ms};
use crate::uring_disk::{Ring, UringDisk};
use cairn_engine::disk::Disks;
use cairn_engine::error::{Error, ErrorKind, Result};
use cairn_engine::volume::{Accept, Limits, OpenOptions, Volume};
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;
use uuid::Uuid;

/// How long a successor waits until the kernel has let go of what a killed worker had in flight.
const SUCCESSOR_WAIT_MS: u64 = 60_000;
/// How long anyone waits for a device that another program is only looking at.
const PASSING_WAIT_MS: u64 = 1_000;

/// What the engine gets of a device.
#[cfg(not(feature = "crash-at"))]
pub type ServedDisk<R> = UringDisk<R>;
/// What the engine gets of a device: one whose calls may end this process.
#[cfg(feature = "crash-at")]
pub type ServedDisk<R> = crate::crash_at::CrashAtDisk<UringDisk<R>>;

/// Who a store says it is, for ever.
#[derive(Clone, Copy, Debug)]
pub struct StoreIdentity {
    /// The store.
    pub store_id: Uuid,
    /// The volume it was made for.
    pub volume_id: Uuid,
}

/// The two open devices of a volume; every thread makes its own disks over them.
#[derive(Clone, Debug)]
pub struct Devices {
    /// The real disk.
    pub origin: Arc<Device>,
    /// The store.
    pub store: Arc<Device>,
}

impl Devices {
    /// Opens both, exclusively. `successor`: a killed predecessor may still have I/O in flight.
    pub fn open(config: &VolumeConfig, paths: &Paths, volume: &VolumePaths, successor: bool) -> Result<Devices> {
        refuse_bad_places(config, paths, volume)?;
        let wait_ms = if successor { SUCCESSOR_WAIT_MS } else { PASSING_WAIT_MS };
        let origin = Device::open(&config.origin, Access::Exclusive { wait_ms })?;
        let store = Device::open(&config.store, Access::Exclusive { wait_ms })?;
        let (origin_sector, store_sector) = (origin.limits().sector_bytes, store.limits().sector_bytes);
        tracing::info!(origin = %origin.path().display(), origin_sector, store = %store.path().display(), store_sector,
            "devices are open");
        Ok(Devices { origin, store })
    }

    /// Their open files.
    pub fn files(&self) -> Vec<RawFd> {
        vec![self.origin.raw_fd(), self.store.raw_fd()]
    }

    /// Disks for the calling thread, on its ring.
    pub fn disks<R: Ring + Clone>(&self, ring: R) -> Rc<Disks<ServedDisk<R>>> {
        let store = UringDisk::new(self.store.clone(), ring.for_another_device());
        let origin = UringDisk::new(self.origin.clone(), ring);
        #[cfg(feature = "crash-at")]
        let (origin, store) = (ServedDisk::new(origin, "origin"), ServedDisk::new(store, "store"));
        Rc::new(Disks { origin, store })
    }
}

fn refuse_bad_places(config: &VolumeConfig, paths: &Paths, volume: &VolumePaths) -> Result<()> {
    let link = volume.device_link();
    let origin = config.origin.as_path();
    refuse_recursion("store", &config.store, &[origin, &link])?;
    refuse_recursion("origin", origin, &[config.store.as_path(), &link])?;
    for (what, place) in [("state directory", &paths.state_dir), ("run directory", &paths.run_dir)] {
        refuse_recursion(what, place, &[origin, &link])?;
    }
    Ok(())
}

/// Opens the volume, recovering it where its last process did not close it.
pub async fn open_volume(
    config: &VolumeConfig,
    paths: &Paths,
    volume_paths: &VolumePaths,
    devices: &Devices,
    ring: &OwnRing,
    lanes: u16,
    accept: Accept,
) -> Result<(Arc<Volume>, Rc<Disks<ServedDisk<OwnRing>>>, StoreIdentity)> {
    let disks = devices.disks(ring.clone());
    let identity = identify(config, &disks).await?;
    let mark = BrokenMark::new(volume_paths);
    let options = OpenOptions {
        host_id: host_id(paths)?,
        boot_id: boot_id()?,
        now_unix_ms: now_unix_ms(),
        lanes,
        accept,
        broken_elsewhere: mark.read(),
        broken_log: Box::new(mark.clone()),
        save_deadline: config.save_deadline(),
        limits: Limits::default(),
    };
    let found = options.broken_elsewhere.clone();
    let volume = Volume::open(&disks, options).await.map_err(|error| with_devices(error, config))?;
    // Not what was recorded only now, because the store failed once more.
    if found.is_some() && mark.read() == found {
        mark.remove();
    }
    Ok((volume, disks, identity))
}

/// The store a volume was configured with may have been replaced by another volume's.
async fn identify(config: &VolumeConfig, disks: &Disks<ServedDisk<OwnRing>>) -> Result<StoreIdentity> {
    let info = cairn_engine::volume::inspect(&disks.store).await.map_err(|error| with_devices(error, config))?;
    let store_id = Uuid::from_bytes(info.superblock.store_id);
    let identity = StoreIdentity { store_id, volume_id: Uuid::from_bytes(info.superblock.volume_id) };
    let expected = config.store_id.as_deref().unwrap_or_default();
    if config.store_id.is_none() || expected.parse() == Ok(store_id) {
        return Ok(identity);
    }
    Err(Error::new(ErrorKind::WrongOrigin, "attach", config.store.display().to_string()).saying(format!(
        "this store is {store_id}, volume {} was created with {expected}; connect the right one",
        config.name
    )))
}

/// The engine speaks of "origin" and "store"; people know them by path.
fn with_devices(error: Error, config: &VolumeConfig) -> Error {
    let text = error.to_string();
    if text.starts_with("origin:") {
        error.on(config.origin.display().to_string())
    } else if text.starts_with("store:") {
        error.on(config.store.display().to_string())
    } else {
        error
    }
}
