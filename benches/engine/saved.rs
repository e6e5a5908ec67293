//! A volume of which 100 GiB have been saved: what stays in memory of that, and what a first write costs then.
//!
//! Invariants:
//! - Nearly all that is saved are zeroes, which [`ZeroDisk`] does not keep: the index of the store is kept whole.
//! - Little and much saved are measured in turns, with the same requests.

use super::cases::{Rig, BLOCK, WORKING_BLOCKS};
use cairn_engine::disk::{aligned_buffer, Disk};
use cairn_engine::error::Result;
use cairn_engine::volume::Limits;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Instant;

const REQUEST_BYTES: u64 = 1 << 20;
/// The background gets its turn after so many requests, and does all there is to do.
const REQUESTS_BETWEEN: u64 = 64;
/// Room for index, catalog and what the turns save.
const ROOM_BYTES: u64 = 8 << 30;
const ROUNDS: u64 = 21;
const FIRST_WRITES: u64 = 1024;

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    /// Bytes of old content in the store before the turns began.
    pub bytes: u64,
    /// The most entries of block maps that were in memory at a time.
    pub entries_peak: u64,
    /// The bound that the engine keeps.
    pub entries_max: u64,
    /// A first write of 4 KiB in each round, in ns: with next to nothing saved, and with all of it.
    pub rounds_ns: Vec<[f64; 2]>,
}

/// A disk that keeps all blocks but zeroes. [`super::memory_disk::MemoryDisk`] keeps pieces of 1 MiB, each of which
/// would hold a record's header: with 100 GiB saved it would keep 100 GiB.
pub struct ZeroDisk {
    size_bytes: u64,
    blocks: RefCell<HashMap<u64, Box<[u8]>>>,
}

impl ZeroDisk {
    /// Zeroes.
    pub fn new(size_bytes: u64) -> ZeroDisk {
        ZeroDisk { size_bytes, blocks: RefCell::default() }
    }

    fn put(&self, offset_bytes: u64, data: &[u8]) {
        let mut blocks = self.blocks.borrow_mut();
        for (number, block) in (offset_bytes / BLOCK..).zip(data.chunks(BLOCK as usize)) {
            match cairn_delta::is_zero(block) {
                true => drop(blocks.remove(&number)),
                false => drop(blocks.insert(number, block.into())),
            }
        }
    }
}

impl Disk for ZeroDisk {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn sector_bytes(&self) -> u32 {
        BLOCK as u32
    }

    fn discard_bytes_max(&self) -> u64 {
        0
    }

    async fn read(&self, offset_bytes: u64, buffer: &mut [u8]) -> Result<()> {
        let blocks = self.blocks.borrow();
        for (number, place) in (offset_bytes / BLOCK..).zip(buffer.chunks_mut(BLOCK as usize)) {
            match blocks.get(&number) {
                Some(block) => place.copy_from_slice(block),
                None => place.fill(0),
            }
        }
        Ok(())
    }

    async fn write(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.put(offset_bytes, data);
        Ok(())
    }

    async fn write_durable(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.put(offset_bytes, data);
        Ok(())
    }

    async fn write_zeroes(&self, offset_bytes: u64, length_bytes: u64, _may_unmap: bool) -> Result<()> {
        let mut blocks = self.blocks.borrow_mut();
        (offset_bytes / BLOCK..(offset_bytes + length_bytes) / BLOCK).for_each(|number| drop(blocks.remove(&number)));
        Ok(())
    }

    async fn discard(&self, _offset_bytes: u64, _length_bytes: u64) -> Result<()> {
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn flush_failures(&self) -> u64 {
        0
    }
}

async fn rig(bytes: u64) -> Rig<ZeroDisk> {
    let room = bytes + ROOM_BYTES;
    let mut rig = Rig::on(ZeroDisk::new(room), ZeroDisk::new(room)).await;
    rig.snapshot().await;
    rig
}

/// Overwrites `bytes` of the volume in order, without the place where the turns write; gives the most entries that were
/// in memory.
async fn save(rig: &Rig<ZeroDisk>, bytes: u64) -> u64 {
    let data = aligned_buffer(REQUEST_BYTES as usize);
    let first = rig.first_block * BLOCK;
    let working = first..first + WORKING_BLOCKS * BLOCK;
    let mut peak = 0;
    for request in 0..bytes / REQUEST_BYTES {
        let offset = request * REQUEST_BYTES;
        let offset = if offset + REQUEST_BYTES > working.start { offset + working.end - working.start } else { offset };
        rig.lane.write(offset, &data, false).await.expect("a write");
        if request % REQUESTS_BETWEEN == 0 {
            peak = peak.max(rig.volume.stats().await.entries_in_memory);
            rig.background().await;
        }
    }
    peak
}

/// First writes to blocks that were not written yet.
async fn first_writes_ns(rig: &Rig<ZeroDisk>, round: u64) -> f64 {
    let mut data = aligned_buffer(BLOCK as usize);
    data.fill(1);
    let saved_before = rig.volume.stats().await.blocks_saved;
    let begun = Instant::now();
    for index in round * FIRST_WRITES..(round + 1) * FIRST_WRITES {
        rig.lane.write(rig.block(index) * BLOCK, &data, false).await.expect("a write");
    }
    let spent = begun.elapsed();
    assert_eq!(rig.volume.stats().await.blocks_saved - saved_before, FIRST_WRITES, "each of them saved a block");
    rig.background().await;
    spent.as_nanos() as f64 / FIRST_WRITES as f64
}

/// Saves so much, then measures.
pub async fn measure(bytes: u64) -> Saved {
    let (little, much) = (rig(bytes).await, rig(bytes).await);
    let entries_peak = save(&much, bytes).await;
    let saved = much.volume.stats().await.blocks_saved * BLOCK;
    let mut rounds_ns = Vec::new();
    for round in 0..ROUNDS {
        let both = match round % 2 {
            0 => [first_writes_ns(&little, round).await, first_writes_ns(&much, round).await],
            _ => {
                let later = first_writes_ns(&much, round).await;
                [first_writes_ns(&little, round).await, later]
            }
        };
        rounds_ns.push(both);
    }
    Saved { bytes: saved, entries_peak, entries_max: Limits::default().entries_max as u64, rounds_ns }
}
