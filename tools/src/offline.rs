//! Works on the devices of a volume that is not attached, through the engine itself (mission X12).
//!
//! Invariants:
//! - What is written is held exclusively for as long as that takes, so that no target can start meanwhile.
//! - The origin is only ever read here.

use crate::context::Context;
use crate::exit::{ExitCode, Failure, Outcome};
use cairn_engine::disk::Disks;
use cairn_engine::error::{Error, Result};
use cairn_engine::snapshot::Snapshot;
use cairn_engine::volume::{self, CheckOptions, CreateOptions, Finding};
use cairn_target::config::VolumeConfig;
use cairn_target::control::api::{CheckReport, FindingReport, Severity, SnapshotList, SnapshotReport};
use cairn_target::device::{refuse_recursion, Access, Device};
use cairn_target::own_ring::{self, OwnRing, RingDisk};
use cairn_target::process::{host_id, now_unix_ms};
use std::future::Future;
use std::path::Path;
use uuid::Uuid;

/// How long to wait for a device that somebody is just closing.
const OPEN_WAIT_MS: u64 = 2000;

/// What `create` made.
pub struct Created {
    /// Identity of the store.
    pub store_id: String,
    /// Size of the volume.
    pub size_bytes: u64,
    /// Size of the store.
    pub store_bytes: u64,
}

/// Refuses a store, or a directory that Cairn writes to, that lies on the origin (law: no recursion).
pub fn refuse_loops(context: &Context, origin: &Path, store: &Path) -> Outcome {
    refuse_recursion("store", store, &[origin])?;
    refuse_recursion("state directory", &context.paths.state_dir, &[origin])?;
    refuse_recursion("run directory", &context.paths.run_dir, &[origin])?;
    Ok(())
}

/// Makes the store of a volume. What it held is lost; the origin is read.
pub fn create(
    context: &Context,
    config: &VolumeConfig,
    segment_bytes: Option<u32>,
    granule_blocks: u32,
) -> std::result::Result<Created, Failure> {
    let mut sample_key = [0; 32];
    sample_key[..16].copy_from_slice(Uuid::new_v4().as_bytes());
    sample_key[16..].copy_from_slice(Uuid::new_v4().as_bytes());
    let store_id = Uuid::new_v4();
    let options = CreateOptions {
        granule_blocks,
        store_id: store_id.into_bytes(),
        volume_id: Uuid::new_v4().into_bytes(),
        sample_key,
        segment_bytes,
        store_bytes: None,
        host_id: host_id(&context.paths)?,
        now_unix_ms: now_unix_ms(),
    };
    let access = Access::Exclusive { wait_ms: OPEN_WAIT_MS };
    let origin = Device::open(&config.origin, access)?;
    let store = Device::open(&config.store, access)?;
    let size_bytes = origin.size_bytes();
    let store_bytes = store.size_bytes();
    let made = on_ring(|ring| async move {
        let disks = Disks { origin: RingDisk::new(origin, ring.clone()), store: RingDisk::new(store, ring) };
        volume::create(&disks, &options).await
    })?;
    made.map_err(|error| with_paths(error, &config.origin, &config.store))?;
    Ok(Created { store_id: store_id.to_string(), size_bytes, store_bytes })
}

/// The snapshots and bookmarks of a store that is not attached.
pub fn snapshots(volume: &str, store: &Path) -> std::result::Result<SnapshotList, Failure> {
    let info = on_store(store, Access::Inspect, |disk| async move { volume::inspect(&disk).await })?;
    let reports = |all: &[Snapshot]| all.iter().map(|one| SnapshotReport::of(one, None)).collect();
    let (snapshots, bookmarks) = (reports(&info.snapshots), reports(&info.bookmarks));
    Ok(SnapshotList { volume: volume.to_owned(), snapshots, bookmarks })
}

/// Takes the signature off a store; its snapshots are gone.
pub fn erase_store(store: &Path) -> Outcome {
    let access = Access::Exclusive { wait_ms: OPEN_WAIT_MS };
    on_store(store, access, |disk| async move { volume::destroy(&disk).await })
}

/// Everything that is wrong with a store that is not attached.
pub fn check_store(store: &Path, data: bool) -> std::result::Result<CheckReport, Failure> {
    let access = Access::Exclusive { wait_ms: OPEN_WAIT_MS };
    let findings =
        on_store(store, access, |disk| async move { volume::check_store(&disk, CheckOptions { data }).await })?;
    let findings: Vec<FindingReport> = findings.into_iter().map(finding_report).collect();
    Ok(CheckReport { clean: findings.is_empty(), data, findings })
}

fn finding_report(finding: Finding) -> FindingReport {
    let severity = if finding.serious { Severity::Error } else { Severity::Warning };
    FindingReport { severity, subject: "store".to_owned(), message: finding.sentence }
}

/// Opens the store and works on it. Fails where the device cannot be opened, or the work does.
fn on_store<T, F, W>(path: &Path, access: Access, work: W) -> std::result::Result<T, Failure>
where
    F: Future<Output = Result<T>>,
    W: FnOnce(RingDisk) -> F,
{
    let store = Device::open(path, access)?;
    let done = on_ring(|ring| work(RingDisk::new(store, ring)))?;
    done.map_err(|error| with_paths(error, Path::new("the origin"), path))
}

fn on_ring<T, F, W>(work: W) -> std::result::Result<T, Failure>
where
    F: Future<Output = T>,
    W: FnOnce(OwnRing) -> F,
{
    own_ring::run(work).map_err(|error| {
        Failure::new(
            ExitCode::Failed,
            format!("io_uring cannot be used here ({error}); see `cairn features` for what is missing"),
        )
    })
}

/// The engine knows its devices as "origin" and "store"; people know their paths.
pub fn with_paths(error: Error, origin: &Path, store: &Path) -> Failure {
    let mut failure = Failure::from(error);
    for (name, path) in [("origin: ", origin), ("store: ", store)] {
        if let Some(rest) = failure.message.strip_prefix(name) {
            failure.message = format!("{}: {rest}", path.display());
            break;
        }
    }
    failure
}
