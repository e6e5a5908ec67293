//! The NBD server on a thread of its own, with its own runtime, ring, disks and lane.
//!
//! Invariants:
//! - The volume is offered only where NBD is its one read-write frontend; snapshots always are.

use super::exports::{SnapshotExport, VolumeExport};
use super::open::Devices;
use crate::nbd::{serve, Export, ExportSource, Listeners, Sessions};
use crate::own_ring::{self, OwnRing, RingDisk};
use crate::stop::Stop;
use cairn_engine::disk::Disks;
use cairn_engine::error::{Error, ErrorKind, Result};
use cairn_engine::lane::Lane;
use cairn_engine::snapshot::SnapshotName;
use cairn_engine::volume::Volume;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// What the thread serves.
pub struct NbdService {
    /// The volume.
    pub volume: Arc<Volume>,
    /// Its devices.
    pub devices: Devices,
    /// Its name.
    pub name: String,
    /// The lane of this thread.
    pub lane: u16,
    /// Whether the volume itself is exported.
    pub read_write: bool,
    /// Where to listen.
    pub listeners: Listeners,
    /// Where clients are counted.
    pub sessions: Sessions,
    /// Ends the service.
    pub stop: Stop,
}

impl NbdService {
    /// Starts the thread.
    pub fn start(self) -> Result<JoinHandle<()>> {
        let failed = |source: std::io::Error| Error::new(ErrorKind::Io, "start", "NBD").caused_by(source);
        std::thread::Builder::new().name("nbd".to_owned()).spawn(move || self.run()).map_err(failed)
    }

    fn run(self) {
        let served = own_ring::run(async |ring: OwnRing| {
            let disks = self.devices.disks(ring);
            let lane = Rc::new(Lane::new(self.volume.clone(), self.lane, disks.clone()));
            let source = Rc::new(Source {
                volume: self.volume,
                disks,
                lane: lane.clone(),
                name: self.name,
                read_write: self.read_write,
            });
            let serving = serve(source, self.listeners, self.sessions, self.stop.clone());
            let (served, ()) = tokio::join!(serving, tick(lane, self.stop));
            served
        });
        match served {
            Ok(Ok(())) => {}
            Ok(Err(error)) => panic!("the NBD server failed: {error}"),
            Err(error) => panic!("the NBD server has no ring: {error}"),
        }
    }
}

/// Housekeeping of the lane, once a second; never interrupted in the middle.
async fn tick(lane: Rc<Lane<RingDisk>>, stop: Stop) {
    loop {
        tokio::select! {
            () = stop.raised() => return,
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
        if let Err(error) = lane.tick().await {
            tracing::warn!(%error, "housekeeping of the NBD lane failed");
        }
    }
}

struct Source {
    volume: Arc<Volume>,
    disks: Rc<Disks<RingDisk>>,
    lane: Rc<Lane<RingDisk>>,
    name: String,
    read_write: bool,
}

/// The volume or a snapshot of it.
enum AnyExport {
    Volume(VolumeExport<RingDisk>),
    Snapshot(SnapshotExport<RingDisk>),
}

impl ExportSource for Source {
    type Export = AnyExport;

    async fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        if self.read_write {
            names.push(self.name.clone());
        }
        let snapshots = self.volume.snapshots().await;
        let whole = snapshots.iter().filter(|snapshot| snapshot.broken.is_none());
        names.extend(whole.map(|snapshot| format!("{}@{}", self.name, snapshot.name)));
        names
    }

    async fn open(&self, name: &str) -> Result<Rc<AnyExport>> {
        let unknown = || {
            Error::new(ErrorKind::NotFound, "open", name)
                .saying(format!("there is no such export; this is volume {}", self.name))
        };
        let (volume, snapshot) = match name.split_once('@') {
            Some((volume, snapshot)) => (volume, Some(snapshot)),
            None => (name, None),
        };
        if volume != self.name && !(volume.is_empty() && snapshot.is_none()) {
            return Err(unknown());
        }
        let Some(snapshot) = snapshot else {
            if !self.read_write {
                return Err(Error::new(ErrorKind::Busy, "open", name)
                    .saying("the volume is served as a block device; only its snapshots are exported"));
            }
            return Ok(Rc::new(AnyExport::Volume(VolumeExport::new(self.lane.clone()))));
        };
        let handle = self.volume.snapshot_handle(&SnapshotName::new(snapshot)?).await?;
        let export = SnapshotExport::new(self.volume.clone(), self.disks.clone(), handle);
        Ok(Rc::new(AnyExport::Snapshot(export)))
    }
}

impl Export for AnyExport {
    fn size_bytes(&self) -> u64 {
        match self {
            AnyExport::Volume(export) => export.size_bytes(),
            AnyExport::Snapshot(export) => export.size_bytes(),
        }
    }

    fn sector_bytes(&self) -> u32 {
        match self {
            AnyExport::Volume(export) => export.sector_bytes(),
            AnyExport::Snapshot(export) => export.sector_bytes(),
        }
    }

    fn read_only(&self) -> bool {
        matches!(self, AnyExport::Snapshot(_))
    }

    fn can_discard(&self) -> bool {
        match self {
            AnyExport::Volume(export) => export.can_discard(),
            AnyExport::Snapshot(export) => export.can_discard(),
        }
    }

    async fn read(&self, offset_bytes: u64, buffer: &mut [u8]) -> Result<()> {
        match self {
            AnyExport::Volume(export) => export.read(offset_bytes, buffer).await,
            AnyExport::Snapshot(export) => export.read(offset_bytes, buffer).await,
        }
    }

    async fn write(&self, offset_bytes: u64, data: &[u8], durable: bool) -> Result<()> {
        match self {
            AnyExport::Volume(export) => export.write(offset_bytes, data, durable).await,
            AnyExport::Snapshot(export) => export.write(offset_bytes, data, durable).await,
        }
    }

    async fn write_zeroes(&self, offset_bytes: u64, length_bytes: u64, durable: bool, may_unmap: bool) -> Result<()> {
        match self {
            AnyExport::Volume(export) => export.write_zeroes(offset_bytes, length_bytes, durable, may_unmap).await,
            AnyExport::Snapshot(export) => export.write_zeroes(offset_bytes, length_bytes, durable, may_unmap).await,
        }
    }

    async fn discard(&self, offset_bytes: u64, length_bytes: u64) -> Result<()> {
        match self {
            AnyExport::Volume(export) => export.discard(offset_bytes, length_bytes).await,
            AnyExport::Snapshot(export) => export.discard(offset_bytes, length_bytes).await,
        }
    }

    async fn flush(&self) -> Result<()> {
        match self {
            AnyExport::Volume(export) => export.flush().await,
            AnyExport::Snapshot(export) => export.flush().await,
        }
    }
}
