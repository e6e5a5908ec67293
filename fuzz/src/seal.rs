//! Sealing again what was changed: with its checksum right, a block gets past the first check of every reader.
//!
//! Invariants:
//! - Checksums are made by the engine's own function, over the address where the block lies and the life it claims.

use cairn_engine::format::checksum::{salted, Kind};
use cairn_engine::format::superblock;
use cairn_engine::sim::SimDisk;

/// Unit in which metadata lies on a store.
pub const BLOCK_BYTES: u64 = 4096;
const RECORD_BYTES_MAX: u32 = 64 << 10;

/// What a block with metadata is, by its signature.
pub fn kind_of(block: &[u8]) -> Option<Kind> {
    match block {
        _ if block.starts_with(&superblock::MAGIC) => Some(Kind::Superblock),
        _ if block.starts_with(b"CnCt") => Some(Kind::CatalogRecord),
        _ if block.starts_with(b"CairnRec") => Some(Kind::SegmentRecord),
        _ if block.starts_with(b"CrnR") => Some(Kind::RunPage),
        _ => None,
    }
}

/// Makes the checksum of a block right that will lie at `address_bytes`. A catalog record is longer than a block; its
/// bytes are all of `block`. What has no signature stays as it is.
pub fn seal(address_bytes: u64, block: &mut [u8]) {
    let number = |block: &[u8], at: usize| {
        u64::from_le_bytes(block[at..at + 8].try_into().expect("a block is longer than its header"))
    };
    let (place, checksum) = match kind_of(block) {
        None => return,
        Some(kind @ Kind::Superblock) => (8, salted(kind, address_bytes, 0, &block[12..])),
        Some(kind @ Kind::CatalogRecord) => (4, salted(kind, address_bytes, number(block, 24), &block[8..])),
        Some(kind @ Kind::RunPage) => (4, salted(kind, address_bytes, number(block, 8), &block[8..])),
        Some(kind @ Kind::SegmentRecord) => {
            block[8..12].fill(0);
            let incarnation = number(block, 60) & u64::from(u32::MAX);
            (8, salted(kind, address_bytes, incarnation, block))
        }
    };
    block[place..place + 4].copy_from_slice(&checksum.to_le_bytes());
}

/// Makes the checksum of the block at `address_bytes` of a store right, whatever it is.
pub fn seal_at(store: &SimDisk, address_bytes: u64) {
    let mut block = store.peek(address_bytes, BLOCK_BYTES);
    if kind_of(&block) == Some(Kind::CatalogRecord) {
        let claimed = u32::from_le_bytes(block[40..44].try_into().expect("four bytes"));
        let length = claimed.clamp(BLOCK_BYTES as u32, RECORD_BYTES_MAX).next_multiple_of(BLOCK_BYTES as u32);
        block = store.peek(address_bytes, u64::from(length));
    }
    seal(address_bytes, &mut block);
    store.poke(address_bytes, &block);
}
