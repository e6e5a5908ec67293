//! What faults have done to the devices of a history.
//!
//! Invariants:
//! - Everything that struck is known; nothing is excused by a fault that did not strike.
//! - Once the engine has reported a failed flush, every later flush must fail until the owner clears the latch.

use crate::disk::Disks;
use crate::error::ErrorKind;
use crate::sim::{Effect, FaultTarget, SimDisk, Strike};
use crate::units::{BlockIndex, BLOCK_BYTES};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

/// Whether a failed flush of the origin is latched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Latch {
    #[default]
    Clear,
    /// A flush was struck; nobody was told yet, or a crash came before it was recorded anywhere.
    Doubtful,
    /// It was reported: no flush may succeed.
    Sure,
}

/// How much had been struck at some moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mark {
    origin: u64,
    store: u64,
}

/// The faults of a history so far; outlives crashes.
#[derive(Default)]
pub(super) struct Trouble {
    /// Strikes of the present devices that were looked at.
    seen: Cell<Mark>,
    struck: Cell<u64>,
    store_failed: Cell<bool>,
    store_failed_in_session: Cell<bool>,
    store_was_full: Cell<bool>,
    origin_failed: Cell<bool>,
    damaged: Cell<bool>,
    lied: Cell<bool>,
    unreadable: RefCell<BTreeSet<BlockIndex>>,
    latch: Cell<Latch>,
    /// A failed flush left content on the origin that is readable and will not be durable.
    forsaken: Cell<bool>,
    changed_origin_accepted: Cell<bool>,
}

impl Trouble {
    /// Looks at what was struck since the last look.
    pub(super) fn absorb(&self, disks: &Disks<SimDisk>) {
        let seen = self.seen.get();
        let new = disks.origin.faults_struck() - seen.origin + disks.store.faults_struck() - seen.store;
        self.struck.set(self.struck.get() + new);
        for strike in disks.origin.strikes(seen.origin) {
            self.absorb_origin(&strike);
        }
        for strike in disks.store.strikes(seen.store) {
            match strike.effect {
                effect if effect.is_silent() => self.lie(),
                effect => {
                    self.store_failed.set(true);
                    self.store_failed_in_session.set(true);
                    self.store_was_full.set(self.store_was_full.get() || effect == Effect::Fail(ErrorKind::NoSpace));
                }
            }
        }
        self.seen.set(Mark { origin: disks.origin.faults_struck(), store: disks.store.faults_struck() });
    }

    fn absorb_origin(&self, strike: &Strike) {
        self.origin_failed.set(true);
        match strike.target {
            FaultTarget::Read => {
                let block_bytes = BLOCK_BYTES as u64;
                let blocks = strike.range_bytes.start / block_bytes..strike.range_bytes.end.div_ceil(block_bytes);
                self.unreadable.borrow_mut().extend(blocks);
            }
            FaultTarget::Flush => {
                self.forsaken.set(true);
                if self.latch.get() == Latch::Clear {
                    self.latch.set(Latch::Doubtful);
                }
            }
            _ => {}
        }
    }

    /// Requests that faults struck, in all.
    pub(super) fn struck(&self) -> u64 {
        self.struck.get()
    }

    /// How much was struck so far.
    pub(super) fn mark(&self, disks: &Disks<SimDisk>) -> Mark {
        self.absorb(disks);
        self.seen.get()
    }

    /// Whether the origin was struck since then in an operation of one of these kinds.
    pub(super) fn origin_struck_since(&self, disks: &Disks<SimDisk>, mark: Mark, targets: &[FaultTarget]) -> bool {
        disks.origin.strikes(mark.origin).iter().any(|strike| targets.contains(&strike.target))
    }

    /// Whether a device said since then that something failed.
    pub(super) fn struck_since(&self, disks: &Disks<SimDisk>, mark: Mark) -> bool {
        let mut strikes = disks.origin.strikes(mark.origin).into_iter().chain(disks.store.strikes(mark.store));
        strikes.any(|strike| !strike.effect.is_silent())
    }

    /// The devices after a crash are new ones, on which nothing was struck yet.
    pub(super) fn new_devices(&self) {
        self.seen.set(Mark::default());
    }

    /// The store lied about a write.
    fn lie(&self) {
        self.damaged.set(true);
        self.lied.set(true);
    }

    /// Bits were flipped on the store.
    pub(super) fn damage(&self) {
        self.damaged.set(true);
    }

    /// The store lost writes or sent them astray.
    pub(super) fn lied(&self) -> bool {
        self.lied.get()
    }

    /// The store failed, was full, was damaged or lied.
    pub(super) fn store_ever(&self) -> bool {
        self.store_failed.get() || self.damaged.get()
    }

    /// Anything ever.
    pub(super) fn ever(&self) -> bool {
        self.store_ever() || self.origin_failed.get()
    }

    pub(super) fn store_was_full(&self) -> bool {
        self.store_was_full.get()
    }

    pub(super) fn damaged(&self) -> bool {
        self.damaged.get()
    }

    /// Whether some block of a range could not be read from the origin at some time.
    pub(super) fn unreadable_in(&self, blocks: std::ops::Range<BlockIndex>) -> bool {
        self.unreadable.borrow().range(blocks).next().is_some()
    }

    pub(super) fn latch(&self) -> Latch {
        self.latch.get()
    }

    pub(super) fn set_latch(&self, latch: Latch) {
        self.latch.set(latch);
    }

    pub(super) fn forsaken(&self) -> bool {
        self.forsaken.get()
    }

    pub(super) fn accept_changed_origin(&self) {
        self.changed_origin_accepted.set(true);
    }

    pub(super) fn changed_origin_accepted(&self) -> bool {
        self.changed_origin_accepted.get()
    }

    /// The session ends, by a crash or not. `recorded`: the state directory takes what the store does not.
    pub(super) fn session_ends(&self, recorded: bool, power_lost: bool) {
        if self.latch.get() == Latch::Sure && self.store_failed_in_session.get() && !recorded {
            // Neither may have taken it.
            self.latch.set(Latch::Doubtful);
        }
        if power_lost {
            self.forsaken.set(false);
        }
    }

    /// A session begins.
    pub(super) fn session_begins(&self) {
        self.store_failed_in_session.set(false);
    }
}
