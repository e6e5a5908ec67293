//! What the control API asks of the process that serves the volume.
//!
//! Invariants:
//! - Names are checked, limits are kept and requests are well formed before a handler sees them.
//! - Calls run side by side on one thread; each is run to completion, even if its client has gone.

#![allow(async_fn_in_trait)]

use super::api::{
    ChangesPage, CheckReport, Consistency, DetachReport, ExposeReport, GrowReport, GrowRequest, RestoreReport,
    SnapshotList, SnapshotReport, StatsReport, VolumeReport,
};
use cairn_engine::disk::AlignedBuffer;
use cairn_engine::error::Result;
use cairn_engine::snapshot::SnapshotName;
use std::time::Duration;

/// What GET /v1/changes asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangesQuery {
    /// The older point; none: everything in use at the younger one.
    pub from: Option<OlderPoint>,
    /// The younger point; none: the volume as it is now.
    pub to: Option<SnapshotName>,
    /// Changes in front of it are left out.
    pub offset_bytes: u64,
    /// The most extents to give.
    pub max: usize,
}

/// The older of two points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OlderPoint {
    /// A snapshot.
    Snapshot(SnapshotName),
    /// A deleted snapshot that has left its map.
    Bookmark(SnapshotName),
}

impl std::fmt::Display for OlderPoint {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OlderPoint::Snapshot(name) => write!(formatter, "{name}"),
            OlderPoint::Bookmark(name) => write!(formatter, "#{name}"),
        }
    }
}

/// One method for each endpoint; docs/CONTROL.md says what each does.
pub trait ControlHandler {
    /// Keeps a snapshot while it exists.
    type Hold: Send + 'static;

    /// GET /v1/volume
    async fn volume(&self) -> Result<VolumeReport>;
    /// GET /v1/snapshots
    async fn snapshots(&self) -> Result<SnapshotList>;
    /// POST /v1/snapshots. `limit`: the cut is abandoned when it takes longer; `None` is the target's own limit.
    async fn snapshot(
        &self,
        name: SnapshotName,
        consistency: Consistency,
        limit: Option<Duration>,
    ) -> Result<SnapshotReport>;
    /// DELETE /v1/snapshots/{name}, of a snapshot or a bookmark. `keep_bookmark`: it leaves what changed since.
    async fn delete(&self, name: SnapshotName, keep_bookmark: bool) -> Result<()>;
    /// GET /v1/changes
    async fn changes(&self, query: ChangesQuery) -> Result<ChangesPage>;
    /// GET /v1/snapshots/{name}/data; at most [`super::api::DATA_BYTES_MAX`]. The range is cut off at the snapshot's
    /// end; the answer has the snapshot's size with it. A range that begins there or later is `Invalid`.
    async fn data(&self, name: SnapshotName, offset_bytes: u64, length_bytes: u64) -> Result<(AlignedBuffer, u64)>;
    /// GET /v1/snapshots/{name}/hold
    async fn hold(&self, name: SnapshotName) -> Result<Self::Hold>;
    /// POST /v1/snapshots/{name}/expose
    async fn expose(&self, name: SnapshotName, scratch: bool) -> Result<ExposeReport>;
    /// DELETE /v1/snapshots/{name}/expose
    async fn unexpose(&self, name: SnapshotName) -> Result<()>;
    /// POST /v1/restore. `before`: the name for the automatic snapshot; `None` lets the target choose one.
    async fn restore(&self, snapshot: SnapshotName, before: Option<SnapshotName>) -> Result<RestoreReport>;
    /// POST /v1/grow; the request names at least one of the two.
    async fn grow(&self, request: GrowRequest) -> Result<GrowReport>;
    /// GET /v1/stats
    async fn stats(&self) -> Result<StatsReport>;
    /// POST /v1/check
    async fn check(&self, data: bool) -> Result<CheckReport>;
    /// POST /v1/detach. The volume is closed when this returns; the process raises its own stop, and the answer is
    /// still delivered.
    async fn detach(&self) -> Result<DetachReport>;
}
