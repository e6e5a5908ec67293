//! What a history looks like: the sizes of its world and how often each operation comes.
//!
//! Invariants:
//! - A plan follows from its seed alone.
//! - Swarm: each seed leaves some operations out and overdoes others, so that no blind spot is shared by all.

use crate::sim::SimDiskOptions;
use crate::volume::Limits;

/// The operations a history is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A write, volatile or durable.
    Write,
    /// A write of zeroes.
    Zeroes,
    /// A discard.
    Discard,
    /// A flush.
    Flush,
    /// A read of the volume.
    Read,
    /// A new snapshot, at times with a deadline that comes too early.
    Snapshot,
    /// Deletion of any snapshot.
    Delete,
    /// Deletion of any snapshot that leaves a bookmark.
    Bookmark,
    /// A read of part of a snapshot.
    ReadSnapshot,
    /// A restore, at times cut off by a crash.
    Restore,
    /// The volume and its origin become larger.
    Grow,
    /// The once-a-second call of every lane.
    Tick,
    /// Everything is read and compared, and the store is checked.
    Inspect,
    /// A clean detach and attach.
    Reattach,
    /// A crash and recovery, which may crash as well.
    Crash,
    /// One of the devices gets a fault.
    Fault,
    /// Both devices are repaired.
    Repair,
}

const WEIGHTS: [(Kind, u32); 17] = [
    (Kind::Write, 480),
    (Kind::Zeroes, 40),
    (Kind::Discard, 40),
    (Kind::Flush, 60),
    (Kind::Read, 60),
    (Kind::Snapshot, 60),
    (Kind::Delete, 40),
    (Kind::Bookmark, 20),
    (Kind::ReadSnapshot, 80),
    (Kind::Restore, 6),
    (Kind::Grow, 4),
    (Kind::Tick, 20),
    (Kind::Inspect, 3),
    (Kind::Reattach, 6),
    (Kind::Crash, 14),
    (Kind::Fault, 24),
    (Kind::Repair, 10),
];

/// The kinds of faults that a device may get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FaultKind {
    /// The store fails to read.
    StoreRead,
    /// The store fails to write.
    StoreWrite,
    /// The store fails to flush.
    StoreFlush,
    /// The store's device has no space left.
    StoreFull,
    /// The origin fails to read.
    OriginRead,
    /// The origin fails to write.
    OriginWrite,
    /// The origin fails to flush: the latch.
    OriginFlush,
    /// The origin fails to discard.
    OriginDiscard,
    /// Some requests take long.
    Slow,
    /// Bits rot on the store.
    Rot,
    /// The store loses a write and says that it was done.
    LostWrite,
    /// A write to the store goes to another address.
    MisdirectedWrite,
}

const FAULT_KINDS: [FaultKind; 12] = [
    FaultKind::StoreRead,
    FaultKind::StoreWrite,
    FaultKind::StoreFlush,
    FaultKind::StoreFull,
    FaultKind::OriginRead,
    FaultKind::OriginWrite,
    FaultKind::OriginFlush,
    FaultKind::OriginDiscard,
    FaultKind::Slow,
    FaultKind::Rot,
    FaultKind::LostWrite,
    FaultKind::MisdirectedWrite,
];

impl Kind {
    /// Any number as a kind.
    pub fn of_number(number: usize) -> Kind {
        WEIGHTS[number % WEIGHTS.len()].0
    }
}

/// The world of one history.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The origin at the start.
    pub origin: SimDiskOptions,
    /// The store.
    pub store: SimDiskOptions,
    /// Bytes in a segment.
    pub segment_bytes: u32,
    /// Lanes, 1 to 4.
    pub lanes: u16,
    /// Operations under way at a time, at most.
    pub depth: usize,
    /// Bounds of the engine.
    pub limits: Limits,
    /// Snapshots the history keeps at most.
    pub snapshots_max: usize,
    /// The store may be too small for what is asked of it: snapshots may break for want of space.
    pub tight_store: bool,
    /// Writes keep to this many sectors at the start of the volume, mostly; small ones collide all the time.
    pub hot_sectors: u64,
    /// Steps the scheduler takes between operations, at most.
    pub pace: usize,
    /// Kinds of faults that may come; none in some histories, which must then live through no error at all.
    pub faults: Vec<FaultKind>,
    /// The state directory takes nothing.
    pub state_fails: bool,
    /// The store may stall, and then snapshots break so that writes go on.
    pub stalls: bool,
    weights: Vec<(Kind, u32)>,
}

impl Plan {
    /// The plan of a seed.
    pub fn new(seed: u64) -> Plan {
        let mut random = fastrand::Rng::with_seed(seed);
        let sector_bytes = if random.u8(0..3) == 0 { 4096 } else { 512 };
        let sectors = random.u64(16..=256) * 8 + if sector_bytes == 512 { random.u64(0..8) } else { 0 };
        let tight_store = random.u8(0..6) == 0;
        let store_bytes = if tight_store { random.u64(3..=5) << 20 } else { 96 << 20 };
        let disk = |name, size_bytes, random: &mut fastrand::Rng| SimDiskOptions {
            name,
            size_bytes,
            sector_bytes,
            has_fua: random.bool(),
            discard_bytes_max: *random.choice(&[0, 4096, 64 << 10, 1 << 30]).expect("not empty"),
            seed: random.u64(..),
        };
        let origin = disk("origin", sectors * 512, &mut random);
        let store = disk("store", store_bytes, &mut random);
        let spill_entries = random.usize(8..=200);
        let limits = Limits {
            spill_entries,
            entries_max: spill_entries * random.usize(2..=6),
            cache_pages: random.usize(1..=64),
            reserve_segments: random.usize(1..=8),
            restore_step_blocks: random.u64(1..=64),
            // From nothing to more than is needed.
            bitmap_bytes: (spill_entries % 4) << 18,
        };
        let mut plan = Plan {
            segment_bytes: (64 << 10) << random.u8(0..3),
            lanes: random.u16(1..=4),
            depth: random.usize(1..=10),
            limits,
            snapshots_max: random.usize(2..=14),
            tight_store,
            hot_sectors: random.u64(1..=sectors),
            pace: random.usize(1..=24),
            faults: faults(&mut random),
            state_fails: random.u8(0..4) == 0,
            stalls: false,
            weights: weights(&mut random),
            origin,
            store,
        };
        plan.stalls = !plan.faults.is_empty() && random.u8(0..4) == 0;
        plan
    }

    /// Whether the store may be damaged without a word.
    pub fn has_silent_faults(&self) -> bool {
        let silent = [FaultKind::Rot, FaultKind::LostWrite, FaultKind::MisdirectedWrite];
        self.faults.iter().any(|kind| silent.contains(kind))
    }

    /// The next operation.
    pub fn choose(&self, random: &mut fastrand::Rng) -> Kind {
        let total: u32 = self.weights.iter().map(|(_, weight)| weight).sum();
        let mut choice = random.u32(0..total);
        for (kind, weight) in &self.weights {
            if choice < *weight {
                return *kind;
            }
            choice -= weight;
        }
        unreachable!("the choice is below the sum of the weights");
    }
}

/// Three of four histories have faults; of few kinds, so that none hides what another would show.
fn faults(random: &mut fastrand::Rng) -> Vec<FaultKind> {
    if random.u8(0..4) == 0 {
        return Vec::new();
    }
    random.choose_multiple(FAULT_KINDS, random.clone().usize(1..=4))
}

fn weights(random: &mut fastrand::Rng) -> Vec<(Kind, u32)> {
    let skew = |(kind, weight): (Kind, u32)| {
        let factor = *random.choice(&[0, 1, 1, 2, 2, 2, 6]).expect("not empty");
        // Without writes nothing happens at all, and a history that has faults has some.
        let factor = if matches!(kind, Kind::Write | Kind::Fault) { factor.max(1) } else { factor };
        (kind, weight * factor)
    };
    WEIGHTS.into_iter().map(skew).collect()
}
