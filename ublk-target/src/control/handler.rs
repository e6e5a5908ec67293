//! What the control API asks of the process that serves the volume.
//!
//! Invariants:
//! - Names are checked, limits are kept and requests are well formed before a handler sees them.
//! - Calls run side by side on one thread; each is run to completion, even if its client has gone.

#![allow(async_fn_in_trait)]

use super::api::{
    CheckReport, Consistency, DetachReport, ExposeReport, GrowReport, GrowRequest, RestoreReport, SnapshotList,
    SnapshotReport, StatsReport, VolumeReport,
};
use cairn_engine::error::Result;
use cairn_engine::snapshot::SnapshotName;
use std::time::Duration;

/// One method for each endpoint; docs/CONTROL.md says what each does.
pub trait ControlHandler {
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
    /// DELETE /v1/snapshots/{name}
    async fn delete(&self, name: SnapshotName) -> Result<()>;
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
