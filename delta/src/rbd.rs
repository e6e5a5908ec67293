//! Ceph's `rbd diff` streams, versions 1 and 2, as doc/dev/rbd-diff.rst defines and `rbd merge-diff` reads them.
//!
//! Invariants:
//! - Extents ascend and do not overlap, as `rbd merge-diff` demands; what is out of order is refused.
//! - The format has no checksums: a flipped bit of content cannot be seen. Truncation can, for there is an end record.
//! - There are no extents that are not in use: they are written as zeroes, which is what they read as.

mod reader;
mod writer;

pub use reader::Reader;
pub use writer::Writer;

/// The longest name of a snapshot; `rbd` refuses longer ones.
pub const NAME_BYTES_MAX: usize = 4096;
/// A reader gives content out in pieces of at most this length; the format has no limit.
pub const PIECE_BYTES_MAX: usize = 4 << 20;

/// Which form of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// What `rbd export-diff` writes and `rbd import-diff` and `rbd merge-diff` read.
    V1,
    /// The same with the length of each record, as it stands within images that `rbd export --export-format 2` writes.
    V2,
}

/// What a stream says of itself before its extents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The form.
    pub version: Version,
    /// The snapshot that the receiver must have; none when the stream begins with an empty image.
    pub from_snapshot: Option<String>,
    /// The snapshot that the receiver will have; none when the stream ends with the image as it was at that moment.
    pub to_snapshot: Option<String>,
    /// Size of the image at the end.
    pub size_bytes: u64,
}

/// Each form begins with one of these.
const BANNER_V1: &[u8; BANNER_BYTES] = b"rbd diff v1\n";
const BANNER_V2: &[u8; BANNER_BYTES] = b"rbd diff v2\n";
const BANNER_BYTES: usize = 12;

/// The first byte of a record.
mod tag {
    pub(super) const FROM_SNAPSHOT: u8 = b'f';
    pub(super) const TO_SNAPSHOT: u8 = b't';
    pub(super) const SIZE: u8 = b's';
    /// Whether the snapshot is protected. In version 2 only, and described with the format of images.
    pub(super) const PROTECTION: u8 = b'p';
    pub(super) const WRITE: u8 = b'w';
    pub(super) const ZERO: u8 = b'z';
    pub(super) const END: u8 = b'e';
}
