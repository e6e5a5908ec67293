//! The numbers and headers of the NBD protocol (fixed newstyle negotiation, simple replies).
//!
//! Invariants:
//! - Everything on the wire is big endian.
//! - The names are those of the protocol's own document, without its `NBD_` prefix.

use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `NBDMAGIC`: the first bytes the server sends.
pub const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`: announces newstyle, and begins every option.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Begins every reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Begins every request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Begins every simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;

/// Handshake flags, which server and client share.
pub const FLAG_FIXED_NEWSTYLE: u16 = 1 << 0;
/// The 124 zeroes after the answer to `OPT_EXPORT_NAME` may be left out.
pub const FLAG_NO_ZEROES: u16 = 1 << 1;

/// Options a client sends while it negotiates.
pub mod option {
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
}

/// Types of a reply to an option.
pub mod option_reply {
    const ERROR: u32 = 1 << 31;
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const ERR_UNSUP: u32 = ERROR | 1;
    pub const ERR_INVALID: u32 = ERROR | 3;
    pub const ERR_UNKNOWN: u32 = ERROR | 6;
    pub const ERR_TOO_BIG: u32 = ERROR | 9;
}

/// Kinds of information about an export.
pub mod info {
    pub const EXPORT: u16 = 0;
    pub const NAME: u16 = 1;
    pub const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags: what an export can do.
pub mod transmission_flag {
    pub const HAS_FLAGS: u16 = 1 << 0;
    pub const READ_ONLY: u16 = 1 << 1;
    pub const SEND_FLUSH: u16 = 1 << 2;
    pub const SEND_FUA: u16 = 1 << 3;
    pub const SEND_TRIM: u16 = 1 << 5;
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
}

/// Types of a request.
pub mod command {
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISC: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const WRITE_ZEROES: u16 = 6;
}

/// Flags of a request.
pub mod command_flag {
    pub const FUA: u16 = 1 << 0;
    pub const NO_HOLE: u16 = 1 << 1;
}

/// Error numbers of a reply: the only ones the protocol knows.
pub mod errno {
    pub const OK: u32 = 0;
    pub const EPERM: u32 = 1;
    pub const EIO: u32 = 5;
    pub const EINVAL: u32 = 22;
    pub const ENOSPC: u32 = 28;
    pub const ESHUTDOWN: u32 = 108;
}

/// The server's greeting.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Greeting {
    pub init_magic: U64,
    pub option_magic: U64,
    pub handshake_flags: U16,
}
const _: () = assert!(size_of::<Greeting>() == 18);

/// Begins an option; `length_bytes` of data follow.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct OptionHeader {
    pub magic: U64,
    pub option: U32,
    pub length_bytes: U32,
}
const _: () = assert!(size_of::<OptionHeader>() == 16);

/// Begins a reply to an option; `length_bytes` of data follow.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct OptionReplyHeader {
    pub magic: U64,
    pub option: U32,
    pub reply: U32,
    pub length_bytes: U32,
}
const _: () = assert!(size_of::<OptionReplyHeader>() == 20);

/// Information of type [`info::EXPORT`].
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct InfoExport {
    pub info: U16,
    pub size_bytes: U64,
    pub transmission_flags: U16,
}
const _: () = assert!(size_of::<InfoExport>() == 12);

/// Information of type [`info::BLOCK_SIZE`].
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct InfoBlockSize {
    pub info: U16,
    pub minimum_bytes: U32,
    pub preferred_bytes: U32,
    pub payload_bytes_max: U32,
}
const _: () = assert!(size_of::<InfoBlockSize>() == 14);

/// The answer to [`option::EXPORT_NAME`], without the zeroes after it.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ExportNameReply {
    pub size_bytes: U64,
    pub transmission_flags: U16,
}
const _: () = assert!(size_of::<ExportNameReply>() == 10);
/// How many zeroes follow an [`ExportNameReply`] unless both sides agreed to leave them out.
pub const EXPORT_NAME_ZEROES: usize = 124;

/// A request; the payload of a write follows.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub struct RequestHeader {
    pub magic: U32,
    pub flags: U16,
    pub command: U16,
    /// The client's own name for the request; the reply repeats it.
    pub cookie: U64,
    pub offset_bytes: U64,
    pub length_bytes: U32,
}
const _: () = assert!(size_of::<RequestHeader>() == 28);

/// A simple reply; the payload of a successful read follows.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SimpleReply {
    pub magic: U32,
    pub errno: U32,
    pub cookie: U64,
}
const _: () = assert!(size_of::<SimpleReply>() == 16);
