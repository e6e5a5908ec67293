//! The watch: was the origin written while Cairn was away?
//!
//! A few blocks change whenever a filesystem, a partition table or a volume label is touched: the places of
//! superblocks and labels at the start, and the last blocks. Before one of them is overwritten the hashes of its new
//! sectors are logged durably. After a clean end the origin must hold exactly the last content; after an unclean one
//! every sector must hold one of the logged contents. A keyed sample of other blocks is compared after a clean end.
//!
//! Invariants:
//! - One write to watched blocks at a time, so that the last logged content is the content.
//! - The log is bounded: past a limit the origin is flushed, and only the last content is kept.

use crate::catalog::state::State;
use crate::disk::{aligned_buffer, AlignedBuffer, Disk, Disks};
use crate::error::{Error, ErrorKind, Result};
use crate::format::item::Item;
use crate::lane::Content;
use crate::units::{blocks_for, blocks_touched, BlockIndex, BLOCK_BYTES, TEAR_BYTES};
use crate::volume::Volume;
use futures_util::lock::{Mutex, MutexGuard};
use std::collections::BTreeMap;
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

    /// The volume is about to grow: before the first write behind its old end, the new last blocks are watched.
    pub(crate) fn announce_growth(&self, size_bytes: u64) {
        self.sizes_bytes[1].store(size_bytes, Ordering::Relaxed);
    }

    /// Logs the hashes that a write will leave in watched blocks. `None` where it touches none: the usual case, and
    /// then nothing is locked.
    pub(crate) async fn log_overwrite<D: Disk>(
        &self,
        volume: &Volume,
        disks: &Disks<D>,
        offset: u64,
        content: &Content<'_>,
    ) -> Result<Option<WatchedWrite<'_>>> {
        let range = blocks_touched(offset, content.length_bytes());
        if !range.clone().any(|block| self.is_watched(block)) {
            return Ok(None);
        }
        let mut logged = self.logged.lock().await;
        let mut items = Vec::new();
        for block in range.filter(|block| self.is_watched(*block)) {
            let image = self.image_after(volume, disks, block, offset, content).await?;
            let hashes = hash_sectors(&self.key, &image);
            let known = logged.entry(block).or_default();
            if known.last() == Some(&hashes) {
                continue;
            }
            known.push(hashes);
            items.push(Item::WatchAdd { block, hashes });
        }
        if logged.values().any(|known| known.len() > LOGGED_MAX) {
            items = shorten(volume, disks, &mut logged, items).await?;
        }
        if !items.is_empty() {
            let mut ledger = volume.ledger.lock().await;
            if let Err(error) = ledger.append_all(&disks.store, &items).await {
                // Production first: at worst an attach after a crash asks the owner.
                tracing::error!(%error, "the watch on the origin could not be kept up");
            }
        }
        Ok(Some(logged))
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

    /// The volume has grown: from now on only its new last blocks are watched.
    pub(crate) async fn resize<D: Disk>(&self, volume: &Volume, disks: &Disks<D>) -> Result<()> {
        let mut logged = self.logged.lock().await;
        let size_bytes = volume.size_bytes();
        *logged = read_watched(&disks.origin, &self.key, size_bytes).await?;
        let mut items = vec![Item::WatchReset];
        items.extend(watch_items(&logged));
        volume.ledger.lock().await.append_all(&disks.store, &items).await?;
        self.sizes_bytes[0].store(size_bytes, Ordering::Relaxed);
        Ok(())
    }
}

/// Flushes the origin, so that of every block only the last content that was written can be there, and the one that
/// is about to be.
async fn shorten<D: Disk>(
    volume: &Volume,
    disks: &Disks<D>,
    logged: &mut BTreeMap<BlockIndex, Vec<SectorHashes>>,
    coming: Vec<Item>,
) -> Result<Vec<Item>> {
    volume.flush_origin(disks).await?;
    for (block, known) in logged.iter_mut() {
        let is_coming = coming.iter().any(|item| matches!(item, Item::WatchAdd { block: b, .. } if b == block));
        let keep = known.len().min(if is_coming { 2 } else { 1 });
        known.drain(..known.len() - keep);
    }
    let mut items = vec![Item::WatchReset];
    items.extend(watch_items(logged));
    Ok(items)
}

pub(crate) fn watch_items(logged: &BTreeMap<BlockIndex, Vec<SectorHashes>>) -> impl Iterator<Item = Item> + '_ {
    logged.iter().flat_map(|(&block, known)| known.iter().map(move |&hashes| Item::WatchAdd { block, hashes }))
}

/// The hashes of the watched blocks as they are on the origin.
pub(crate) async fn read_watched<D: Disk>(
    origin: &D,
    key: &[u8; 32],
    size_bytes: u64,
) -> Result<BTreeMap<BlockIndex, Vec<SectorHashes>>> {
    let blocks = blocks_for(size_bytes);
    let last = blocks.saturating_sub(END_BLOCKS)..blocks;
    let mut logged = BTreeMap::new();
    for block in START_BLOCKS.into_iter().filter(|block| *block < blocks).chain(last) {
        let image = read_block(origin, block, size_bytes).await?;
        logged.insert(block, vec![hash_sectors(key, &image)]);
    }
    Ok(logged)
}

/// Hashes of a keyed sample of blocks: nobody who does not know the key can tell which.
pub(crate) async fn read_sample<D: Disk>(origin: &D, key: &[u8; 32], size_bytes: u64) -> Result<Vec<Item>> {
    let blocks = blocks_for(size_bytes);
    let mut items = Vec::new();
    for index in 0..SAMPLE_BLOCKS.min(blocks) {
        let block = hash(key, &index.to_le_bytes()) % blocks;
        let image = read_block(origin, block, size_bytes).await?;
        items.push(Item::Sample { block, hash: hash(key, &image) });
    }
    Ok(items)
}

/// Compares the origin with what was recorded. Fails with `OriginChanged`, saying what was seen.
pub(crate) async fn verify_origin<D: Disk>(origin: &D, key: &[u8; 32], state: &State, clean: bool) -> Result<()> {
    let size_bytes = state.volume.size_bytes;
    for (&block, known) in &state.watch {
        let image = read_block(origin, block, size_bytes).await?;
        let hashes = hash_sectors(key, &image);
        let same = match clean {
            true => known.last() == Some(&hashes),
            // Torn: each sector on its own holds one of the contents.
            false => (0..hashes.len()).all(|sector| known.iter().any(|content| content[sector] == hashes[sector])),
        };
        if !same {
            return Err(changed(block, &describe(block, &image)));
        }
    }
    for (&block, &expected) in state.samples.iter().filter(|_| clean) {
        let image = read_block(origin, block, size_bytes).await?;
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
