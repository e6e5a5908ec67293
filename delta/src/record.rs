//! The records of a stream: the preamble, the head that each begins with, and the descriptions of frames.
//!
//! Invariants:
//! - A head is trusted only when its own checksum is right; then its length says where the next record begins, known or
//!   not.
//! - All numbers are little-endian.

use crate::error::ErrorKind;
use crate::extent::{Extent, ExtentKind};

/// The first bytes of a stream. The first has its highest bit set and there are both kinds of line ends, so that what
/// takes the stream for text breaks the magic, not the content.
pub const MAGIC: [u8; 8] = *b"\x89CDL\r\n\x1a\n";
/// The version of the format.
pub const VERSION: u32 = 1;
/// Bytes of magic and version.
pub const PREAMBLE_BYTES: usize = 12;
/// Bytes of a record's head.
pub const HEAD_BYTES: usize = 24;
/// A record with this flag must be understood; without it, it is skipped where it is not.
pub const FLAG_CRITICAL: u16 = 1;
/// The longest content of a frame.
pub const FRAME_BYTES_MAX: usize = 4 << 20;
/// The smallest block that extents are made of.
pub const BLOCK_BYTES_MIN: u32 = 512;
/// The largest.
pub const BLOCK_BYTES_MAX: u32 = FRAME_BYTES_MAX as u32;
/// Header and end record are no longer than this.
pub(crate) const FIELDS_BYTES_MAX: u32 = 64 << 10;
/// What describes a data frame, before its content.
pub(crate) const DESCRIPTION_BYTES: usize = 48;
/// What a frame without content consists of.
pub(crate) const RANGE_BYTES: usize = 16;

/// What a record is.
pub(crate) mod kind {
    pub(crate) const HEADER: u16 = 1;
    pub(crate) const DATA: u16 = 2;
    pub(crate) const ZERO: u16 = 3;
    pub(crate) const NOT_IN_USE: u16 = 4;
    pub(crate) const END: u16 = 5;
}

/// Magic and version, as a stream begins.
pub(crate) fn preamble() -> [u8; PREAMBLE_BYTES] {
    let mut bytes = [0; PREAMBLE_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..].copy_from_slice(&VERSION.to_le_bytes());
    bytes
}

/// Refuses what is not such a stream, or another version of it.
pub(crate) fn check_preamble(bytes: &[u8; PREAMBLE_BYTES]) -> Result<(), ErrorKind> {
    if bytes[..8] != MAGIC {
        return Err(ErrorKind::NotAStream);
    }
    match number_u32(&bytes[8..]) {
        VERSION => Ok(()),
        found => Err(ErrorKind::Version { found }),
    }
}

/// The head of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    /// Bytes of the record behind its head.
    pub(crate) length_bytes: u32,
    pub(crate) sequence: u64,
    /// CRC32C of the record behind its head.
    pub(crate) checksum: u32,
}

impl Head {
    /// A record that must be understood.
    pub(crate) fn critical(kind: u16, sequence: u64, length_bytes: usize, checksum: u32) -> Head {
        let length_bytes = u32::try_from(length_bytes).expect("records are far shorter than 4 GiB");
        Head { kind, flags: FLAG_CRITICAL, length_bytes, sequence, checksum }
    }

    pub(crate) fn to_bytes(self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        bytes[0..2].copy_from_slice(&self.kind.to_le_bytes());
        bytes[2..4].copy_from_slice(&self.flags.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.length_bytes.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.checksum.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..20]);
        bytes[20..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8; HEAD_BYTES]) -> Result<Head, ErrorKind> {
        if number_u32(&bytes[20..]) != crc32c::crc32c(&bytes[..20]) {
            return Err(ErrorKind::Checksum { of: "head of a record" });
        }
        let head = Head {
            kind: number_u16(&bytes[0..]),
            flags: number_u16(&bytes[2..]),
            length_bytes: number_u32(&bytes[4..]),
            sequence: number_u64(&bytes[8..]),
            checksum: number_u32(&bytes[16..]),
        };
        if head.flags & !FLAG_CRITICAL != 0 {
            return Err(ErrorKind::Malformed("a record has flags that this version does not define"));
        }
        Ok(head)
    }

    pub(crate) fn is_critical(&self) -> bool {
        self.flags & FLAG_CRITICAL != 0
    }
}

/// How the content of a data frame is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Raw,
    Zstd,
}

/// What describes a data frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Description {
    pub(crate) offset_bytes: u64,
    /// Length of the plain content.
    pub(crate) length_bytes: u32,
    pub(crate) encoding: Encoding,
    /// BLAKE3 of the plain content.
    pub(crate) digest: [u8; 32],
}

impl Description {
    pub(crate) fn to_bytes(self) -> [u8; DESCRIPTION_BYTES] {
        let mut bytes = [0; DESCRIPTION_BYTES];
        bytes[0..8].copy_from_slice(&self.offset_bytes.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.length_bytes.to_le_bytes());
        bytes[12] = match self.encoding {
            Encoding::Raw => 0,
            Encoding::Zstd => 1,
        };
        bytes[16..48].copy_from_slice(&self.digest);
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8; DESCRIPTION_BYTES]) -> Result<Description, ErrorKind> {
        let encoding = match bytes[12] {
            0 => Encoding::Raw,
            1 => Encoding::Zstd,
            _ => return Err(ErrorKind::Malformed("a frame has an encoding that this version does not define")),
        };
        if bytes[13..16] != [0; 3] {
            return Err(ErrorKind::Malformed("a frame has something in a place that is kept free"));
        }
        Ok(Description {
            offset_bytes: number_u64(&bytes[0..]),
            length_bytes: number_u32(&bytes[8..]),
            encoding,
            digest: bytes[16..48].try_into().expect("32 bytes are 32 bytes"),
        })
    }
}

/// A frame without content, as it is written.
pub(crate) fn range_to_bytes(extent: Extent) -> [u8; RANGE_BYTES] {
    let mut bytes = [0; RANGE_BYTES];
    bytes[..8].copy_from_slice(&extent.offset_bytes.to_le_bytes());
    bytes[8..].copy_from_slice(&extent.length_bytes.to_le_bytes());
    bytes
}

/// The same read.
pub(crate) fn range_from_bytes(bytes: &[u8; RANGE_BYTES], kind: ExtentKind) -> Extent {
    Extent { offset_bytes: number_u64(&bytes[..]), length_bytes: number_u64(&bytes[8..]), kind }
}

pub(crate) fn number_u16(bytes: &[u8]) -> u16 {
    u16::from_le_bytes([bytes[0], bytes[1]])
}

pub(crate) fn number_u32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes[..4].try_into().expect("four bytes are four bytes"))
}

pub(crate) fn number_u64(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes are eight bytes"))
}
