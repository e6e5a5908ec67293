//! The one thing the engine asks of the outside: a disk.
//!
//! Invariants every implementation keeps:
//! - A completed `flush` makes durable every write that had completed before the flush was submitted.
//! - A completed `write_durable` is durable by itself (FUA, or write then flush).
//! - A flush that failed may have lost what others wrote before it, and a later flush does not bring that back. So
//!   `write_durable` fails, too, if a flush by anybody failed between its write and its own flush; who calls `write`
//!   and `flush` compares [`Disk::flush_failures`] (see [`flush_since`]).
//! - Nothing else is promised: writes since the last completed flush may be lost, reordered, or torn at 512 bytes.
//! - Short transfers never surface: a call transfers everything or fails.
//!
//! Contract of the futures: once polled they must be run to completion. The kernel may still own the buffer, so an
//! implementation is free to abort the process when a future with I/O under way is dropped.

#![allow(async_fn_in_trait)]

use crate::error::{Error, ErrorKind, Result};
use aligned_vec::{AVec, ConstAlign};
use std::ops::Range;

/// Memory fit for direct I/O: 4 KiB aligned.
pub type AlignedBuffer = AVec<u8, ConstAlign<4096>>;

/// A zeroed buffer fit for direct I/O.
pub fn aligned_buffer(length_bytes: usize) -> AlignedBuffer {
    // In pieces copied from zeroes: `resize` would set one byte after the other.
    static ZEROES: [u8; 16 << 10] = [0; 16 << 10];
    let mut buffer = AlignedBuffer::with_capacity(4096, length_bytes);
    while buffer.len() < length_bytes {
        let missing = length_bytes - buffer.len();
        buffer.extend_from_slice(&ZEROES[..missing.min(ZEROES.len())]);
    }
    buffer
}

/// A handle on one device, used by one thread. Offsets, lengths and memory are aligned to the device's logical
/// sector; all lengths are in bytes.
pub trait Disk: 'static {
    /// Size in bytes; a multiple of the logical sector.
    fn size_bytes(&self) -> u64;
    /// Logical sector in bytes: 512 or 4096.
    fn sector_bytes(&self) -> u32;
    /// Largest discard the device takes, in bytes; 0 where it takes none.
    fn discard_bytes_max(&self) -> u64;

    /// Fills `buffer` from `offset_bytes`.
    async fn read(&self, offset_bytes: u64, buffer: &mut [u8]) -> Result<()>;
    /// Writes `data`; volatile until a flush.
    async fn write(&self, offset_bytes: u64, data: &[u8]) -> Result<()>;
    /// Writes `data`; durable on completion.
    async fn write_durable(&self, offset_bytes: u64, data: &[u8]) -> Result<()>;
    /// Zeroes a range; volatile until a flush. `may_unmap` allows the device to deallocate it.
    async fn write_zeroes(&self, offset_bytes: u64, length_bytes: u64, may_unmap: bool) -> Result<()>;
    /// Tells the device that the content of a range is not needed; it reads as anything afterwards.
    async fn discard(&self, offset_bytes: u64, length_bytes: u64) -> Result<()>;
    /// Makes durable what completed before.
    async fn flush(&self) -> Result<()>;
    /// How many flushes of the device failed so far, by whatever handle. When a flush is done, every flush that failed
    /// before it was done has been counted ([`crate::flushes::Flushes`] sees to that).
    fn flush_failures(&self) -> u64;
}

/// Writes a range again as it is, durably. What a failed flush left readable may never become durable otherwise; a
/// crash in the middle leaves the same bytes.
pub async fn rewrite<D: Disk>(disk: &D, range_bytes: Range<u64>) -> Result<()> {
    let mut buffer = aligned_buffer((range_bytes.end - range_bytes.start) as usize);
    disk.read(range_bytes.start, &mut buffer).await?;
    disk.write_durable(range_bytes.start, &buffer).await
}

/// Flushes, and fails with `FlushFailed` also if another flush failed since `failures_before` was read: what was
/// written after that may be lost.
pub async fn flush_since<D: Disk>(disk: &D, failures_before: u64) -> Result<()> {
    disk.flush().await?;
    if disk.flush_failures() == failures_before || planted!("failed-flush-of-another-trusted") {
        return Ok(());
    }
    let message = "another flush of the device failed meanwhile and may have lost what was written";
    Err(Error::new(ErrorKind::FlushFailed, "flush", "disk").saying(message))
}

/// The two devices under a volume, as one thread holds them.
pub struct Disks<D> {
    /// The real disk: the volume's current content, at its own address.
    pub origin: D,
    /// Where before-images and metadata live.
    pub store: D,
}
