//! Flushing the origin, and the latch of a flush that failed (law 4).
//!
//! Invariants:
//! - After a failed flush no flush succeeds any more until the owner clears the latch at an attach: what the disk
//!   lost then, a later success would hide.
//! - The latch is in the catalog, so that it outlives the process.

use super::Volume;
use crate::disk::{Disk, Disks};
use crate::error::{Error, ErrorKind, Result};
use crate::format::item::{Item, VolumeFacts};
use std::sync::atomic::Ordering;

impl Volume {
    /// Makes durable what completed on the origin, or fails for good.
    pub(crate) async fn flush_origin<D: Disk>(&self, disks: &Disks<D>) -> Result<()> {
        self.refuse_after_failed_flush()?;
        match disks.origin.flush().await {
            Ok(()) => self.refuse_after_failed_flush(),
            Err(error) => {
                let error = Error::new(ErrorKind::FlushFailed, "flush", "origin").caused_by(error);
                self.latch_failed_flush(disks, Err(error)).await
            }
        }
    }

    pub(crate) fn refuse_after_failed_flush(&self) -> Result<()> {
        if !self.flush_failed.load(Ordering::SeqCst) {
            return Ok(());
        }
        let message = "an earlier flush failed, so flushed data may be lost; check the disk, then attach with \
                       --clear-failed-flush";
        Err(Error::new(ErrorKind::FlushFailed, "flush", "origin").saying(message))
    }

    /// Passes a result on; a failed flush is latched first.
    pub(crate) async fn latch_failed_flush<D: Disk>(&self, disks: &Disks<D>, result: Result<()>) -> Result<()> {
        let failed = matches!(&result, Err(error) if error.kind() == ErrorKind::FlushFailed);
        if failed && !self.flush_failed.swap(true, Ordering::SeqCst) {
            // A cut flushes while it holds the ledger: then the latch is written by the next background step.
            if let Some(mut ledger) = self.ledger.try_lock() {
                self.record_failed_flush(&mut ledger, disks).await;
            }
            self.work.notify();
        }
        result
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
            self.broken_log.record(volume.active_epoch, "a flush of the origin failed");
            ledger.in_memory(&items);
        }
        true
    }
}
