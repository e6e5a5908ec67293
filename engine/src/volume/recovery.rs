//! Recovery: from the segments that lanes were writing to runs, and what was lost on the way.
//!
//! Invariants:
//! - The store was flushed before anything here is read: what is trusted is durable.
//! - A record that does not verify is the end of a lane's log only where no later record of the lane confirms it;
//!   otherwise it was complete once, was lost, and snapshots that may depend on it are broken.
//! - A read error is never the end of a log.
//! - For one (epoch, block) the first record wins.
//! - Nothing is changed on the store here.

use super::SegmentPlaces;
use crate::catalog::state::State;
use crate::disk::{aligned_buffer, Disk};
use crate::entry::{Entry, UNREADABLE};
use crate::error::Result;
use crate::format::checksum;
use crate::format::item::SegmentState;
use crate::format::record::RecordHeader;
use crate::units::{BlockIndex, Epoch, SegmentIndex, BLOCK_BYTES};
use std::collections::BTreeMap;

/// A record found in a segment.
struct Found {
    header: RecordHeader,
    address_bytes: u64,
    /// All images match their checksums.
    whole: bool,
}

/// What the lanes' segments hold.
#[derive(Default)]
pub(super) struct Recovered {
    /// Entries that no run holds, by epoch.
    pub(super) entries: BTreeMap<Epoch, BTreeMap<BlockIndex, Entry>>,
    /// Segments with records in them, and their epoch.
    pub(super) used: BTreeMap<SegmentIndex, Epoch>,
    /// Segments that were handed out and hold nothing.
    pub(super) unused: Vec<SegmentIndex>,
    /// Snapshots up to this epoch may depend on a record that was lost.
    pub(super) lost_through: Option<Epoch>,
}

/// Scans every segment in the hands of a lane. Reads nothing else.
pub(super) async fn recover<D: Disk>(store: &D, state: &State, places: SegmentPlaces) -> Result<Recovered> {
    let mut recovered = Recovered::default();
    let mut lanes: BTreeMap<u16, BTreeMap<u64, Found>> = BTreeMap::new();
    let mut buffer = aligned_buffer(places.segment_bytes as usize);
    for (index, record) in state.segments.iter().enumerate() {
        let SegmentState::Lane { .. } = record.state else { continue };
        let segment = index as SegmentIndex;
        if !read_segment(store, places, segment, &mut buffer).await {
            // Which records were there cannot be known.
            recovered.lose_through(state.volume.active_epoch);
        }
        let found = scan_segment(places, segment, record.incarnation, &buffer);
        match found.first() {
            Some(first) => recovered.used.insert(segment, first.header.epoch),
            None => {
                recovered.unused.push(segment);
                None
            }
        };
        for record in found {
            let lane = lanes.entry(record.header.lane).or_default();
            let better = lane.get(&record.header.sequence).is_none_or(|other| !other.whole && record.whole);
            if better {
                lane.insert(record.header.sequence, record);
            }
        }
    }
    for (lane, records) in lanes {
        let indexed = state.lanes_indexed.get(&lane).copied().unwrap_or(0);
        recovered.replay(records, indexed);
    }
    Ok(recovered)
}

/// Reads a segment; block by block where it cannot be read at once. False where part of it cannot be read.
async fn read_segment<D: Disk>(store: &D, places: SegmentPlaces, segment: SegmentIndex, buffer: &mut [u8]) -> bool {
    let start = places.segment_start_bytes(segment);
    if store.read(start, buffer).await.is_ok() {
        return true;
    }
    let mut whole = true;
    for (index, block) in buffer.chunks_exact_mut(BLOCK_BYTES).enumerate() {
        if let Err(error) = store.read(start + (index * BLOCK_BYTES) as u64, block).await {
            tracing::error!(%error, segment, "a block of the log cannot be read");
            block.fill(0);
            whole = false;
        }
    }
    whole
}

/// Every valid record of a segment, also behind damaged ones.
fn scan_segment(places: SegmentPlaces, segment: SegmentIndex, incarnation: u32, buffer: &[u8]) -> Vec<Found> {
    let start = places.segment_start_bytes(segment);
    let mut found = Vec::new();
    let mut at = 0;
    while at + BLOCK_BYTES <= buffer.len() {
        let address_bytes = start + at as u64;
        let header = RecordHeader::decode(address_bytes, segment, incarnation, &buffer[at..at + BLOCK_BYTES]);
        let Some(header) = header.filter(|header| at + header.length_bytes() <= buffer.len()) else {
            at += BLOCK_BYTES;
            continue;
        };
        let images = buffer[at + BLOCK_BYTES..at + header.length_bytes()].chunks_exact(BLOCK_BYTES);
        let whole = header.entries.iter().zip(images).all(|(entry, image)| checksum::image(image) == entry.checksum);
        at += if whole { header.length_bytes() } else { BLOCK_BYTES };
        found.push(Found { header, address_bytes, whole });
    }
    found
}

impl Recovered {
    fn lose_through(&mut self, epoch: Epoch) {
        self.lost_through = self.lost_through.max(Some(epoch));
    }

    /// Takes over one lane's records behind the indexed ones, in order, and notices gaps.
    fn replay(&mut self, records: BTreeMap<u64, Found>, indexed: u64) {
        let Some(&last) = records.keys().next_back() else { return };
        let mut expected = indexed + 1;
        for (&sequence, record) in records.range(indexed + 1..) {
            if sequence != expected {
                // The records in between had completed, because this one was submitted.
                self.lose_through(record.header.epoch);
            }
            expected = sequence + 1;
            if !record.whole && sequence == last {
                // Torn: it never completed, so nothing it saved was overwritten.
                return;
            }
            self.take_over(record);
        }
    }

    /// A damaged image in a confirmed record stays in the index: reading it gives an error, never wrong data.
    fn take_over(&mut self, record: &Found) {
        let entries = self.entries.entry(record.header.epoch).or_default();
        for (index, entry) in record.header.entries.iter().enumerate() {
            let stored_at = record.address_bytes / BLOCK_BYTES as u64 + 1 + index as u64;
            let address = if entry.unreadable { UNREADABLE } else { stored_at };
            let (block, epoch, checksum) = (entry.block, record.header.epoch, entry.checksum);
            entries.entry(block).or_insert(Entry { block, epoch, address, checksum });
        }
    }
}
