//! Saving before-images: claim, read, append, settle.
//!
//! Invariants:
//! - Whoever claimed a block either settles it or releases it; no path leaves a claim behind.
//! - A save for an epoch that is over appends nothing: the request starts again in the new epoch. So does one whose
//!   epoch needs nothing any more.

use super::log::SaveOutcome;
use super::Lane;
use crate::disk::{aligned_buffer, AlignedBuffer, Disk};
use crate::epoch::{EpochState, Keeping};
use crate::error::{Error, Result};
use crate::sync::Arc;
use crate::units::{BlockIndex, BLOCK_BYTES};
use std::cell::RefCell;
use std::future::poll_fn;
use std::ops::Range;
use std::rc::Rc;
use std::task::Poll;

/// Blocks claimed by one request, with their old content where the epoch keeps it.
pub(super) struct Images {
    pub(super) blocks: Vec<BlockIndex>,
    /// Parallel to `blocks`: could not be read.
    pub(super) unreadable: Vec<bool>,
    pub(super) data: AlignedBuffer,
}

impl Images {
    /// Only the blocks: that they are overwritten is all that anybody needs to know.
    fn none_of(claimed: &[Range<BlockIndex>]) -> Images {
        Images { blocks: claimed.iter().cloned().flatten().collect(), unreadable: Vec::new(), data: aligned_buffer(0) }
    }
}

/// Buffers for old content, kept for the next save. Bounded: what exceeds the bound is freed.
#[derive(Default)]
pub(super) struct BufferPool {
    free: RefCell<Vec<AlignedBuffer>>,
}

const POOLED_BUFFERS_MAX: usize = 32;

impl BufferPool {
    fn take(&self, length_bytes: usize) -> AlignedBuffer {
        let mut free = self.free.borrow_mut();
        match free.iter().position(|buffer| buffer.len() >= length_bytes) {
            Some(at) => free.swap_remove(at),
            None => aligned_buffer(length_bytes.next_power_of_two()),
        }
    }

    fn give_back(&self, buffer: AlignedBuffer) {
        let mut free = self.free.borrow_mut();
        if free.len() < POOLED_BUFFERS_MAX {
            free.push(buffer);
        }
    }
}

impl<D: Disk> Lane<D> {
    /// Saves what is needed in the range: everything this request claims, and then waits for what others claimed.
    /// On return the caller tests again. Fails only where the store and the state directory both fail (law 5).
    pub(super) async fn save(&self, epoch: &Arc<EpochState>, range: Range<BlockIndex>) -> Result<()> {
        let mut claimed = Vec::new();
        epoch.needed.claim(range.clone(), &mut claimed);
        if !claimed.is_empty() {
            self.volume.stats.saves.add(1);
            planted!("waits-before-saving", epoch.needed.wait_unclaimed(range.clone()).await);
            match self.save_claimed(epoch, &claimed).await {
                SaveOutcome::Saved => {}
                SaveOutcome::Stale => planted!("stale-claim-kept", (), epoch.needed.release(&claimed)),
                SaveOutcome::Failed(error) => {
                    planted!("failed-save-ignored", return mistakes::settle_unsaved(&epoch.needed, &claimed));
                    planted!("failed-claim-kept", claimed.clear());
                    epoch.needed.release(&claimed);
                    self.give_up_saving(epoch, error).await?;
                }
            }
        }
        let waited = epoch.needed.wait_unclaimed(range).await;
        self.volume.stats.claim_waits.add(u64::from(waited));
        Ok(())
    }

    async fn save_claimed(&self, epoch: &Arc<EpochState>, claimed: &[Range<BlockIndex>]) -> SaveOutcome {
        let images = match epoch.keeping {
            Keeping::Marks => Images::none_of(claimed),
            _ => self.read_old_content(claimed).await,
        };
        let (outcome, images) = self.append(epoch.clone(), images).await;
        if let Some(images) = images.filter(|images| !images.data.is_empty()) {
            self.buffers.give_back(images.data);
        }
        outcome
    }

    /// Appends images to the lane's log; resolves when they are durable, published and settled, or when that cannot or
    /// need not be. Gives the images back for their buffer, where nobody else has them.
    async fn append(&self, epoch: Arc<EpochState>, images: Images) -> (SaveOutcome, Option<Images>) {
        let (log, lateness) = (&self.log, &self.volume.lateness);
        let pending = log.enqueue(epoch, images);
        let wait = self.begin_wait();
        // The epoch may have ended while its old content was being read, and the next one been given up: then nobody
        // tells who comes now to wait behind a record that hangs.
        let is_over = || !log.wants(&pending) || lateness.is_over(&wait);
        loop {
            if let Some(ended) = pending.take_outcome() {
                return ended;
            }
            if is_over() {
                // Whoever is writing them still has the images.
                log.abandon(&pending);
                return (SaveOutcome::Stale, None);
            }
            if log.take_lead() {
                self.errands.run(&self.volume, &wait, Rc::clone(log).lead()).await;
                continue;
            }
            poll_fn(|context| {
                // Registered first, looked at second.
                wait.register(context.waker());
                if pending.has_ended() || is_over() || !log.is_led() {
                    return Poll::Ready(());
                }
                pending.wake_by(context.waker());
                Poll::Pending
            })
            .await;
        }
    }

    async fn give_up_saving(&self, epoch: &Arc<EpochState>, cause: Error) -> Result<()> {
        let (volume, disks, number) = (Arc::clone(&self.volume), Rc::clone(&self.disks), epoch.number);
        // Left behind where the store was given up for lateness meanwhile: the request tests again, and passes.
        self.errand(async move { volume.give_up_saving(&disks, number, cause).await }).await.unwrap_or(Ok(()))
    }

    async fn read_old_content(&self, claimed: &[Range<BlockIndex>]) -> Images {
        let blocks: Vec<BlockIndex> = claimed.iter().cloned().flatten().collect();
        assert!(!blocks.is_empty());
        let mut images = Images {
            unreadable: vec![false; blocks.len()],
            data: self.buffers.take(blocks.len() * BLOCK_BYTES),
            blocks,
        };
        let mut slot = 0;
        for run in claimed {
            let count = (run.end - run.start) as usize;
            self.read_old_run(run.clone(), slot, &mut images).await;
            slot += count;
        }
        images
    }

    /// One read for the run. Where that fails, one read a block, and what cannot be read is marked: the write goes
    /// through, and snapshot reads of the block give an error.
    async fn read_old_run(&self, run: Range<BlockIndex>, slot: usize, images: &mut Images) {
        let count = (run.end - run.start) as usize;
        let data = &mut images.data[slot * BLOCK_BYTES..(slot + count) * BLOCK_BYTES];
        if self.read_blocks(run.start, data).await.is_ok() {
            return;
        }
        for (index, block) in run.enumerate() {
            let image = &mut data[index * BLOCK_BYTES..(index + 1) * BLOCK_BYTES];
            if let Err(error) = self.read_blocks(block, image).await {
                tracing::error!(block, %error, "old content cannot be read; snapshots get an error there");
                image.fill(0);
                images.unreadable[slot + index] = !planted!("unreadable-saved-as-zeroes");
            }
        }
    }

    /// Reads whole blocks of the origin; what lies beyond its end, in the last block, reads as zeroes.
    async fn read_blocks(&self, first: BlockIndex, data: &mut [u8]) -> Result<()> {
        let offset = first * BLOCK_BYTES as u64;
        let available = self.volume.size_bytes().saturating_sub(offset).min(data.len() as u64) as usize;
        let (inside, beyond) = data.split_at_mut(available);
        beyond.fill(0);
        self.disks.origin.read(offset, inside).await
    }
}
