//! Disks for counting instructions: they cost next to nothing, and always the same.

use cairn_engine::disk::Disk;
use cairn_engine::error::Result;
use std::cell::RefCell;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Memory comes in pieces of this size, when they are first written.
const PIECE_BYTES: usize = 1 << 20;

/// A disk in memory, or one that keeps nothing.
pub struct MemoryDisk {
    size_bytes: u64,
    content: Option<RefCell<Vec<Vec<u8>>>>,
    yields: bool,
}

/// The memory of a piece.
fn made(piece: &mut Vec<u8>) -> &mut [u8] {
    if piece.is_empty() {
        *piece = vec![0; PIECE_BYTES];
    }
    piece
}

/// The pieces that a range touches: which, where in it, and which part of the range that is.
fn parts(offset_bytes: u64, length_bytes: usize) -> impl Iterator<Item = (usize, Range<usize>, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset_bytes as usize + done;
        let (piece, from) = (at / PIECE_BYTES, at % PIECE_BYTES);
        let length = (length_bytes - done).min(PIECE_BYTES - from);
        done += length;
        (length > 0).then(|| (piece, from..from + length, done - length..done))
    })
}

impl MemoryDisk {
    /// A disk that forgets what it is told: only what happens above it counts.
    pub fn forgetful(size_bytes: u64) -> MemoryDisk {
        MemoryDisk { size_bytes, content: None, yields: false }
    }

    /// A disk that keeps everything. `yields`: a durable write takes until everybody else had a turn.
    pub fn keeping(size_bytes: u64, yields: bool) -> MemoryDisk {
        let pieces = RefCell::new(vec![Vec::new(); size_bytes as usize / PIECE_BYTES]);
        MemoryDisk { size_bytes, content: Some(pieces), yields }
    }

    /// Another disk with the same content.
    pub fn copied(&self) -> MemoryDisk {
        MemoryDisk { size_bytes: self.size_bytes, content: self.content.clone(), yields: self.yields }
    }

    fn put(&self, offset_bytes: u64, data: &[u8]) {
        if let Some(content) = &self.content {
            let mut pieces = content.borrow_mut();
            for (piece, inside, part) in parts(offset_bytes, data.len()) {
                made(&mut pieces[piece])[inside].copy_from_slice(&data[part]);
            }
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
            for (piece, inside, part) in parts(offset_bytes, buffer.len()) {
                match &content.borrow()[piece] {
                    piece if piece.is_empty() => buffer[part].fill(0),
                    piece => buffer[part].copy_from_slice(&piece[inside]),
                }
            }
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
            let mut pieces = content.borrow_mut();
            for (piece, inside, _) in parts(offset_bytes, length_bytes as usize) {
                made(&mut pieces[piece])[inside].fill(0);
            }
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
