//! The record: one batch of before-images inside a segment.
//!
//! A record is a header block followed by its images, one block each, in the order of the entries that have one. A record without
//! entries only confirms its predecessor. docs/FORMAT.md has the byte map.
//!
//! Invariants:
//! - The header's checksum covers the header, its own address on the store and the segment's incarnation: a header
//!   at another place, of an older life of the segment or of another store does not count.
//! - A record was submitted only after the record with the sequence before it, of the same lane and session, had
//!   completed. Of several with one sequence only the highest attempt counts: the others had failed before.

use crate::format::checksum::{salted, Kind};
use crate::units::{BlockIndex, Epoch, SegmentIndex, BLOCK_BYTES, BLOCK_MAX, COUNTER_MAX};
use std::mem::offset_of;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const MAGIC: [u8; 8] = *b"CairnRec";
/// Most before-images in one record.
pub const RECORD_ENTRIES_MAX: usize = 248;
/// Longest record: the header and its images.
pub const RECORD_BYTES_MAX: usize = (1 + RECORD_ENTRIES_MAX) * BLOCK_BYTES;
/// Entry flag: the block could not be read; its image is zeroes and means nothing.
const FLAG_UNREADABLE: u32 = 1;
/// Entry flag: there is no image in the record, only the word that the block was overwritten.
const FLAG_MARK: u32 = 2;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 8],
    checksum: U32,
    count: U16,
    lane: U16,
    session: U64,
    sequence: U64,
    epoch: U64,
    store: [u8; 16],
    segment: U32,
    incarnation: U32,
    attempt: U32,
    predecessor_attempt: U32,
    reserved: [u8; 56],
    entries: [RawEntry; RECORD_ENTRIES_MAX],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawEntry {
    block: U64,
    checksum: U32,
    flags: U32,
}

const _: () = assert!(size_of::<RawEntry>() == 16);
const _: () = assert!(size_of::<RawHeader>() == BLOCK_BYTES);
const _: () = assert!(offset_of!(RawHeader, store) == 40 && offset_of!(RawHeader, attempt) == 64);
const _: () = assert!(offset_of!(RawHeader, entries) == 128);

/// Where a record may lie: the segment, its life, and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHome {
    /// The store.
    pub store: [u8; 16],
    /// The lane that the segment was handed to.
    pub lane: u16,
    /// The segment.
    pub segment: SegmentIndex,
    /// Its incarnation when it was handed out.
    pub incarnation: u32,
}

/// One image of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordEntry {
    /// The block it is the old content of.
    pub block: BlockIndex,
    /// CRC32C of the image.
    pub checksum: u32,
    /// The block could not be read when it was saved.
    pub unreadable: bool,
    /// It has no image: only bookmarks need to know of it.
    pub is_mark: bool,
}

/// A record's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// The lane that wrote it.
    pub lane: u16,
    /// The attachment of the store in which it was written.
    pub session: u64,
    /// Counts the lane's records in this session, from 1.
    pub sequence: u64,
    /// The epoch its images were saved in.
    pub epoch: Epoch,
    /// Counts the tries of this sequence, from 0.
    pub attempt: u32,
    /// The attempt with which the sequence before completed.
    pub predecessor_attempt: u32,
    /// The store it belongs to.
    pub store: [u8; 16],
    /// The segment it lies in.
    pub segment: SegmentIndex,
    /// The segment's incarnation when it was handed out.
    pub incarnation: u32,
    /// Its images, in order.
    pub entries: Vec<RecordEntry>,
}

impl RecordHeader {
    /// Length on the store in bytes, images included.
    pub fn length_bytes(&self) -> usize {
        (1 + self.images().count()) * BLOCK_BYTES
    }

    /// The entries that have an image, each with the image's place behind the start of the record, in bytes.
    pub fn images(&self) -> impl Iterator<Item = (&RecordEntry, usize)> {
        let with_image = self.entries.iter().filter(|entry| !entry.is_mark);
        with_image.enumerate().map(|(index, entry)| (entry, (1 + index) * BLOCK_BYTES))
    }

    /// Writes the header into `block` (4096 bytes), for the store address `address_bytes`.
    pub fn encode(&self, address_bytes: u64, block: &mut [u8]) {
        assert_eq!(block.len(), BLOCK_BYTES);
        assert!(self.entries.len() <= RECORD_ENTRIES_MAX);
        block.fill(0);
        let (raw, _) = RawHeader::mut_from_prefix(block).expect("the block is as long as the header");
        raw.magic = MAGIC;
        raw.count = U16::new(self.entries.len() as u16);
        raw.lane = U16::new(self.lane);
        raw.session = U64::new(self.session);
        raw.sequence = U64::new(self.sequence);
        raw.epoch = U64::new(self.epoch.0);
        raw.attempt = U32::new(self.attempt);
        raw.predecessor_attempt = U32::new(self.predecessor_attempt);
        raw.store = self.store;
        raw.segment = U32::new(self.segment);
        raw.incarnation = U32::new(self.incarnation);
        for (slot, entry) in raw.entries.iter_mut().zip(&self.entries) {
            slot.block = U64::new(entry.block);
            slot.checksum = U32::new(entry.checksum);
            let flags = [(entry.unreadable, FLAG_UNREADABLE), (entry.is_mark, FLAG_MARK)];
            slot.flags = U32::new(flags.iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| flag).sum());
        }
        let covered = planted!("checksum-misses-entries", &block[..128], &block[..]);
        let checksum = salted(Kind::SegmentRecord, address_bytes, u64::from(self.incarnation), covered);
        let (raw, _) = RawHeader::mut_from_prefix(block).expect("the block is as long as the header");
        raw.checksum = U32::new(checksum);
    }

    /// Reads a header found at `address_bytes`; `None` where there is no valid one that belongs there.
    pub fn decode(home: &RecordHome, address_bytes: u64, block: &[u8]) -> Option<RecordHeader> {
        assert_eq!(block.len(), BLOCK_BYTES);
        let (raw, _) = RawHeader::ref_from_prefix(block).expect("the block is as long as the header");
        let RecordHome { store, lane, segment, incarnation } = *home;
        let incarnation = planted!("incarnation-not-compared", raw.incarnation.get(), incarnation);
        let is_at_home = raw.store == store
            && raw.lane.get() == lane
            && raw.segment.get() == segment
            && raw.incarnation.get() == incarnation;
        if raw.magic != MAGIC || !is_at_home {
            return None;
        }
        let mut unsealed = [0u8; BLOCK_BYTES];
        unsealed.copy_from_slice(block);
        unsealed[8..12].fill(0);
        let covered = planted!("checksum-misses-entries", &unsealed[..128], &unsealed[..]);
        if salted(Kind::SegmentRecord, address_bytes, u64::from(incarnation), covered) != raw.checksum.get() {
            return None;
        }
        let count = raw.count.get() as usize;
        if count > RECORD_ENTRIES_MAX {
            return None;
        }
        let entries: Vec<RecordEntry> = raw.entries[..count]
            .iter()
            .map(|slot| RecordEntry {
                block: slot.block.get(),
                checksum: slot.checksum.get(),
                unreadable: slot.flags.get() & FLAG_UNREADABLE != 0,
                is_mark: slot.flags.get() & FLAG_MARK != 0,
            })
            .collect();
        let has_sense = |entry: &RecordEntry| entry.block <= BLOCK_MAX;
        let (sequence, epoch) = (raw.sequence.get(), Epoch(raw.epoch.get()));
        if sequence >= COUNTER_MAX || epoch > Epoch::LAST || !entries.iter().all(has_sense) {
            return None;
        }
        Some(RecordHeader {
            lane,
            session: raw.session.get(),
            sequence,
            epoch,
            attempt: raw.attempt.get(),
            predecessor_attempt: raw.predecessor_attempt.get(),
            store,
            segment,
            incarnation,
            entries,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: RecordHome = RecordHome { store: [7; 16], lane: 3, segment: 12, incarnation: 4 };

    fn header() -> RecordHeader {
        RecordHeader {
            lane: 3,
            session: 9,
            sequence: 77,
            epoch: Epoch(5),
            attempt: 2,
            predecessor_attempt: 1,
            store: [7; 16],
            segment: 12,
            incarnation: 4,
            entries: (0..RECORD_ENTRIES_MAX as u64)
                .map(|block| RecordEntry {
                    block: block * 3,
                    checksum: block as u32,
                    unreadable: block == 7,
                    is_mark: block % 5 == 4,
                })
                .collect(),
        }
    }

    #[test]
    fn a_header_counts_only_at_its_own_place_and_in_its_own_life() {
        let mut block = vec![0; BLOCK_BYTES];
        header().encode(8192, &mut block);
        assert_eq!(RecordHeader::decode(&HOME, 8192, &block), Some(header()));
        assert_eq!(RecordHeader::decode(&HOME, 12288, &block), None);
        let strangers = [
            RecordHome { segment: 13, ..HOME },
            RecordHome { incarnation: 5, ..HOME },
            RecordHome { lane: 4, ..HOME },
            RecordHome { store: [8; 16], ..HOME },
        ];
        for home in strangers {
            assert_eq!(RecordHeader::decode(&home, 8192, &block), None);
        }
    }

    #[test]
    fn a_header_that_makes_no_sense_does_not_count_whatever_its_checksum_says() {
        let changes: [fn(&mut RecordHeader); 3] = [
            |header| header.sequence = u64::MAX,
            |header| header.epoch = Epoch(u64::MAX),
            |header| header.entries[5].block = u64::MAX,
        ];
        for change in changes {
            let (mut header, mut block) = (header(), vec![0; BLOCK_BYTES]);
            change(&mut header);
            header.encode(8192, &mut block);
            assert_eq!(RecordHeader::decode(&HOME, 8192, &block), None);
        }
    }

    #[test]
    fn every_flipped_byte_of_a_header_is_noticed() {
        let mut block = vec![0; BLOCK_BYTES];
        header().encode(8192, &mut block);
        for at in 0..BLOCK_BYTES {
            block[at] ^= 0x40;
            assert_eq!(RecordHeader::decode(&HOME, 8192, &block), None, "byte {at}");
            block[at] ^= 0x40;
        }
    }
}
