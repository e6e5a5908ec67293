//! Deleting a snapshot: its name goes; what only it needed is freed in the background.

use super::ledger::Ledger;
use super::Volume;
use crate::disk::{Disk, Disks};
use crate::error::{Error, ErrorKind, Result};
use crate::format::item::Item;
use crate::snapshot::{Snapshot, SnapshotName};

impl Volume {
    /// Deletes any snapshot: oldest, middle or youngest (mission A6), or a bookmark. Its space comes back in the
    /// background. Fails with `NotFound`, or `Busy` while it is exposed or a restore is under way.
    pub async fn delete<D: Disk>(&self, disks: &Disks<D>, name: &SnapshotName) -> Result<()> {
        let _operation = self.operations.lock().await;
        self.refuse_closed("delete")?;
        self.restore.refuse("delete")?;
        let mut ledger = self.ledger.lock().await;
        let snapshot = ledger.snapshot(name)?;
        self.refuse_pinned(&snapshot)?;
        ledger.catalog.append(&disks.store, &[Item::SnapshotDelete { epoch: snapshot.epoch }]).await?;
        self.is_gone(&mut ledger, disks).await;
        Ok(())
    }

    /// A snapshot is gone, or what it held: what only it needed may go.
    pub(super) async fn is_gone<D: Disk>(&self, ledger: &mut Ledger, disks: &Disks<D>) {
        self.set_horizons(ledger);
        ledger.groups_joined = true;
        ledger.may_be_dead = true;
        self.keep_less(ledger, disks).await;
        self.work.notify();
    }

    pub(super) fn refuse_pinned(&self, snapshot: &Snapshot) -> Result<()> {
        let pins = self.pins.lock().expect("no holder of this lock panics");
        if pins.get(&snapshot.epoch).is_some_and(|pin| pin.strong_count() > 0) {
            let message = format!("snapshot {} is exposed or being read; unexpose it first", snapshot.name);
            return Err(Error::new(ErrorKind::Busy, "delete", "volume").saying(message));
        }
        Ok(())
    }

    /// All snapshots, oldest first; bookmarks apart.
    pub async fn snapshots(&self) -> Vec<Snapshot> {
        let ledger = self.ledger.lock().await;
        let records = ledger.catalog.state().snapshots.values();
        let snapshots = records.filter(|record| !record.is_bookmark()).map(Snapshot::from_record);
        snapshots.map(|snapshot| self.as_decided(snapshot)).collect()
    }
}
