//! The numbers in the format of the kernel's dm-log-writes, version 1, which QEMU's `blklogwrites` writes too.

/// What the first sector begins with.
pub const MAGIC: u64 = 0x006a_7366_7773_6872;
/// The version that is read here.
pub const VERSION: u64 = 1;
/// Bytes in front of an entry's data.
pub const ENTRY_BYTES: usize = 32;
/// What completed before is durable.
pub const FLAG_FLUSH: u64 = 1;
/// The write is durable by itself.
pub const FLAG_FUA: u64 = 2;
/// A discard: the entry has no data.
pub const FLAG_DISCARD: u64 = 4;
/// A mark that somebody set: its data is the mark's text.
pub const FLAG_MARK: u64 = 8;
/// A write of the filesystem's metadata.
pub const FLAG_METADATA: u64 = 16;
