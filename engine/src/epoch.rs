//! The epoch in memory: its needed map, what was saved in it, and what it takes to seal it.
//!
//! Invariants:
//! - A record of the epoch is counted in flight before the lane looks whether the epoch is still the active one;
//!   so when the epoch is no longer active and nothing is in flight, nothing will be published in it any more.
//! - Publishing holds the shared lock on `saved`; freezing holds it exclusively: no entry lands in a frozen map.
//! - The active epoch is announced by its number: whoever reads the number finds that epoch, or a younger one.
//!
//! Memory orders: a lane adds to `records_in_flight` and then reads the active number; a switch writes the number and
//! the sealer then reads the count. One of the two must see the other, which only sequential consistency gives for a
//! store followed by a load elsewhere. The models are in `models/cut.rs`.

use crate::in_use::InUseMap;
use crate::needed::NeededMap;
use crate::saved::SavedMap;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::{Arc, RwLock};
use crate::units::Epoch;

/// What the first overwrite of a block leaves on the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Keeping {
    /// Nothing: there is neither a snapshot nor a bookmark.
    Nothing,
    /// That it took place: there are only bookmarks.
    Marks,
    /// The old content: some snapshot is whole.
    Images,
}

/// One epoch that is active, or not sealed yet.
pub struct EpochState {
    /// Its number.
    pub number: Epoch,
    /// What is kept of a block that is overwritten in it.
    pub keeping: Keeping,
    /// What has to be saved in it.
    pub needed: NeededMap,
    /// What is in use at all.
    pub in_use: Arc<InUseMap>,
    /// Where new entries go.
    pub saved: RwLock<Arc<SavedMap>>,
    records_in_flight: AtomicU32,
    published: Box<[AtomicU64]>,
}

impl EpochState {
    /// An epoch of a volume of `blocks` blocks with `lanes` lanes.
    pub fn new(number: Epoch, blocks: u64, keeping: Keeping, lanes: u16, in_use: InUseMap) -> EpochState {
        EpochState {
            number,
            keeping,
            in_use: Arc::new(in_use),
            needed: NeededMap::new(blocks, keeping != Keeping::Nothing),
            saved: RwLock::new(Arc::new(SavedMap::new(number))),
            records_in_flight: AtomicU32::new(0),
            published: (0..lanes).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Counts a record in flight; look afterwards whether the epoch is still the active one.
    pub fn record_begins(&self) {
        self.records_in_flight.fetch_add(1, Ordering::SeqCst);
    }

    /// The record was published, abandoned or never written.
    pub fn record_ends(&self) {
        // Releases what was published to the sealer that finds the epoch quiet.
        let before = self.records_in_flight.fetch_sub(1, Ordering::SeqCst);
        assert!(before > 0);
    }

    /// Whether no record of this epoch is in flight.
    pub fn is_quiet(&self) -> bool {
        self.records_in_flight.load(Ordering::SeqCst) == 0
    }

    /// The lane's record with this sequence was published here. The caller holds the shared lock on `saved`.
    pub fn note_published(&self, lane: u16, sequence: u64) {
        // Ordered by that lock for who freezes the map, and by `record_ends` for who finds the epoch quiet.
        self.published[lane as usize].store(sequence, Ordering::Relaxed);
    }

    /// The last sequence of each lane whose record was published here; 0 where there is none.
    pub fn published(&self) -> Vec<u64> {
        self.published.iter().map(|sequence| sequence.load(Ordering::Relaxed)).collect()
    }

    /// The map that takes new entries now.
    pub fn saved_now(&self) -> Arc<SavedMap> {
        self.saved.read().expect("no holder of this lock panics").clone()
    }
}

/// Which epoch is active: one number that every request reads, and the epoch behind it.
pub struct ActiveEpoch {
    number: AtomicU64,
    state: RwLock<Arc<EpochState>>,
}

impl ActiveEpoch {
    /// The volume begins with this epoch.
    pub fn new(first: Arc<EpochState>) -> ActiveEpoch {
        ActiveEpoch { number: AtomicU64::new(first.number.0), state: RwLock::new(first) }
    }

    /// The active epoch's number.
    pub fn number(&self) -> Epoch {
        // Sequentially consistent after `record_begins`: see the head. It also acquires what `switch` released.
        Epoch(self.number.load(Ordering::SeqCst))
    }

    /// The active epoch.
    pub fn now(&self) -> Arc<EpochState> {
        self.state.read().expect("no holder of this lock panics").clone()
    }

    /// Brings what a lane knows up to date; touches nothing shared but the number while the epoch stays the same.
    #[inline]
    pub fn refresh(&self, known: &mut Arc<EpochState>) {
        if known.number != self.number() {
            *known = self.now();
        }
    }

    /// Makes `next` the active epoch; gives the one before. The gate is closed and drained.
    pub fn switch(&self, next: Arc<EpochState>) -> Arc<EpochState> {
        let number = next.number;
        let before = std::mem::replace(&mut *self.state.write().expect("no holder of this lock panics"), next);
        assert!(before.number < number);
        // Sequentially consistent before the sealer's `is_quiet`: see the head. The state is there first, so whoever
        // reads this number finds it.
        self.number.store(number.0, Ordering::SeqCst);
        before
    }
}
