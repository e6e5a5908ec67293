//! The worker: one process that serves one volume, from opening its devices to closing it.
//!
//! The control thread runs the engine's background work, the control API and signals; each ublk queue and NBD have
//! threads of their own. Threads share the volume and nothing else.
//!
//! Invariants:
//! - One worker a volume, held by a lock as long as it lives.
//! - The process ends without unwinding what is in flight: cleanly closed, or killed and recovered by a successor.

mod block_devices;
mod deltas;
mod detach;
mod exports;
mod handler;
mod nbd_thread;
mod open;
mod sight;
mod timekeeper;
mod worker;

use crate::config::{Frontend, VolumeConfig};
use crate::nbd::{unix_uri, ListenOptions, Listeners, Sessions};
use crate::own_ring::{self, OwnRing};
use crate::paths::{Paths, VolumePaths};
use crate::process::{boot_id, prepare_to_serve, InstanceLock, MACHINE_ID};
use crate::readiness::{Readiness, Ready};
use crate::run_state::{unlink_device, RunState};
use crate::stats::{CutClock, Stats};
use crate::stop::stop_switch;
use crate::supervise::{EXIT_DETACHED, EXIT_REFUSED};
use crate::ublk::{control, features};
use crate::unix_socket::PrivateListener;
use block_devices::{is_adoptable, sweep_added, BlockDevices, LANES_BEFORE_QUEUES};
use cairn_engine::error::{Error, ErrorKind, Result};
use cairn_engine::lane::Lane;
use cairn_engine::volume::Accept;
use nbd_thread::NbdService;
use open::{open_volume, Devices};
use std::rc::Rc;
use std::sync::Arc;
use worker::Worker;

/// The lane of the control thread.
const CONTROL_LANE: u16 = 0;
/// The lane of the NBD thread.
const NBD_LANE: u16 = 1;

/// How a worker is started.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// The directories.
    pub paths: Paths,
    /// The volume, as configured, with what the command line overrides.
    pub config: VolumeConfig,
    /// A predecessor was killed.
    pub recover: bool,
    /// What the owner accepts.
    pub accept: Accept,
}

/// Serves the volume until it is detached. Announces readiness on standard output. The process's exit code.
pub fn serve(options: ServeOptions) -> i32 {
    let served = own_ring::run(async |ring: OwnRing| match start(&options, ring).await {
        Ok((worker, control, ready)) => {
            Readiness::Ready(ready).announce();
            worker.run(control).await;
            // Not returned: nothing that is still in flight may be unwound.
            std::process::exit(EXIT_DETACHED)
        }
        Err(error) => {
            tracing::error!("{error}");
            Readiness::failed(&error).announce();
            std::process::exit(exit_code_of(&error, options.recover))
        }
    });
    let error = Error::new(ErrorKind::Io, "serve", options.config.name).saying("io_uring cannot be used here");
    let error = match served {
        Ok(never) => never,
        Err(source) => error.caused_by(source),
    };
    Readiness::failed(&error).announce();
    EXIT_REFUSED
}

/// A successor tries again whatever happened, because filesystems are waiting for it; but not when another worker has
/// the volume.
fn exit_code_of(error: &Error, recover: bool) -> i32 {
    if recover && error.kind() != ErrorKind::Busy {
        return 1;
    }
    EXIT_REFUSED
}

async fn start(options: &ServeOptions, ring: OwnRing) -> Result<(Rc<Worker>, PrivateListener, Ready)> {
    let config = &options.config;
    let volume_paths = options.paths.volume(&config.name)?;
    let lock = InstanceLock::take_soon(&volume_paths.instance_lock(), "a target of this volume")?;
    prepare_to_serve();
    let boot_id = boot_id()?;
    let left = RunState::load(&volume_paths, boot_id);
    let left_device = left.as_ref().and_then(|left| left.volume_device).filter(|id| is_adoptable(*id));
    let by_ublk = choose_ublk(config.frontend, left_device.is_some())?;
    let devices = Devices::open(config, &options.paths, &volume_paths, options.recover || left.is_some())?;
    let queues = match left_device {
        Some(id) => control::device_info(id)?.queues,
        None => config.queue_count(),
    };
    let lanes = LANES_BEFORE_QUEUES + if by_ublk { queues } else { 0 };
    let (volume, disks, identity) =
        open_volume(config, &options.paths, &volume_paths, &devices, &ring, lanes, options.accept).await?;
    tracing::info!(volume = config.name, size_bytes = volume.size_bytes(), "the volume is open");

    // What a predecessor left stays recorded until it is adopted or gone: this process may be killed before that.
    let run = left.clone().map_or_else(|| RunState::new(boot_id), RunState::taken_over);
    let stats = Arc::new(Stats::default());
    volume.observe_cuts(Box::new(CutClock(stats.clone())));
    let block_devices = BlockDevices::new(volume_paths.clone(), volume.clone(), devices.clone(), stats.clone(), run);
    let block_devices = Arc::new(block_devices);
    let (stop, stopped) = stop_switch();
    let sessions = Sessions::default();
    let listeners = Listeners::bind(&ListenOptions {
        unix_path: Some(volume_paths.nbd_socket()),
        tcp_address: tcp_address(config)?,
        tls_credentials: config.tls_creds.clone(),
    })?;
    if let Some(address) = listeners.tcp_address() {
        tracing::info!(%address, tls = config.tls_creds.is_some(), "NBD is served over TCP, too");
    }
    let service = NbdService {
        volume: volume.clone(),
        devices: devices.clone(),
        name: config.name.clone(),
        lane: NBD_LANE,
        read_write: !by_ublk,
        listeners,
        sessions: sessions.clone(),
        recorder: stats.recorder(),
        stop: stopped.clone(),
    };
    let last_seen = std::cell::RefCell::new(sight::Sight::of(&volume).await);
    let worker = Rc::new(Worker {
        last_seen,
        config: config.clone(),
        paths: volume_paths.clone(),
        lane: Rc::new(Lane::new(volume.clone(), CONTROL_LANE, disks.clone())),
        volume,
        disks,
        devices,
        identity,
        block_devices,
        stats,
        by_ublk,
        sessions,
        nbd: std::cell::RefCell::default(),
        stop,
        attached_unix_ms: crate::process::now_unix_ms(),
        background: Default::default(),
        administration: Default::default(),
        _lock: lock,
    });
    // From here on the volume may be written, and saving needs the background work and the time.
    timekeeper::start(worker.volume.clone(), config.save_deadline())?;
    worker.start_background();
    worker.nbd.replace(Some(service.start()?));
    start_block_devices(&worker, left, left_device, queues, config.queue_depth()).await?;
    let control = PrivateListener::bind(&volume_paths.control_socket())?;
    let ready = Ready {
        volume: config.name.clone(),
        device: by_ublk.then(|| volume_paths.device_link()),
        nbd_uri: (!by_ublk).then(|| unix_uri(&volume_paths.nbd_socket(), &config.name)),
        control_socket: volume_paths.control_socket(),
        pid: std::process::id(),
    };
    Ok((worker, control, ready))
}

/// Which frontend serves the volume read-write.
fn choose_ublk(frontend: Frontend, device_waits: bool) -> Result<bool> {
    if frontend == Frontend::Nbd && !device_waits {
        return Ok(false);
    }
    features::load_driver();
    match features::obstacle() {
        None => Ok(true),
        Some(obstacle) if frontend == Frontend::Ublk || device_waits => {
            Err(Error::new(ErrorKind::Invalid, "attach", "ublk").saying(obstacle))
        }
        Some(obstacle) => {
            tracing::warn!("{obstacle}; serving over NBD");
            Ok(false)
        }
    }
}

fn tcp_address(config: &VolumeConfig) -> Result<Option<std::net::SocketAddr>> {
    let Some(text) = &config.nbd_listen else { return Ok(None) };
    text.parse().map(Some).map_err(|source: std::net::AddrParseError| {
        Error::new(ErrorKind::Invalid, "listen", text.clone())
            .saying("this is no address with a port, as in 127.0.0.1:10809")
            .caused_by(source)
    })
}

async fn start_block_devices(
    worker: &Rc<Worker>,
    left: Option<RunState>,
    left_device: Option<u32>,
    queues: u16,
    depth: u16,
) -> Result<()> {
    let mut handles = Vec::new();
    if let Some(left) = &left {
        let recorded: Vec<u32> =
            left.exposed.iter().filter_map(|exposed| exposed.device).chain(left.volume_device).collect();
        let worker_pid = left.worker_pid;
        worker.off_thread(move |_| sweep_added(worker_pid, &recorded)).await;
    }
    worker.off_thread(|devices| devices.record()).await?;
    if let Some(left) = left {
        if let Some(gone) = left.volume_device.filter(|id| Some(*id) != left_device) {
            tracing::error!(device = gone, "the volume's device was stopped while nobody served it; a new one is made");
            worker.off_thread(move |devices| devices.forget_volume(gone)).await?;
        }
        for exposed in left.exposed {
            let handle = match cairn_engine::snapshot::SnapshotName::new(&exposed.snapshot) {
                Ok(name) => worker.volume.snapshot_handle(&worker.disks, &name).await,
                Err(error) => Err(error),
            };
            handles.push((exposed, handle));
        }
    }
    let by_ublk = worker.by_ublk;
    let link = worker.paths.device_link();
    worker
        .off_thread(move |devices| {
            devices.take_over_exposed(handles);
            if by_ublk {
                return devices.start_volume(left_device, queues, depth);
            }
            unlink_device(&link);
            Ok(())
        })
        .await
}

/// What of a volume's paths a worker needs in its own mount namespace.
pub fn needed_paths<'a>(
    config: &'a VolumeConfig,
    paths: &'a Paths,
    volume: &'a VolumePaths,
) -> Vec<&'a std::path::Path> {
    let identity = std::path::Path::new(MACHINE_ID);
    let mut needed: Vec<&std::path::Path> = vec![
        &config.origin,
        &config.store,
        &paths.state_dir,
        &paths.run_dir,
        &paths.device_dir,
        &volume.run_dir,
        identity,
    ];
    needed.extend(config.tls_creds.as_deref());
    needed
}
