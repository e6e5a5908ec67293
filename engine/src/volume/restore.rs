//! Restore: the volume shows a snapshot at once; its blocks move back in the background (mission A6).
//!
//! Invariants:
//! - An automatic snapshot of the state before is cut first: a restore can be undone by restoring that.
//! - A block is *moved* when the origin holds its content durably and the catalog says so. Until then it is read as of
//!   the target, and no write reaches it: a write moves it first.
//! - After a crash unmoved blocks are moved again; moved ones never: they may have been written since.
//! - While a restore is under way nothing cuts, deletes, grows or detaches.

use super::Volume;
use crate::catalog::state::RestoreRecord;
use crate::deadline::Deadline;
use crate::disk::{Disk, Disks};
use crate::entry::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::format::item::Item;
use crate::lane::Lane;
use crate::snapshot::{Snapshot, SnapshotName, SnapshotOptions};
use crate::units::{BlockIndex, Epoch, BLOCK_BYTES, PIECE_BLOCKS_MAX};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::RwLock;

/// Marks of blocks moved ahead of the cursor. One more, and the narrowest gap between two of them is closed.
const MARKS_MAX: usize = 1024;

/// The restore under way, if any.
#[derive(Default)]
pub(crate) struct RestoreState {
    /// Looked at by every request; the record only when it is set.
    active: AtomicBool,
    record: RwLock<Option<RestoreRecord>>,
    /// One mover at a time: the background, or a write that needs its blocks moved.
    mover: futures_util::lock::Mutex<()>,
}

/// How far a restore is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreProgress {
    /// Epoch of the snapshot being restored.
    pub target: Epoch,
    /// Epoch of the automatic snapshot of the state before.
    pub before: Epoch,
    /// Blocks below this one are moved.
    pub cursor_block: BlockIndex,
    /// Blocks of the volume.
    pub blocks: u64,
}

impl RestoreState {
    pub(crate) fn new(record: Option<RestoreRecord>) -> RestoreState {
        let active = AtomicBool::new(record.is_some());
        RestoreState { active, record: RwLock::new(record), mover: Default::default() }
    }

    fn with_record<T>(&self, look: impl FnOnce(&RestoreRecord) -> T) -> Option<T> {
        if !self.active.load(Ordering::Acquire) {
            return None;
        }
        self.record.read().expect("no holder of this lock panics").as_ref().map(look)
    }

    fn set(&self, record: Option<RestoreRecord>) {
        let mut slot = self.record.write().expect("no holder of this lock panics");
        self.active.store(record.is_some(), Ordering::Release);
        *slot = record;
    }

    /// Whether a write to these blocks has to wait until they are moved.
    pub(crate) fn holds_back(&self, mut range: Range<BlockIndex>) -> bool {
        self.with_record(|record| !range.all(|block| record.is_moved(block))).unwrap_or(false)
    }

    /// The epoch as of which unmoved blocks of the range are read; `None` when all of them are on the origin.
    pub(crate) fn target_of_unmoved(&self, mut range: Range<BlockIndex>) -> Option<Epoch> {
        self.with_record(|record| (!range.all(|block| record.is_moved(block))).then_some(record.target_epoch)).flatten()
    }

    /// The target of the restore under way.
    pub(crate) fn target(&self) -> Option<Epoch> {
        self.with_record(|record| record.target_epoch)
    }

    /// Refuses what must not happen during a restore.
    pub(crate) fn refuse(&self, operation: &'static str) -> Result<()> {
        if self.target().is_none() {
            return Ok(());
        }
        let message = "a restore is under way; wait until `cairn show` says it is done";
        Err(Error::new(ErrorKind::Busy, operation, "volume").saying(message))
    }
}

impl Volume {
    /// Makes the volume show a snapshot. The caller has made sure that nobody has the volume open. On return it does,
    /// and `before` names the state before. Fails with `NotFound`, `Broken`, `Exists` (`before`), `Busy`, `NoSpace`
    /// (the store cannot hold what is about to be overwritten) or as a cut does.
    pub async fn restore<D: Disk>(
        &self,
        disks: &Disks<D>,
        name: &SnapshotName,
        before: &SnapshotName,
        options: SnapshotOptions,
        deadline: &Deadline,
    ) -> Result<Snapshot> {
        let _operation = self.operations.lock().await;
        self.refuse_closed("restore")?;
        self.restore.refuse("restore")?;
        let target = self.snapshot_handle(name).await?;
        if target.size_bytes() != self.size_bytes() {
            let message = format!("the volume has grown since snapshot {name}; export the snapshot instead");
            return Err(Error::new(ErrorKind::Invalid, "restore", "volume").saying(message));
        }
        self.refuse_without_space(target.pin.epoch).await?;
        let snapshot = self.cut(disks, before, options, true, deadline).await?;
        let mut ledger = self.ledger.lock().await;
        let (target_epoch, before_epoch) = (target.pin.epoch, snapshot.epoch);
        if ledger.snapshot(name)?.broken.is_some() {
            let message = format!("snapshot {name} broke while the state before was cut; the volume is as it was");
            return Err(Error::new(ErrorKind::Broken, "restore", "store").saying(message));
        }
        let item = Item::RestorePut { target_epoch, before_epoch, cursor_block: 0 };
        ledger.catalog.admit(std::slice::from_ref(&item))?;
        let result = ledger.catalog.append(&disks.store, std::slice::from_ref(&item)).await;
        if result.is_err() {
            // In doubt. It has begun, so that the volume shows the same should it reappear after a crash.
            ledger.in_memory(std::slice::from_ref(&item));
        }
        self.restore.set(ledger.catalog.state().restore.clone());
        self.work.notify();
        result.map_err(|error| {
            let message = "the store did not confirm it; the restore has begun and goes on when the store works again";
            Error::new(error.kind(), "restore", "store").saying(message).caused_by(error)
        })?;
        Ok(snapshot)
    }

    /// Every block that may have to move was saved since the target: their number bounds what is saved again.
    async fn refuse_without_space(&self, target: Epoch) -> Result<()> {
        let ledger = self.ledger.lock().await;
        let view = self.view_now();
        let in_runs = view.runs.iter().filter(|run| run.meta().last_epoch >= target).map(|run| run.meta().entries);
        let in_maps = view.maps.iter().filter(|map| map.epoch() >= target).map(|map| map.len() as u64);
        let blocks = (in_runs.sum::<u64>() + in_maps.sum::<u64>()).min(self.size_blocks());
        let segment_blocks = u64::from(self.places.segment_blocks());
        // Worst case one record a block, and segments that end half empty.
        let for_lanes = 2 * blocks.div_ceil(segment_blocks / 2) + u64::from(self.lane_count());
        let needed = for_lanes + ledger.kept_for_runs as u64;
        if (ledger.free_count() as u64) < needed {
            let message = format!(
                "the store needs room for {} bytes to keep the state before; delete snapshots or grow the store",
                needed * self.places.segment_bytes
            );
            return Err(Error::new(ErrorKind::NoSpace, "restore", "store").saying(message));
        }
        Ok(())
    }

    /// How far the restore under way is.
    pub fn restore_progress(&self) -> Option<RestoreProgress> {
        self.restore.with_record(|record| RestoreProgress {
            target: record.target_epoch,
            before: record.before_epoch,
            cursor_block: record.cursor_block,
            blocks: self.size_blocks(),
        })
    }

    /// Reads while a restore moves blocks: moved ones from the origin, the others as of the target.
    pub(crate) async fn read_during_restore<D: Disk>(
        &self,
        disks: &Disks<D>,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            let block = at / BLOCK_BYTES as u64;
            let block_end = (block + 1) * BLOCK_BYTES as u64;
            let length = (buffer.len() - done).min((block_end - at) as usize);
            let part = &mut buffer[done..done + length];
            match self.restore.target_of_unmoved(block..block + 1) {
                Some(target) => self.read_as_of(disks, target, at, part).await?,
                None => disks.origin.read(at, part).await?,
            }
            done += length;
        }
        Ok(())
    }

    /// Moves the blocks that a write is about to change, so that the write may go on.
    pub(crate) async fn move_before_write<D: Disk>(&self, lane: &Lane<D>, range: Range<BlockIndex>) -> Result<()> {
        let mover = self.restore.mover.lock().await;
        let result = self.move_and_mark(lane, range).await;
        drop(mover);
        // The background passes a restore by while somebody else moves blocks.
        self.work.notify();
        result
    }

    async fn move_and_mark<D: Disk>(&self, lane: &Lane<D>, range: Range<BlockIndex>) -> Result<()> {
        let mut ranges = vec![range];
        ranges.extend(self.restore.with_record(|record| record.gap_to_close(MARKS_MAX)).flatten());
        for range in ranges {
            let Some(target) = self.restore.target_of_unmoved(range.clone()) else { continue };
            self.move_saved_since(lane, target, range.clone()).await?;
            self.flush_origin(lane.disks()).await?;
            let count_blocks = range.end - range.start;
            self.note_restore(lane, Item::RestoreMoved { start_block: range.start, count_blocks }).await?;
        }
        Ok(())
    }

    /// Moves some blocks back. True if it did something; false also while a write moves blocks: it may be waiting for
    /// other background work.
    pub(crate) async fn restore_step<D: Disk>(&self, lane: &Lane<D>) -> Result<bool> {
        let Some(_mover) = self.restore.mover.try_lock() else { return Ok(false) };
        let Some(RestoreProgress { target, before, cursor_block, blocks }) = self.restore_progress() else {
            return Ok(false);
        };
        let end = blocks.min(cursor_block + self.limits.restore_step_blocks);
        let at = self.move_saved_since(lane, target, cursor_block..end).await?.min(blocks);
        self.flush_origin(lane.disks()).await?;
        let item = match at {
            at if at >= blocks => Item::RestoreEnd,
            at => Item::RestorePut { target_epoch: target, before_epoch: before, cursor_block: at },
        };
        self.note_restore(lane, item).await?;
        Ok(true)
    }

    /// Moves the blocks of a range that were saved since the target, without looking at every block. Returns up to
    /// which block everything is moved: the range's end or, if nothing lies in between, farther.
    async fn move_saved_since<D: Disk>(
        &self,
        lane: &Lane<D>,
        target: Epoch,
        range: Range<BlockIndex>,
    ) -> Result<BlockIndex> {
        let mut at = range.start;
        while at < range.end {
            at = self.next_saved_since(lane.disks(), target, at).await?.unwrap_or(u64::MAX);
            if at < range.end {
                let piece_end = range.end.min(at + PIECE_BLOCKS_MAX);
                self.move_blocks(lane, target, at..piece_end).await?;
                at = piece_end;
            }
        }
        Ok(at)
    }

    async fn note_restore<D: Disk>(&self, lane: &Lane<D>, item: Item) -> Result<()> {
        let mut ledger = self.ledger.lock().await;
        ledger.catalog.append(&lane.disks().store, &[item]).await?;
        self.restore.set(ledger.catalog.state().restore.clone());
        Ok(())
    }

    /// Writes to the origin what unmoved blocks of the range held at the target, saving what is there now.
    async fn move_blocks<D: Disk>(&self, lane: &Lane<D>, target: Epoch, range: Range<BlockIndex>) -> Result<()> {
        let disks = lane.disks();
        let mut found: Vec<Option<Entry>> = vec![None; (range.end - range.start) as usize];
        let view = self.view_now();
        view.find_range(&disks.store, &self.cache, range.clone(), target, &mut found).await?;
        drop(view);
        let content = self.read_blocks_as_of(disks, target, range.clone()).await?;
        for (slot, block) in range.enumerate() {
            // A block without an entry was not overwritten since the target: the origin has it.
            if found[slot].is_none() || !self.restore.holds_back(block..block + 1) {
                continue;
            }
            let offset = block * BLOCK_BYTES as u64;
            let length = (self.size_bytes() - offset).min(BLOCK_BYTES as u64) as usize;
            let image = &content[slot * BLOCK_BYTES..slot * BLOCK_BYTES + length];
            lane.write_back(offset, image).await?;
            self.stats.blocks_restored.add(1);
        }
        Ok(())
    }

    /// The first block from `from` on that was saved in the target's epoch or later.
    async fn next_saved_since<D: Disk>(
        &self,
        disks: &Disks<D>,
        target: Epoch,
        from: BlockIndex,
    ) -> Result<Option<BlockIndex>> {
        let view = self.view_now();
        let maps = view.maps.iter().filter(|map| map.epoch() >= target);
        let mut next = maps.filter_map(|map| map.next_block(from)).min();
        for run in view.runs.iter().filter(|run| run.meta().last_epoch >= target) {
            let mut cursor = run.scan(&disks.store, &self.cache, from).await?;
            while let Some(entry) = cursor.next(&disks.store).await? {
                if next.is_some_and(|next| next <= entry.block) {
                    break;
                }
                if entry.epoch >= target {
                    next = Some(entry.block);
                    break;
                }
            }
        }
        Ok(next)
    }
}
