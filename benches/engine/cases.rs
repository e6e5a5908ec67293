//! What is counted in the engine: each case sets something up, then does the same thing `count` times.
//!
//! Invariants:
//! - The set-up does not depend on `count`, so that the difference between two counts is what the repetitions cost.

use super::memory_disk::MemoryDisk;
use cairn_engine::deadline::Deadline;
use cairn_engine::disk::{aligned_buffer, Disk, Disks};
use cairn_engine::entry::Entry;
use cairn_engine::lane::Lane;
use cairn_engine::needed::NeededMap;
use cairn_engine::saved::SavedMap;
use cairn_engine::sim::rig::{create_options, open_options, snapshot_name, snapshot_options, StateDirectory};
use cairn_engine::units::Epoch;
use cairn_engine::volume::{create, Limits, Volume};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) const BLOCK: u64 = 4096;
const STORE_BYTES: u64 = 512 << 20;
const SMALL_BYTES: u64 = 1 << 30;
const LARGE_BYTES: u64 = 16 << 40;
const SEGMENT_BYTES: u32 = 4 << 20;
/// Blocks that the repetitions touch, away from those that are watched; a power of two.
pub(super) const WORKING_BLOCKS: u64 = 1 << 17;
/// Requests at a time where there are many.
const DEPTH: u64 = 32;

/// What is done again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Case {
    /// The same writes on the disk alone: what counting itself costs.
    Bare,
    /// A write of 4 KiB without any snapshot.
    PassThrough,
    /// The same on a volume of 16 TiB.
    PassThroughLarge,
    /// A write of 4 KiB that a snapshot does not need any more.
    Rewrite,
    /// A read of 4 KiB of the volume.
    Read,
    /// A first write of 4 KiB.
    FirstWrite,
    /// The same on a volume of 16 TiB.
    FirstWriteLarge,
    /// The same with much saved already.
    FirstWriteSaved,
    /// The same with a hundred snapshots.
    FirstWriteSnapshots,
    /// A first write of 4 KiB, one of 32 at a time.
    FirstWriteDeep,
    /// One test of the needed map.
    NeededTest,
    /// A claim and its settling in the needed map.
    ClaimSettle,
    /// A look into the block map of an epoch with 32,768 entries.
    MapLookup,
    /// A read of 4 KiB of the youngest of a hundred snapshots.
    ReadYoungest,
    /// A read of 4 KiB of the oldest of a hundred snapshots.
    ReadOldest,
    /// A cut, with one first write since the last.
    Cut,
    /// An attach after a crash, with 8,192 blocks in records that no run covers.
    Recovery,
    /// A delta across a hundred snapshots, its bitmaps in memory.
    Delta,
}

impl Case {
    /// How many repetitions make a figure.
    pub fn count(self) -> u64 {
        match self {
            Case::Recovery => 2,
            Case::Delta | Case::Cut => 100,
            _ => 2048,
        }
    }
}

/// A volume that nobody else uses.
pub(super) struct Rig<D> {
    disks: Rc<Disks<D>>,
    pub(super) volume: Arc<Volume>,
    pub(super) lane: Lane<D>,
    pub(super) first_block: u64,
    snapshots: u64,
}

impl Rig<MemoryDisk> {
    async fn new(origin_bytes: u64, yields: bool) -> Rig<MemoryDisk> {
        Rig::on(MemoryDisk::forgetful(origin_bytes), MemoryDisk::keeping(STORE_BYTES, yields)).await
    }
}

impl<D: Disk> Rig<D> {
    /// A volume on these disks, without a snapshot.
    pub(super) async fn on(origin: D, store: D) -> Rig<D> {
        let origin_bytes = origin.size_bytes();
        let disks = Rc::new(Disks { origin, store });
        create(&disks, &create_options(SEGMENT_BYTES)).await.expect("the store is large enough");
        let (volume, lane) = open(&disks).await;
        Rig { disks, volume, lane, first_block: origin_bytes / BLOCK / 4, snapshots: 0 }
    }

    /// The block of a repetition: each another one, in no order.
    pub(super) fn block(&self, index: u64) -> u64 {
        self.first_block + index.wrapping_mul(40_503) % WORKING_BLOCKS
    }

    pub(super) async fn snapshot(&mut self) {
        let name = snapshot_name(&format!("s{}", self.snapshots));
        self.snapshots += 1;
        self.volume.snapshot(&self.disks, &name, snapshot_options(), &Deadline::new()).await.expect("a snapshot");
    }

    async fn write(&self, block: u64, data: &[u8]) {
        self.lane.write(block * BLOCK, data, false).await.expect("a write");
    }

    pub(super) async fn background(&self) {
        while self.volume.background_step(&self.lane).await.expect("background work") {}
    }

    /// Snapshots with `writes` first writes after each.
    async fn history(&mut self, snapshots: u64, writes: u64) {
        let data = aligned_buffer(BLOCK as usize);
        for snapshot in 0..snapshots {
            self.snapshot().await;
            for index in 0..writes {
                self.write(self.block(snapshot * writes + index), &data).await;
            }
            self.background().await;
        }
    }
}

async fn open<D: Disk>(disks: &Rc<Disks<D>>) -> (Arc<Volume>, Lane<D>) {
    let options = open_options(1, Limits::default(), &StateDirectory::default());
    let volume = Volume::open(disks, options).await.expect("an attach");
    let lane = Lane::new(Arc::clone(&volume), 0, Rc::clone(disks));
    (volume, lane)
}

/// Sets the case up, repeats it, and says how long the repetitions took.
pub async fn run(case: Case, count: u64) -> Duration {
    match case {
        Case::Bare => bare_writes(&Rig::new(SMALL_BYTES, false).await, count).await,
        Case::PassThrough => writes(&Rig::new(SMALL_BYTES, false).await, 0, count).await,
        Case::PassThroughLarge => writes(&Rig::new(LARGE_BYTES, false).await, 0, count).await,
        Case::Rewrite => {
            let mut rig = Rig::new(SMALL_BYTES, false).await;
            rig.history(1, 2 * Case::Rewrite.count()).await;
            writes(&rig, 0, count).await
        }
        Case::Read => reads(&Rig::new(SMALL_BYTES, false).await, count).await,
        Case::FirstWrite => first_writes(SMALL_BYTES, [1, 0], count).await,
        Case::FirstWriteLarge => first_writes(LARGE_BYTES, [1, 0], count).await,
        Case::FirstWriteSaved => first_writes(SMALL_BYTES, [2, 10_000], count).await,
        Case::FirstWriteSnapshots => first_writes(SMALL_BYTES, [100, 16], count).await,
        Case::FirstWriteDeep => deep_first_writes(count).await,
        Case::NeededTest => needed_test(count),
        Case::ClaimSettle => claim_settle(count),
        Case::MapLookup => map_lookup(count),
        Case::ReadYoungest => snapshot_reads(99, count).await,
        Case::ReadOldest => snapshot_reads(0, count).await,
        Case::Cut => cuts(count).await,
        Case::Recovery => recoveries(count).await,
        Case::Delta => deltas(count).await,
    }
}

async fn writes(rig: &Rig<MemoryDisk>, from: u64, count: u64) -> Duration {
    let data = aligned_buffer(BLOCK as usize);
    let begun = Instant::now();
    for index in from..from + count {
        rig.write(rig.block(index), &data).await;
    }
    begun.elapsed()
}

async fn bare_writes(rig: &Rig<MemoryDisk>, count: u64) -> Duration {
    let data = aligned_buffer(BLOCK as usize);
    let begun = Instant::now();
    for index in 0..count {
        rig.disks.origin.write(rig.block(index) * BLOCK, &data).await.expect("a write");
    }
    begun.elapsed()
}

async fn reads(rig: &Rig<MemoryDisk>, count: u64) -> Duration {
    let mut buffer = aligned_buffer(BLOCK as usize);
    let begun = Instant::now();
    for index in 0..count {
        rig.lane.read(rig.block(index) * BLOCK, &mut buffer).await.expect("a read");
    }
    begun.elapsed()
}

async fn first_writes(origin_bytes: u64, [snapshots, saved_of_each]: [u64; 2], count: u64) -> Duration {
    let mut rig = Rig::new(origin_bytes, false).await;
    rig.history(snapshots, saved_of_each).await;
    writes(&rig, snapshots * saved_of_each, count).await
}

async fn deep_first_writes(count: u64) -> Duration {
    let mut rig = Rig::new(SMALL_BYTES, true).await;
    rig.snapshot().await;
    let (rig, data) = (&rig, aligned_buffer(BLOCK as usize));
    let begun = Instant::now();
    for group in 0..count / DEPTH {
        let indices = group * DEPTH..(group + 1) * DEPTH;
        join_all(indices.map(|index| rig.write(rig.block(index), &data))).await;
    }
    begun.elapsed()
}

fn needed_test(count: u64) -> Duration {
    let map = NeededMap::new(WORKING_BLOCKS, true);
    (0..WORKING_BLOCKS).for_each(|block| map.settle_unclaimed(block));
    let begun = Instant::now();
    for index in 0..count {
        let block = index.wrapping_mul(40_503) % WORKING_BLOCKS;
        assert!(!black_box(map.any_needed(black_box(block..block + 1))));
    }
    begun.elapsed()
}

fn claim_settle(count: u64) -> Duration {
    let map = NeededMap::new(WORKING_BLOCKS, true);
    // The first touch of a page makes it.
    map.settle_unclaimed(WORKING_BLOCKS - 1);
    let mut claimed = Vec::with_capacity(1);
    let begun = Instant::now();
    for block in 0..count {
        claimed.clear();
        map.claim(black_box(block..block + 1), &mut claimed);
        map.settle(black_box(block));
    }
    begun.elapsed()
}

fn map_lookup(count: u64) -> Duration {
    const ENTRIES: u64 = 32_768;
    let map = SavedMap::new(Epoch(1));
    let scattered = |index: u64| index.wrapping_mul(40_503) % WORKING_BLOCKS;
    for index in 0..ENTRIES {
        map.publish(&Entry { block: scattered(index), epoch: Epoch(1), address: index + 1, checksum: 0 });
    }
    let begun = Instant::now();
    for index in 0..count {
        assert!(black_box(map.find(black_box(scattered(index)))).is_some());
    }
    begun.elapsed()
}

async fn snapshot_reads(number: u64, count: u64) -> Duration {
    let mut rig = Rig::new(SMALL_BYTES, false).await;
    rig.history(100, 64).await;
    // Everything that is read is saved, after the youngest as well.
    rig.history(1, 100 * 64).await;
    let name = snapshot_name(&format!("s{number}"));
    let handle = rig.volume.snapshot_handle(&rig.disks, &name).await.expect("it is whole");
    let mut buffer = aligned_buffer(BLOCK as usize);
    let begun = Instant::now();
    for index in 0..count {
        let offset = rig.block(index % (100 * 64)) * BLOCK;
        rig.volume.read_snapshot(&rig.disks, &handle, offset, &mut buffer).await.expect("a read");
    }
    begun.elapsed()
}

async fn cuts(count: u64) -> Duration {
    let mut rig = Rig::new(SMALL_BYTES, false).await;
    let data = aligned_buffer(BLOCK as usize);
    let begun = Instant::now();
    for index in 0..count {
        rig.snapshot().await;
        rig.write(rig.block(index), &data).await;
        rig.background().await;
    }
    begun.elapsed()
}

/// Every attach finds a copy of the same store: the copy is a small part of what is counted.
async fn recoveries(count: u64) -> Duration {
    let mut rig = Rig::new(SMALL_BYTES, false).await;
    rig.snapshot().await;
    writes(&rig, 0, 8192).await;
    let mut spent = Duration::ZERO;
    for _ in 0..count {
        let (origin, store) = (rig.disks.origin.copied(), rig.disks.store.copied());
        let disks = Rc::new(Disks { origin, store });
        let begun = Instant::now();
        open(&disks).await;
        spent += begun.elapsed();
    }
    spent
}

async fn deltas(count: u64) -> Duration {
    let mut rig = Rig::new(SMALL_BYTES, false).await;
    rig.history(101, 64).await;
    let point = |number: u64| {
        let name = snapshot_name(&format!("s{number}"));
        let (volume, disks) = (&rig.volume, &rig.disks);
        async move { volume.delta_point(disks, &name).await.expect("it is whole") }
    };
    let (older, newer) = (point(0).await, point(100).await);
    let begun = Instant::now();
    for _ in 0..count {
        let found = rig.volume.changes(&rig.disks, Some(&older), &newer, 0, usize::MAX).await.expect("a delta");
        assert!(!black_box(found).is_empty());
    }
    begun.elapsed()
}
