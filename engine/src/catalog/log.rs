//! Reading a catalog area: the records in order, whatever happened to one copy of each.
//!
//! Invariants:
//! - A read error is never the end of the log; nor is a record that a later one of the same log proves to have existed.
//! - Of records that may have been in flight only those of the last session count.
//! - Reads are at most 256 KiB, and go no further behind the last record than one write that went astray can destroy.

use crate::catalog::record::{self, Found, LogIdentity, Role, RECORD_ALIGN_BYTES, RECORD_BYTES_MAX};
use crate::disk::{aligned_buffer, AlignedBuffer, Disk};
use crate::error::{Error, ErrorKind, Result};
use crate::format::geometry::Area;
use crate::format::item::Item;
use crate::format::record::RECORD_BYTES_MAX as SEGMENT_RECORD_BYTES_MAX;

/// Bytes of one read. Both copies of a record and those of its successor lie within it.
const CHUNK_BYTES: usize = 256 * 1024;

/// How far behind a record that is missing a later one is looked for: the largest write that the store gets, and what it
/// may have destroyed a part of on either side.
const LOOK_AHEAD_BYTES: u64 = (SEGMENT_RECORD_BYTES_MAX + 4 * RECORD_BYTES_MAX) as u64;

const _: () = assert!(CHUNK_BYTES >= 4 * RECORD_BYTES_MAX);

/// A record of the log.
pub struct Record {
    /// Its items.
    pub items: Vec<Item>,
    /// Where it stands in a checkpoint.
    pub role: Role,
    /// Bytes of both copies.
    pub length_bytes: u64,
    /// One of its copies is not valid.
    pub damaged: bool,
}

/// A walk over one catalog area.
pub struct LogReader<'a, D> {
    store: &'a D,
    area: Area,
    log: LogIdentity,
    /// Records from this sequence on count only if the log's own session appended them.
    own_from: u64,
    /// Where the next record is expected.
    pub position_bytes: u64,
    /// Its sequence.
    pub sequence: u64,
    buffer: AlignedBuffer,
    buffer_start_bytes: u64,
    buffer_length_bytes: usize,
    /// Address of the last 4 KiB block in the buffer that could not be read, and why.
    read_error: Option<(u64, Error)>,
}

impl<'a, D: Disk> LogReader<'a, D> {
    /// A walk from `position_bytes`, where the record `sequence` is expected, over a log whose every record is known to
    /// be durable.
    pub fn new(store: &'a D, area: Area, log: LogIdentity, position_bytes: u64, sequence: u64) -> LogReader<'a, D> {
        LogReader {
            store,
            area,
            log,
            own_from: u64::MAX,
            position_bytes,
            sequence,
            buffer: aligned_buffer(CHUNK_BYTES),
            buffer_start_bytes: 0,
            buffer_length_bytes: 0,
            read_error: None,
        }
    }

    /// The same over a log that its last session may have left in the middle of an append. When that session began it
    /// had `own_from` records. Where the next one goes an earlier session may have left part of another, and a torn
    /// write of the same sectors may make that one whole: it is not of this session, and does not count.
    pub fn with_own_from(self, own_from: u64) -> LogReader<'a, D> {
        LogReader { own_from, ..self }
    }

    /// The next record; none at the end of the log. Fails with `Corrupt` where a record is lost, with the device's own
    /// error where it cannot be told.
    pub async fn next(&mut self) -> Result<Option<Record>> {
        if let Some(record) = self.next_by_first_copy().await? {
            return Ok(Some(record));
        }
        self.cover(self.position_bytes, CHUNK_BYTES).await;
        if let Some(record) = self.next_by_second_copy()? {
            return Ok(Some(record));
        }
        planted!("lost-catalog-record-ends-the-log", return Ok(None));
        let read_error = match self.read_error.take() {
            Some((address_bytes, error)) if address_bytes >= self.position_bytes => Some(error),
            _ => None,
        };
        if let Some(address_bytes) = self.proof_of_loss().await {
            let sequence = self.sequence;
            return Err(self.lost(&format!("record {sequence} is lost, but byte {address_bytes} holds a later one")));
        }
        match read_error {
            Some(error) => Err(error.saying("the end of the catalog cannot be read")),
            None => Ok(None),
        }
    }

    /// The error for damage at the present position.
    pub fn lost(&self, what: &str) -> Error {
        Error::new(ErrorKind::Corrupt, "read the catalog", "store")
            .at(self.position_bytes)
            .saying(format!("the catalog is damaged: {what}; the origin is whole and can be used without Cairn"))
    }

    async fn next_by_first_copy(&mut self) -> Result<Option<Record>> {
        let position_bytes = self.position_bytes;
        self.cover(position_bytes, RECORD_ALIGN_BYTES).await;
        let Some(length_bytes) = record::claimed_length_bytes(self.log, self.at(position_bytes)) else {
            return Ok(None);
        };
        self.cover(position_bytes, 2 * length_bytes).await;
        match self.find(position_bytes) {
            Some(first) if first.copy == 0 && first.sequence == self.sequence => {
                let second = self.find(position_bytes + first.length_bytes as u64);
                let twin = Found { copy: 1, ..first.clone() };
                self.accept(position_bytes, &first, second != Some(twin)).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Looks for the second copy of the expected record: it lies exactly its own length behind the first.
    fn next_by_second_copy(&mut self) -> Result<Option<Record>> {
        for length_bytes in (RECORD_ALIGN_BYTES..=RECORD_BYTES_MAX).step_by(RECORD_ALIGN_BYTES) {
            let address_bytes = self.position_bytes + length_bytes as u64;
            match self.find(address_bytes) {
                Some(found)
                    if found.copy == 1 && found.sequence == self.sequence && found.length_bytes == length_bytes =>
                {
                    return self.accept(address_bytes, &found, true).map(Some);
                }
                _ => {}
            }
        }
        Ok(None)
    }

    fn accept(&mut self, address_bytes: u64, found: &Found, damaged: bool) -> Result<Record> {
        let items = record::items(found, self.at(address_bytes)).map_err(|error| error.at(address_bytes))?;
        let length_bytes = 2 * found.length_bytes as u64;
        self.position_bytes += length_bytes;
        self.sequence += 1;
        Ok(Record { items, role: found.role, length_bytes, damaged })
    }

    /// The address of a later record of this log, which proves that the expected one existed.
    async fn proof_of_loss(&mut self) -> Option<u64> {
        let end_bytes = self.area.end_bytes().min(self.position_bytes + LOOK_AHEAD_BYTES);
        for address_bytes in (self.position_bytes..end_bytes).step_by(RECORD_ALIGN_BYTES) {
            // The longest record lies in the buffer as a whole.
            self.cover(address_bytes, RECORD_BYTES_MAX).await;
            if self.find(address_bytes).is_some_and(|found| found.sequence > self.sequence) {
                return Some(address_bytes);
            }
        }
        None
    }

    fn find(&self, address_bytes: u64) -> Option<Found> {
        let found = record::find(self.log, address_bytes, self.at(address_bytes));
        let counts = |found: &Found| found.sequence < self.own_from || found.session == self.log.session;
        found.filter(|found| counts(found) || planted!("earlier-session-counts"))
    }

    /// What the buffer holds from this address on; empty behind its end.
    fn at(&self, address_bytes: u64) -> &[u8] {
        let Some(offset_bytes) = address_bytes.checked_sub(self.buffer_start_bytes) else { return &[] };
        self.buffer[..self.buffer_length_bytes].get(offset_bytes as usize..).unwrap_or(&[])
    }

    /// Makes the buffer cover a range, as far as the area reaches. Blocks that cannot be read come as zeroes.
    async fn cover(&mut self, start_bytes: u64, length_bytes: usize) {
        let end_bytes = (start_bytes + length_bytes as u64).min(self.area.end_bytes());
        let covered_end_bytes = self.buffer_start_bytes + self.buffer_length_bytes as u64;
        if start_bytes >= self.buffer_start_bytes && end_bytes <= covered_end_bytes {
            return;
        }
        self.read_error = None;
        self.buffer_start_bytes = start_bytes;
        self.buffer_length_bytes = (self.area.end_bytes().saturating_sub(start_bytes) as usize).min(CHUNK_BYTES);
        let buffer = &mut self.buffer[..self.buffer_length_bytes];
        if buffer.is_empty() || self.store.read(start_bytes, buffer).await.is_ok() {
            return;
        }
        for (index, block) in buffer.chunks_mut(RECORD_ALIGN_BYTES).enumerate() {
            let address_bytes = start_bytes + (index * RECORD_ALIGN_BYTES) as u64;
            if let Err(error) = self.store.read(address_bytes, block).await {
                block.fill(0);
                self.read_error = Some((address_bytes, error));
            }
        }
    }
}
