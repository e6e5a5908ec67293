//! What ublk asks of an export beyond what NBD does: requests that go to the disk as they are, and housekeeping once a
//! second.
//!
//! Invariants:
//! - A write goes to the disk only with a passage of the lane in hand, which is kept until it has completed.

use crate::control::api::Operation as Counted;
use crate::nbd::{SnapshotExport, VolumeExport};
use crate::ublk::request::{Operation, Request};
use crate::ublk::service::{Passing, Service};
use crate::uring_disk::Direct;
use cairn_engine::disk::Disk;
use cairn_engine::error::{Error, Result};
use io_uring::squeue;

impl<D: Direct> Service for VolumeExport<D> {
    fn pass(&self, request: &Request, buffer: &mut [u8]) -> Option<(squeue::Entry, Passing<'_>)> {
        let Request { operation, offset_bytes, length_bytes, .. } = *request;
        let data = &mut buffer[..length_bytes as usize];
        let (lane, origin) = (self.lane(), &self.lane().disks().origin);
        match operation {
            Operation::Read if lane.is_on_origin(offset_bytes, length_bytes) => {
                let begun = self.recorder().begin(Counted::Read, length_bytes);
                Some((origin.direct_read(offset_bytes, data)?, Passing { way: None, begun }))
            }
            Operation::Write => {
                let begun = self.recorder().begin(Counted::Write, length_bytes);
                let way = Some(lane.way_for_write(offset_bytes, length_bytes)?);
                Some((origin.direct_write(offset_bytes, data)?, Passing { way, begun }))
            }
            _ => None,
        }
    }

    fn pass_error(&self, request: &Request, errno: i32) -> Error {
        let operation = if request.operation == Operation::Read { "read" } else { "write" };
        self.lane().disks().origin.direct_error(operation, request.offset_bytes, errno)
    }

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
