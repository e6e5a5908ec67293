//! The watch: was the origin written while Cairn was away?
//!
//! A few blocks change whenever a filesystem, a partition table or a volume label is touched: the places of
//! superblocks and labels at the start, and the last blocks. Before one of them is overwritten the hashes of its new
//! sectors are logged durably. After a clean end the origin must hold exactly the last content; after an unclean one
//! every sector must hold one of the logged contents. A keyed sample of other blocks is compared after a clean end.
//!
//! Invariants:
//! - One write to watched blocks at a time.
//! - The log of a block holds every content that its sectors can have after a crash. A block that cannot be read is no
//!   longer watched until the next attach.
//! - The log is bounded: past a limit the origin is flushed, and what it holds then is the log. Where it cannot be
//!   flushed the latest contents stay: an attach may then ask without reason, but never passes over a change.
//! - Whoever holds the lock of the watch waits for no save and no restore: both write watched blocks themselves.

use crate::catalog::state::State;
use crate::disk::{aligned_buffer, AlignedBuffer, Disk, Disks};
use crate::error::{Error, ErrorKind, Result};
use crate::format::item::Item;
use crate::lane::Content;
use crate::units::{blocks_for, blocks_touched, BlockIndex, BLOCK_BYTES, TEAR_BYTES};
use crate::volume::Volume;
use futures_util::lock::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Hashes of a block's sectors.
type SectorHashes = [u64; BLOCK_BYTES / TEAR_BYTES];

/// Watched blocks at the start: boot record, partition table, superblocks of ext, xfs, f2fs and swap, LVM labels and
/// their metadata header (0, 1), and the two first superblocks of btrfs (64 KiB and 64 MiB).
const START_BLOCKS: [BlockIndex; 4] = [0, 1, 16, 16384];
/// Watched blocks at the end: backup partition table, md superblocks.
const END_BLOCKS: u64 = 3;
/// Blocks sampled at a clean end.
pub(crate) const SAMPLE_BLOCKS: u64 = 64;
/// Contents logged of one block before the origin is flushed and the log shortened.
const LOGGED_MAX: usize = 32;

/// What is known of the watched blocks; see the file's head.
pub struct Watch {
    key: [u8; 32],
    /// The volume's size, and the size it is about to grow to: the last blocks of both are watched.
    sizes_bytes: [AtomicU64; 2],
    /// Held while a watched block is being written; knows the contents logged since the last reset.
    logged: Mutex<BTreeMap<BlockIndex, Vec<SectorHashes>>>,
}

/// Proof that the hashes of a write to watched blocks are durable, and that no other such write is under way.
pub(crate) type WatchedWrite<'a> = MutexGuard<'a, BTreeMap<BlockIndex, Vec<SectorHashes>>>;

impl Watch {
    pub(crate) fn new(key: [u8; 32], size_bytes: u64, logged: BTreeMap<BlockIndex, Vec<SectorHashes>>) -> Watch {
        let sizes_bytes = [AtomicU64::new(size_bytes), AtomicU64::new(size_bytes)];
        Watch { key, sizes_bytes, logged: Mutex::new(logged) }
    }

    /// Whether writes to this block are logged.
    pub(crate) fn is_watched(&self, block: BlockIndex) -> bool {
        let is_last = |size_bytes: &AtomicU64| {
            let blocks = blocks_for(size_bytes.load(Ordering::Relaxed));
            block < blocks && block + END_BLOCKS >= blocks
        };
        START_BLOCKS.contains(&block) || self.sizes_bytes.iter().any(is_last)
    }

    /// Whether a write to these blocks has to be logged first: rarely.
    pub(crate) fn touches(&self, mut range: Range<BlockIndex>) -> bool {
        range.any(|block| self.is_watched(block))
    }

    /// Logs the hashes that a write will leave in watched blocks. No other such write begins before the guard is
    /// dropped.
    pub(crate) async fn log_overwrite<D: Disk>(
        &self,
        volume: &Volume,
        disks: &Disks<D>,
        offset: u64,
        content: &Content<'_>,
    ) -> WatchedWrite<'_> {
        let range = blocks_touched(offset, content.length_bytes());
        let mut logged = self.logged.lock().await;
        let mut coming = BTreeMap::new();
        let watched: Vec<BlockIndex> = logged.range(range).map(|(&block, _)| block).collect();
        let mut start_anew = false;
        for block in watched {
            let Ok(image) = self.image_after(volume, disks, block, offset, content).await else {
                tracing::warn!(block, "a watched block of the origin cannot be read; it is no longer watched");
                logged.remove(&block);
                start_anew = true;
                continue;
            };
            let hashes = hash_sectors(&self.key, &image);
            let known = logged.get_mut(&block).expect("it was just listed");
            if !known.contains(&hashes) {
                known.push(hashes);
                coming.insert(block, hashes);
            }
        }
        if logged.values().any(|known| known.len() > LOGGED_MAX) {
            self.shorten(volume, disks, &mut logged, &coming).await;
            start_anew = true;
        }
        let add = |(&block, &hashes): (&BlockIndex, &SectorHashes)| Item::WatchAdd { block, hashes };
        let items: Vec<Item> = if start_anew { all_items(&logged) } else { coming.iter().map(add).collect() };
        log(volume, disks, &items).await;
        logged
    }

    /// Flushes the origin, so that of every block only what it holds now can be there, and what is coming.
    async fn shorten<D: Disk>(
        &self,
        volume: &Volume,
        disks: &Disks<D>,
        logged: &mut BTreeMap<BlockIndex, Vec<SectorHashes>>,
        coming: &BTreeMap<BlockIndex, SectorHashes>,
    ) {
        if let Err(error) = volume.flush_origin(disks).await {
            tracing::error!(%error, "the watch on the origin keeps only the latest contents");
            for known in logged.values_mut() {
                known.drain(..known.len().saturating_sub(LOGGED_MAX));
            }
            return;
        }
        let present = read_blocks(&disks.origin, &self.key, volume.size_bytes(), logged.keys().copied()).await;
        *logged = present;
        for (block, hashes) in coming {
            logged.entry(*block).and_modify(|known| known.push(*hashes));
        }
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

    /// The volume is about to grow to `size_bytes`: until [`Watch::has_grown`] the last blocks of both sizes are watched.
    pub(crate) async fn is_about_to_grow<D: Disk>(
        &self,
        volume: &Volume,
        disks: &Disks<D>,
        size_bytes: u64,
    ) -> Result<()> {
        let mut logged = self.logged.lock().await;
        volume.flush_origin(disks).await?;
        self.sizes_bytes[1].store(size_bytes, Ordering::Relaxed);
        let blocks = watched_blocks(volume.size_bytes()).chain(watched_blocks(size_bytes));
        *logged = read_blocks(&disks.origin, &self.key, size_bytes, blocks).await;
        volume.ledger.lock().await.catalog.append(&disks.store, &all_items(&logged)).await
    }

    /// The volume has grown: from now on only its new last blocks are watched.
    pub(crate) async fn has_grown<D: Disk>(&self, volume: &Volume, disks: &Disks<D>) {
        let mut logged = self.logged.lock().await;
        self.sizes_bytes[0].store(volume.size_bytes(), Ordering::Relaxed);
        logged.retain(|block, _| self.is_watched(*block));
        log(volume, disks, &all_items(&logged)).await;
    }
}

/// Makes items durable. Where the store does not take them they stay due: the next catalog record brings them along.
/// Production does not wait for that; a crash before makes the attach ask the owner.
async fn log<D: Disk>(volume: &Volume, disks: &Disks<D>, items: &[Item]) {
    if items.is_empty() {
        return;
    }
    let mut ledger = volume.ledger.lock().await;
    if let Err(error) = ledger.catalog.append(&disks.store, items).await {
        tracing::error!(%error, "the watch on the origin could not be kept up");
        if !matches!(error.kind(), ErrorKind::NoSpace | ErrorKind::ReadOnly) {
            ledger.in_memory(items);
        }
    }
}

/// Items that replace the whole log by this one.
pub(crate) fn all_items(logged: &BTreeMap<BlockIndex, Vec<SectorHashes>>) -> Vec<Item> {
    let adds =
        logged.iter().flat_map(|(&block, known)| known.iter().map(move |&hashes| Item::WatchAdd { block, hashes }));
    std::iter::once(Item::WatchReset).chain(adds).collect()
}

/// The blocks watched in a volume of this size.
fn watched_blocks(size_bytes: u64) -> impl Iterator<Item = BlockIndex> {
    let blocks = blocks_for(size_bytes);
    let last = blocks.saturating_sub(END_BLOCKS)..blocks;
    START_BLOCKS.into_iter().filter(move |block| *block < blocks).chain(last)
}

/// The hashes of the watched blocks as they are on the origin.
pub(crate) async fn read_watched<D: Disk>(
    origin: &D,
    key: &[u8; 32],
    size_bytes: u64,
) -> BTreeMap<BlockIndex, Vec<SectorHashes>> {
    read_blocks(origin, key, size_bytes, watched_blocks(size_bytes)).await
}

/// The hashes of some blocks as they are on the origin. A block that cannot be read is left out.
async fn read_blocks<D: Disk>(
    origin: &D,
    key: &[u8; 32],
    size_bytes: u64,
    blocks: impl Iterator<Item = BlockIndex>,
) -> BTreeMap<BlockIndex, Vec<SectorHashes>> {
    let mut present = BTreeMap::new();
    for block in blocks {
        match read_block(origin, block, size_bytes).await {
            Ok(image) => drop(present.insert(block, vec![hash_sectors(key, &image)])),
            Err(error) => tracing::warn!(%error, block, "a block of the origin cannot be read; it is not watched"),
        }
    }
    present
}

/// Hashes of a keyed sample of blocks: nobody who does not know the key can tell which.
pub(crate) async fn read_sample<D: Disk>(origin: &D, key: &[u8; 32], size_bytes: u64) -> Vec<Item> {
    let blocks = blocks_for(size_bytes);
    let mut items = Vec::new();
    for index in 0..SAMPLE_BLOCKS.min(blocks) {
        let block = hash(key, &index.to_le_bytes()) % blocks;
        if let Ok(image) = read_block(origin, block, size_bytes).await {
            items.push(Item::Sample { block, hash: hash(key, &image) });
        }
    }
    items
}

/// Compares the origin with what was recorded. Fails with `OriginChanged`, saying what was seen. A block that cannot be
/// read says nothing.
pub(crate) async fn verify_origin<D: Disk>(origin: &D, key: &[u8; 32], state: &State, clean: bool) -> Result<()> {
    let size_bytes = state.volume.size_bytes;
    // A growth that was cut off left blocks in the log that the volume does not have.
    for (&block, known) in state.watch.range(..blocks_for(size_bytes)) {
        let Ok(image) = read_block(origin, block, size_bytes).await else { continue };
        let hashes = hash_sectors(key, &image);
        let sectors = (size_bytes - block * BLOCK_BYTES as u64).div_ceil(TEAR_BYTES as u64).min(hashes.len() as u64);
        let same = match clean && known.len() == 1 {
            true => known.last() == Some(&hashes),
            // Torn: each sector on its own holds one of the contents.
            false => (0..sectors as usize).all(|sector| known.iter().any(|content| content[sector] == hashes[sector])),
        };
        if !same {
            return Err(changed(block, &describe(block, &image)));
        }
    }
    for (&block, &expected) in state.samples.iter().filter(|_| clean) {
        let Ok(image) = read_block(origin, block, size_bytes).await else { continue };
        if hash(key, &image) != expected {
            return Err(changed(block, "a sampled block"));
        }
    }
    Ok(())
}

fn changed(block: BlockIndex, what: &str) -> Error {
    let message = format!(
        "the disk was written while Cairn was away, or it is another disk: block {block} ({what}) is not what Cairn \
         left there. Its data is untouched. To go on with the disk as it is, attach with --accept-changed-origin: \
         the snapshots taken so far are then marked broken"
    );
    Error::new(ErrorKind::OriginChanged, "attach", "origin").at(block * BLOCK_BYTES as u64).saying(message)
}

/// Names what lives in a watched block, as far as its signature tells.
fn describe(block: BlockIndex, image: &[u8]) -> String {
    let at = |offset: usize, magic: &[u8]| &image[offset..offset + magic.len()] == magic;
    let unix_time = |offset: usize| {
        let bytes = [image[offset], image[offset + 1], image[offset + 2], image[offset + 3]];
        u32::from_le_bytes(bytes)
    };
    match block {
        0 if at(1024 + 56, &[0x53, 0xef]) => {
            format!("ext superblock, last mounted {} and written {} s after 1970", unix_time(1068), unix_time(1072))
        }
        0 if at(0, b"XFSB") => "xfs superblock".to_string(),
        0 if at(1024, &[0x10, 0x20, 0xf5, 0xf2]) => "f2fs superblock".to_string(),
        0 if at(512, b"LABELONE") => "LVM label".to_string(),
        0 if at(512, b"EFI PART") => "GPT partition table".to_string(),
        0 if at(510, &[0x55, 0xaa]) => "boot sector or partition table".to_string(),
        16 | 16384 if at(64, b"_BHRfS_M") => "btrfs superblock".to_string(),
        0 | 1 => "start of the disk".to_string(),
        16 | 16384 => "a place of superblocks".to_string(),
        _ => "end of the disk".to_string(),
    }
}

async fn read_block<D: Disk>(origin: &D, block: BlockIndex, size_bytes: u64) -> Result<AlignedBuffer> {
    let offset = block * BLOCK_BYTES as u64;
    let length = (size_bytes - offset).min(BLOCK_BYTES as u64) as usize;
    let mut image = aligned_buffer(BLOCK_BYTES);
    origin.read(offset, &mut image[..length]).await?;
    Ok(image)
}

fn hash(key: &[u8; 32], bytes: &[u8]) -> u64 {
    let digest = blake3::keyed_hash(key, bytes);
    let first: [u8; 8] = digest.as_bytes()[..8].try_into().expect("a digest has 32 bytes");
    u64::from_le_bytes(first)
}

fn hash_sectors(key: &[u8; 32], image: &[u8]) -> SectorHashes {
    assert_eq!(image.len(), BLOCK_BYTES);
    std::array::from_fn(|sector| hash(key, &image[sector * TEAR_BYTES..(sector + 1) * TEAR_BYTES]))
}
