//! Restore: the volume shows a snapshot at once; its blocks move back in the background (mission A6).
//!
//! Invariants:
//! - An automatic snapshot of the state before is cut first: a restore can be undone by restoring that.
//! - A block is *moved* when the origin holds its content durably and the catalog says so. Until then it is read as of
//!   the target, and no write reaches it: a write moves it first.
//! - Nothing is moved before the catalog on the store says for sure that a restore is under way.
//! - After a crash unmoved blocks are moved again; moved ones never: they may have been written since.
//! - While a restore is under way nothing cuts, deletes, grows or detaches.

use super::background::Activity;
use super::ledger::Ledger;
use super::Volume;
use crate::catalog::state::RestoreRecord;
use crate::deadline::Deadline;
use crate::disk::{aligned_buffer, Disk, Disks};
use crate::entry::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::format::item::{Item, NO_HOLES};
use crate::holes::Holes;
use crate::lane::{Content, Lane};
use crate::snapshot::{Snapshot, SnapshotName, SnapshotOptions};
use crate::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use crate::sync::{Mutex, RwLock};
use crate::units::{blocks_touched, BlockIndex, Epoch, BLOCK_BYTES, PIECE_BLOCKS_MAX};
use std::collections::BTreeSet;
use std::ops::Range;

/// Marks of blocks moved ahead of the cursor. One more, and the narrowest gap between two of them is closed.
const MARKS_MAX: usize = 1024;

/// Blocks that cannot be moved and are remembered as such.
const UNMOVABLE_MAX: usize = 4096;
/// Ticks of lanes, one a second each, until they are tried again.
const TICKS_BETWEEN_TRIES: u32 = 60;

/// The restore under way, if any.
#[derive(Default)]
pub(crate) struct RestoreState {
    /// Looked at by every request; the record only when it is set.
    active: AtomicBool,
    record: RwLock<Option<RestoreRecord>>,
    /// The store did not confirm that it began: a crash may take it back.
    in_doubt: AtomicBool,
    /// One mover at a time: the background, or a write that needs its blocks moved.
    mover: crate::sync::lock::Mutex<()>,
    /// Blocks that could not be moved: what the target holds there cannot be read, or not be written. Reading them
    /// fails; a write of the whole block puts them right. Forgotten at a crash, and then found again.
    unmovable: Mutex<BTreeSet<BlockIndex>>,
    /// The background is to forget them and to try again. Only the mover may: it looks at them when it has moved the
    /// others of its step.
    try_again: AtomicBool,
    ticks: AtomicU32,
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
        RestoreState { active, record: RwLock::new(record), ..RestoreState::default() }
    }

    #[inline]
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

    /// The owner goes on with the mixture that the disk holds.
    pub(crate) fn abandon(&self) {
        self.set(None);
    }

    fn is_moved(&self, block: BlockIndex) -> bool {
        !self.holds_back(block..block + 1)
    }

    /// Whether a write to these blocks has to wait until they are moved.
    #[inline]
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
        let message = match self.unmovable().first() {
            None => "a restore is under way; wait until `cairn show` says it is done".to_owned(),
            Some(first) => format!(
                "a restore is under way and {} blocks of its snapshot cannot be read, the first at byte {}; overwrite \
                 them (whole blocks of {BLOCK_BYTES} bytes) so that it can end",
                self.unmovable().len(),
                first * BLOCK_BYTES as u64
            ),
        };
        Err(Error::new(ErrorKind::Busy, operation, "volume").saying(message))
    }

    fn unmovable(&self) -> BTreeSet<BlockIndex> {
        self.unmovable.lock().expect("no holder of this lock panics").clone()
    }

    /// Remembers a block that cannot be moved. Fails with the cause where there are too many to remember.
    fn give_up_block(&self, block: BlockIndex, cause: Error) -> Result<()> {
        tracing::error!(block, %cause, "a block cannot be restored");
        let mut unmovable = self.unmovable.lock().expect("no holder of this lock panics");
        if unmovable.len() >= UNMOVABLE_MAX {
            return Err(cause);
        }
        unmovable.insert(block);
        Ok(())
    }

    /// From time to time what could not be moved is tried again. True if there is something to try.
    pub(crate) fn try_unmovable_again(&self) -> bool {
        let is_time = self.ticks.fetch_add(1, Ordering::Relaxed) % TICKS_BETWEEN_TRIES == TICKS_BETWEEN_TRIES - 1;
        let tries = is_time && !self.unmovable().is_empty();
        if tries {
            self.try_again.store(true, Ordering::Relaxed);
        }
        tries
    }

    /// The first block that is neither moved nor known to be unmovable.
    fn next_to_move(&self, blocks: u64) -> Option<BlockIndex> {
        let unmovable = self.unmovable();
        self.with_record(|record| {
            let mut at = record.cursor_block;
            while at < blocks {
                match record.moved_until(at) {
                    Some(end) => at = end,
                    None if unmovable.contains(&at) => at += 1,
                    None => return Some(at),
                }
            }
            None
        })
        .flatten()
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
        let target = self.snapshot_handle(disks, name).await?;
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
        // From here on no snapshot breaks because the store is late.
        let _begins = self.lateness.restore_begins(target_epoch).map_err(|error| {
            let message = "the store is late, and its snapshots break or may break; the volume is as it was";
            Error::new(ErrorKind::Broken, "restore", "store").saying(message).caused_by(error)
        })?;
        let map = ledger.catalog.state().maps.get(&target_epoch).copied().unwrap_or(NO_HOLES);
        let items = [Item::RestorePut { target_epoch, before_epoch, cursor_block: 0 }, Item::LiveMap { run: map }];
        ledger.catalog.admit(&items)?;
        let result = ledger.catalog.append(&disks.store, &items).await;
        if result.is_err() {
            // In doubt. It has begun, so that the volume shows the same should it reappear after a crash.
            ledger.in_memory(&items);
            self.restore.in_doubt.store(true, Ordering::Relaxed);
        }
        self.take_back_map(&mut ledger, target.holes()).await;
        self.work.notify();
        result.map_err(|error| {
            let message = "the store did not confirm it; the restore has begun and goes on when the store works again";
            Error::new(error.kind(), "restore", "store").saying(message).caused_by(error)
        })?;
        Ok(snapshot)
    }

    /// What was not in use in the target is not in use any more; then the restore begins. Whoever moves blocks looks at
    /// the map: by that of before, blocks of the target would stay behind.
    async fn take_back_map(&self, ledger: &mut Ledger, holes: &Holes) {
        self.close_gate().await;
        if !planted!("restore-keeps-the-map") {
            self.active_epoch().in_use.replace(holes);
            self.guard_map(ledger);
        }
        self.restore.set(ledger.catalog.state().restore.clone());
        self.gate.open();
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

    /// Moves the blocks that a write of `content` at `offset` is about to change, so that the write may go on. Fails
    /// where one of them cannot be moved and the write does not cover it.
    pub(crate) async fn move_before_write<D: Disk>(
        &self,
        lane: &Lane<D>,
        offset: u64,
        content: &Content<'_>,
    ) -> Result<()> {
        let mover = self.restore.mover.lock().await;
        let result = self.move_and_mark(lane, offset, content).await;
        drop(mover);
        // The background passes a restore by while somebody else moves blocks.
        self.work.notify();
        result
    }

    /// The mover's first step: before anything is moved the store has to know of it.
    async fn confirm_restore<D: Disk>(&self, disks: &Disks<D>) -> Result<()> {
        if self.restore.in_doubt.load(Ordering::Relaxed) {
            self.ledger.lock().await.catalog.compact(&disks.store).await?;
            self.restore.in_doubt.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn move_and_mark<D: Disk>(&self, lane: &Lane<D>, offset: u64, content: &Content<'_>) -> Result<()> {
        let range = blocks_touched(offset, content.length_bytes());
        let Some(target) = self.restore.target_of_unmoved(range.clone()) else { return Ok(()) };
        self.confirm_restore(lane.disks()).await?;
        self.move_saved_since(lane, target, range.clone()).await?;
        for block in self.restore.unmovable().range(range.clone()) {
            let at = block * BLOCK_BYTES as u64;
            let length = (self.size_bytes() - at).min(BLOCK_BYTES as u64);
            if at < offset || at + length > offset + content.length_bytes() {
                let message = "the restored snapshot cannot be read here; write the whole block";
                return Err(Error::new(ErrorKind::Io, "write", "volume").at(at).saying(message));
            }
            let mut image = aligned_buffer(length as usize);
            content.copy_part(at - offset, &mut image);
            lane.write_back(at, &image).await?;
        }
        self.mark_moved(lane, range).await?;
        if let Some(gap) = self.restore.with_record(|record| record.gap_to_close(MARKS_MAX)).flatten() {
            self.move_saved_since(lane, target, gap.clone()).await?;
            self.mark_moved_but_unmovable(lane, gap).await?;
        }
        Ok(())
    }

    /// What was moved is durable, and then the catalog says so.
    async fn mark_moved<D: Disk>(&self, lane: &Lane<D>, range: Range<BlockIndex>) -> Result<()> {
        planted!("moved-mark-before-flush", Ok(()), self.flush_origin(lane.disks()).await)?;
        let count_blocks = range.end - range.start;
        self.note_restore(lane, Item::RestoreMoved { start_block: range.start, count_blocks }).await?;
        let mut unmovable = self.restore.unmovable.lock().expect("no holder of this lock panics");
        unmovable.retain(|block| !range.contains(block));
        Ok(())
    }

    async fn mark_moved_but_unmovable<D: Disk>(&self, lane: &Lane<D>, range: Range<BlockIndex>) -> Result<()> {
        let mut start = range.start;
        let holes: Vec<BlockIndex> = self.restore.unmovable().range(range.clone()).copied().collect();
        for end in holes.into_iter().chain([range.end]) {
            if start < end {
                self.mark_moved(lane, start..end).await?;
            }
            start = end + 1;
        }
        Ok(())
    }

    /// Moves some blocks back. True if it did something; false also while a write moves blocks: it may be waiting for
    /// other background work.
    pub(crate) async fn restore_step<D: Disk>(&self, lane: &Lane<D>) -> Result<bool> {
        let Some(_mover) = self.restore.mover.try_lock() else { return Ok(false) };
        if self.restore.try_again.swap(false, Ordering::Relaxed) {
            self.restore.unmovable.lock().expect("no holder of this lock panics").clear();
        }
        let Some(RestoreProgress { target, before, cursor_block, blocks }) = self.restore_progress() else {
            return Ok(false);
        };
        let Some(start) = self.restore.next_to_move(blocks) else {
            if self.restore.unmovable().is_empty() {
                self.note_restore(lane, Item::RestoreEnd).await?;
                return Ok(true);
            }
            // Only writes of whole blocks can help now.
            return Ok(false);
        };
        self.confirm_restore(lane.disks()).await?;
        self.is_busy_with(Activity::Restoring);
        let end = blocks.min(start + self.limits.restore_step_blocks);
        let at = self.move_saved_since(lane, target, start..end).await?.min(blocks);
        let holes = self.restore.unmovable();
        if start > cursor_block || holes.range(start..at).next().is_some() {
            self.mark_moved_but_unmovable(lane, start..at).await?;
            return Ok(true);
        }
        planted!("moved-mark-before-flush", Ok(()), self.flush_origin(lane.disks()).await)?;
        let item = match at {
            at if at >= blocks && holes.is_empty() => Item::RestoreEnd,
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
        let (catalog, store) = (&mut ledger.catalog, &lane.disks().store);
        planted!("moved-mark-volatile", catalog.apply_in_memory(&[item]), catalog.append(store, &[item]).await)?;
        self.restore.set(ledger.catalog.state().restore.clone());
        Ok(())
    }

    /// Writes to the origin what unmoved blocks of the range held at the target, saving what is there now. Blocks with
    /// which that does not go are remembered.
    async fn move_blocks<D: Disk>(&self, lane: &Lane<D>, target: Epoch, range: Range<BlockIndex>) -> Result<()> {
        let disks = lane.disks();
        let mut found: Vec<Option<Entry>> = vec![None; (range.end - range.start) as usize];
        let view = self.view_now();
        view.find_range(&disks.store, &self.cache, range.clone(), target, &mut found).await?;
        drop(view);
        // A block without an entry was not overwritten since the target: the origin has it.
        // One that is not in use holds nothing that anybody could miss.
        let active = self.active_epoch();
        let moves = |block: BlockIndex| {
            let is_saved = found[(block - range.start) as usize].is_some();
            is_saved && !self.restore.is_moved(block) && active.in_use.is_all_in_use(block..block + 1)
        };
        let mut content = aligned_buffer((range.end - range.start) as usize * BLOCK_BYTES);
        if self.read_blocks_as_of(disks, target, range.clone(), &mut content).await.is_ok() {
            for (slot, block) in range.clone().enumerate().filter(|(_, block)| moves(*block)) {
                let image = &content[slot * BLOCK_BYTES..(slot + 1) * BLOCK_BYTES];
                self.move_block(lane, block, Ok(image)).await?;
            }
            return Ok(());
        }
        for block in range.clone().filter(|block| moves(*block)) {
            let image = &mut content[..BLOCK_BYTES];
            let read = self.read_blocks_as_of(disks, target, block..block + 1, image).await;
            self.move_block(lane, block, read.map(|()| &*image)).await?;
        }
        Ok(())
    }

    async fn move_block<D: Disk>(&self, lane: &Lane<D>, block: BlockIndex, image: Result<&[u8]>) -> Result<()> {
        let offset = block * BLOCK_BYTES as u64;
        let length = (self.size_bytes() - offset).min(BLOCK_BYTES as u64) as usize;
        let moved = match image {
            Ok(image) => lane.write_back(offset, &image[..length]).await,
            Err(error) => Err(error),
        };
        match moved {
            Ok(()) => {
                self.stats.blocks_restored.add(1);
                Ok(())
            }
            Err(error) if matches!(error.kind(), ErrorKind::Io | ErrorKind::Corrupt) => {
                self.restore.give_up_block(block, error)
            }
            Err(error) => Err(error),
        }
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
