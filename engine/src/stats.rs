//! Counters of what the engine did. Every lane adds to its own cache line's worth of padding, rarely: only saves,
//! records and control operations count here, never a request that passes through.

use crate::sync::atomic::{AtomicU64, Ordering};
use crossbeam::utils::CachePadded;

/// A counter that only grows.
#[derive(Default)]
pub struct Counter(CachePadded<AtomicU64>);

impl Counter {
    /// Adds.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// The sum so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// All counters of a volume since it was opened.
#[derive(Default)]
pub struct Counters {
    /// Requests that had to save something.
    pub saves: Counter,
    /// Records written (group commit: fewer than saves).
    pub records: Counter,
    /// Blocks saved.
    pub blocks_saved: Counter,
    /// Snapshots taken.
    pub cuts: Counter,
    /// Cuts given up at their deadline.
    pub cuts_timed_out: Counter,
    /// Runs written when an epoch was sealed or its map spilled.
    pub runs_written: Counter,
    /// Merges of runs.
    pub merges: Counter,
    /// Segments freed.
    pub segments_freed: Counter,
    /// Blocks moved back by restores.
    pub blocks_restored: Counter,
    /// Snapshots broken.
    pub snapshots_broken: Counter,
    /// Records that the store took only at a later try, in another segment.
    pub records_retried: Counter,
    /// Requests that waited for blocks which another request was saving.
    pub claim_waits: Counter,
    /// Blocks that need not be saved because no snapshot has anything there.
    pub blocks_forgone: Counter,
    /// Regions of the in-use map that were recorded as untrusted: one catalog record each, at most.
    pub regions_untrusted: Counter,
    /// Torn records that ended a lane's log when the volume was opened.
    pub records_torn: Counter,
    /// Gaps in lanes' logs, where a completed record was lost, when the volume was opened.
    pub records_lost: Counter,
}

/// The counters at one moment, and what the store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests that had to save something.
    pub saves: u64,
    /// Records written.
    pub records: u64,
    /// Blocks saved.
    pub blocks_saved: u64,
    /// Snapshots taken.
    pub cuts: u64,
    /// Cuts given up at their deadline.
    pub cuts_timed_out: u64,
    /// Runs written.
    pub runs_written: u64,
    /// Merges of runs.
    pub merges: u64,
    /// Segments freed.
    pub segments_freed: u64,
    /// Blocks moved back by restores.
    pub blocks_restored: u64,
    /// Snapshots broken.
    pub snapshots_broken: u64,
    /// Records that the store took only at a later try, in another segment.
    pub records_retried: u64,
    /// Requests that waited for blocks which another request was saving.
    pub claim_waits: u64,
    /// Blocks that need not be saved because no snapshot has anything there.
    pub blocks_forgone: u64,
    /// Regions of the in-use map that were recorded as untrusted.
    pub regions_untrusted: u64,
    /// Torn records that ended a lane's log when the volume was opened.
    pub records_torn: u64,
    /// Gaps in lanes' logs, where a completed record was lost, when the volume was opened.
    pub records_lost: u64,
    /// Segments of the store.
    pub segments_total: u64,
    /// Segments that can be handed out.
    pub segments_free: u64,
    /// Bytes in a segment.
    pub segment_bytes: u64,
    /// Runs that a lookup may have to ask.
    pub runs: u64,
    /// Entries that are in memory because no run holds them yet.
    pub entries_in_memory: u64,
    /// Bytes of merged bitmaps of changed blocks in memory.
    pub bitmap_bytes: u64,
}

impl Counters {
    /// The counters' values; what the store holds is left zero.
    pub fn snapshot(&self) -> Stats {
        Stats {
            saves: self.saves.get(),
            records: self.records.get(),
            blocks_saved: self.blocks_saved.get(),
            cuts: self.cuts.get(),
            cuts_timed_out: self.cuts_timed_out.get(),
            runs_written: self.runs_written.get(),
            merges: self.merges.get(),
            segments_freed: self.segments_freed.get(),
            blocks_restored: self.blocks_restored.get(),
            snapshots_broken: self.snapshots_broken.get(),
            records_retried: self.records_retried.get(),
            claim_waits: self.claim_waits.get(),
            blocks_forgone: self.blocks_forgone.get(),
            regions_untrusted: self.regions_untrusted.get(),
            records_torn: self.records_torn.get(),
            records_lost: self.records_lost.get(),
            ..Stats::default()
        }
    }
}
