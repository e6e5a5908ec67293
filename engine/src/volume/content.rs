//! The content of blocks, once it is known where each of them is: on the store, or still on the origin.
//!
//! Invariants:
//! - Neighbours on a device are read in one go.
//! - A before-image is verified against its checksum on every read; a wrong one is an error, never data.

use crate::disk::{aligned_buffer, Disk};
use crate::entry::{Entry, UNREADABLE};
use crate::error::{Error, ErrorKind, Result};
use crate::format::checksum;
use crate::units::{blocks_touched, pieces, BlockIndex, BLOCK_BYTES};
use std::ops::Range;

/// Reads a range of bytes by whole blocks. `read_blocks` fills memory that is aligned to blocks; where the range and
/// `buffer` are aligned too, nothing is copied.
pub(super) async fn read_bytes(
    offset_bytes: u64,
    buffer: &mut [u8],
    read_blocks: impl AsyncFn(Range<BlockIndex>, &mut [u8]) -> Result<()>,
) -> Result<()> {
    for (at, length_bytes) in pieces(offset_bytes, buffer.len() as u64) {
        let range = blocks_touched(at, length_bytes);
        let done = (at - offset_bytes) as usize;
        let part = &mut buffer[done..done + length_bytes as usize];
        let is_aligned = part.as_ptr().addr().is_multiple_of(BLOCK_BYTES);
        if is_aligned && at.is_multiple_of(BLOCK_BYTES as u64) && part.len().is_multiple_of(BLOCK_BYTES) {
            read_blocks(range, part).await?;
            continue;
        }
        let mut blocks = aligned_buffer((range.end - range.start) as usize * BLOCK_BYTES);
        let skip = (at - range.start * BLOCK_BYTES as u64) as usize;
        read_blocks(range, &mut blocks).await?;
        part.copy_from_slice(&blocks[skip..skip + part.len()]);
    }
    Ok(())
}

/// Reads the images of the slots that have an entry and were not read yet, and notes that they were.
pub(super) async fn read_saved<D: Disk>(
    store: &D,
    found: &[Option<Entry>],
    read: &mut [bool],
    content: &mut [u8],
) -> Result<()> {
    let mut slot = 0;
    while slot < found.len() {
        let Some(entry) = found[slot].filter(|_| !read[slot]) else {
            slot += 1;
            continue;
        };
        let mut end = slot + 1;
        let follows = |end: usize| {
            found.get(end).copied().flatten().is_some_and(|next| {
                !read[end]
                    && next.address != UNREADABLE
                    && !next.is_mark()
                    && next.address == entry.address + (end - slot) as u64
            })
        };
        while entry.address != UNREADABLE && follows(end) {
            end += 1;
        }
        let images = &mut content[slot * BLOCK_BYTES..end * BLOCK_BYTES];
        read_images(store, entry, images).await?;
        for (index, image) in images.chunks_exact(BLOCK_BYTES).enumerate() {
            let entry = found[slot + index].expect("the run is of entries");
            verify(&entry, image)?;
        }
        read[slot..end].fill(true);
        slot = end;
    }
    Ok(())
}

async fn read_images<D: Disk>(store: &D, first: Entry, images: &mut [u8]) -> Result<()> {
    if first.is_mark() {
        let message = format!("block {} was overwritten and its content not kept; run `cairn check`", first.block);
        return Err(Error::new(ErrorKind::Corrupt, "read snapshot", "store").saying(message));
    }
    if first.address == UNREADABLE {
        let message = "the block could not be read from the disk when it was about to be overwritten";
        let offset = first.block * BLOCK_BYTES as u64;
        return Err(Error::new(ErrorKind::Io, "read snapshot", "origin").at(offset).saying(message));
    }
    store.read(first.address * BLOCK_BYTES as u64, images).await
}

/// Reads the slots of `missing`, which ascend, from the origin; slot 0 is block `first`, and what lies behind
/// `size_bytes` reads as zeroes.
pub(super) async fn read_unsaved<D: Disk>(
    origin: &D,
    size_bytes: u64,
    first: BlockIndex,
    missing: &[usize],
    content: &mut [u8],
) -> Result<()> {
    for run in missing.chunk_by(|slot, next| slot + 1 == *next) {
        let (from, end) = (run[0], run[run.len() - 1] + 1);
        let offset = (first + from as u64) * BLOCK_BYTES as u64;
        let blocks = &mut content[from * BLOCK_BYTES..end * BLOCK_BYTES];
        let available = size_bytes.saturating_sub(offset).min(blocks.len() as u64) as usize;
        let (inside, beyond) = blocks.split_at_mut(available);
        beyond.fill(0);
        origin.read(offset, inside).await?;
    }
    Ok(())
}

/// The image is what was saved, or the read fails.
pub(super) fn verify(entry: &Entry, image: &[u8]) -> Result<()> {
    assert_eq!(image.len(), BLOCK_BYTES);
    planted!("image-not-verified", return Ok(()));
    if checksum::image(image) == entry.checksum {
        return Ok(());
    }
    let message = format!("the saved content of block {} is damaged (checksum); run `cairn check`", entry.block);
    Err(Error::new(ErrorKind::Corrupt, "read snapshot", "store").at(entry.address * BLOCK_BYTES as u64).saying(message))
}
