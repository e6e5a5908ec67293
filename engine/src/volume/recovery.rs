//! Recovery: from the segments that lanes were writing to runs, and what was lost on the way.
//!
//! Invariants:
//! - The store was flushed before anything here is read: what is trusted is durable.
//! - A record that does not verify is the end of a lane's log only where no later record of the lane confirms it;
//!   otherwise it was complete once, was lost, and snapshots that may depend on it are broken.
//! - A read error is never the end of a log.
//! - For one (epoch, block) the first record wins.
//! - Nothing is changed on the store here; the last record of each lane is written again as it is.

use super::SegmentPlaces;
use crate::catalog::Catalog;
use crate::disk::{aligned_buffer, AlignedBuffer, Disk};
use crate::entry::{Entry, MARK, UNREADABLE};
use crate::error::Result;
use crate::format::checksum;
use crate::format::item::SegmentState;
use crate::format::record::{RecordHeader, RecordHome, RECORD_BYTES_MAX};
use crate::units::{BlockIndex, Epoch, SegmentIndex, BLOCK_BYTES};
use std::collections::BTreeMap;
use std::ops::Range;

/// A record found in a segment.
struct Found {
    header: RecordHeader,
    address_bytes: u64,
    /// Its images were not all written.
    torn: bool,
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
    /// Gaps in the lanes' logs.
    pub(super) gaps: u64,
    /// Torn records that ended a lane's log.
    pub(super) torn: u64,
}

/// Bytes read at once while looking for headers.
const WINDOW_BYTES: usize = 256 << 10;
/// Blocks looked at behind what does not verify: two lost records have so many at most, and the next follows them. One
/// write that went astray destroys no more than two headers of long ones.
const LOOK_AHEAD_BLOCKS: usize = 2 * RECORD_BYTES_MAX / BLOCK_BYTES;

/// What becomes of the last record of each lane, if it is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastRecords {
    /// It is written again as it is: from now on it is durable.
    Settled,
    /// Nothing is written: somebody only looks.
    LeftAsTheyAre,
}

/// Scans every segment in the hands of a lane. Reads nothing else, and of a record only its header, but for the last
/// of each lane.
pub(super) async fn recover<D: Disk>(
    store: &D,
    catalog: &Catalog,
    places: SegmentPlaces,
    last_records: LastRecords,
) -> Result<Recovered> {
    let state = catalog.state();
    let mut recovered = Recovered::default();
    let mut lanes: BTreeMap<u16, BTreeMap<u64, Found>> = BTreeMap::new();
    let mut reader = SegmentReader::new(store, places);
    for (index, record) in state.segments.iter().enumerate() {
        let SegmentState::Lane { lane } = record.state else { continue };
        let (segment, incarnation) = (index as SegmentIndex, record.incarnation);
        let home = RecordHome { store: catalog.superblock().store_id, lane, segment, incarnation };
        let found = reader.scan(segment, &home).await;
        if std::mem::take(&mut reader.unreadable) {
            // Which records were there cannot be known.
            recovered.lose_through(state.volume.active_epoch);
        }
        match found.first() {
            Some(first) => drop(recovered.used.insert(segment, first.header.epoch)),
            None => recovered.unused.push(segment),
        }
        let records = lanes.entry(lane).or_default();
        for record in found {
            match records.get(&record.header.sequence) {
                // The lower attempts had failed before the highest was made.
                Some(other) if other.header.attempt >= record.header.attempt || planted!("first-attempt-counts") => {}
                _ => drop(records.insert(record.header.sequence, record)),
            }
        }
    }
    for (lane, mut records) in lanes {
        let indexed = state.lanes_indexed.get(&lane).copied().unwrap_or(0);
        if let Some(mut last) = records.last_entry() {
            if *last.key() > indexed {
                settle_last(store, last.get_mut(), last_records).await?;
            }
        }
        recovered.replay(records, indexed);
    }
    Ok(recovered)
}

/// The last record of a lane: torn, or from now on durable. Nobody may have heard that it completed; a flush that
/// failed may have left it readable only.
async fn settle_last<D: Disk>(store: &D, record: &mut Found, last_records: LastRecords) -> Result<()> {
    record.torn = planted!("torn-record-accepted", false, is_torn(store, record).await);
    if record.torn || last_records == LastRecords::LeftAsTheyAre {
        return Ok(());
    }
    planted!("attach-trusts-volatile", return Ok(()));
    let mut bytes = aligned_buffer(record.header.length_bytes());
    match store.read(record.address_bytes, &mut bytes).await {
        Ok(()) => store.write_durable(record.address_bytes, &bytes).await,
        // An image that cannot be read stays an error.
        Err(_) => Ok(()),
    }
}

/// Whether some image of a record is not what its checksum says. An image that cannot be read proves nothing: the
/// record may have completed, so it counts, and reading the image gives an error.
async fn is_torn<D: Disk>(store: &D, record: &Found) -> bool {
    let mut image = aligned_buffer(BLOCK_BYTES);
    for (entry, image_at) in record.header.images() {
        let offset = record.address_bytes + image_at as u64;
        match store.read(offset, &mut image).await {
            Ok(()) if checksum::image(&image) != entry.checksum => return true,
            Ok(()) => {}
            Err(error) => tracing::error!(%error, "an image of the last record cannot be read"),
        }
    }
    false
}

/// Looks for records in segments, one after the other, through a window that moves forward.
struct SegmentReader<'a, D> {
    store: &'a D,
    places: SegmentPlaces,
    segment: SegmentIndex,
    window: AlignedBuffer,
    /// Where in the segment the window lies; empty before the first read.
    window_bytes: Range<usize>,
    /// Part of what was looked at cannot be read.
    unreadable: bool,
}

impl<'a, D: Disk> SegmentReader<'a, D> {
    fn new(store: &'a D, places: SegmentPlaces) -> Self {
        SegmentReader { store, places, segment: 0, window: aligned_buffer(0), window_bytes: 0..0, unreadable: false }
    }

    /// Every valid record, also behind damaged ones.
    async fn scan(&mut self, segment: SegmentIndex, home: &RecordHome) -> Vec<Found> {
        (self.segment, self.window_bytes) = (segment, 0..0);
        if self.window.is_empty() {
            self.window = aligned_buffer(WINDOW_BYTES.min(self.places.segment_bytes as usize));
        }
        let length = self.places.segment_bytes as usize;
        let start = self.places.segment_start_bytes(self.segment);
        let (mut found, mut at, mut missed) = (Vec::new(), 0, 0);
        while at + BLOCK_BYTES <= length && missed <= LOOK_AHEAD_BLOCKS {
            let address_bytes = start + at as u64;
            let header = RecordHeader::decode(home, address_bytes, self.block(at).await);
            match header.filter(|header| at + header.length_bytes() <= length) {
                Some(header) => {
                    at += header.length_bytes();
                    missed = 0;
                    found.push(Found { header, address_bytes, torn: false });
                }
                None => {
                    at += BLOCK_BYTES;
                    missed += 1;
                }
            }
        }
        found
    }

    async fn block(&mut self, at: usize) -> &[u8] {
        if !self.window_bytes.contains(&at) {
            let end = (at + self.window.len()).min(self.places.segment_bytes as usize);
            self.window_bytes = at..end;
            self.fill_window().await;
        }
        let from = at - self.window_bytes.start;
        &self.window[from..from + BLOCK_BYTES]
    }

    /// Reads the window at once, or block by block where that fails.
    async fn fill_window(&mut self) {
        let start = self.places.segment_start_bytes(self.segment) + self.window_bytes.start as u64;
        let window = &mut self.window[..self.window_bytes.len()];
        if self.store.read(start, window).await.is_ok() {
            return;
        }
        for (index, block) in window.chunks_exact_mut(BLOCK_BYTES).enumerate() {
            if let Err(error) = self.store.read(start + (index * BLOCK_BYTES) as u64, block).await {
                tracing::error!(%error, segment = self.segment, "a block of the log cannot be read");
                block.fill(0);
                self.unreadable = !planted!("read-error-ends-the-log");
            }
        }
    }
}

impl Recovered {
    fn lose_through(&mut self, epoch: Epoch) {
        self.lost_through = self.lost_through.max(Some(epoch));
    }

    /// Takes over one lane's records behind the indexed ones, in order, and notices gaps.
    fn replay(&mut self, records: BTreeMap<u64, Found>, indexed: u64) {
        let Some(&last) = records.keys().next_back() else { return };
        let (mut expected, mut attempt) = (indexed + 1, None);
        for (&sequence, record) in records.range(indexed + 1..) {
            let header = &record.header;
            let is_gap = sequence != expected && !planted!("lost-record-unnoticed");
            if is_gap || attempt.is_some_and(|attempt| attempt != header.predecessor_attempt) {
                // The records in between, or the attempt that counted, had completed, because this one was submitted.
                self.lose_through(header.epoch);
                self.gaps += 1;
            }
            (expected, attempt) = (sequence + 1, Some(header.attempt));
            if record.torn && sequence == last {
                // Torn: it never completed, so nothing it saved was overwritten.
                self.torn += 1;
                return;
            }
            self.take_over(record);
        }
    }

    /// A damaged image in a confirmed record stays in the index: reading it gives an error, never wrong data.
    fn take_over(&mut self, record: &Found) {
        let entries = self.entries.entry(record.header.epoch).or_default();
        let epoch = record.header.epoch;
        for entry in record.header.entries.iter().filter(|entry| entry.is_mark) {
            let block = entry.block;
            entries.entry(block).or_insert(Entry { block, epoch, address: MARK, checksum: 0 });
        }
        for (entry, image_at) in record.header.images() {
            let stored_at = (record.address_bytes + image_at as u64) / BLOCK_BYTES as u64;
            let address = if entry.unreadable { UNREADABLE } else { stored_at };
            let (block, checksum) = (entry.block, entry.checksum);
            entries.entry(block).or_insert(Entry { block, epoch, address, checksum });
        }
    }
}
