//! One saved before-image: which block, saved in which epoch, where it lies, and its checksum.
//!
//! Invariants:
//! - Entries are ordered by (block, epoch): the order of every run and every search.
//! - The store block of an image that some whole snapshot needs lies in a segment that belongs to the entry's epoch.

use crate::units::{BlockIndex, Epoch, StoreBlock, BLOCK_MAX};

/// The block could not be read when it was saved; a snapshot read of it gives an I/O error.
pub const UNREADABLE: StoreBlock = 0;

/// There is no image: only that the block was overwritten is known, for the deltas of bookmarks (a *mark*).
pub const MARK: StoreBlock = BLOCK_MAX;

/// What the index knows of one saved block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The block of the volume.
    pub block: BlockIndex,
    /// The epoch it was saved in.
    pub epoch: Epoch,
    /// Where the image lies on the store, in 4 KiB blocks; or [`UNREADABLE`], or [`MARK`].
    pub address: StoreBlock,
    /// CRC32C of the image's 4096 bytes.
    pub checksum: u32,
}

impl Entry {
    /// Whether the entry tells only that the block was overwritten.
    pub fn is_mark(&self) -> bool {
        self.address == MARK
    }

    /// The key by which entries are ordered.
    pub fn key(&self) -> (BlockIndex, Epoch) {
        (self.block, self.epoch)
    }
}
