//! A snapshot's reader against the first overwrite of a block and against a cut.
//!
//! The reader restates `Volume::read_blocks_as_of`: search the view; read the origin for what it lacks; search again, in
//! the view as it is then. The writer restates `LaneLog::publish` and what follows; the cut, `Volume::switch_epoch`.

use super::cut::{append, entry, FIRST, SECOND};
use super::{block_on, explore};
use crate::catalog::memory_disk::MemoryDisk;
use crate::deadline::Deadline;
use crate::epoch::{ActiveEpoch, EpochState, Keeping};
use crate::gate::Gate;
use crate::in_use::InUseMap;
use crate::run::PageCache;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::view::View;
use crate::volume::views::Views;
use ::loom::thread;
use std::sync::Arc;

const OLD: u64 = 7;
const NEW: u64 = 8;

/// Which view the reader searches after it read the origin.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SecondLook {
    AsItIsThen,
    /// The mistake: an entry of an epoch that began meanwhile is missed.
    AsItWas,
}

struct Model {
    gate: Gate,
    active: ActiveEpoch,
    epochs: [Arc<EpochState>; 2],
    views: Views,
    cache: PageCache,
    /// One block, read and written at the same time: as a disk does it.
    origin: AtomicU64,
}

impl Model {
    fn new() -> Arc<Model> {
        let epochs = [FIRST, SECOND]
            .map(|number| Arc::new(EpochState::new(number, 1, Keeping::Images, 1, InUseMap::all_in_use(1, 0))));
        Arc::new(Model {
            gate: Gate::new(1),
            active: ActiveEpoch::new(epochs[0].clone()),
            views: Views::new(View { runs: Vec::new(), maps: vec![epochs[0].saved_now()] }),
            cache: PageCache::new(1),
            origin: AtomicU64::new(OLD),
            epochs,
        })
    }

    fn write(&self) {
        let mut known = self.epochs[0].clone();
        loop {
            let passage = block_on(self.gate.enter(0));
            self.active.refresh(&mut known);
            if !known.needed.any_needed(0..1) {
                self.origin.store(NEW, Ordering::Release);
                return drop(passage);
            }
            drop(passage);
            let mut claimed = Vec::new();
            known.needed.claim(0..1, &mut claimed);
            let old = self.origin.load(Ordering::Acquire);
            match append(&self.active, &known, &entry(0, known.number, old)) {
                true => known.needed.settle(0),
                false => known.needed.release(&claimed),
            }
        }
    }

    fn cut(&self) {
        self.gate.close();
        assert!(block_on(self.gate.drain(&Deadline::new())));
        let saved = self.epochs[1].saved_now();
        self.views.replace(Vec::new(), |view| view.maps.push(saved));
        self.active.switch(self.epochs[1].clone());
        self.gate.open();
    }

    /// The block's saved content as of the first epoch, in this view.
    fn find(&self, view: &View) -> Option<u64> {
        let mut found = [None];
        let disk = MemoryDisk::default();
        block_on(view.find_range(&disk, &self.cache, 0..1, FIRST, &mut found)).expect("nothing is on a disk");
        found[0].map(|entry| u64::from(entry.checksum))
    }

    fn read_snapshot(&self, second_look: SecondLook) -> u64 {
        loop {
            let view = self.views.now();
            if let Some(saved) = self.find(&view) {
                return saved;
            }
            let content = self.origin.load(Ordering::Acquire);
            let again = match second_look {
                SecondLook::AsItIsThen => self.find(&self.views.now()),
                SecondLook::AsItWas => self.find(&view),
            };
            if again.is_none() {
                return content;
            }
        }
    }
}

fn read_during_overwrite_and_cut(second_look: SecondLook) {
    let model = Model::new();
    let (writer, cutter) = (model.clone(), model.clone());
    let threads = [thread::spawn(move || writer.write()), thread::spawn(move || cutter.cut())];
    assert_eq!(model.read_snapshot(second_look), OLD, "a snapshot never shows what was written after it");
    for thread in threads {
        thread.join().expect("it ends");
    }
}

pub(super) fn read_during_overwrite() {
    let model = Model::new();
    let writer = model.clone();
    let thread = thread::spawn(move || writer.write());
    assert_eq!(model.read_snapshot(SecondLook::AsItIsThen), OLD, "a snapshot never shows what was written after it");
    thread.join().expect("the writer ends");
}

#[test]
fn a_reader_never_sees_the_first_overwrite_of_a_block() {
    explore("snapshot-writer", read_during_overwrite);
}

#[test]
fn a_reader_never_sees_a_first_overwrite_that_a_cut_moved_to_the_next_epoch() {
    explore("snapshot-writer-cut", || read_during_overwrite_and_cut(SecondLook::AsItIsThen));
}

#[test]
#[should_panic(expected = "a snapshot never shows what was written after it")]
fn a_second_look_into_the_old_view_is_noticed() {
    explore("snapshot-planted", || read_during_overwrite_and_cut(SecondLook::AsItWas));
}
