//! The NBD server on a thread of its own, with its own runtime, ring, disks and lane.
//!
//! Invariants:
//! - The volume is offered only where NBD is its one read-write frontend; snapshots always are.

use super::open::{Devices, ServedDisk};
use crate::nbd::{serve, Listeners, Sessions, VolumeSource};
use crate::own_ring::{self, OwnRing};
use crate::stats::Recorder;
use crate::stop::Stop;
use cairn_engine::error::{Error, ErrorKind, Result};
use cairn_engine::lane::Lane;
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
    /// Where requests are recorded.
    pub recorder: Recorder,
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
            let lane = Rc::new(Lane::new(self.volume, self.lane, disks));
            let source = Rc::new(VolumeSource::new(&self.name, lane.clone(), self.read_write, self.recorder));
            let serving = serve(source, self.listeners, self.sessions, self.stop.clone());
            let (served, (), ()) =
                tokio::join!(serving, tick(lane.clone(), self.stop.clone()), run_errands(lane, self.stop));
            served
        });
        match served {
            Ok(Ok(())) => {}
            Ok(Err(error)) => panic!("the NBD server failed: {error}"),
            Err(error) => panic!("the NBD server has no ring: {error}"),
        }
    }
}

/// Goes on with what requests left behind, to its end.
async fn run_errands(lane: Rc<Lane<ServedDisk<OwnRing>>>, stop: Stop) {
    tokio::select! {
        () = stop.raised() => {}
        _ = lane.run_errands() => {}
    }
    lane.finish_errands().await;
}

/// Housekeeping of the lane, once a second; never interrupted in the middle.
async fn tick(lane: Rc<Lane<ServedDisk<OwnRing>>>, stop: Stop) {
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
