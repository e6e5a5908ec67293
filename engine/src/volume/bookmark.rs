//! Bookmarks: what a deleted snapshot may leave, so that what changed since stays known.
//!
//! Invariants:
//! - A bookmark keeps entries, but no images: merging takes those away that only it would need (`merge.rs`).
//! - Where only bookmarks are left every first overwrite since the youngest is recorded, durably, before it happens, as
//!   an entry without an image. So a bookmark is exact like a snapshot, across crashes, and breaks like one.
//! - Nobody reads a bookmark; it never becomes a snapshot again.
//! - Before the first one is recorded the superblock says that there are bookmarks: a program that does not know them
//!   refuses the store.

use super::Volume;
use crate::disk::{Disk, Disks};
use crate::error::{Error, ErrorKind, Result};
use crate::format::item::Item;
use crate::format::superblock::INCOMPATIBLE_BOOKMARKS;
use crate::snapshot::{Snapshot, SnapshotName};

impl Volume {
    /// Deletes a snapshot but leaves a bookmark of its name: deltas may still begin there. Its space comes back in the
    /// background. Fails with `NotFound`, `Broken`, `Exists` (it is one), or `Busy` as [`Volume::delete`] does.
    pub async fn bookmark<D: Disk>(&self, disks: &Disks<D>, name: &SnapshotName) -> Result<Snapshot> {
        let _operation = self.operations.lock().await;
        self.refuse_closed("bookmark")?;
        self.restore.refuse("bookmark")?;
        let mut ledger = self.ledger.lock().await;
        let mut snapshot = self.as_decided(ledger.snapshot(name)?);
        if snapshot.bookmark {
            let message = format!("{name} is a bookmark already");
            return Err(Error::new(ErrorKind::Exists, "bookmark", "volume").saying(message));
        }
        if let Some((_, reason)) = &snapshot.broken {
            let message =
                format!("snapshot {name} is broken ({reason}), so what changed since is not known; delete it");
            return Err(Error::new(ErrorKind::Broken, "bookmark", "store").saying(message));
        }
        self.refuse_pinned(&snapshot)?;
        ledger.catalog.require_feature(&disks.store, INCOMPATIBLE_BOOKMARKS).await?;
        snapshot.bookmark = true;
        planted!("bookmark-in-two-records", {
            ledger.catalog.append(&disks.store, &[Item::SnapshotDelete { epoch: snapshot.epoch }]).await?
        });
        ledger.catalog.append(&disks.store, &[Item::SnapshotPut(snapshot.to_record())]).await?;
        self.is_gone(&mut ledger, disks).await;
        Ok(snapshot)
    }

    /// All bookmarks, oldest first.
    pub async fn bookmarks(&self) -> Vec<Snapshot> {
        let ledger = self.ledger.lock().await;
        let records = ledger.catalog.state().snapshots.values();
        let bookmarks = records.filter(|record| record.is_bookmark()).map(Snapshot::from_record);
        bookmarks.map(|bookmark| self.as_decided(bookmark)).collect()
    }
}
