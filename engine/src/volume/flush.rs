//! Flushing the origin, and the latch of a flush that failed (law 4).
//!
//! Invariants:
//! - After a failed flush no flush succeeds any more until the owner clears the latch at an attach: what the disk
//!   lost then, a later success would hide.
//! - The latch is in the catalog, so that it outlives the process.

use super::Volume;
use crate::disk::{flush_since, Disk, Disks};
use crate::error::{Error, ErrorKind, Result};
use crate::format::item::{Item, VolumeFacts};
use crate::sync::atomic::Ordering;

impl Volume {
    /// Makes durable what completed on the origin, or fails for good. The failure is recorded before it is reported.
    /// Not for holders of the ledger and not inside the gate: see [`Volume::flush_origin_unrecorded`].
    pub(crate) async fn flush_origin<D: Disk>(&self, disks: &Disks<D>) -> Result<()> {
        let result = self.flush_origin_unrecorded(disks).await;
        self.record_if_flush_failed(disks, result).await
    }

    /// The same, but the caller records a failure once it has left the gate or has the ledger to do so.
    pub(crate) async fn flush_origin_unrecorded<D: Disk>(&self, disks: &Disks<D>) -> Result<()> {
        self.refuse_after_failed_flush()?;
        planted!("flush-of-the-wrong-device", return disks.store.flush().await);
        planted!("flush-ignores-other-lanes", return self.latch_failed_flush(disks.origin.flush().await));
        // Another lane's flush may have failed and lost what this one is about, and that lane may not have said so yet.
        let result = flush_since(&disks.origin, self.origin_flush_failures).await;
        let result = planted!("failed-flush-retried", result.or(disks.origin.flush().await), result);
        self.latch_failed_flush(result)?;
        self.refuse_after_failed_flush()
    }

    /// Whether a flush failed, in this process or an earlier one, and nobody has cleared that.
    pub fn is_flush_failed(&self) -> bool {
        self.flush_failed.load(Ordering::SeqCst)
    }

    pub(crate) fn refuse_after_failed_flush(&self) -> Result<()> {
        if !self.flush_failed.load(Ordering::SeqCst) {
            return Ok(());
        }
        let message = "an earlier flush failed, so flushed data may be lost; check the disk, then attach with \
                       --clear-failed-flush";
        Err(Error::new(ErrorKind::FlushFailed, "flush", "origin").saying(message))
    }

    /// Passes a result on; after a failed flush no flush of this process succeeds any more.
    pub(crate) fn latch_failed_flush(&self, result: Result<()>) -> Result<()> {
        match result {
            Err(error) if error.kind() == ErrorKind::FlushFailed => {
                self.flush_failed.store(true, Ordering::SeqCst);
                self.work.notify();
                Err(Error::new(ErrorKind::FlushFailed, "flush", "origin").caused_by(error))
            }
            result => result,
        }
    }

    /// Passes a result on; a failed flush is in the catalog first.
    pub(crate) async fn record_if_flush_failed<D: Disk>(&self, disks: &Disks<D>, result: Result<()>) -> Result<()> {
        if matches!(&result, Err(error) if error.kind() == ErrorKind::FlushFailed) {
            self.record_latch(disks).await;
        }
        result
    }

    /// Writes the latch to the catalog if that is still to be done.
    pub(crate) async fn record_latch<D: Disk>(&self, disks: &Disks<D>) {
        self.record_failed_flush(&mut *self.ledger.lock().await, disks).await;
    }

    /// Writes the latch to the catalog if that is still to be done. True if it did.
    pub(crate) async fn record_failed_flush<D: Disk>(
        &self,
        ledger: &mut super::ledger::Ledger,
        disks: &Disks<D>,
    ) -> bool {
        let volume = ledger.catalog.state().volume;
        if volume.flush_failed || !self.flush_failed.load(Ordering::SeqCst) {
            return false;
        }
        let items = [Item::Volume(VolumeFacts { flush_failed: true, ..volume })];
        if let Err(error) = ledger.catalog.append(&disks.store, &items).await {
            tracing::error!(%error, "the failed flush could not be recorded in the store");
            self.record_elsewhere(|elsewhere| elsewhere.flush_failed = true);
            ledger.in_memory(&items);
        }
        true
    }
}
