//! What may befall the store of a scenario: a small language of damage.
//!
//! An operation is a byte that names it, and what it needs. A place is a block of the scenario's list (u16) and an
//! offset in it (u16), so that nearly every place is one that matters.
//!
//! Invariants:
//! - What was done is remembered: which bytes were touched, and whether a checksum was made right again.

use crate::bytes::Bytes;
use crate::scenario::{last_record, Scenario};
use crate::seal::{seal_at, BLOCK_BYTES};
use cairn_engine::catalog::record::{self, LogIdentity, Role, RECORD_BYTES_MAX, RECORD_ITEMS_BYTES_MAX};
use cairn_engine::disk::{aligned_buffer, Disk};
use cairn_engine::format::superblock;
use cairn_engine::sim::{block_on, Fault, FaultTarget, SimDisk};
use std::ops::Range;

/// Operations of one input.
const OPERATIONS_MAX: usize = 48;
/// The largest piece that is filled, copied or made unreadable: more than a catalog area of a scenario.
const PIECE_BLOCKS_MAX: u64 = 280;

/// Names of the operations, for seeds.
pub mod operation {
    /// Writes bytes: place, piece.
    pub const PATCH: u8 = 0;
    /// Flips bits: place, mask (u8).
    pub const FLIP: u8 = 1;
    /// Fills blocks with one byte: place, blocks (u16), byte (u8).
    pub const FILL: u8 = 2;
    /// Copies blocks: place, place, blocks (u16).
    pub const COPY: u8 = 3;
    /// Exchanges two blocks: place, place.
    pub const SWAP: u8 = 4;
    /// Reads of blocks fail: place, blocks (u16).
    pub const UNREADABLE: u8 = 5;
    /// Writes bytes and seals the block: place, piece.
    pub const FORGE: u8 = 6;
    /// Changes a number and seals the block: place, width (u8), what to add (u64).
    pub const SHIFT: u8 = 7;
    /// Appends a record to the catalog: piece (its items).
    pub const APPEND: u8 = 8;
    /// How many there are.
    pub const COUNT: u8 = 9;
}

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Damage {
    /// Bytes that may hold something else now.
    pub touched: Vec<Range<u64>>,
    /// Bytes that cannot be read.
    unreadable: Vec<Range<u64>>,
    /// Checksums were made right: nothing can tell.
    pub sealed: bool,
}

impl Damage {
    /// Does to `store` what `bytes` say.
    pub fn inflict(bytes: &mut Bytes, store: &SimDisk, scenario: &Scenario) -> Damage {
        let mut damage = Damage::default();
        for _ in 0..OPERATIONS_MAX {
            if bytes.is_empty() {
                break;
            }
            damage.inflict_one(bytes, store, scenario);
        }
        damage
    }

    fn inflict_one(&mut self, bytes: &mut Bytes, store: &SimDisk, scenario: &Scenario) {
        match bytes.u8() % operation::COUNT {
            operation::PATCH => {
                let (at, piece) = (place(bytes, scenario), bytes.piece());
                self.write(store, at, piece);
            }
            operation::FLIP => {
                let (at, mask) = (place(bytes, scenario), bytes.u8());
                self.write(store, at, &[store.peek(at, 1)[0] ^ mask]);
            }
            operation::FILL => {
                let (at, length, value) = (block(bytes, scenario), blocks_bytes(bytes), bytes.u8());
                self.write(store, at, &vec![value; length as usize]);
            }
            operation::COPY => {
                let (from, to, length) = (block(bytes, scenario), block(bytes, scenario), blocks_bytes(bytes));
                let length = length.min(store.size_bytes() - from);
                self.write(store, to, &store.peek(from, length));
            }
            operation::SWAP => {
                let (first, second) = (block(bytes, scenario), block(bytes, scenario));
                let (one, other) = (store.peek(first, BLOCK_BYTES), store.peek(second, BLOCK_BYTES));
                self.write(store, first, &other);
                self.write(store, second, &one);
            }
            operation::UNREADABLE => {
                let (at, length) = (block(bytes, scenario), blocks_bytes(bytes));
                self.unreadable.push(at..at + length);
            }
            operation::FORGE => {
                let (at, piece) = (place(bytes, scenario), bytes.piece());
                self.write(store, at, piece);
                self.seal(store, at);
            }
            operation::SHIFT => {
                let (at, width, added) = (place(bytes, scenario), 1 << (bytes.u8() % 4), bytes.u64());
                let mut number = [0; 8];
                let width = usize::min(width, (store.size_bytes() - at) as usize);
                number[..width].copy_from_slice(&store.peek(at, width as u64));
                let shifted = u64::from_le_bytes(number).wrapping_add(added).to_le_bytes();
                self.write(store, at, &shifted[..width]);
                self.seal(store, at);
            }
            _ => self.append(store, bytes.piece()),
        }
    }

    fn write(&mut self, store: &SimDisk, at: u64, data: &[u8]) {
        let data = &data[..data.len().min((store.size_bytes() - at) as usize)];
        self.touched.push(at..at + data.len() as u64);
        store.poke(at, data);
    }

    fn seal(&mut self, store: &SimDisk, at: u64) {
        self.sealed = true;
        seal_at(store, at - at % BLOCK_BYTES);
    }

    /// Appends a record of any items to the catalog, where that can still be read.
    fn append(&mut self, store: &SimDisk, items: &[u8]) {
        let Ok(found) = block_on(superblock::read(store)) else { return };
        let superblock = found.superblock;
        let Some((sequence, copies)) = last_record(store, &superblock) else { return };
        self.sealed = true;
        let items = &items[..items.len().min(RECORD_ITEMS_BYTES_MAX)];
        let last_bytes = copies[0].end - copies[0].start;
        let position_bytes = copies[0].start + 2 * last_bytes;
        let mut buffer = aligned_buffer(2 * RECORD_BYTES_MAX);
        let (store_id, session) = (superblock.store_id, superblock.session);
        let log = LogIdentity { store_id, generation: superblock.catalog.generation, session };
        let length = record::encode(log, sequence + 1, Role::Appended, items, position_bytes, &mut buffer);
        if position_bytes + length as u64 <= superblock.area().end_bytes() {
            store.poke(position_bytes, &buffer[..length]);
        }
    }

    /// Lets reads of what was made unreadable fail from now on.
    pub fn break_reads(&self, store: &SimDisk) {
        for range in &self.unreadable {
            store.inject(Fault::persistent(FaultTarget::Read, 0).within(range.clone()));
        }
    }

    /// Whether all that some log's end rests on was touched.
    pub fn hits_a_tail(&self, scenario: &Scenario) -> bool {
        let hit = |range: &Range<u64>| {
            self.touched.iter().any(|touched| touched.start < range.end && range.start < touched.end)
        };
        scenario.tails.iter().any(|tail| tail.iter().all(hit))
    }
}

/// An address in one of the scenario's blocks.
fn place(bytes: &mut Bytes, scenario: &Scenario) -> u64 {
    let index = usize::from(bytes.u16()) % scenario.blocks.len();
    scenario.blocks[index] + u64::from(bytes.u16()) % BLOCK_BYTES
}

/// The start of one of the scenario's blocks.
fn block(bytes: &mut Bytes, scenario: &Scenario) -> u64 {
    let at = place(bytes, scenario);
    at - at % BLOCK_BYTES
}

fn blocks_bytes(bytes: &mut Bytes) -> u64 {
    (1 + u64::from(bytes.u16()) % PIECE_BLOCKS_MAX) * BLOCK_BYTES
}
