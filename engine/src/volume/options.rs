//! What the caller decides when a store is made and a volume is opened.

use crate::lateness::SaveDeadline;
use crate::units::Epoch;

/// How to make a store for an origin.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Identity of the store, random.
    pub store_id: [u8; 16],
    /// Identity of the volume, random.
    pub volume_id: [u8; 16],
    /// Key of the sample by which the origin is known again, random.
    pub sample_key: [u8; 32],
    /// Bytes in a segment, a power of two; `None` lets the size of the store decide.
    pub segment_bytes: Option<u32>,
    /// Blocks to a bit of the in-use map: 1, 2, 4 ... or 64 (mission A4).
    pub granule_blocks: u32,
    /// Bytes of the store device to use; `None` for all.
    pub store_bytes: Option<u64>,
    /// This machine.
    pub host_id: [u8; 16],
    /// The caller's clock, in milliseconds since 1970 UTC.
    pub now_unix_ms: u64,
}

/// What the owner accepts although it costs snapshots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accept {
    /// The origin was written while Cairn was away: go on, the snapshots there are get broken.
    pub changed_origin: bool,
    /// The store was last used by another host and not detached: go on, the snapshots there are get broken.
    pub other_host: bool,
    /// A flush of the origin failed earlier: the owner has dealt with it.
    pub failed_flush: bool,
    /// A restore is under way whose snapshot breaks: go on with the mixture of before and after that the disk holds.
    pub abandoned_restore: bool,
}

/// Bounds of memory and background work; tests make them small.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Entries of the active epoch in memory before they are written as a run.
    pub spill_entries: usize,
    /// Entries in memory at which saves wait for the spill.
    pub entries_max: usize,
    /// Pages of runs kept in memory.
    pub cache_pages: usize,
    /// Bytes of merged bitmaps of changed blocks kept in memory, for deltas. 0: none.
    pub bitmap_bytes: usize,
    /// Segments kept handed out to a lane.
    pub reserve_segments: usize,
    /// Blocks a restore moves back in one step.
    pub restore_step_blocks: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            spill_entries: 64 << 10,
            entries_max: 512 << 10,
            cache_pages: 8192,
            bitmap_bytes: 128 << 20,
            reserve_segments: 8,
            restore_step_blocks: 1024,
        }
    }
}

/// Where it is recorded that snapshots are broken when the store cannot take it any more (law 3): the state
/// directory. Called rarely; may block.
pub trait BrokenLog: Send + Sync {
    /// Records durably what the store does not take, in place of what was recorded before. False where that failed.
    fn record(&self, elsewhere: &BrokenElsewhere) -> bool;

    /// Removes what was recorded: the store has it now. Where that fails it stays, which does no harm to what is taken
    /// afterwards.
    fn clear(&self);
}

/// What was recorded in a [`BrokenLog`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BrokenElsewhere {
    /// Snapshots of this epoch and of older ones are broken; younger ones were taken when the store worked again.
    pub through: Epoch,
    /// Why, in a sentence for people.
    pub reason: String,
    /// A flush of the origin failed.
    pub flush_failed: bool,
}

/// How to open a volume.
pub struct OpenOptions {
    /// This machine.
    pub host_id: [u8; 16],
    /// This boot of it.
    pub boot_id: [u8; 16],
    /// The caller's clock, in milliseconds since 1970 UTC.
    pub now_unix_ms: u64,
    /// Lanes that will write; each is used by one thread.
    pub lanes: u16,
    /// What the owner accepts.
    pub accept: Accept,
    /// What the state directory says was broken while the store could not record it.
    pub broken_elsewhere: Option<BrokenElsewhere>,
    /// Where to record broken snapshots when the store fails.
    pub broken_log: Box<dyn BrokenLog>,
    /// How long a write may wait for the store, and what happens then.
    pub save_deadline: SaveDeadline,
    /// Bounds.
    pub limits: Limits,
}
