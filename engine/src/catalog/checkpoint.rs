//! A checkpoint: the whole state as the first records of an area.
//!
//! Invariants:
//! - The same state gives the same bytes, at the same place and in the same generation.
//! - It is durable when `write` returns, and nothing points to it before.

use crate::catalog::record::{self, LogIdentity, Role, RECORD_BYTES_MAX, RECORD_ITEMS_BYTES_MAX};
use crate::catalog::state::State;
use crate::disk::{aligned_buffer, flush_since, Disk};
use crate::error::{Error, ErrorKind, Result};
use crate::format::geometry::Area;

/// The items of a state, cut into records.
pub(super) struct Checkpoint {
    chunks: Vec<Vec<u8>>,
}

/// How much a checkpoint takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) records: u64,
    /// Both copies of every record counted.
    pub(super) length_bytes: u64,
}

impl Checkpoint {
    /// Packs the items of a state into records; at least one.
    pub(super) fn of(state: &State) -> Checkpoint {
        let mut chunks = vec![Vec::new()];
        for item in state.checkpoint() {
            let encoded = record::encode_items(std::slice::from_ref(&item));
            let last = chunks.last_mut().expect("there is always one");
            if last.len() + encoded.len() > RECORD_ITEMS_BYTES_MAX {
                chunks.push(encoded);
            } else {
                last.extend_from_slice(&encoded);
            }
        }
        Checkpoint { chunks }
    }

    /// What it takes on the store.
    pub(super) fn measure(&self) -> Written {
        let length_bytes: usize = self.chunks.iter().map(|chunk| 2 * record::record_bytes(chunk.len())).sum();
        Written { records: self.chunks.len() as u64, length_bytes: length_bytes as u64 }
    }

    /// Writes it to an area, durable on return. `NoSpace` where it does not fit.
    pub(super) async fn write<D: Disk>(&self, store: &D, area: Area, log: LogIdentity) -> Result<Written> {
        let written = self.measure();
        if written.length_bytes > area.length_bytes {
            let message =
                format!("{} bytes do not fit in {}; delete snapshots", written.length_bytes, area.length_bytes);
            return Err(Error::new(ErrorKind::NoSpace, "write a catalog checkpoint", "store").saying(message));
        }
        let failures_before = store.flush_failures();
        let mut buffer = aligned_buffer(2 * RECORD_BYTES_MAX);
        let mut position_bytes = area.offset_bytes;
        for sequence in 0..self.chunks.len() {
            let length_bytes = self.encode_record(sequence, log, position_bytes, &mut buffer);
            store.write(position_bytes, &buffer[..length_bytes]).await?;
            position_bytes += length_bytes as u64;
        }
        planted!("checkpoint-left-volatile", return Ok(written));
        flush_since(store, failures_before).await?;
        Ok(written)
    }

    /// Both copies of one of its records, written to the start of `buffer`; returns their length.
    pub(super) fn encode_record(&self, sequence: usize, log: LogIdentity, at_bytes: u64, buffer: &mut [u8]) -> usize {
        let role = if sequence + 1 == self.chunks.len() { Role::CheckpointLast } else { Role::Checkpoint };
        record::encode(log, sequence as u64, role, &self.chunks[sequence], at_bytes, buffer)
    }
}
