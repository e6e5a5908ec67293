//! What changed between two snapshots, as a stream of bytes: formats only, no devices, no engine, no async.
//!
//! Invariants:
//! - Everything is read from a `Read` and written to a `Write`, in one pass; nothing seeks, nothing reads ahead.
//! - Memory is bounded by a few frames, whatever a stream says about itself.
//! - What a reader gives out has been checked; what cannot be checked yet is said by the end of the stream, so nothing
//!   may be relied on before that was read.
//!
//! The native stream ([`Writer`], [`Reader`]) is documented byte for byte in docs/DELTA.md. [`rbd`] is Ceph's.

mod bounds;
mod chain;
mod compose;
mod counted;
mod end;
mod error;
mod extent;
mod fields;
mod fingerprint;
mod header;
mod length;
pub mod rbd;
mod reader;
mod record;
mod resume;
mod writer;
mod zeroes;

pub use compose::compose;
pub use end::End;
pub use error::{Error, ErrorKind, Result};
pub use extent::{Extent, ExtentKind, Frame, Totals};
pub use fingerprint::{Fingerprint, FINGERPRINT_BLOCK_BYTES};
pub use header::{Compression, SnapshotIdentity, StreamHeader, StreamId, NAME_BYTES_MAX};
pub use length::StreamLength;
pub use reader::Reader;
pub use record::{
    BLOCK_BYTES_MAX, BLOCK_BYTES_MIN, FLAG_CRITICAL, FRAME_BYTES_MAX, HEAD_BYTES, MAGIC, PREAMBLE_BYTES, VERSION,
};
pub use resume::{Resume, ResumeError};
pub use writer::{Writer, WriterOptions};
pub use zeroes::{is_zero, runs, Run};
