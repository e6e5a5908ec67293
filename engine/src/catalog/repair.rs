//! Putting a lost checkpoint back where it was.
//!
//! While the checkpoint of the current area cannot be read, the log it was made of is the only place that says the
//! same, and it lies in the other area: just where the next checkpoint would go. A crash in the middle of that one
//! would leave neither. So before anything else is written the lost checkpoint is made again from that log, byte for
//! byte, in its own place.
//!
//! Invariants:
//! - Only copies of records that are not valid are written, with exactly the bytes that were there before: whatever a
//!   crash leaves of such a write, the previous log still stands in for it.
//! - Where the bytes cannot be known for sure (a valid record says something else), nothing is written.

use crate::catalog::checkpoint::{Checkpoint, Written};
use crate::catalog::record::{self, RECORD_BYTES_MAX};
use crate::catalog::replay::read_previous;
use crate::catalog::Catalog;
use crate::disk::{aligned_buffer, AlignedBuffer, Disk};
use crate::error::Result;

impl Catalog {
    /// Puts the lost checkpoint back. Where that fails the catalog goes on as it is, and the next attach tries again.
    pub(super) async fn restore_checkpoint<D: Disk>(&mut self, store: &D) {
        self.checkpoint_lost = false;
        match self.rewrite_checkpoint(store).await {
            Ok(true) => tracing::warn!("the checkpoint of the catalog was damaged and has been written again"),
            Ok(false) => tracing::error!("the checkpoint of the catalog is damaged and cannot be made again"),
            Err(error) => tracing::error!(%error, "the damaged checkpoint of the catalog cannot be written again"),
        }
    }

    /// False where it cannot be told what was there.
    async fn rewrite_checkpoint<D: Disk>(&self, store: &D) -> Result<bool> {
        let Some(state) = read_previous(store, self).await else { return Ok(false) };
        let checkpoint = Checkpoint::of(&state);
        let place = self.superblock.catalog;
        let mut buffer = aligned_buffer(2 * RECORD_BYTES_MAX);
        let expected = Written { records: place.checkpoint_records, length_bytes: place.checkpoint_bytes };
        if checkpoint.measure() != expected {
            return Ok(false);
        }
        // First look at all of it, then write.
        for write in [false, true] {
            let mut position_bytes = self.superblock.area().offset_bytes;
            for sequence in 0..expected.records as usize {
                let length_bytes = checkpoint.encode_record(sequence, self.log(), position_bytes, &mut buffer);
                for copy in buffer[..length_bytes].chunks(length_bytes / 2) {
                    let found = self.valid_copy(store, position_bytes, copy.len()).await;
                    if found.as_ref().is_some_and(|found| found[..] != *copy) {
                        return Ok(false);
                    }
                    if found.is_none() && write {
                        store.write_durable(position_bytes, copy).await?;
                    }
                    position_bytes += copy.len() as u64;
                }
            }
        }
        Ok(true)
    }

    /// The copy of a record at this address, where there is a valid one.
    async fn valid_copy<D: Disk>(&self, store: &D, address_bytes: u64, length_bytes: usize) -> Option<AlignedBuffer> {
        let mut found = aligned_buffer(length_bytes);
        store.read(address_bytes, &mut found).await.ok()?;
        record::find(self.log(), address_bytes, &found).map(|_| found)
    }
}
