//! One saved before-image: which block, saved in which epoch, where it lies, and its checksum.
//!
//! Invariants:
//! - Entries are ordered by (block, epoch): the order of every run and every search.
//! - An entry's store block lies in a segment that belongs to the entry's epoch.

use crate::units::{BlockIndex, Epoch, StoreBlock};

/// The block could not be read when it was saved; a snapshot read of it gives an I/O error.
pub const UNREADABLE: StoreBlock = 0;

/// What the index knows of one saved block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The block of the volume.
    pub block: BlockIndex,
    /// The epoch it was saved in.
    pub epoch: Epoch,
    /// Where the image lies on the store, in 4 KiB blocks; [`UNREADABLE`] where there is none.
    pub address: StoreBlock,
    /// CRC32C of the image's 4096 bytes.
    pub checksum: u32,
}

impl Entry {
    /// The key by which entries are ordered.
    pub fn key(&self) -> (BlockIndex, Epoch) {
        (self.block, self.epoch)
    }
}
