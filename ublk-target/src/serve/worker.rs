//! The control thread of a worker: background work, control API, signals.
//!
//! Invariants:
//! - Background work has one caller at a time; closing the volume waits for it.
//! - What changes devices or ends the attachment runs one at a time.

use super::block_devices::BlockDevices;
use super::open::{Devices, ServedDisk, StoreIdentity};
use super::sight::Sight;
use crate::config::VolumeConfig;
use crate::control;
use crate::nbd::Sessions;
use crate::own_ring::OwnRing;
use crate::paths::VolumePaths;
use crate::process::InstanceLock;
use crate::stats::Stats;
use crate::stop::StopSwitch;
use crate::unix_socket::PrivateListener;
use cairn_engine::disk::Disks;
use cairn_engine::lane::Lane;
use cairn_engine::volume::Volume;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::signal::unix::{signal, SignalKind};

/// Everything the control thread has.
pub(super) struct Worker {
    pub config: VolumeConfig,
    pub paths: VolumePaths,
    pub volume: Arc<Volume>,
    pub disks: Rc<Disks<ServedDisk<OwnRing>>>,
    pub lane: Rc<Lane<ServedDisk<OwnRing>>>,
    pub devices: Devices,
    pub identity: StoreIdentity,
    pub block_devices: Arc<BlockDevices>,
    pub stats: Arc<Stats>,
    pub by_ublk: bool,
    pub sessions: Sessions,
    pub nbd: RefCell<Option<JoinHandle<()>>>,
    pub stop: StopSwitch,
    pub attached_unix_ms: u64,
    /// What the ledger said last: it cannot be asked while its holder waits for the store.
    pub last_seen: RefCell<Sight>,
    /// Held during each step of background work.
    pub background: tokio::sync::Mutex<()>,
    /// Held by what starts or stops devices, restores, or ends the attachment.
    pub administration: tokio::sync::Mutex<()>,
    pub _lock: InstanceLock,
}

impl Worker {
    /// Serves until the volume is detached.
    pub async fn run(self: Rc<Self>, listener: PrivateListener) {
        tokio::task::spawn_local(self.clone().obey_signals());
        let stopped = self.stop.view();
        if let Err(error) = control::serve(self.clone(), listener, stopped.clone()).await {
            tracing::error!(%error, "the control API ended; the volume is served without it");
            stopped.raised().await;
        }
        let nbd = self.nbd.borrow_mut().take();
        if let Some(nbd) = nbd {
            // Its clients were counted as gone before the volume was closed.
            let _ = tokio::task::spawn_blocking(move || nbd.join()).await;
        }
    }

    /// Starts what runs beside the requests, for as long as the process lives.
    pub fn start_background(self: &Rc<Self>) {
        tokio::task::spawn_local(self.clone().work_in_background());
        tokio::task::spawn_local(self.clone().tick());
        let lane = self.lane.clone();
        tokio::task::spawn_local(async move { lane.run_errands().await });
    }

    async fn work_in_background(self: Rc<Self>) {
        loop {
            let more = self.volume.background_listener();
            let step = {
                let _one_at_a_time = self.background.lock().await;
                self.volume.background_step(&self.lane).await
            };
            match step {
                Ok(true) => tokio::task::yield_now().await,
                Ok(false) => more.await,
                // The engine has said so already.
                Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
            }
        }
    }

    async fn tick(self: Rc<Self>) {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if let Err(error) = self.lane.tick().await {
                tracing::warn!(%error, "housekeeping of the control lane failed");
            }
        }
    }

    /// A request to end is a request to detach: done when nobody uses the volume, refused otherwise.
    async fn obey_signals(self: Rc<Self>) {
        let mut terminate = signal(SignalKind::terminate()).expect("signals can be listened to");
        let mut interrupt = signal(SignalKind::interrupt()).expect("signals can be listened to");
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            match self.detach().await {
                Ok(()) => return self.stop.raise(),
                Err(error) => tracing::error!(%error, "asked to end, but the volume stays attached"),
            }
        }
    }

    /// Runs what blocks, and concerns block devices, beside this thread.
    pub async fn off_thread<T: Send + 'static>(&self, work: impl FnOnce(&BlockDevices) -> T + Send + 'static) -> T {
        let devices = self.block_devices.clone();
        tokio::task::spawn_blocking(move || work(&devices)).await.expect("a panic ends the process")
    }
}
