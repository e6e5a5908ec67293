//! The numbers and headers of the NBD protocol: fixed newstyle negotiation; simple, structured and extended replies.
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
/// Begins every chunk of a structured reply.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// Begins every request once extended headers are agreed on.
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// Begins every chunk of a reply once extended headers are agreed on.
pub const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// The longest string that the protocol allows.
pub const STRING_BYTES_MAX: usize = 4096;

/// Handshake flags, which server and client share.
pub const FLAG_FIXED_NEWSTYLE: u16 = 1 << 0;
/// The 124 zeroes after the answer to `OPT_EXPORT_NAME` may be left out.
pub const FLAG_NO_ZEROES: u16 = 1 << 1;

/// Options a client sends while it negotiates.
pub mod option {
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const STARTTLS: u32 = 5;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Types of a reply to an option.
pub mod option_reply {
    const ERROR: u32 = 1 << 31;
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    pub const ERR_UNSUP: u32 = ERROR | 1;
    pub const ERR_INVALID: u32 = ERROR | 3;
    pub const ERR_TLS_REQD: u32 = ERROR | 5;
    pub const ERR_UNKNOWN: u32 = ERROR | 6;
    pub const ERR_TOO_BIG: u32 = ERROR | 9;
    pub const ERR_EXT_HEADER_REQD: u32 = ERROR | 10;
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
    pub const SEND_DF: u16 = 1 << 7;
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
    pub const BLOCK_STATUS: u16 = 7;
}

/// Flags of a request.
pub mod command_flag {
    pub const FUA: u16 = 1 << 0;
    pub const NO_HOLE: u16 = 1 << 1;
    pub const DF: u16 = 1 << 2;
    pub const REQ_ONE: u16 = 1 << 3;
    pub const PAYLOAD_LEN: u16 = 1 << 5;
}

/// Flag of a chunk: the last one of its reply.
pub const REPLY_FLAG_DONE: u16 = 1 << 0;

/// Types of a chunk.
pub mod chunk {
    const ERROR_BIT: u16 = 1 << 15;
    pub const NONE: u16 = 0;
    pub const OFFSET_DATA: u16 = 1;
    pub const OFFSET_HOLE: u16 = 2;
    pub const BLOCK_STATUS: u16 = 5;
    pub const BLOCK_STATUS_EXT: u16 = 6;
    pub const ERROR: u16 = ERROR_BIT | 1;
    pub const ERROR_OFFSET: u16 = ERROR_BIT | 2;
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

/// Begins a chunk of a structured reply; `length_bytes` of payload follow.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct StructuredReply {
    pub magic: U32,
    pub flags: U16,
    pub chunk: U16,
    pub cookie: U64,
    pub length_bytes: U32,
}
const _: () = assert!(size_of::<StructuredReply>() == 20);

/// A request once extended headers are agreed on; a payload of `length_bytes` follows where its flag says so.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub struct ExtendedRequestHeader {
    pub magic: U32,
    pub flags: U16,
    pub command: U16,
    pub cookie: U64,
    pub offset_bytes: U64,
    pub length_bytes: U64,
}
const _: () = assert!(size_of::<ExtendedRequestHeader>() == 32);

/// Begins a chunk of a reply once extended headers are agreed on; `length_bytes` of payload follow.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ExtendedReply {
    pub magic: U32,
    pub flags: U16,
    pub chunk: U16,
    pub cookie: U64,
    /// That of the request.
    pub offset_bytes: U64,
    pub length_bytes: U64,
}
const _: () = assert!(size_of::<ExtendedReply>() == 32);

/// What a chunk of type [`chunk::OFFSET_HOLE`] carries.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct HoleChunk {
    pub offset_bytes: U64,
    pub length_bytes: U32,
}
const _: () = assert!(size_of::<HoleChunk>() == 12);

/// Begins what a chunk of an error type carries; the message follows, then the offset where the type has one.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ErrorChunk {
    pub errno: U32,
    pub message_bytes: U16,
}
const _: () = assert!(size_of::<ErrorChunk>() == 6);

/// One extent of a chunk of type [`chunk::BLOCK_STATUS`].
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ShortDescriptor {
    pub length_bytes: U32,
    pub status: U32,
}
const _: () = assert!(size_of::<ShortDescriptor>() == 8);

/// One extent of a chunk of type [`chunk::BLOCK_STATUS_EXT`].
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct LongDescriptor {
    pub length_bytes: U64,
    pub status: U64,
}
const _: () = assert!(size_of::<LongDescriptor>() == 16);
