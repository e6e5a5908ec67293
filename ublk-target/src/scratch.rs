//! A snapshot that takes writes, into an overlay that is thrown away: for journal replay and for trying things out.
//!
//! Invariants:
//! - The snapshot below is only read.
//! - A block is in the overlay as a whole or not at all; its bit is set after its content is written.
//! - Writes run one at a time, so that no two of them can build the same block from different parts.

use crate::device::Device;
use crate::nbd::Export;
use crate::ublk::service::Service;
use cairn_engine::disk::{aligned_buffer, Disk};
use cairn_engine::error::{Error, ErrorKind, Result};
use cairn_engine::units::{blocks_for, blocks_inside, blocks_touched, BlockIndex, BLOCK_BYTES};
use std::cell::RefCell;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// Bytes of zeroes written at a time.
const ZERO_PIECE_BYTES: u64 = 128 << 10;

/// An empty overlay for a snapshot of `size_bytes`: a sparse file that has no name any more.
pub fn create_overlay(directory: &Path, size_bytes: u64) -> Result<Arc<Device>> {
    let failed = |source: std::io::Error| {
        Error::new(ErrorKind::Io, "make a scratch overlay", directory.display().to_string()).caused_by(source)
    };
    std::fs::create_dir_all(directory).map_err(failed)?;
    let path = directory.join(format!("overlay-{}", uuid::Uuid::new_v4().simple()));
    let file = std::fs::File::options().create_new(true).write(true).open(&path).map_err(failed)?;
    let made = file
        .set_len(blocks_for(size_bytes) * BLOCK_BYTES as u64)
        .map_err(failed)
        .and_then(|()| Device::open(&path, crate::device::Access::Exclusive { wait_ms: 0 }));
    std::fs::remove_file(&path).map_err(failed)?;
    made
}

/// A snapshot with an overlay over it. Belongs to one thread.
pub struct ScratchExport<E, D> {
    below: E,
    overlay: D,
    written: RefCell<Vec<u64>>,
    writing: futures_util::lock::Mutex<()>,
}

impl<E: Export, D: Disk> ScratchExport<E, D> {
    /// Over the snapshot `below`; `overlay` is empty and at least as large in blocks.
    pub fn new(below: E, overlay: D) -> ScratchExport<E, D> {
        let blocks = blocks_for(below.size_bytes());
        assert!(overlay.size_bytes() >= blocks * BLOCK_BYTES as u64, "every block has its place in the overlay");
        let written = RefCell::new(vec![0; blocks.div_ceil(64) as usize]);
        ScratchExport { below, overlay, written, writing: futures_util::lock::Mutex::new(()) }
    }

    fn is_written(&self, block: BlockIndex) -> bool {
        self.written.borrow()[(block / 64) as usize] >> (block % 64) & 1 == 1
    }

    fn set_written(&self, blocks: Range<BlockIndex>) {
        let mut written = self.written.borrow_mut();
        for block in blocks {
            written[(block / 64) as usize] |= 1 << (block % 64);
        }
    }

    /// The longest run at the start of `blocks` that is on one side as a whole, and on which.
    fn run(&self, blocks: Range<BlockIndex>) -> (Range<BlockIndex>, bool) {
        let written = self.is_written(blocks.start);
        let end = blocks.clone().find(|block| self.is_written(*block) != written).unwrap_or(blocks.end);
        (blocks.start..end, written)
    }

    /// One block as it is now; past the end of a partial last block it is zero.
    async fn read_block(&self, block: BlockIndex, buffer: &mut [u8]) -> Result<()> {
        let start_bytes = block * BLOCK_BYTES as u64;
        if self.is_written(block) {
            return self.overlay.read(start_bytes, buffer).await;
        }
        let inside = (self.below.size_bytes() - start_bytes).min(BLOCK_BYTES as u64) as usize;
        buffer[inside..].fill(0);
        self.below.read(start_bytes, &mut buffer[..inside]).await
    }

    /// Changes part of one block. The caller holds `writing`.
    async fn write_part(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        let block = offset_bytes / BLOCK_BYTES as u64;
        let within = (offset_bytes % BLOCK_BYTES as u64) as usize;
        let mut whole = aligned_buffer(BLOCK_BYTES);
        self.read_block(block, &mut whole).await?;
        whole[within..within + data.len()].copy_from_slice(data);
        self.overlay.write(block * BLOCK_BYTES as u64, &whole).await?;
        self.set_written(block..block + 1);
        Ok(())
    }

    async fn overwrite(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        let end_bytes = offset_bytes + data.len() as u64;
        assert!(end_bytes <= self.below.size_bytes(), "frontends keep requests inside the device");
        let _writing = self.writing.lock().await;
        let mut at = offset_bytes;
        while at < end_bytes {
            let rest = &data[(at - offset_bytes) as usize..];
            // Only blocks that are whole on disk, not the partial last one, can be written in place.
            let inside = blocks_inside(at, end_bytes - at, u64::MAX);
            let length = if at.is_multiple_of(BLOCK_BYTES as u64) && !inside.is_empty() {
                let length = (inside.end - inside.start) * BLOCK_BYTES as u64;
                self.overlay.write(at, &rest[..length as usize]).await?;
                self.set_written(inside);
                length
            } else {
                let length = (BLOCK_BYTES as u64 - at % BLOCK_BYTES as u64).min(end_bytes - at);
                self.write_part(at, &rest[..length as usize]).await?;
                length
            };
            at += length;
        }
        Ok(())
    }
}

impl<E: Export, D: Disk> Export for ScratchExport<E, D> {
    fn size_bytes(&self) -> u64 {
        self.below.size_bytes()
    }

    fn sector_bytes(&self) -> u32 {
        self.below.sector_bytes()
    }

    fn read_only(&self) -> bool {
        false
    }

    fn can_discard(&self) -> bool {
        false
    }

    async fn read(&self, offset_bytes: u64, buffer: &mut [u8]) -> Result<()> {
        let end_bytes = offset_bytes + buffer.len() as u64;
        let mut at = offset_bytes;
        while at < end_bytes {
            let (run, written) = self.run(blocks_touched(at, end_bytes - at));
            let run_end_bytes = (run.end * BLOCK_BYTES as u64).min(end_bytes);
            let piece = &mut buffer[(at - offset_bytes) as usize..(run_end_bytes - offset_bytes) as usize];
            if !written {
                self.below.read(at, piece).await?;
            } else {
                // The overlay's sectors may be larger than the snapshot's: whole blocks fit both.
                let run_start_bytes = run.start * BLOCK_BYTES as u64;
                let mut whole = aligned_buffer((run.end - run.start) as usize * BLOCK_BYTES);
                self.overlay.read(run_start_bytes, &mut whole).await?;
                let skip = (at - run_start_bytes) as usize;
                piece.copy_from_slice(&whole[skip..skip + piece.len()]);
            }
            at = run_end_bytes;
        }
        Ok(())
    }

    async fn write(&self, offset_bytes: u64, data: &[u8], _durable: bool) -> Result<()> {
        self.overwrite(offset_bytes, data).await
    }

    async fn write_zeroes(&self, offset_bytes: u64, length_bytes: u64, _: bool, _: bool) -> Result<()> {
        let zeroes = aligned_buffer(ZERO_PIECE_BYTES.min(length_bytes) as usize);
        let mut done = 0;
        while done < length_bytes {
            let piece = (length_bytes - done).min(ZERO_PIECE_BYTES);
            self.overwrite(offset_bytes + done, &zeroes[..piece as usize]).await?;
            done += piece;
        }
        Ok(())
    }

    async fn discard(&self, _offset_bytes: u64, _length_bytes: u64) -> Result<()> {
        Ok(())
    }

    /// The overlay dies with the process; there is nothing that could survive longer.
    async fn flush(&self) -> Result<()> {
        Ok(())
    }
}

impl<E: Export, D: Disk> Service for ScratchExport<E, D> {
    async fn tick(&self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::own_ring::{run, OwnRing, RingDisk};

    struct Pattern;

    impl Export for Pattern {
        fn size_bytes(&self) -> u64 {
            (64 << 12) + 1024
        }
        fn sector_bytes(&self) -> u32 {
            512
        }
        fn read_only(&self) -> bool {
            true
        }
        fn can_discard(&self) -> bool {
            false
        }
        async fn read(&self, offset_bytes: u64, buffer: &mut [u8]) -> Result<()> {
            for (index, byte) in buffer.iter_mut().enumerate() {
                *byte = ((offset_bytes + index as u64) / 512 % 200) as u8 + 1;
            }
            Ok(())
        }
        async fn write(&self, _: u64, _: &[u8], _: bool) -> Result<()> {
            unreachable!("the snapshot is only read")
        }
        async fn write_zeroes(&self, _: u64, _: u64, _: bool, _: bool) -> Result<()> {
            unreachable!("the snapshot is only read")
        }
        async fn discard(&self, _: u64, _: u64) -> Result<()> {
            unreachable!("the snapshot is only read")
        }
        async fn flush(&self) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_scratch_device_shows_what_was_written_over_the_snapshot_at_any_alignment() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        run(async |ring: OwnRing| {
            let size_bytes = Pattern.size_bytes();
            let overlay = create_overlay(directory.path(), size_bytes).expect("an overlay");
            assert_eq!(std::fs::read_dir(directory.path()).expect("lists").count(), 0, "it has no name");
            let scratch = ScratchExport::new(Pattern, RingDisk::new(overlay, ring));
            let mut expected = vec![0; size_bytes as usize];
            Pattern.read(0, &mut expected).await.expect("reads");
            let mut random = 12345u64;
            for round in 0..200u64 {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let sectors = size_bytes / 512;
                let start = (random >> 33) % sectors * 512;
                let length = ((random >> 20) % 24 * 512).min(size_bytes - start);
                let range = start as usize..(start + length) as usize;
                if round % 5 == 0 {
                    scratch.write_zeroes(start, length, false, true).await.expect("zeroes");
                    expected[range].fill(0);
                } else {
                    let mut data = aligned_buffer(length as usize);
                    data.fill(round as u8);
                    scratch.write(start, &data, false).await.expect("writes");
                    expected[range].fill(round as u8);
                }
            }
            let mut found = aligned_buffer(size_bytes as usize);
            scratch.read(0, &mut found).await.expect("reads");
            assert!(found[..] == expected[..]);
            for start in (0..size_bytes - 1536).step_by(1536) {
                let piece = &mut found[..1536];
                scratch.read(start, piece).await.expect("reads");
                assert!(piece[..] == expected[start as usize..start as usize + 1536]);
            }
        })
        .expect("a ring");
    }
}
