//! Closing a volume cleanly: everything indexed, the origin's content recorded, the store marked clean.

use super::Volume;
use crate::disk::{Disk, Disks};
use crate::error::{Error, ErrorKind, Result};
use crate::format::item::Item;
use crate::sync::atomic::Ordering;
use crate::units::BlockIndex;
use crate::watch::{self, WatchLog};

impl Volume {
    /// Ends the attachment. The caller has stopped its lanes: nothing is in flight. After an error the volume is as
    /// after a crash, which loses nothing. Fails with `Busy` during a restore. After a failed flush of the origin the
    /// end is unclean and the failure stays recorded.
    pub async fn close<D: Disk>(&self, disks: &Disks<D>, now_unix_ms: u64) -> Result<()> {
        let _operation = self.operations.lock().await;
        self.refuse_closed("detach")?;
        self.restore.refuse("detach")?;
        while self.lateness.gave_up() {
            self.take_store_back(disks).await?;
        }
        let generation = self.lateness.generation();
        let flushed = self.flush_origin(disks).await;
        if !self.flush_failed.load(Ordering::SeqCst) {
            flushed?;
        }
        {
            // Background work that switches epochs closes the gate too: whoever closes it holds the ledger.
            let _ledger = self.ledger.lock().await;
            self.close_gate().await;
            self.closed.store(true, Ordering::Release);
            self.gate.open();
        }
        let result = self.seal_everything(disks).await;
        self.keep_live_map(disks).await;
        let flushed = self.flush_origin(disks).await;
        result?;
        let mut ledger = self.ledger.lock().await;
        if self.flush_failed.load(Ordering::SeqCst) {
            // Nobody knows what the disk holds: the end stays unclean, and the latch keeps for the next attach.
            tracing::warn!("detached with a failed flush; check the disk before it is used");
            self.record_failed_flush(&mut ledger, disks).await;
            return Ok(());
        }
        flushed?;
        let (key, size_bytes) = (ledger.catalog.superblock().sample_key, self.size_bytes());
        let so_far = ledger.catalog.state().watch.keys().copied();
        let mut items = WatchLog::read(&disks.origin, &key, size_bytes, so_far).await.items();
        items.push(Item::SampleReset);
        let active = self.active_epoch();
        let is_in_use = |block: BlockIndex| active.in_use.is_all_in_use(block..block + 1);
        items.extend(watch::read_sample(&disks.origin, &key, size_bytes, is_in_use).await);
        ledger.catalog.append(&disks.store, &items).await?;
        if self.lateness.is_marked() {
            let facts = self.facts(&ledger);
            self.clear_late_mark(&mut ledger, disks, generation, &[facts]).await?;
        }
        ledger
            .catalog
            .superblock_update(&disks.store, |superblock| {
                superblock.clean = true;
                superblock.last_activity_unix_ms = now_unix_ms;
            })
            .await
    }

    async fn seal_everything<D: Disk>(&self, disks: &Disks<D>) -> Result<()> {
        {
            let mut ledger = self.ledger.lock().await;
            self.spill_when_large(&mut ledger, 1);
        }
        while self.seal_next(disks).await? {}
        let waiting = self.ledger.lock().await.to_seal.len();
        if waiting > 0 {
            let message = format!("{waiting} epochs have records in flight; the lanes were not stopped");
            return Err(Error::new(ErrorKind::Busy, "detach", "volume").saying(message));
        }
        Ok(())
    }
}
