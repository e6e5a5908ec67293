//! The comparison at an attach: is the origin what Cairn left?
//!
//! Invariants:
//! - A block that cannot be read says nothing.
//! - What is refused says what was seen, and how to go on.

use super::hashes::{hash, hash_sectors, read_block};
use crate::catalog::state::State;
use crate::disk::Disk;
use crate::error::{Error, ErrorKind, Result};
use crate::units::{blocks_for, BlockIndex, BLOCK_BYTES, TEAR_BYTES};

/// Compares the origin with what was recorded. Fails with `OriginChanged`, saying what was seen. A block that cannot be
/// read says nothing.
pub(crate) async fn verify_origin<D: Disk>(origin: &D, key: &[u8; 32], state: &State, clean: bool) -> Result<()> {
    let size_bytes = state.volume.size_bytes;
    // A growth that was cut off left blocks in the log that the volume does not have.
    for (&block, known) in state.watch.range(..blocks_for(size_bytes)) {
        let Ok(image) = read_block(origin, block, size_bytes).await else { continue };
        let hashes = hash_sectors(key, &image);
        let sectors = (size_bytes - block * BLOCK_BYTES as u64).div_ceil(TEAR_BYTES as u64).min(hashes.len() as u64);
        let same = match clean && known.len() == 1 {
            true => known.last() == Some(&hashes),
            // Torn: each sector on its own holds one of the contents.
            false => (0..sectors as usize).all(|sector| known.iter().any(|content| content[sector] == hashes[sector])),
        };
        if !same {
            return Err(changed(block, &describe(block, &image)));
        }
    }
    for (&block, &expected) in state.samples.iter().filter(|_| clean) {
        let Ok(image) = read_block(origin, block, size_bytes).await else { continue };
        if hash(key, &image) != expected {
            return Err(changed(block, "a sampled block"));
        }
    }
    Ok(())
}

fn changed(block: BlockIndex, what: &str) -> Error {
    let message = format!(
        "the disk was written while Cairn was away, or it is another disk: block {block} ({what}) is not what Cairn \
         left there. Its data is untouched. To go on with the disk as it is, attach with --accept-changed-origin: \
         the snapshots taken so far are then marked broken"
    );
    Error::new(ErrorKind::OriginChanged, "attach", "origin").at(block * BLOCK_BYTES as u64).saying(message)
}

/// Names what lives in a watched block, as far as its signature tells. A partition may begin at any sector of it.
fn describe(block: BlockIndex, image: &[u8]) -> String {
    let sectors = (0..image.len()).step_by(TEAR_BYTES);
    if let Some(name) = sectors.clone().find_map(|start| name_of(&image[start..])) {
        return name;
    }
    let has_boot_signature = |start: usize| image[start..].get(510..512) == Some(&[0x55, 0xaa]);
    match block {
        _ if sectors.clone().any(has_boot_signature) => "boot sector or partition table",
        0 | 1 => "start of the disk",
        _ => "a place of superblocks and labels",
    }
    .to_owned()
}

/// The name of what begins here, if it is known.
fn name_of(bytes: &[u8]) -> Option<String> {
    let at = |offset: usize, magic: &[u8]| bytes.get(offset..offset + magic.len()) == Some(magic);
    let unix_time = |offset: usize| {
        let time = bytes.get(offset..).and_then(|bytes| bytes.first_chunk());
        time.map_or(0, |bytes| u32::from_le_bytes(*bytes))
    };
    if at(1024 + 56, &[0x53, 0xef]) {
        let (mounted, written) = (unix_time(1068), unix_time(1072));
        return Some(format!("ext superblock, last mounted {mounted} and written {written} s after 1970"));
    }
    let signatures: [(usize, &[u8], &str); 5] = [
        (0, b"XFSB", "xfs superblock"),
        (1024, &[0x10, 0x20, 0xf5, 0xf2], "f2fs superblock"),
        (0, b"LABELONE", "LVM label"),
        (0, b"EFI PART", "GPT partition table"),
        (64, b"_BHRfS_M", "btrfs superblock"),
    ];
    signatures.iter().find(|(offset, magic, _)| at(*offset, magic)).map(|(_, _, name)| (*name).to_owned())
}
