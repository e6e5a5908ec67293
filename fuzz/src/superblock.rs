//! Any bytes as the two copies of a superblock.
//!
//! Input: a byte of flags, then copy A and copy B, which share the rest. Flags: 1 and 2 put the signature and the right
//! checksum on A and on B, 4 and 8 begin from a superblock that makes sense and XOR the bytes onto it; the upper four
//! bits choose the size of the device.
//!
//! What must hold: a superblock, or an error that says what is wrong; a superblock that is accepted lies inside its
//! device, comes back the same after it was written, and opens or refuses a catalog within bounded memory.

use crate::bytes::Bytes;
use crate::memory::bounded;
use crate::scenario::MetadataStore;
use crate::seal::{seal, BLOCK_BYTES};
use cairn_engine::catalog::Catalog;
use cairn_engine::error::ErrorKind;
use cairn_engine::format::geometry::{SUPERBLOCK_A_BYTES, SUPERBLOCK_B_BYTES};
use cairn_engine::format::superblock::{self, MAGIC};
use cairn_engine::sim::{block_on, SimDisk, SimDiskOptions};

/// What reading a superblock and refusing its catalog may take.
const MEMORY_BYTES_MAX: usize = 192 << 20;
/// Bytes of a copy that carry meaning.
pub const FIELDS_BYTES: usize = 304;

/// The sizes that a device may have: from too small for anything to larger than any disk.
const DEVICE_BYTES: [u64; 8] = [4096, 68 << 10, 1 << 20, 4 << 20, 64 << 20, 1 << 30, 1 << 40, 1 << 46];

/// Reads what `data` describes.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let flags = bytes.u8();
    let size_bytes = DEVICE_BYTES[usize::from(flags >> 4) % DEVICE_BYTES.len()];
    let template = MetadataStore::get().superblock();
    let store = SimDisk::new(SimDiskOptions::new("store", size_bytes));
    let rest = bytes.rest();
    let (a, b) = rest.split_at(rest.len().min(FIELDS_BYTES.max(rest.len() / 2)));
    for (copy, address_bytes, fields) in [(0, SUPERBLOCK_A_BYTES, a), (1, SUPERBLOCK_B_BYTES, b)] {
        let mut block = if flags & (4 << copy) != 0 { template.clone() } else { vec![0; BLOCK_BYTES as usize] };
        for (byte, field) in block.iter_mut().zip(fields) {
            *byte ^= field;
        }
        if flags & (1 << copy) != 0 {
            block[..MAGIC.len()].copy_from_slice(&MAGIC);
            seal(address_bytes, &mut block);
        }
        store.poke(address_bytes, &block);
    }
    bounded(MEMORY_BYTES_MAX, || judge(&store, size_bytes));
}

fn judge(store: &SimDisk, size_bytes: u64) {
    let found = match block_on(superblock::read(store)) {
        Ok(found) => found,
        Err(error) => {
            let kinds = [ErrorKind::NotAStore, ErrorKind::Corrupt, ErrorKind::TooNew];
            assert!(kinds.contains(&error.kind()), "{error:?}");
            return;
        }
    };
    let geometry = found.superblock.geometry;
    assert!(geometry.store_bytes <= size_bytes);
    let last = geometry.segment_offset_bytes(geometry.segment_count - 1) + u64::from(geometry.segment_bytes);
    assert!(last <= geometry.store_bytes, "segments reach beyond the store");
    let result = block_on(Catalog::open(store));
    if let Err(error) = result {
        assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::TooNew | ErrorKind::Io), "{error:?}");
    }
    let mut again = found.superblock.clone();
    block_on(superblock::write_both(store, &mut again)).expect("the disk takes it");
    let back = block_on(superblock::read(store)).expect("what was written makes sense");
    assert_eq!(back.superblock, again);
    assert_eq!(back.damaged_copy, None);
}
