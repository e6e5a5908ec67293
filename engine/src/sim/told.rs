//! What a delta tells, sector by sector.
//!
//! Invariants:
//! - What a delta does not tell is the same at both of its ends: so it says of its older end what that held, even where
//!   nobody can read it any more.

use crate::delta::DeltaPoint;
use crate::disk::{Disk, Disks};
use crate::error::Result;
use crate::sim::rig::snapshot_name;
use crate::units::TEAR_BYTES;
use crate::volume::Volume;

/// Which sectors of the newer end the delta names. Without `newer`: of the volume as it is.
pub(crate) async fn told<D: Disk>(
    volume: &Volume,
    disks: &Disks<D>,
    older: &str,
    newer: Option<&str>,
) -> Result<Vec<bool>> {
    let older = volume.delta_point(disks, &snapshot_name(older)).await?;
    let newer = match newer {
        Some(newer) => volume.delta_point(disks, &snapshot_name(newer)).await?,
        None => DeltaPoint::live(),
    };
    let size_bytes = newer.size_bytes().unwrap_or(volume.size_bytes());
    let mut told = vec![false; size_bytes as usize / TEAR_BYTES];
    for extent in volume.changes(disks, Some(&older), &newer, 0, usize::MAX).await? {
        let first = extent.offset_bytes as usize / TEAR_BYTES;
        told[first..first + extent.length_bytes as usize / TEAR_BYTES].fill(true);
    }
    Ok(told)
}
