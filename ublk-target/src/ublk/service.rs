//! What a ublk device shows: a volume, a snapshot, a scratch overlay.
//!
//! Invariants every implementation keeps:
//! - Each queue thread has its own; all of them show the same bytes.
//! - A request may be executed twice, when the process was killed before it was acknowledged; the second time must do
//!   no harm.
//! - Futures are run to completion once polled.

#![allow(async_fn_in_trait)]

use cairn_engine::error::Result;
use libublk::UblkError;

/// Serves the requests of one queue. Offsets and lengths are in bytes, multiples of the logical sector.
pub trait Service {
    /// Fills `buffer` from `offset_bytes`.
    async fn read(&self, offset_bytes: u64, buffer: &mut [u8]) -> Result<()>;
    /// Writes `data`; `durable` makes it so before completion.
    async fn write(&self, offset_bytes: u64, data: &[u8], durable: bool) -> Result<()>;
    /// Writes zeroes; `may_unmap` allows the disk to deallocate the range.
    async fn write_zeroes(&self, offset_bytes: u64, length_bytes: u64, durable: bool, may_unmap: bool) -> Result<()>;
    /// The content of the range is not needed any more.
    async fn discard(&self, offset_bytes: u64, length_bytes: u64) -> Result<()>;
    /// Makes durable what completed before.
    async fn flush(&self) -> Result<()>;
    /// Called about once a second.
    async fn tick(&self) -> Result<()>;
}

/// Makes the service of each queue, on that queue's own thread.
pub trait ServiceFactory: Send + Sync + 'static {
    /// What is made.
    type Service: Service + 'static;
    /// The service of queue `queue`.
    fn make(&self, queue: u16) -> std::result::Result<Self::Service, UblkError>;
}
