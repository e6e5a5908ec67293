//! What ublk asks of an export beyond what NBD does: housekeeping once a second.

use crate::nbd::{SnapshotExport, VolumeExport};
use crate::ublk::service::Service;
use cairn_engine::disk::Disk;
use cairn_engine::error::Result;

impl<D: Disk> Service for VolumeExport<D> {
    async fn tick(&self) -> Result<()> {
        self.lane().tick().await
    }

    async fn run_errands(&self) {
        self.lane().run_errands().await;
    }

    fn has_errands(&self) -> bool {
        self.lane().has_errands()
    }
}

impl<D: Disk> Service for SnapshotExport<D> {
    async fn tick(&self) -> Result<()> {
        Ok(())
    }
}
