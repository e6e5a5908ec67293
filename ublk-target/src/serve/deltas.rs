//! What changed, and the content of snapshots, on the control thread's own disks.
//!
//! Invariants:
//! - A snapshot that is held cannot be deleted, nor its volume detached.
//! - Nothing here takes a lock that production takes: readers never block writers.

use super::worker::Worker;
use crate::control::api::{ChangeKind, ChangesPage, ExtentReport};
use crate::control::{ChangesQuery, OlderPoint};
use crate::nbd::Session;
use cairn_engine::delta::{DeltaPoint, Extent, ExtentKind};
use cairn_engine::disk::{aligned_buffer, AlignedBuffer};
use cairn_engine::error::{Error, ErrorKind, Result};
use cairn_engine::snapshot::{SnapshotHandle, SnapshotName};

/// Keeps a snapshot, and the volume attached, while it exists.
pub struct Hold {
    _handle: SnapshotHandle,
    _session: Session,
}

impl Worker {
    pub(super) async fn hold_snapshot(&self, name: &SnapshotName) -> Result<Hold> {
        let _session = self.sessions.enter(&self.export_name(name))?;
        Ok(Hold { _handle: self.handle_of(name).await?, _session })
    }

    async fn handle_of(&self, name: &SnapshotName) -> Result<SnapshotHandle> {
        self.snapshot_named(name).await?;
        self.volume.snapshot_handle(name).await
    }

    pub(super) async fn snapshot_data(
        &self,
        name: &SnapshotName,
        offset_bytes: u64,
        length_bytes: u64,
    ) -> Result<(AlignedBuffer, u64)> {
        let handle = self.handle_of(name).await?;
        let size_bytes = handle.size_bytes();
        let rest_bytes = size_bytes.saturating_sub(offset_bytes);
        if rest_bytes == 0 {
            let message = format!("it has {size_bytes} bytes, and those from {offset_bytes} on are asked for");
            return Err(Error::new(ErrorKind::Invalid, "read snapshot", self.export_name(name)).saying(message));
        }
        let mut buffer = aligned_buffer(length_bytes.min(rest_bytes) as usize);
        self.volume.read_snapshot(&self.disks, &handle, offset_bytes, &mut buffer).await?;
        Ok((buffer, size_bytes))
    }

    pub(super) async fn changes_page(&self, query: ChangesQuery) -> Result<ChangesPage> {
        let ChangesQuery { from, to, offset_bytes, max } = query;
        let older = match &from {
            Some(OlderPoint::Snapshot(name) | OlderPoint::Bookmark(name)) => Some(self.point(name).await?),
            None => None,
        };
        let newer = match &to {
            Some(name) => self.point(name).await?,
            None => DeltaPoint::live(),
        };
        let size_bytes = newer.size_bytes().unwrap_or_else(|| self.volume.size_bytes());
        let found = self.volume.changes(&self.disks, older.as_ref(), &newer, offset_bytes, max).await?;
        let next_offset_bytes = found.last().filter(|_| found.len() == max);
        let next_offset_bytes = next_offset_bytes.map(|last| last.offset_bytes + last.length_bytes);
        Ok(ChangesPage {
            from: from.map(|from| from.to_string()),
            to: to.map(|to| to.to_string()),
            size_bytes,
            extents: found.iter().map(extent_report).collect(),
            next_offset_bytes: next_offset_bytes.filter(|next| *next < size_bytes),
        })
    }

    async fn point(&self, name: &SnapshotName) -> Result<DeltaPoint> {
        self.volume.delta_point(name).await
    }
}

fn extent_report(extent: &Extent) -> ExtentReport {
    let kind = match extent.kind {
        ExtentKind::Data => ChangeKind::Data,
        ExtentKind::NotInUse => ChangeKind::NotInUse,
    };
    ExtentReport { offset_bytes: extent.offset_bytes, length_bytes: extent.length_bytes, kind }
}
