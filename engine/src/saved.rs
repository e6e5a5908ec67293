//! The entries of one epoch that no run holds yet: what was saved, in memory.
//!
//! Invariants:
//! - An entry is published only after its record is durable, and before its block is settled.
//! - For one block the first publication wins.
//! - A map once frozen does not change.

use crate::entry::Entry;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Mutex, MutexGuard};
use crate::units::{BlockIndex, Epoch, StoreBlock};
use std::collections::BTreeMap;
use std::ops::Range;

/// In models one: each is made anew for every interleaving.
const SHARDS: u64 = if cfg!(any(loom, shuttle)) { 1 } else { 64 };
/// Blocks that share a shard run together, so that a request locks one or two shards.
const SHARD_RUN_SHIFT: u32 = 7;

type Shard = BTreeMap<BlockIndex, (StoreBlock, u32)>;

/// Entries of one epoch, found by block; shared by all threads.
pub struct SavedMap {
    epoch: Epoch,
    shards: Box<[Mutex<Shard>]>,
    count: AtomicUsize,
}

impl SavedMap {
    /// An empty map for an epoch.
    pub fn new(epoch: Epoch) -> SavedMap {
        SavedMap { epoch, shards: (0..SHARDS).map(|_| Mutex::default()).collect(), count: AtomicUsize::new(0) }
    }

    /// The epoch whose entries these are.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn shard(&self, block: BlockIndex) -> MutexGuard<'_, Shard> {
        let index = (block >> SHARD_RUN_SHIFT) % SHARDS;
        self.shards[index as usize].lock().expect("no holder of this lock panics")
    }

    /// Publishes an entry; readers find it from now on.
    pub fn publish(&self, entry: &Entry) {
        assert_eq!(entry.epoch, self.epoch);
        let mut shard = self.shard(entry.block);
        if shard.contains_key(&entry.block) {
            return;
        }
        shard.insert(entry.block, (entry.address, entry.checksum));
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// The entry of a block, if it was saved here.
    pub fn find(&self, block: BlockIndex) -> Option<Entry> {
        let (address, checksum) = *self.shard(block).get(&block)?;
        Some(Entry { block, epoch: self.epoch, address, checksum })
    }

    /// Fills the slots of `out` that are empty, for the blocks of `range`.
    pub fn find_range(&self, range: Range<BlockIndex>, out: &mut [Option<Entry>]) {
        assert_eq!((range.end - range.start) as usize, out.len());
        if self.is_empty() {
            return;
        }
        for (slot, block) in out.iter_mut().zip(range) {
            if slot.is_none() {
                *slot = self.find(block);
            }
        }
    }

    /// The first saved block from `from` on.
    pub fn next_block(&self, from: BlockIndex) -> Option<BlockIndex> {
        let first = |shard: &Mutex<Shard>| {
            let shard = shard.lock().expect("no holder of this lock panics");
            let next = shard.range(from..).next();
            next.map(|(&block, _)| block)
        };
        self.shards.iter().filter_map(first).min()
    }

    /// Calls `found` for every saved block of a range, in no particular order.
    pub fn for_each_block(&self, range: Range<BlockIndex>, mut found: impl FnMut(BlockIndex)) {
        if range.is_empty() || self.is_empty() {
            return;
        }
        for shard in &self.shards {
            let shard = shard.lock().expect("no holder of this lock panics");
            shard.range(range.clone()).for_each(|(&block, _)| found(block));
        }
    }

    /// How many entries it holds.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All entries in order. Only a map that no longer changes is read this way.
    pub fn sorted(&self) -> Vec<Entry> {
        let mut entries = Vec::with_capacity(self.len());
        for shard in &self.shards {
            let shard = shard.lock().expect("no holder of this lock panics");
            let of_shard = shard.iter();
            entries.extend(of_shard.map(|(&block, &(address, checksum))| Entry {
                block,
                epoch: self.epoch,
                address,
                checksum,
            }));
        }
        entries.sort_unstable();
        entries
    }
}
