//! The lane: the write context of one thread, and the write path (mission A2, A4; figs. 26, 41).
//!
//! Invariants:
//! - A request is counted in the gate before it tests the needed map, and only then writes the origin: a cut finds
//!   every origin write either finished or not yet tested.
//! - Everything a request claimed is saved before it waits for what others claimed: two requests that claim
//!   crosswise cannot wait for each other.
//! - Nobody waits for a save, a lock or the catalog while inside the gate.
//! - No write waits for the store once that was given up for lateness: what it began there it leaves behind
//!   (`errands.rs`), and it tests again.

mod errands;
mod log;
mod save;

pub use log::LaneShared;
pub(crate) use log::{ClosedSegment, Handed};

use crate::disk::{Disk, Disks};
use crate::epoch::EpochState;
use crate::error::{Error, ErrorKind, Result};
use crate::gate::Passage;
use crate::sync::Arc;
use crate::units::{blocks_inside, blocks_touched, pieces, BlockIndex, BLOCK_BYTES, PIECE_BLOCKS_MAX};
use crate::volume::Volume;
use errands::Errands;
use log::LaneLog;
use save::BufferPool;
use std::cell::RefCell;
use std::future::Future;
use std::ops::Range;
use std::rc::Rc;

/// The write context of one thread. Any number of requests may run in it at a time, as tasks of that thread.
pub struct Lane<D> {
    volume: Arc<Volume>,
    index: u16,
    disks: Rc<Disks<D>>,
    epoch: RefCell<Arc<EpochState>>,
    log: Rc<LaneLog<D>>,
    buffers: BufferPool,
    errands: Errands,
}

/// What a request puts on the origin.
#[derive(Clone, Copy)]
pub(crate) enum Content<'a> {
    Data(&'a [u8]),
    Zeroes { length_bytes: u64, may_unmap: bool },
}

/// Whose write it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writer {
    /// Whoever uses the volume: a restore moves the blocks first.
    User,
    /// The restore itself.
    Restore,
}

/// What is in the way of a write.
enum Obstacle {
    /// The gate is closed for a cut.
    Cut,
    /// A restore has yet to move the blocks back.
    Restore,
    /// The blocks were not in use, and what the store says of them has to be recorded as doubtful first.
    Guarded,
    /// The disk's identity lies there, and what it becomes has to be recorded first.
    Watched,
    /// A snapshot of this epoch or an older one needs what is there.
    Needed(Arc<EpochState>),
}

/// The way is free, and stays so while the passage exists; or it is not.
type Test<'a> = std::result::Result<Passage<'a>, Obstacle>;

impl Content<'_> {
    pub(crate) fn length_bytes(&self) -> u64 {
        match self {
            Content::Data(data) => data.len() as u64,
            Content::Zeroes { length_bytes, .. } => *length_bytes,
        }
    }

    /// The bytes from `from` on that `part` has room for.
    pub(crate) fn copy_part(&self, from: u64, part: &mut [u8]) {
        match self {
            Content::Data(data) => part.copy_from_slice(&data[from as usize..from as usize + part.len()]),
            Content::Zeroes { .. } => part.fill(0),
        }
    }

    fn piece(&self, from: u64, length_bytes: u64) -> Self {
        match self {
            Content::Data(data) => Content::Data(&data[from as usize..(from + length_bytes) as usize]),
            Content::Zeroes { may_unmap, .. } => Content::Zeroes { length_bytes, may_unmap: *may_unmap },
        }
    }
}

impl<D: Disk> Lane<D> {
    /// The lane with this index of the volume. Each index is used by one thread at a time.
    pub fn new(volume: Arc<Volume>, index: u16, disks: Rc<Disks<D>>) -> Lane<D> {
        assert!((index as usize) < volume.lanes.len());
        let epoch = RefCell::new(volume.active_epoch());
        let log = Rc::new(LaneLog::new(Arc::clone(&volume), index, Rc::clone(&disks)));
        Lane { volume, index, disks, epoch, log, buffers: BufferPool::default(), errands: Errands::default() }
    }

    /// The volume this lane writes.
    pub fn volume(&self) -> &Arc<Volume> {
        &self.volume
    }

    /// The disks this lane's thread uses.
    pub fn disks(&self) -> &Rc<Disks<D>> {
        &self.disks
    }

    /// Reads the volume's current content (mission A6).
    pub async fn read(&self, offset_bytes: u64, buffer: &mut [u8]) -> Result<()> {
        self.volume.check_range("read", offset_bytes, buffer.len() as u64)?;
        self.volume.read_current(&self.disks, offset_bytes, buffer).await
    }

    /// Writes the volume. `durable`: on completion the data survives a power failure. Before any needed block is
    /// overwritten its old content is durable in the store (law 2).
    pub fn write<'a>(
        &'a self,
        offset_bytes: u64,
        data: &'a [u8],
        durable: bool,
    ) -> impl Future<Output = Result<()>> + 'a {
        self.overwrite("write", offset_bytes, Content::Data(data), durable)
    }

    /// Writes zeroes; like any write, it saves what is needed first.
    pub async fn write_zeroes(&self, offset: u64, length_bytes: u64, durable: bool, may_unmap: bool) -> Result<()> {
        planted!("zeroes-skip-the-save", return self.disks.origin.write_zeroes(offset, length_bytes, may_unmap).await);
        self.overwrite("write zeroes", offset, Content::Zeroes { length_bytes, may_unmap }, durable).await
    }

    async fn overwrite(&self, operation: &'static str, offset: u64, content: Content<'_>, durable: bool) -> Result<()> {
        let length = content.length_bytes();
        self.volume.check_range(operation, offset, length)?;
        for (at, piece_bytes) in pieces(offset, length) {
            // Most requests are a single piece.
            let piece = if piece_bytes == length { content } else { content.piece(at - offset, piece_bytes) };
            self.overwrite_blocks(at, piece, durable, Writer::User).await?;
        }
        Ok(())
    }

    /// The right to write these bytes of the origin oneself, for a frontend that submits the write without a future of
    /// ours: nothing is in its way, and nothing gets in its way until the passage is dropped, when the write has
    /// completed. None where [`Lane::write`] has more to do. The write must not be a durable one.
    #[inline]
    pub fn way_for_write(&self, offset_bytes: u64, length_bytes: u64) -> Option<Passage<'_>> {
        self.volume.check_range("write", offset_bytes, length_bytes).ok()?;
        let (_, piece_bytes) = pieces(offset_bytes, length_bytes).next()?;
        if piece_bytes != length_bytes {
            return None;
        }
        self.pass(blocks_touched(offset_bytes, length_bytes), Writer::User, false).ok()
    }

    /// Whether the volume's current content of these bytes is what the origin has, so that a frontend may read it there
    /// itself; if not, [`Lane::read`] finds it.
    #[inline]
    pub fn is_on_origin(&self, offset_bytes: u64, length_bytes: u64) -> bool {
        let volume = &*self.volume;
        volume.check_range("read", offset_bytes, length_bytes).is_ok()
            && volume.restore.target_of_unmoved(blocks_touched(offset_bytes, length_bytes)).is_none()
    }

    /// Fig. 26 for one piece: test; save what is needed, or do what else is in the way; then write.
    async fn overwrite_blocks(&self, offset: u64, content: Content<'_>, durable: bool, writer: Writer) -> Result<()> {
        let range = blocks_touched(offset, content.length_bytes());
        let range = planted!("partial-blocks-not-saved", blocks_inside(offset, content.length_bytes(), 0), range);
        let mut watched = None;
        loop {
            let obstacle = match self.pass(range.clone(), writer, watched.is_some()) {
                Ok(passage) => {
                    let result = self.write_origin(offset, &content, durable).await;
                    drop(passage);
                    if let Some(log) = watched {
                        self.volume.watch.overwritten(self, log, range).await;
                    }
                    return match result {
                        Ok(()) => Ok(()),
                        failed => self.record_if_flush_failed(failed).await,
                    };
                }
                Err(obstacle) => obstacle,
            };
            // Nobody waits for a save or for a restore with the watch's lock in hand: both write watched blocks too.
            drop(watched.take());
            match obstacle {
                Obstacle::Cut => drop(self.volume.gate.enter(self.index).await),
                Obstacle::Restore => self.volume.move_before_write(self, offset, &content).await?,
                Obstacle::Guarded => self.distrust(range.clone()).await,
                Obstacle::Watched => {
                    planted!("watch-logged-after-write", self.write_origin(offset, &content, durable).await?);
                    watched = self.volume.watch.log_overwrite(self, offset, &content).await;
                }
                Obstacle::Needed(epoch) => {
                    planted!("saved-after-the-write", self.write_origin(offset, &content, durable).await?);
                    planted!(
                        "marked-after-the-write",
                        if epoch.keeping == crate::epoch::Keeping::Marks {
                            self.write_origin(offset, &content, durable).await?
                        }
                    );
                    self.save(&epoch, range.clone()).await?;
                }
            }
        }
    }

    /// The test of fig. 41, inside the gate: all that a write finds out where nothing is in its way. `is_logged`: the
    /// catalog has what the watched blocks will be.
    fn pass(&self, range: Range<BlockIndex>, writer: Writer, is_logged: bool) -> Test<'_> {
        let volume = &*self.volume;
        let passage = volume.gate.try_enter(self.index).ok_or(Obstacle::Cut)?;
        // Borrowed, not counted: the counter would be a cache line that all lanes write.
        let mut epoch = self.epoch.borrow_mut();
        volume.active.refresh(&mut epoch);
        let held_back = writer == Writer::User && volume.restore.holds_back(range.clone());
        if held_back && !planted!("restore-takes-writes-back") {
            return Err(Obstacle::Restore);
        }
        if epoch.needed.any_needed(range.clone()) {
            return Err(Obstacle::Needed(epoch.clone()));
        }
        let is_in_use = epoch.in_use.is_all_in_use(range.clone()) || planted!("write-leaves-the-block-free");
        // While the store is given up nothing is recorded there: the state directory says that neither its map nor its
        // watch is to be believed.
        let is_guarded = !is_in_use && volume.trust.guarded_in(range.clone()).next().is_some();
        if is_guarded && !volume.lateness.gave_up() {
            return Err(Obstacle::Guarded);
        }
        if !is_logged && volume.watch.touches(range.clone()) && !volume.lateness.gave_up() {
            return Err(Obstacle::Watched);
        }
        if !is_in_use {
            epoch.in_use.set_in_use(range);
        }
        Ok(passage)
    }

    async fn distrust(&self, blocks: Range<BlockIndex>) {
        let (volume, disks) = (Arc::clone(&self.volume), Rc::clone(&self.disks));
        self.errand(async move { volume.distrust(&disks, blocks).await }).await;
    }

    /// Passes a result on; a failed flush is recorded first, in the store or in the state directory.
    pub(crate) async fn record_if_flush_failed(&self, result: Result<()>) -> Result<()> {
        if matches!(&result, Err(error) if error.kind() == ErrorKind::FlushFailed) {
            let (volume, disks) = (Arc::clone(&self.volume), Rc::clone(&self.disks));
            let recorded = self.errand(async move { volume.record_latch(&disks).await }).await;
            if recorded.is_none() {
                self.volume.record_elsewhere(|elsewhere| elsewhere.flush_failed = true);
            }
        }
        result
    }

    /// The write of a restore: it saves what is there like any write, but is not held back by its own restore.
    pub(crate) async fn write_back(&self, offset: u64, data: &[u8]) -> Result<()> {
        planted!("restore-skips-the-save", return self.disks.origin.write(offset, data).await);
        // Boxed, because a user's write may move blocks, and so end up here.
        Box::pin(self.overwrite_blocks(offset, Content::Data(data), false, Writer::Restore)).await
    }

    async fn write_origin(&self, offset: u64, content: &Content<'_>, durable: bool) -> Result<()> {
        let origin = &self.disks.origin;
        match *content {
            Content::Data(data) if durable => {
                self.volume.refuse_after_failed_flush()?;
                let result = origin.write_durable(offset, data).await;
                self.volume.latch_failed_flush(result)
            }
            Content::Data(data) => origin.write(offset, data).await,
            Content::Zeroes { length_bytes, may_unmap } => {
                origin.write_zeroes(offset, length_bytes, may_unmap).await?;
                if durable && !planted!("durable-zeroes-not-flushed") {
                    self.volume.flush_origin_unrecorded(&self.disks).await?;
                }
                Ok(())
            }
        }
    }

    /// The blocks that lie whole in the range are not in use any more (mission A4). The discard is passed down for those
    /// that no snapshot needs. Discards are not remembered across a crash.
    pub async fn discard(&self, offset_bytes: u64, length_bytes: u64) -> Result<()> {
        self.volume.check_range("discard", offset_bytes, length_bytes)?;
        let maximum = self.disks.origin.discard_bytes_max() / BLOCK_BYTES as u64;
        let whole = blocks_inside(offset_bytes, length_bytes, self.volume.size_bytes());
        let mut at = whole.start;
        while at < whole.end {
            // One passage a piece: a cut never waits for a discard of a terabyte.
            // It ends where a granule does.
            let piece_end = (at + PIECE_BLOCKS_MAX * 16) & !(PIECE_BLOCKS_MAX - 1);
            let end = whole.end.min(piece_end).min(at + if maximum > 0 { maximum } else { u64::MAX - at });
            let passage = self.volume.gate.enter(self.index).await;
            self.discard_unused(at..end);
            if maximum > 0 {
                self.discard_unneeded(at, end).await?;
            }
            drop(passage);
            at = end;
        }
        Ok(())
    }

    /// Watched blocks are in use for good, and so is what a restore has yet to move.
    fn discard_unused(&self, blocks: Range<BlockIndex>) {
        let (epoch, volume) = (self.epoch(), &self.volume);
        let stays = |block: u64| volume.watch.is_watched(block) || volume.restore.holds_back(block..block + 1);
        let mut start = blocks.start;
        for block in blocks.clone().filter(|block| stays(*block)) {
            epoch.in_use.set_free(start..block);
            start = block + 1;
        }
        epoch.in_use.set_free(start..blocks.end);
    }

    async fn discard_unneeded(&self, start: u64, end: u64) -> Result<()> {
        let epoch = self.epoch();
        let skip = |block: u64| {
            planted!("discard-skips-the-save", false, epoch.needed.is_needed(block))
                || self.volume.watch.is_watched(block)
                || self.volume.restore.holds_back(block..block + 1)
        };
        let mut at = start;
        while at < end {
            if skip(at) {
                at += 1;
                continue;
            }
            let from = at;
            while at < end && !skip(at) {
                at += 1;
            }
            let from_bytes = from * BLOCK_BYTES as u64;
            let to_bytes = (at * BLOCK_BYTES as u64).min(self.volume.size_bytes());
            self.disks.origin.discard(from_bytes, to_bytes - from_bytes).await?;
        }
        Ok(())
    }

    /// Makes durable everything that completed before (law 4). Before-images are durable already.
    pub async fn flush(&self) -> Result<()> {
        self.volume.refuse_closed("flush")?;
        self.flush_origin().await
    }

    /// The flush of a write or a user. See [`Volume::flush_origin`].
    pub(crate) async fn flush_origin(&self) -> Result<()> {
        let result = self.volume.flush_origin_unrecorded(&self.disks).await;
        self.record_if_flush_failed(result).await
    }

    /// To be called about once a second: confirms the last record of an idle lane, and lets held-back writes try
    /// again.
    pub async fn tick(&self) -> Result<()> {
        self.volume.retry.notify();
        if self.volume.restore.try_unmovable_again() {
            self.volume.work.notify();
        }
        self.log.confirm_last_record().await
    }

    /// From now on this is the lane of background work.
    pub(crate) fn work_in_background(&self) {
        self.log.work_in_background();
    }

    /// The active epoch, as this lane sees it. Inside the gate it cannot change.
    fn epoch(&self) -> Arc<EpochState> {
        let mut epoch = self.epoch.borrow_mut();
        self.volume.active.refresh(&mut epoch);
        epoch.clone()
    }
}

/// A request that the volume cannot serve.
pub(crate) fn invalid(operation: &'static str, message: String) -> Error {
    Error::new(ErrorKind::Invalid, operation, "volume").saying(message)
}
