//! One catalog record: header, items, padding; written twice, one copy right behind the other.
//!
//! Invariants:
//! - A record is a multiple of 4 KiB and at most 64 KiB; both copies go out in one write.
//! - A copy is valid only at its own address, in its own store, in its own generation.

use crate::error::Result;
use crate::format::checksum::{salted, Kind};
use crate::format::item::{self, Item};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of the longest copy of a record.
pub const RECORD_BYTES_MAX: usize = 64 * 1024;
/// Records begin and end at multiples of this.
pub const RECORD_ALIGN_BYTES: usize = 4096;
/// Bytes in front of the items.
pub const RECORD_HEADER_BYTES: usize = 64;
/// Bytes of items that fit in one record.
pub const RECORD_ITEMS_BYTES_MAX: usize = RECORD_BYTES_MAX - RECORD_HEADER_BYTES;

const MAGIC: u32 = u32::from_le_bytes(*b"CnCt");
const CHECKSUM_END: usize = 8;
const FLAG_CHECKPOINT: u8 = 1;
const FLAG_CHECKPOINT_LAST: u8 = 2;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    magic: U32,
    checksum: U32,
    store_id: [u8; 16],
    generation: U64,
    sequence: U64,
    length_bytes: U32,
    items_bytes: U32,
    copy: u8,
    flags: u8,
    reserved: [u8; 6],
    session: U64,
}

const _: () = assert!(size_of::<Header>() == RECORD_HEADER_BYTES);

/// Which log a record belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogIdentity {
    /// The store.
    pub store_id: [u8; 16],
    /// The generation.
    pub generation: u64,
    /// The session that writes. What is read may be of an earlier one.
    pub session: u64,
}

/// Where a record stands in a checkpoint, if it is part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Appended behind the checkpoint.
    Appended,
    /// In the checkpoint, with more to follow.
    Checkpoint,
    /// The last of the checkpoint.
    CheckpointLast,
}

/// A valid copy, as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its place in the log, from 0.
    pub sequence: u64,
    /// 0 or 1.
    pub copy: u8,
    /// Bytes of this copy.
    pub length_bytes: usize,
    /// Bytes of items behind the header.
    pub items_bytes: usize,
    /// Where it stands in a checkpoint.
    pub role: Role,
    /// The session that appended it; 0 in a checkpoint, whose generation is told apart already.
    pub session: u64,
}

/// Bytes of one copy of a record with so many bytes of items.
pub fn record_bytes(items_bytes: usize) -> usize {
    (RECORD_HEADER_BYTES + items_bytes).next_multiple_of(RECORD_ALIGN_BYTES)
}

/// The bytes of `items`.
pub fn encode_items(items: &[Item]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for each in items {
        item::encode(each, &mut bytes);
    }
    bytes
}

/// Both copies of a record that will lie at `address_bytes`, written to the start of `buffer`; returns their length.
pub fn encode(
    log: LogIdentity,
    sequence: u64,
    role: Role,
    items: &[u8],
    address_bytes: u64,
    buffer: &mut [u8],
) -> usize {
    assert!(items.len() <= RECORD_ITEMS_BYTES_MAX, "{} bytes of items do not fit in a record", items.len());
    let length_bytes = record_bytes(items.len());
    for copy in 0..2u8 {
        let start = usize::from(copy) * length_bytes;
        let bytes = &mut buffer[start..start + length_bytes];
        bytes.fill(0);
        bytes[RECORD_HEADER_BYTES..][..items.len()].copy_from_slice(items);
        let mut header = Header {
            magic: MAGIC.into(),
            checksum: 0.into(),
            store_id: log.store_id,
            generation: log.generation.into(),
            sequence: sequence.into(),
            length_bytes: (length_bytes as u32).into(),
            items_bytes: (items.len() as u32).into(),
            copy,
            flags: match role {
                Role::Appended => 0,
                Role::Checkpoint => FLAG_CHECKPOINT,
                Role::CheckpointLast => FLAG_CHECKPOINT | FLAG_CHECKPOINT_LAST,
            },
            reserved: [0; 6],
            session: if role == Role::Appended { log.session } else { 0 }.into(),
        };
        bytes[..RECORD_HEADER_BYTES].copy_from_slice(header.as_bytes());
        let self_address = address_bytes + start as u64;
        header.checksum = salted(Kind::CatalogRecord, self_address, log.generation, &bytes[CHECKSUM_END..]).into();
        bytes[..RECORD_HEADER_BYTES].copy_from_slice(header.as_bytes());
    }
    2 * length_bytes
}

/// How long the copy that starts with `bytes` says it is, where it claims to be a copy of a record of this log.
pub fn claimed_length_bytes(log: LogIdentity, bytes: &[u8]) -> Option<usize> {
    let (header, _) = Header::ref_from_prefix(bytes).ok()?;
    let length_bytes = header.length_bytes.get() as usize;
    let ours = header.magic.get() == MAGIC
        && header.store_id == log.store_id
        && header.generation.get() == log.generation
        && length_bytes.is_multiple_of(RECORD_ALIGN_BYTES)
        && (RECORD_ALIGN_BYTES..=RECORD_BYTES_MAX).contains(&length_bytes);
    ours.then_some(length_bytes)
}

/// The valid copy at the start of `bytes`, which were read at `address_bytes`; none where there is none.
pub fn find(log: LogIdentity, address_bytes: u64, bytes: &[u8]) -> Option<Found> {
    let length_bytes = claimed_length_bytes(log, bytes)?;
    let bytes = bytes.get(..length_bytes)?;
    let (header, _) = Header::ref_from_prefix(bytes).ok()?;
    if header.checksum.get() != salted(Kind::CatalogRecord, address_bytes, log.generation, &bytes[CHECKSUM_END..]) {
        return None;
    }
    let items_bytes = header.items_bytes.get() as usize;
    let role = match header.flags {
        0 => Role::Appended,
        FLAG_CHECKPOINT => Role::Checkpoint,
        flags if flags == FLAG_CHECKPOINT | FLAG_CHECKPOINT_LAST => Role::CheckpointLast,
        _ => return None,
    };
    if header.copy > 1 || record_bytes(items_bytes) != length_bytes {
        return None;
    }
    let (sequence, session) = (header.sequence.get(), header.session.get());
    Some(Found { sequence, copy: header.copy, length_bytes, items_bytes, role, session })
}

/// The items of a valid copy whose bytes these are.
pub fn items(found: &Found, bytes: &[u8]) -> Result<Vec<Item>> {
    item::decode_all(&bytes[RECORD_HEADER_BYTES..][..found.items_bytes])
}
