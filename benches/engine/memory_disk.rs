//! Disks for counting instructions: they cost next to nothing, and always the same.

use cairn_engine::disk::Disk;
use cairn_engine::error::Result;
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A disk in memory, or one that keeps nothing.
pub struct MemoryDisk {
    size_bytes: u64,
    content: Option<RefCell<Vec<u8>>>,
    yields: bool,
}

impl MemoryDisk {
    /// A disk that forgets what it is told: only what happens above it counts.
    pub fn forgetful(size_bytes: u64) -> MemoryDisk {
        MemoryDisk { size_bytes, content: None, yields: false }
    }

    /// A disk that keeps everything. `yields`: a durable write takes until everybody else had a turn.
    pub fn keeping(size_bytes: u64, yields: bool) -> MemoryDisk {
        MemoryDisk { size_bytes, content: Some(RefCell::new(vec![0; size_bytes as usize])), yields }
    }

    fn put(&self, offset_bytes: u64, data: &[u8]) {
        if let Some(content) = &self.content {
            let at = offset_bytes as usize;
            content.borrow_mut()[at..at + data.len()].copy_from_slice(data);
        }
    }
}

/// Pending once.
struct Yield(bool);

impl Future for Yield {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Disk for MemoryDisk {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn sector_bytes(&self) -> u32 {
        4096
    }

    fn discard_bytes_max(&self) -> u64 {
        0
    }

    async fn read(&self, offset_bytes: u64, buffer: &mut [u8]) -> Result<()> {
        if let Some(content) = &self.content {
            let at = offset_bytes as usize;
            buffer.copy_from_slice(&content.borrow()[at..at + buffer.len()]);
        }
        Ok(())
    }

    async fn write(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.put(offset_bytes, data);
        Ok(())
    }

    async fn write_durable(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.put(offset_bytes, data);
        if self.yields {
            Yield(false).await;
        }
        Ok(())
    }

    async fn write_zeroes(&self, offset_bytes: u64, length_bytes: u64, _may_unmap: bool) -> Result<()> {
        if let Some(content) = &self.content {
            let at = offset_bytes as usize;
            content.borrow_mut()[at..at + length_bytes as usize].fill(0);
        }
        Ok(())
    }

    async fn discard(&self, _offset_bytes: u64, _length_bytes: u64) -> Result<()> {
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn flush_failures(&self) -> u64 {
        0
    }
}
