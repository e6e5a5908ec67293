//! The watch: was the origin written while Cairn was away?
//!
//! A few blocks change whenever a filesystem, a partition table or a volume label is touched: the places of
//! superblocks and labels at the start, and the last blocks, of the disk and of each of its partitions. Before one of
//! them is overwritten the hashes of its new sectors are logged durably. After a clean end the origin must hold exactly
//! the last content; after an unclean one every sector must hold one of the logged contents. A keyed sample of other
//! blocks is compared after a clean end.
//!
//! Invariants:
//! - One write to watched blocks at a time. A write to the partition table ends when its partitions are watched.
//! - The log of a block holds every content that its sectors can have after a crash. A block that cannot be read is no
//!   longer watched until the watch is set up anew.
//! - The log is bounded: past a limit the origin is flushed, and what it holds then is the log. Where it cannot be
//!   flushed the latest contents stay: an attach may then ask without reason, but never passes over a change.
//! - Whoever holds the lock of the watch waits for no save and no restore: both write watched blocks themselves. How
//!   long they wait for the store is counted, so that nobody need count how long somebody waits for that lock.
//! - While the store is given up for lateness watched blocks are written unlogged, and the state directory says so.
//!   Then the watch is set up anew.

mod hashes;
mod places;
mod verify;

pub(crate) use hashes::{read_block, read_sample};
pub(crate) use verify::verify_origin;

use crate::disk::{aligned_buffer, AlignedBuffer, Disk, Disks};
use crate::error::{Error, ErrorKind, Result};
use crate::format::item::Item;
use crate::lane::{Content, Lane};
use crate::sync::lock::{Mutex, MutexGuard};
use crate::sync::Arc;
use crate::units::{blocks_for, blocks_touched, BlockIndex, BLOCK_BYTES};
use crate::volume::Volume;
use hashes::{hash_sectors, read_blocks, SectorHashes};
pub(crate) use places::WatchedBlocks;
use places::{Places, WATCHED_MAX};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;

/// Contents logged of one block before the origin is flushed and the log shortened.
const LOGGED_MAX: usize = 32;
/// The same for all blocks together, the first content of each not counted. So the log takes at most some 100 KiB of a
/// catalog's area, and goes into one record.
const LOGGED_MORE_MAX: usize = 224;

/// What is known of the watched blocks; see the file's head.
pub struct Watch {
    key: [u8; 32],
    blocks: WatchedBlocks,
    /// Held while a watched block is being written.
    log: Mutex<WatchLog>,
}

/// The contents logged since the last reset, oldest first; the watched blocks are those that it has.
pub(crate) struct WatchLog {
    contents: BTreeMap<BlockIndex, Vec<SectorHashes>>,
    /// A write to one of these may move partitions.
    table: BTreeSet<BlockIndex>,
    /// The volume's size, or the one it is about to grow to.
    size_bytes: u64,
    /// The catalog refused some of it: all of it goes there with the next write.
    is_behind: bool,
}

/// Proof that the hashes of a write to watched blocks are durable, and that no other such write is under way.
pub(crate) type WatchedWrite<'a> = MutexGuard<'a, WatchLog>;

impl WatchLog {
    /// What the origin holds now in the places to watch. Where its partition table cannot be read, `so_far` tells.
    pub(crate) async fn read<D: Disk>(
        origin: &D,
        key: &[u8; 32],
        size_bytes: u64,
        so_far: impl Iterator<Item = BlockIndex>,
    ) -> WatchLog {
        let Places { blocks, table, size_bytes } = Places::find(origin, size_bytes, so_far).await;
        let contents = read_blocks(origin, key, size_bytes, blocks.into_iter().take(WATCHED_MAX)).await;
        WatchLog { contents, table, size_bytes, is_behind: false }
    }

    /// The log of an earlier attachment, of which no content can be ruled out, and what the origin holds now: it may have
    /// been accepted although the log does not have it. Partitions are not followed.
    pub(crate) async fn kept<D: Disk>(
        origin: &D,
        key: &[u8; 32],
        contents: &BTreeMap<BlockIndex, Vec<SectorHashes>>,
        size_bytes: u64,
    ) -> WatchLog {
        let inside = contents.range(..blocks_for(size_bytes)).take(WATCHED_MAX);
        let contents: BTreeMap<_, _> = inside.map(|(&block, known)| (block, known.clone())).collect();
        let present = read_blocks(origin, key, size_bytes, contents.keys().copied()).await;
        let mut log = WatchLog { contents, table: BTreeSet::new(), size_bytes, is_behind: false };
        log.add(present);
        log
    }

    /// These contents are possible as well; of blocks that are watched.
    fn add(&mut self, present: BTreeMap<BlockIndex, Vec<SectorHashes>>) {
        for (block, hashes) in present {
            let known = self.contents.get_mut(&block).expect("only blocks of the log were read");
            known.extend(hashes.into_iter().filter(|one| !known.contains(one)).collect::<Vec<_>>());
        }
    }

    /// Items that replace the whole log by this one.
    pub(crate) fn items(&self) -> Vec<Item> {
        let adds = self
            .contents
            .iter()
            .flat_map(|(&block, known)| known.iter().map(move |&hashes| Item::WatchAdd { block, hashes }));
        std::iter::once(Item::WatchReset).chain(adds).collect()
    }

    fn is_long(&self) -> bool {
        let more: usize = self.contents.values().map(|known| known.len() - 1).sum();
        more > LOGGED_MORE_MAX || self.contents.values().any(|known| known.len() > LOGGED_MAX)
    }
}

impl Watch {
    pub(crate) fn new(key: [u8; 32], log: WatchLog) -> Watch {
        Watch { key, blocks: WatchedBlocks::new(log.contents.keys().copied()), log: Mutex::new(log) }
    }

    /// Whether writes to this block are logged. Asked inside the gate.
    pub(crate) fn is_watched(&self, block: BlockIndex) -> bool {
        self.blocks.any_in(block..block + 1)
    }

    /// Whether a write to these blocks has to be logged first: rarely. Asked inside the gate.
    #[inline]
    pub(crate) fn touches(&self, range: Range<BlockIndex>) -> bool {
        self.blocks.any_in(range)
    }

    /// Logs the hashes that a write will leave in watched blocks. No other such write begins before the guard is
    /// dropped, or given to [`Watch::overwritten`]. `None`: the store was given up first; the caller tests again.
    pub(crate) async fn log_overwrite<D: Disk>(
        &self,
        lane: &Lane<D>,
        offset: u64,
        content: &Content<'_>,
    ) -> Option<WatchedWrite<'_>> {
        let range = blocks_touched(offset, content.length_bytes());
        let mut log = lane.unless_given_up(self.log.lock()).await?;
        let (mut coming, mut adds) = (BTreeMap::new(), Vec::new());
        let watched: Vec<BlockIndex> = log.contents.range(range).map(|(&block, _)| block).collect();
        let mut start_anew = false;
        for block in watched {
            let Ok(image) = self.image_after(lane.volume(), lane.disks(), block, offset, content).await else {
                tracing::warn!(block, "a watched block of the origin cannot be read; it is no longer watched");
                log.contents.remove(&block);
                start_anew = true;
                continue;
            };
            let hashes = hash_sectors(&self.key, &image);
            let known = log.contents.get_mut(&block).expect("it was just listed");
            // It is the latest, whenever else it was there.
            match known.iter().position(|one| *one == hashes) {
                Some(place) => known[place..].rotate_left(1),
                None => {
                    known.push(hashes);
                    adds.push(Item::WatchAdd { block, hashes });
                }
            }
            coming.insert(block, hashes);
        }
        if log.is_long() {
            self.shorten(lane, &mut log, &coming).await;
            start_anew = true;
        }
        let items = if start_anew || log.is_behind { log.items() } else { adds };
        log.is_behind = !record(lane, items).await;
        Some(log)
    }

    /// Ends a write to watched blocks, whether or not it went well. Where it may have changed the partition table, the
    /// watch moves to where the partitions are now.
    pub(crate) async fn overwritten<D: Disk>(
        &self,
        lane: &Lane<D>,
        mut log: WatchedWrite<'_>,
        range: Range<BlockIndex>,
    ) {
        if log.table.range(range).next().is_none() {
            return;
        }
        let places = Places::find(&lane.disks().origin, log.size_bytes, log.contents.keys().copied()).await;
        // A growth that failed left the size that was to be.
        let places = places.and_the_end_of(lane.volume().size_bytes());
        if let Err(error) = self.move_to(lane, &mut log, places).await {
            tracing::error!(%error, "the partition table was written; partitions that are new are not watched");
        }
    }

    /// Flushes the origin, so that of every block only what it holds now can be there, and what is coming.
    async fn shorten<D: Disk>(&self, lane: &Lane<D>, log: &mut WatchLog, coming: &BTreeMap<BlockIndex, SectorHashes>) {
        if let Err(error) = lane.flush_origin().await {
            tracing::error!(%error, "the watch on the origin keeps only the latest contents");
            let share = LOGGED_MAX.min(1 + LOGGED_MORE_MAX / log.contents.len());
            for known in log.contents.values_mut() {
                known.drain(..known.len().saturating_sub(share));
            }
            return;
        }
        // A block with a single content holds just that.
        let several = log.contents.extract_if(.., |_, known| known.len() > 1);
        let several = Vec::from_iter(several.map(|(block, _)| block));
        let mut present = read_blocks(&lane.disks().origin, &self.key, log.size_bytes, several).await;
        for (block, hashes) in coming {
            present.entry(*block).and_modify(|known| {
                if !known.contains(hashes) {
                    known.push(*hashes);
                }
            });
        }
        log.contents.append(&mut present);
    }

    /// Watches other places from now on.
    async fn move_to<D: Disk>(&self, lane: &Lane<D>, log: &mut WatchLog, places: Places) -> Result<()> {
        let Places { blocks, table, size_bytes } = places;
        // The last block of a volume that grows gets sectors that were not looked at.
        let cut_off = (!log.size_bytes.is_multiple_of(BLOCK_BYTES as u64) && log.size_bytes != size_bytes)
            .then_some(log.size_bytes / BLOCK_BYTES as u64);
        let is_new = |block: &BlockIndex| !log.contents.contains_key(block) || cut_off == Some(*block);
        let room = WATCHED_MAX - log.contents.len();
        let new: Vec<BlockIndex> = blocks.iter().copied().filter(is_new).take(room).collect();
        let is_gone = |block: &BlockIndex| !blocks.contains(block);
        if !new.is_empty() || log.contents.keys().any(is_gone) {
            if !new.is_empty() {
                // Who is inside the gate may still write them unlogged; after this they come here first, and wait.
                self.announce(lane, log.contents.keys().chain(&new).copied()).await?;
                self.flush_for_all(lane).await?;
                log.contents.extend(read_blocks(&lane.disks().origin, &self.key, size_bytes, new).await);
            }
            log.contents.retain(|block, _| !is_gone(block));
            log.is_behind = !record(lane, log.items()).await;
            self.announce(lane, log.contents.keys().copied()).await?;
        }
        log.table = table;
        log.size_bytes = size_bytes;
        Ok(())
    }

    /// Flushes the origin. Others may wait for the background, which does this, as well.
    async fn flush_for_all<D: Disk>(&self, lane: &Lane<D>) -> Result<()> {
        let volume = lane.volume();
        let flushed = volume.lateness.for_disk(volume.flush_origin_unrecorded(lane.disks())).await;
        lane.record_if_flush_failed(flushed).await
    }

    /// Tells everybody which blocks are watched. Afterwards nobody writes as of before.
    async fn announce<D: Disk>(&self, lane: &Lane<D>, blocks: impl Iterator<Item = BlockIndex>) -> Result<()> {
        let volume = lane.volume();
        // Whoever closes the gate holds the ledger.
        let _ledger = lane.in_time(volume.ledger.lock()).await.ok_or_else(|| {
            let message = "the store does not answer in time";
            Error::new(ErrorKind::TimedOut, "watch the disk", "store").saying(message)
        })?;
        volume.close_gate().await;
        self.blocks.replace(blocks);
        volume.gate.open();
        Ok(())
    }

    /// The block as it will be after the write.
    async fn image_after<D: Disk>(
        &self,
        volume: &Volume,
        disks: &Disks<D>,
        block: BlockIndex,
        offset: u64,
        content: &Content<'_>,
    ) -> Result<AlignedBuffer> {
        let block_start = block * BLOCK_BYTES as u64;
        let block_end = (block_start + BLOCK_BYTES as u64).min(volume.size_bytes());
        let end = offset + content.length_bytes();
        let mut image = aligned_buffer(BLOCK_BYTES);
        if offset > block_start || end < block_end {
            let inside = (block_end - block_start) as usize;
            volume.read_current(disks, block_start, &mut image[..inside]).await?;
        }
        let (from, to) = (offset.max(block_start), end.min(block_end));
        let part = &mut image[(from - block_start) as usize..(to - block_start) as usize];
        match content {
            Content::Data(data) => part.copy_from_slice(&data[(from - offset) as usize..(to - offset) as usize]),
            Content::Zeroes { .. } => part.fill(0),
        }
        Ok(image)
    }

    /// The volume is about to grow to `size_bytes`: until [`Watch::has_grown`] the last blocks of both sizes are
    /// watched.
    pub(crate) async fn is_about_to_grow<D: Disk>(&self, lane: &Lane<D>, size_bytes: u64) -> Result<()> {
        let mut log = self.log.lock().await;
        let places = Places::find(&lane.disks().origin, size_bytes, log.contents.keys().copied()).await;
        self.move_to(lane, &mut log, places.and_the_end_of(lane.volume().size_bytes())).await
    }

    /// The volume has grown: from now on only its new last blocks are watched.
    pub(crate) async fn has_grown<D: Disk>(&self, lane: &Lane<D>) {
        let mut log = self.log.lock().await;
        let size_bytes = lane.volume().size_bytes();
        let places = Places::find(&lane.disks().origin, size_bytes, log.contents.keys().copied()).await;
        if let Err(error) = self.move_to(lane, &mut log, places).await {
            tracing::error!(%error, "the volume has grown; what is new of its partitions is not watched");
        }
    }

    /// After a time in which watched blocks were written unlogged: what the origin holds now is what is logged,
    /// durably.
    pub(crate) async fn set_up_anew<D: Disk>(&self, lane: &Lane<D>) -> Result<()> {
        let (origin, lateness) = (&lane.disks().origin, &lane.volume().lateness);
        let mut log = self.log.lock().await;
        let so_far = log.contents.keys().copied();
        let places = lateness.for_disk(Places::find(origin, log.size_bytes, so_far)).await;
        let places = places.and_the_end_of(lane.volume().size_bytes());
        match self.move_to(lane, &mut log, places).await {
            // After a failed flush no other succeeds; what was watched before is watched on.
            Err(error) if error.kind() == ErrorKind::FlushFailed => {
                tracing::error!(%error, "partitions that are new are not watched");
            }
            moved => moved?,
        }
        let is_durable = self.flush_for_all(lane).await.is_ok();
        // A growth that was cut off left blocks behind the end.
        let watched = log.contents.range(..blocks_for(log.size_bytes)).map(|(&block, _)| block);
        let present = lateness.for_disk(read_blocks(origin, &self.key, log.size_bytes, watched)).await;
        if is_durable {
            log.contents = present;
        } else {
            // Older contents may come back: they stay legal.
            log.contents.retain(|block, _| present.contains_key(block));
            log.add(present);
        }
        log.is_behind = !record(lane, log.items()).await;
        if !log.is_behind {
            return Ok(());
        }
        let message = "the watch on the disk could not be set up anew";
        Err(Error::new(ErrorKind::Io, "watch the disk", "store").saying(message))
    }
}

/// Makes items durable. Where the store does not take them they stay due: the next catalog record brings them along.
/// Production does not wait for that; a crash before makes the attach ask the owner. Nor does it wait longer than for
/// the store to be given up; then all of the log is written anew later. Whether the catalog has them, if the next
/// record goes well.
async fn record<D: Disk>(lane: &Lane<D>, items: Vec<Item>) -> bool {
    if items.is_empty() {
        return true;
    }
    let (volume, disks) = (Arc::clone(lane.volume()), Rc::clone(lane.disks()));
    let generation = volume.lateness.generation();
    let recorded = lane.errand(async move {
        let mut ledger = volume.ledger.lock().await;
        if volume.lateness.generation() != generation {
            // Left behind: what is on the store may be newer by now.
            return false;
        }
        if let Err(error) = ledger.catalog.append(&disks.store, &items).await {
            tracing::error!(%error, "the watch on the origin could not be kept up");
            // What the catalog refuses for good it would refuse from memory, too.
            if ledger.catalog.admit(&items).is_err() {
                return false;
            }
            ledger.in_memory(&items);
        }
        true
    });
    recorded.await.unwrap_or(false)
}
