//! The real disk of the target, with a note in the timeline before each request.
//!
//! Invariants:
//! - Every request goes to the kernel by io_uring, unchanged, unless a mistake was planted.

use super::timeline::Timeline;
use cairn_engine::disk::Disk;
use cairn_engine::error::Result;
use cairn_target::own_ring::RingDisk;
use std::rc::Rc;

/// A mistake that the rig must be able to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// Durable writes are written and not flushed.
    DurableWritesAreNot,
    /// Flushes are answered and not passed on.
    FlushesAreForgotten,
}

/// A disk of the target in a run that is recorded.
pub struct SampledDisk {
    inner: RingDisk,
    timeline: Rc<Timeline>,
    mistake: Option<Mistake>,
}

impl SampledDisk {
    /// Notes what is asked of `inner`.
    pub fn new(inner: RingDisk, timeline: Rc<Timeline>, mistake: Option<Mistake>) -> SampledDisk {
        SampledDisk { inner, timeline, mistake }
    }
}

impl Disk for SampledDisk {
    fn size_bytes(&self) -> u64 {
        self.inner.size_bytes()
    }

    fn sector_bytes(&self) -> u32 {
        self.inner.sector_bytes()
    }

    fn discard_bytes_max(&self) -> u64 {
        self.inner.discard_bytes_max()
    }

    async fn read(&self, offset_bytes: u64, buffer: &mut [u8]) -> Result<()> {
        self.inner.read(offset_bytes, buffer).await
    }

    async fn write(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.timeline.request();
        self.inner.write(offset_bytes, data).await
    }

    async fn write_durable(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.timeline.request();
        if self.mistake == Some(Mistake::DurableWritesAreNot) {
            return self.inner.write(offset_bytes, data).await;
        }
        self.inner.write_durable(offset_bytes, data).await
    }

    async fn write_zeroes(&self, offset_bytes: u64, length_bytes: u64, may_unmap: bool) -> Result<()> {
        self.timeline.request();
        self.inner.write_zeroes(offset_bytes, length_bytes, may_unmap).await
    }

    async fn discard(&self, offset_bytes: u64, length_bytes: u64) -> Result<()> {
        self.timeline.request();
        self.inner.discard(offset_bytes, length_bytes).await
    }

    async fn flush(&self) -> Result<()> {
        self.timeline.request();
        if self.mistake == Some(Mistake::FlushesAreForgotten) {
            return Ok(());
        }
        self.inner.flush().await
    }

    fn flush_failures(&self) -> u64 {
        self.inner.flush_failures()
    }
}
