//! Claims on needed blocks: saved once, seen by all, and nobody waits for ever.
//!
//! The loop restates `Lane::overwrite_blocks` and `Lane::save`: test; claim; save what was claimed; wait for what others
//! claimed; test again; only then overwrite.

use super::{block_on, explore, Place};
use crate::needed::NeededMap;
use ::loom::sync::atomic::AtomicUsize;
use ::loom::thread;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// When a request waits for the claims of others.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// As the lane does it.
    AfterSaving,
    /// The mistake of a request that holds on to what it claimed while it waits.
    BeforeSaving,
}

struct Origin {
    map: NeededMap,
    /// For each block, what each of two writers overwrites of it.
    places: Vec<[Place; 2]>,
    saves: Vec<AtomicUsize>,
}

impl Origin {
    fn new(blocks: u64) -> Arc<Origin> {
        let place = |_| [Place::new(0), Place::new(0)];
        Arc::new(Origin {
            map: NeededMap::new(blocks, true),
            places: (0..blocks).map(place).collect(),
            saves: (0..blocks).map(|_| AtomicUsize::new(0)).collect(),
        })
    }

    fn read_old(&self, claimed: &[Range<u64>]) {
        for block in claimed.iter().cloned().flatten() {
            for place in &self.places[block as usize] {
                assert_eq!(place.read(), 0, "what is saved was not overwritten");
            }
        }
    }

    /// Makes the range free to be overwritten. `fails`: the first save does not go well, and the request gives up.
    fn save(&self, range: Range<u64>, wait: Wait, fails: bool) -> bool {
        while self.map.any_needed(range.clone()) {
            let mut claimed = Vec::new();
            self.map.claim(range.clone(), &mut claimed);
            self.read_old(&claimed);
            if fails && !claimed.is_empty() {
                self.map.release(&claimed);
                return false;
            }
            if wait == Wait::BeforeSaving {
                let others = range.clone().filter(|block| !claimed.iter().any(|mine| mine.contains(block)));
                for block in others {
                    block_on(self.map.wait_unclaimed(block..block + 1));
                }
            }
            for block in claimed.iter().cloned().flatten() {
                self.saves[block as usize].fetch_add(1, Ordering::Relaxed);
                self.map.settle(block);
            }
            block_on(self.map.wait_unclaimed(range.clone()));
        }
        true
    }

    fn write(&self, writer: usize, range: Range<u64>, wait: Wait) {
        assert!(self.save(range.clone(), wait, false));
        range.for_each(|block| self.places[block as usize][writer].write(1));
    }

    fn assert_saved_once(&self, range: Range<u64>) {
        for block in range {
            assert_eq!(self.saves[block as usize].load(Ordering::Relaxed), 1, "block {block} is saved once");
        }
    }
}

fn two_writers(blocks: u64, range: Range<u64>, wait: Wait) {
    let origin = Origin::new(blocks);
    let (other, others_range) = (origin.clone(), range.clone());
    let thread = thread::spawn(move || other.write(1, others_range, wait));
    origin.write(0, range.clone(), wait);
    thread.join().expect("the other writer ends");
    origin.assert_saved_once(range);
}

pub(super) fn claim_settle() {
    two_writers(1, 0..1, Wait::AfterSaving);
}

pub(super) fn claim_release() {
    let origin = Origin::new(1);
    let failing = origin.clone();
    let thread = thread::spawn(move || failing.save(0..1, Wait::AfterSaving, true));
    origin.write(0, 0..1, Wait::AfterSaving);
    thread.join().expect("the other request ends");
    origin.assert_saved_once(0..1);
}

pub(super) fn claim_waiters() {
    let origin = Origin::new(1);
    let mut claimed = Vec::new();
    origin.map.claim(0..1, &mut claimed);
    let waiters = [0, 1].map(|writer| {
        let origin = origin.clone();
        thread::spawn(move || {
            block_on(origin.map.wait_unclaimed(0..1));
            assert!(!origin.map.any_needed(0..1));
            origin.places[0][writer].write(1);
        })
    });
    origin.read_old(&claimed);
    origin.map.settle(0);
    for thread in waiters {
        thread.join().expect("a waiter ends");
    }
}

#[test]
fn two_writers_of_a_block_save_it_once_and_both_overwrite_it_afterwards() {
    explore("claim-settle", claim_settle);
}

#[test]
fn requests_that_claim_crosswise_do_not_wait_for_each_other() {
    // Two words of the map: each may have claimed one of them first.
    explore("claim-crosswise", || two_writers(65, 63..65, Wait::AfterSaving));
}

#[test]
#[should_panic(expected = "deadlock")]
fn requests_that_wait_before_they_saved_hang_and_the_model_notices() {
    explore("claim-crosswise-planted", || two_writers(65, 63..65, Wait::BeforeSaving));
}

#[test]
fn a_save_that_fails_releases_its_claims_and_wakes_who_waits_for_them() {
    explore("claim-release", claim_release);
}

#[test]
fn all_who_wait_for_a_claim_are_woken() {
    explore("claim-waiters", claim_waiters);
}
