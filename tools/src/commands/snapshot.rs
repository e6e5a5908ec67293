//! `cairn snapshot`: the cut, with or without a frozen filesystem above (mission A1, A8).

use crate::arguments::Snapshot;
use crate::client::{Client, CHANGE_TIMEOUT_MS};
use crate::context::Context;
use crate::exit::{ExitCode, Failure, Outcome};
use crate::freeze::Frozen;
use cairn_target::control::api::{Consistency, DeleteReport, SnapshotReport, SnapshotRequest, VolumeReport};
use cairn_target::device::{mount_points_of, DeviceNumber};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Kept of the time limit for the answer's way back and the thaw.
const THAW_RESERVE_MS: u64 = 50;

pub fn run(context: &Context, arguments: &Snapshot) -> Outcome {
    let client = context.client(&arguments.snapshot.volume)?;
    let report = match &arguments.freeze {
        None => cut(&client, arguments, Consistency::Crash, None)?,
        Some(mount_point) => {
            let volume: VolumeReport = client.get("/v1/volume")?;
            let mount_point = match mount_point {
                Some(chosen) => chosen.clone(),
                None => mount_point_of(&volume)?,
            };
            cut_frozen(&client, arguments, &mount_point)?
        }
    };
    context.output.answer(&report, |report| {
        let quality = match report.consistency {
            Consistency::Crash => "crash-consistent",
            Consistency::Filesystem => "filesystem-consistent",
            Consistency::Application => "application-consistent",
        };
        format!("{} taken at {}, {quality}", arguments.snapshot, report.created_at)
    })
}

fn cut(
    client: &Client,
    arguments: &Snapshot,
    consistency: Consistency,
    freeze_timeout_ms: Option<u64>,
) -> Result<SnapshotReport, Failure> {
    let request = SnapshotRequest { name: arguments.snapshot.snapshot.clone(), consistency, freeze_timeout_ms };
    client.post("/v1/snapshots", &request, CHANGE_TIMEOUT_MS)
}

fn cut_frozen(client: &Client, arguments: &Snapshot, mount_point: &Path) -> Result<SnapshotReport, Failure> {
    let frozen = Frozen::freeze(mount_point, arguments.freeze_timeout_ms)?;
    let left_ms = frozen.left_ms().saturating_sub(THAW_RESERVE_MS);
    let report = match left_ms {
        0 => Err(Failure::new(
            ExitCode::TimedOut,
            format!(
                "{}: freezing took all of {} ms; no snapshot was taken. Give it more with --freeze-timeout-ms.",
                mount_point.display(),
                arguments.freeze_timeout_ms
            ),
        )),
        left_ms => cut(client, arguments, Consistency::Filesystem, Some(left_ms)),
    };
    let held = frozen.thaw();
    let report = report?;
    if let Err(failure) = held {
        // It claims a consistency that nobody can vouch for: better none than a wrong one.
        let _: DeleteReport = client.delete(&format!("/v1/snapshots/{}", arguments.snapshot.snapshot))?;
        return Err(Failure { message: format!("{failure}; the snapshot was deleted again"), ..failure });
    }
    Ok(report)
}

/// Where the volume's block device is mounted; the first place where there are several: one freeze holds them all.
fn mount_point_of(volume: &VolumeReport) -> Result<PathBuf, Failure> {
    let not_mounted = |why: &str| {
        Failure::new(
            ExitCode::NotFound,
            format!(
                "{}: {why}. Name the mount point (--freeze=/where/it/is), or take the snapshot without --freeze.",
                volume.name
            ),
        )
    };
    let Some(device) = &volume.device else {
        return Err(not_mounted("is served over NBD, so that Cairn does not know where it is mounted"));
    };
    let device = Path::new(device);
    let metadata = std::fs::metadata(device).map_err(|error| Failure::io("look at", device, error))?;
    let points = mount_points_of(DeviceNumber::from_raw(metadata.rdev()));
    points.into_iter().next().ok_or_else(|| not_mounted("is not mounted, there is nothing to freeze"))
}
