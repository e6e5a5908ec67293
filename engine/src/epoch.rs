//! The epoch in memory: its needed map, what was saved in it, and what it takes to seal it.
//!
//! Invariants:
//! - A record of the epoch is counted in flight before the lane looks whether the epoch is still the active one;
//!   so when the epoch is no longer active and nothing is in flight, nothing will be published in it any more.
//! - Publishing holds the shared lock on `saved`; freezing holds it exclusively: no entry lands in a frozen map.

use crate::needed::NeededMap;
use crate::saved::SavedMap;
use crate::units::Epoch;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

/// One epoch that is active, or not sealed yet.
pub struct EpochState {
    /// Its number.
    pub number: Epoch,
    /// What has to be saved in it.
    pub needed: NeededMap,
    /// Where new entries go.
    pub saved: RwLock<Arc<SavedMap>>,
    records_in_flight: AtomicU32,
    published: Box<[AtomicU64]>,
}

impl EpochState {
    /// An epoch of a volume of `blocks` blocks with `lanes` lanes. `saving`: some snapshot is whole.
    pub fn new(number: Epoch, blocks: u64, saving: bool, lanes: u16) -> EpochState {
        EpochState {
            number,
            needed: NeededMap::new(blocks, saving),
            saved: RwLock::new(Arc::new(SavedMap::new(number))),
            records_in_flight: AtomicU32::new(0),
            published: (0..lanes).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Counts a record in flight. Sequentially consistent with the switch of the active epoch: see the head.
    pub fn record_begins(&self) {
        self.records_in_flight.fetch_add(1, Ordering::SeqCst);
    }

    /// The record was published, abandoned or never written.
    pub fn record_ends(&self) {
        let before = self.records_in_flight.fetch_sub(1, Ordering::SeqCst);
        assert!(before > 0);
    }

    /// Whether no record of this epoch is in flight.
    pub fn is_quiet(&self) -> bool {
        self.records_in_flight.load(Ordering::SeqCst) == 0
    }

    /// The lane's record with this sequence was published here. The caller holds the shared lock on `saved`.
    pub fn note_published(&self, lane: u16, sequence: u64) {
        self.published[lane as usize].store(sequence, Ordering::Release);
    }

    /// The last sequence of each lane whose record was published here; 0 where there is none.
    pub fn published(&self) -> Vec<u64> {
        self.published.iter().map(|sequence| sequence.load(Ordering::Acquire)).collect()
    }

    /// The map that takes new entries now.
    pub fn saved_now(&self) -> Arc<SavedMap> {
        self.saved.read().expect("no holder of this lock panics").clone()
    }
}
