//! What frontends show: the volume through a lane, a snapshot through its handle.
//!
//! Invariants:
//! - An export belongs to one thread and uses that thread's disks.
//! - A snapshot is never written.

use crate::nbd::Export;
use crate::ublk::service::Service;
use cairn_engine::disk::{Disk, Disks};
use cairn_engine::error::{Error, ErrorKind, Result};
use cairn_engine::lane::Lane;
use cairn_engine::snapshot::SnapshotHandle;
use cairn_engine::volume::Volume;
use std::rc::Rc;
use std::sync::Arc;

/// The volume, read-write.
pub struct VolumeExport<D> {
    lane: Rc<Lane<D>>,
}

impl<D: Disk> VolumeExport<D> {
    /// Over this thread's lane.
    pub fn new(lane: Rc<Lane<D>>) -> VolumeExport<D> {
        VolumeExport { lane }
    }
}

impl<D: Disk> Export for VolumeExport<D> {
    fn size_bytes(&self) -> u64 {
        self.lane.volume().size_bytes()
    }

    fn sector_bytes(&self) -> u32 {
        self.lane.disks().origin.sector_bytes()
    }

    fn read_only(&self) -> bool {
        false
    }

    fn can_discard(&self) -> bool {
        self.lane.disks().origin.discard_bytes_max() > 0
    }

    async fn read(&self, offset_bytes: u64, buffer: &mut [u8]) -> Result<()> {
        self.lane.read(offset_bytes, buffer).await
    }

    async fn write(&self, offset_bytes: u64, data: &[u8], durable: bool) -> Result<()> {
        self.lane.write(offset_bytes, data, durable).await
    }

    async fn write_zeroes(&self, offset_bytes: u64, length_bytes: u64, durable: bool, may_unmap: bool) -> Result<()> {
        self.lane.write_zeroes(offset_bytes, length_bytes, durable, may_unmap).await
    }

    async fn discard(&self, offset_bytes: u64, length_bytes: u64) -> Result<()> {
        self.lane.discard(offset_bytes, length_bytes).await
    }

    async fn flush(&self) -> Result<()> {
        self.lane.flush().await
    }
}

impl<D: Disk> Service for VolumeExport<D> {
    async fn tick(&self) -> Result<()> {
        self.lane.tick().await
    }
}

/// A snapshot, read-only. While it exists the snapshot cannot be deleted.
pub struct SnapshotExport<D> {
    volume: Arc<Volume>,
    disks: Rc<Disks<D>>,
    handle: SnapshotHandle,
}

impl<D: Disk> SnapshotExport<D> {
    /// Over this thread's disks.
    pub fn new(volume: Arc<Volume>, disks: Rc<Disks<D>>, handle: SnapshotHandle) -> SnapshotExport<D> {
        SnapshotExport { volume, disks, handle }
    }

    fn refuse(&self, operation: &'static str) -> Result<()> {
        Err(Error::new(ErrorKind::ReadOnly, operation, self.handle.name().to_string())
            .saying("a snapshot is read-only; expose it with --scratch to try changes out"))
    }
}

impl<D: Disk> Export for SnapshotExport<D> {
    fn size_bytes(&self) -> u64 {
        self.handle.size_bytes()
    }

    fn sector_bytes(&self) -> u32 {
        self.disks.origin.sector_bytes()
    }

    fn read_only(&self) -> bool {
        true
    }

    fn can_discard(&self) -> bool {
        false
    }

    async fn read(&self, offset_bytes: u64, buffer: &mut [u8]) -> Result<()> {
        self.volume.read_snapshot(&self.disks, &self.handle, offset_bytes, buffer).await
    }

    async fn write(&self, _: u64, _: &[u8], _: bool) -> Result<()> {
        self.refuse("write")
    }

    async fn write_zeroes(&self, _: u64, _: u64, _: bool, _: bool) -> Result<()> {
        self.refuse("write zeroes")
    }

    async fn discard(&self, _: u64, _: u64) -> Result<()> {
        self.refuse("discard")
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }
}

impl<D: Disk> Service for SnapshotExport<D> {
    async fn tick(&self) -> Result<()> {
        Ok(())
    }
}
