//! What ublk asks of an export beyond what NBD does: housekeeping once a second.

use crate::nbd::{SnapshotExport, VolumeExport};
use crate::ublk::service::Service;
use cairn_engine::disk::Disk;
use cairn_engine::error::Result;

impl<D: Disk> Service for VolumeExport<D> {
    async fn tick(&self) -> Result<()> {
        self.lane().tick().await
    }
}

impl<D: Disk> Service for SnapshotExport<D> {
    async fn tick(&self) -> Result<()> {
        Ok(())
    }
}
