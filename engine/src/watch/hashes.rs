//! Hashes of what the origin holds, under the store's own key.
//!
//! Invariants:
//! - Nobody who does not know the key can tell which blocks are sampled, or make another content with the same hash.

use crate::disk::{aligned_buffer, AlignedBuffer, Disk};
use crate::error::Result;
use crate::format::item::Item;
use crate::units::{blocks_for, BlockIndex, BLOCK_BYTES, TEAR_BYTES};
use std::collections::BTreeMap;

/// Hashes of a block's sectors.
pub(crate) type SectorHashes = [u64; BLOCK_BYTES / TEAR_BYTES];

/// Blocks sampled at a clean end.
const SAMPLE_BLOCKS: u64 = 64;

/// The hashes of some blocks as they are on the origin. A block that cannot be read is left out.
pub(super) async fn read_blocks<D: Disk>(
    origin: &D,
    key: &[u8; 32],
    size_bytes: u64,
    blocks: impl IntoIterator<Item = BlockIndex>,
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

/// Hashes of a keyed sample of blocks: nobody who does not know the key can tell which. Only of those in use: what was
/// discarded may read as something else at any time.
pub(crate) async fn read_sample<D: Disk>(
    origin: &D,
    key: &[u8; 32],
    size_bytes: u64,
    is_in_use: impl Fn(BlockIndex) -> bool,
) -> Vec<Item> {
    let blocks = blocks_for(size_bytes);
    let mut items = Vec::new();
    let sampled = (0..SAMPLE_BLOCKS.min(blocks)).map(|index| hash(key, &index.to_le_bytes()) % blocks);
    for block in sampled.filter(|block| is_in_use(*block)) {
        if let Ok(image) = read_block(origin, block, size_bytes).await {
            items.push(Item::Sample { block, hash: hash(key, &image) });
        }
    }
    items
}

/// One block of the origin; zeroes behind the volume's end.
pub(crate) async fn read_block<D: Disk>(origin: &D, block: BlockIndex, size_bytes: u64) -> Result<AlignedBuffer> {
    assert!(block < blocks_for(size_bytes), "block {block} of a volume of {size_bytes} bytes");
    let offset = block * BLOCK_BYTES as u64;
    let length = (size_bytes - offset).min(BLOCK_BYTES as u64) as usize;
    let mut image = aligned_buffer(BLOCK_BYTES);
    origin.read(offset, &mut image[..length]).await?;
    Ok(image)
}

pub(super) fn hash(key: &[u8; 32], bytes: &[u8]) -> u64 {
    let digest = blake3::keyed_hash(key, bytes);
    let first: [u8; 8] = digest.as_bytes()[..8].try_into().expect("a digest has 32 bytes");
    u64::from_le_bytes(first)
}

pub(super) fn hash_sectors(key: &[u8; 32], image: &[u8]) -> SectorHashes {
    assert_eq!(image.len(), BLOCK_BYTES);
    std::array::from_fn(|sector| hash(key, &image[sector * TEAR_BYTES..(sector + 1) * TEAR_BYTES]))
}
