//! What nobody needs is forgone while it is being saved, overwritten, and while the epoch before still has a record under
//! way.
//!
//! The cut restates `Volume::keep_map_of_cut`: the map is on the store, then the needed map forgets its holes. The writer
//! restates `Lane::overwrite_blocks` and `Lane::save`; the late record, a save that the epoch before still counted.

use super::{block_on, explore, Place};
use crate::needed::NeededMap;
use ::loom::sync::atomic::AtomicUsize;
use ::loom::thread;
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// How a cut goes about it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Steps {
    /// As the volume does it.
    InOrder,
    /// The mistake of forgetting before the map is on the store.
    ForgoesFirst,
    /// The mistake of forgetting what somebody is saving.
    TakesClaims,
}

/// One block, which is a hole in the snapshot that was just cut.
struct Model {
    before: NeededMap,
    next: NeededMap,
    /// The page of the snapshot's map on the store.
    page: Place,
    /// What the epoch before saved of the block.
    late_image: Place,
    /// What the next epoch saved of it.
    image: Place,
    origin: Place,
    saves: AtomicUsize,
}

impl Model {
    /// `older`: a snapshot from before needs the block.
    fn new(older: bool) -> Arc<Model> {
        Arc::new(Model {
            before: NeededMap::new(1, older),
            next: NeededMap::new(1, true),
            page: Place::new(0),
            late_image: Place::new(0),
            image: Place::new(0),
            origin: Place::new(7),
            saves: AtomicUsize::new(0),
        })
    }

    fn keep_map(&self, steps: Steps) -> u64 {
        if steps != Steps::ForgoesFirst {
            self.page.write(1);
        }
        let forgone = match steps {
            Steps::TakesClaims => {
                self.next.settle_unclaimed(0);
                1
            }
            _ => self.next.forgo(0..1, &self.before),
        };
        if steps == Steps::ForgoesFirst {
            self.page.write(1);
        }
        forgone
    }

    /// A record that was in flight when the epoch before ended: what it holds was read by then.
    fn late_record(&self) {
        self.late_image.write(7);
        self.before.settle(0);
    }

    /// A save in the next epoch; `fails`: what it claimed it gives back.
    fn save(&self, fails: bool) {
        let mut claimed = Vec::new();
        self.next.claim(0..1, &mut claimed);
        if !claimed.is_empty() {
            let old = self.origin.read();
            if fails {
                return self.next.release(&claimed);
            }
            self.image.write(old);
            self.saves.fetch_add(1, Ordering::Relaxed);
            self.next.settle(0);
        }
        block_on(self.next.wait_unclaimed(0..1));
    }

    /// Overwrites the block; what any snapshot needs of it is on the store by then.
    fn overwrite(&self, older: bool) {
        while self.next.any_needed(0..1) {
            self.save(false);
        }
        if self.saves.load(Ordering::Relaxed) == 0 {
            assert_eq!(self.page.read(), 1, "unsaved only where the map on the store has a hole");
            assert!(!older || self.late_image.read() == 7, "the older snapshot has its image");
        } else {
            assert_eq!(self.image.read(), 7);
        }
        self.origin.write(8);
    }
}

fn forgo_and_write(steps: Steps) {
    let model = Model::new(false);
    let cut = model.clone();
    let thread = thread::spawn(move || cut.keep_map(steps));
    model.overwrite(false);
    let forgone = thread.join().expect("the cut ends");
    let saves = model.saves.load(Ordering::Relaxed) as u64;
    assert_eq!(saves + forgone, 1, "it is saved or forgone, once");
}

pub(super) fn forgo_writer() {
    forgo_and_write(Steps::InOrder);
}

pub(super) fn forgo_late_record() {
    let model = Model::new(true);
    model.before.claim(0..1, &mut Vec::new());
    let (cut, late) = (model.clone(), model.clone());
    let threads =
        [thread::spawn(move || assert!(cut.keep_map(Steps::InOrder) <= 1)), thread::spawn(move || late.late_record())];
    model.overwrite(true);
    threads.into_iter().for_each(|thread| thread.join().expect("it ends"));
}

pub(super) fn forgo_release() {
    let model = Model::new(false);
    // The page of the needed map is there: making it would order what is to be ordered by the claims.
    let mut claimed = Vec::new();
    model.next.claim(0..1, &mut claimed);
    model.next.release(&claimed);
    let (cut, failing) = (model.clone(), model.clone());
    let threads =
        [thread::spawn(move || assert!(cut.keep_map(Steps::InOrder) <= 1)), thread::spawn(move || failing.save(true))];
    if !model.next.any_needed(0..1) {
        assert_eq!(model.page.read(), 1);
        model.origin.write(8);
    }
    threads.into_iter().for_each(|thread| thread.join().expect("it ends"));
    claimed.clear();
    model.next.claim(0..1, &mut claimed);
    assert_eq!(claimed.len() == 1, model.next.any_needed(0..1), "no claim is left behind");
}

#[test]
fn a_hole_is_saved_or_forgone_and_never_overwritten_before_the_map_is_on_the_store() {
    explore("forgo-writer", forgo_writer);
}

#[test]
fn what_an_older_snapshot_needs_is_forgone_only_when_its_record_is_there() {
    explore("forgo-late-record", forgo_late_record);
}

#[test]
fn a_claim_that_is_given_back_is_forgone_or_taken_by_another() {
    explore("forgo-release", forgo_release);
}

#[test]
#[should_panic]
fn forgoing_before_the_map_is_on_the_store_is_noticed() {
    explore("forgo-planted-first", || forgo_and_write(Steps::ForgoesFirst));
}

#[test]
#[should_panic]
fn forgoing_what_somebody_is_saving_is_noticed() {
    explore("forgo-planted-claims", || forgo_and_write(Steps::TakesClaims));
}
