//! The model of a cut: what a snapshot taken under load must show, checked sector by sector.
//!
//! A writer stamps every sector it writes with the sequence number of the write, and logs what was in flight when each
//! snapshot was called and when the call had returned. From that log alone follows what a snapshot may show:
//!
//! - *Window*: of every sector, the last write that was acknowledged before the call, or a later one that had started
//!   before the return.
//! - *Causality*: if it shows a write, it also shows every write that was acknowledged before that one started.
//!
//! Invariants:
//! - What a write covers follows from its sequence number and the seed alone; nothing is logged per write but its floor.
//! - Two writes in flight never overlap, so that the writes of a sector are ordered as their sequence numbers are.
//! - A lost tail of the log (the machine died) makes the model more lenient, never wrong.

pub mod history;
pub mod stamp;
pub mod verifier;
pub mod workload;
pub mod writer;

/// Failures of the model's programs are read by people only.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The unit of stamps, in bytes: the smallest sector of a disk.
pub const SECTOR_BYTES: usize = 512;
