//! The volume: origin and store, served as one block device.
//!
//! Life: `create` makes a store; `open` recovers and gives a volume; lanes write it, control operations act on it one
//! at a time; `close` ends it cleanly. Dropping it instead is a crash, and is exact as well.
//!
//! Invariants:
//! - Order of locks: `operations`, then `ledger`, then the gate. Nobody inside the gate takes the others.
//! - The active epoch changes only while the gate is closed and drained.
//! - The catalog on the store is never behind what the write path relies on.

mod background;
mod bookmark;
mod changes;
mod check;
mod content;
mod create;
mod cut;
mod delete;
mod detach;
mod elsewhere;
mod failure;
mod flush;
mod grow;
mod late;
mod ledger;
pub(crate) mod maps;
mod merge;
mod offline;
mod open;
mod options;
mod read;
mod recovery;
mod restore;
mod seal;
mod switch;
mod trust;
pub(crate) mod views;

pub use background::Activity;
pub use check::{check_store, CheckOptions, Finding};
#[cfg(feature = "sim")]
pub(crate) use create::create_with_geometry;
pub use create::{create, destroy, inspect, StoreInfo};
pub use cut::CutObserver;
pub use offline::OfflineStore;
pub use options::{Accept, BrokenElsewhere, BrokenLog, CreateOptions, Limits, OpenOptions};
pub use restore::RestoreProgress;

use crate::delta::BitmapCache;
use crate::epoch::{ActiveEpoch, EpochState};
use crate::error::{Error, ErrorKind, Result};
use crate::gate::Gate;
use crate::holes::Holes;
use crate::lane::LaneShared;
use crate::lateness::Lateness;
use crate::run::PageCache;
use crate::signal::Signal;
use crate::snapshot::SnapshotPin;
use crate::stats::Counters;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, OnceLock, Weak};
use crate::units::{blocks_for, Epoch, SegmentIndex, BLOCK_BYTES};
use crate::watch::Watch;
use elsewhere::Elsewhere;
use ledger::Ledger;
use restore::RestoreState;
use std::collections::BTreeMap;
use trust::Trust;
use views::Views;

/// Where segments lie; fixed for the life of a store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SegmentPlaces {
    pub(crate) base_bytes: u64,
    pub(crate) segment_bytes: u64,
}

impl SegmentPlaces {
    pub(crate) fn segment_blocks(&self) -> u32 {
        (self.segment_bytes / BLOCK_BYTES as u64) as u32
    }

    pub(crate) fn segment_start_bytes(&self, segment: SegmentIndex) -> u64 {
        self.base_bytes + u64::from(segment) * self.segment_bytes
    }

    pub(crate) fn segment_end_bytes(&self, segment: SegmentIndex) -> u64 {
        self.segment_start_bytes(segment) + self.segment_bytes
    }

    /// The segment that a block of the store lies in; none in front of them all. What an index says need not be true.
    pub(crate) fn segment_of(&self, address: u64) -> Option<SegmentIndex> {
        let within_bytes = (address * BLOCK_BYTES as u64).checked_sub(self.base_bytes)?;
        SegmentIndex::try_from(within_bytes / self.segment_bytes).ok()
    }
}

/// One attached volume, shared by all its threads.
pub struct Volume {
    pub(crate) store_id: [u8; 16],
    pub(crate) session: u64,
    pub(crate) places: SegmentPlaces,
    pub(crate) limits: Limits,
    pub(crate) gate: Gate,
    pub(crate) active: ActiveEpoch,
    pub(crate) views: Views,
    pub(crate) lanes: Box<[LaneShared]>,
    pub(crate) operations: crate::sync::lock::Mutex<()>,
    pub(crate) ledger: crate::sync::lock::Mutex<Ledger>,
    pub(crate) pins: Mutex<BTreeMap<Epoch, Weak<SnapshotPin>>>,
    pub(crate) cache: PageCache,
    /// Which blocks were saved when, for deltas.
    pub(crate) bitmaps: BitmapCache,
    pub(crate) watch: Watch,
    pub(crate) restore: RestoreState,
    /// Of which parts the volume's map on the store can still be believed.
    pub(crate) trust: Trust,
    /// Holes that were read lately, by run.
    pub(crate) holes: Mutex<lru::LruCache<u64, Arc<Holes>>>,
    /// Somebody waits for segments that readers of older views still hold: long readers are to leave.
    pub(crate) room_wanted: AtomicBool,
    pub(crate) stats: Counters,
    /// Whether saves are late, and what was decided about it.
    pub(crate) lateness: Lateness,
    /// There may be background work.
    pub(crate) work: Signal,
    /// What could not go on may try again.
    pub(crate) retry: Signal,
    pub(crate) broken_log: Box<dyn BrokenLog>,
    /// What was recorded there in this session.
    elsewhere: Mutex<Elsewhere>,
    cut_observer: OnceLock<Box<dyn CutObserver>>,
    size_bytes: AtomicU64,
    /// Epoch of the oldest whole snapshot; no image saved before it is needed. `u64::MAX` where there is none.
    horizon: AtomicU64,
    /// Epoch of the oldest whole snapshot or bookmark; nothing saved before it is needed. `u64::MAX`: there is none.
    mark_horizon: AtomicU64,
    background_failures: AtomicU32,
    activity: Mutex<Activity>,
    /// Failed flushes of the origin when the volume was opened; with one more no flush of it succeeds.
    origin_flush_failures: u64,
    flush_failed: AtomicBool,
    closed: AtomicBool,
}

impl Volume {
    /// Size in bytes.
    #[inline]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Ordering::Acquire)
    }

    /// Size in blocks; the last may be partial.
    pub(crate) fn size_blocks(&self) -> u64 {
        blocks_for(self.size_bytes())
    }

    pub(crate) fn geometry(&self) -> &SegmentPlaces {
        &self.places
    }

    pub(crate) fn active_epoch(&self) -> Arc<EpochState> {
        self.active.now()
    }

    pub(crate) fn lane_count(&self) -> u16 {
        self.lanes.len() as u16
    }

    /// Epoch of the oldest whole snapshot: images of older epochs are dead, snapshots of older epochs broken.
    pub(crate) fn horizon(&self) -> Epoch {
        Epoch(self.horizon.load(Ordering::SeqCst))
    }

    /// Epoch of the oldest whole snapshot or bookmark: bookmarks of older epochs are broken.
    pub(crate) fn mark_horizon(&self) -> Epoch {
        Epoch(self.mark_horizon.load(Ordering::SeqCst))
    }

    /// Snapshots or bookmarks came or went. What broke for lateness stays broken, whatever the catalog says so far.
    pub(crate) fn set_horizons(&self, ledger: &Ledger) {
        let decided = self.lateness.decided();
        self.horizon.store(ledger.horizon().max(decided.floor()).0, Ordering::SeqCst);
        self.mark_horizon.store(ledger.mark_horizon().max(decided.floor()).0, Ordering::SeqCst);
    }

    #[inline]
    pub(crate) fn refuse_closed(&self, operation: &'static str) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Closed, operation, "volume").saying("the volume is detached"));
        }
        Ok(())
    }

    #[inline]
    pub(crate) fn check_range(&self, operation: &'static str, offset_bytes: u64, length_bytes: u64) -> Result<()> {
        self.refuse_closed(operation)?;
        let size_bytes = self.size_bytes();
        match offset_bytes.checked_add(length_bytes) {
            Some(end_bytes) if end_bytes <= size_bytes => Ok(()),
            _ => Err(crate::lane::invalid(
                operation,
                format!("{length_bytes} bytes at {offset_bytes} exceed the volume of {size_bytes} bytes"),
            )),
        }
    }

    /// What the engine did since the volume was opened, and what the store holds.
    pub async fn stats(&self) -> crate::stats::Stats {
        let ledger = self.ledger.lock().await;
        let view = self.view_now();
        crate::stats::Stats {
            segments_total: ledger.catalog.state().segments.len() as u64,
            segments_free: ledger.free_count() as u64,
            segment_bytes: self.places.segment_bytes,
            runs: view.runs.len() as u64,
            entries_in_memory: view.maps.iter().map(|map| map.len() as u64).sum(),
            bitmap_bytes: self.bitmaps.bytes() as u64,
            ..self.stats.snapshot()
        }
    }
}
