//! Giving up a store that is late, against a writer that overwrites what nobody saved, and a reader of a snapshot.
//!
//! Giving up restates `Volume::give_up_late_store`; the writer, `Lane::overwrite_blocks` and `Lane::save`, whose save
//! never ends; the reader, `Volume::read_snapshot`: the horizon, the origin, the horizon once more.

use super::{block_on, explore, Place};
use crate::needed::NeededMap;
use crate::sync::atomic::{AtomicU64, Ordering};
use ::loom::thread;
use std::sync::Arc;

const OLD: u64 = 7;
const NEW: u64 = 8;
/// The snapshot's epoch.
const SNAPSHOT: u64 = 1;

/// In which order the store is given up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Steps {
    /// As the volume does it.
    InOrder,
    /// The mistake of recording the break when writes go on already.
    RecordsLast,
    /// The mistake of refusing readers when writes go on already.
    RefusesLast,
}

struct Model {
    needed: NeededMap,
    horizon: AtomicU64,
    /// What the state directory says.
    record: Place,
    /// One block, read and written at the same time: as a disk does it.
    origin: AtomicU64,
}

impl Model {
    fn new() -> Arc<Model> {
        let needed = NeededMap::new(1, true);
        // The page is there: making it would order what is to be ordered by stopping.
        needed.claim(0..1, &mut Vec::new());
        Arc::new(Model {
            needed,
            horizon: AtomicU64::new(SNAPSHOT),
            record: Place::new(0),
            origin: AtomicU64::new(OLD),
        })
    }

    fn give_up(&self, steps: Steps) {
        if steps != Steps::RecordsLast {
            self.record.write(1);
        }
        if steps != Steps::RefusesLast {
            self.horizon.store(SNAPSHOT + 1, Ordering::SeqCst);
        }
        self.needed.stop();
        match steps {
            Steps::InOrder => {}
            Steps::RecordsLast => self.record.write(1),
            Steps::RefusesLast => self.horizon.store(SNAPSHOT + 1, Ordering::SeqCst),
        }
    }

    /// Waits for the claim that nobody ever settles, and overwrites what nobody saved.
    fn overwrite(&self) {
        while self.needed.any_needed(0..1) {
            block_on(self.needed.wait_unclaimed(0..1));
        }
        assert_eq!(self.record.read(), 1, "the break is recorded before the first overwrite");
        // Submitting a write releases.
        self.origin.store(NEW, Ordering::Release);
    }

    /// What a reader of the snapshot is told; nothing where it is refused.
    fn read(&self) -> Option<u64> {
        let is_whole = || SNAPSHOT >= self.horizon.load(Ordering::SeqCst);
        if !is_whole() {
            return None;
        }
        // Completing a read acquires.
        let content = self.origin.load(Ordering::Acquire);
        is_whole().then_some(content)
    }
}

fn give_up_against_a_writer_and_a_reader(steps: Steps) {
    let model = Model::new();
    let (giving_up, writing) = (model.clone(), model.clone());
    let threads = [thread::spawn(move || giving_up.give_up(steps)), thread::spawn(move || writing.overwrite())];
    if let Some(content) = model.read() {
        assert_eq!(content, OLD, "a reader that is not refused sees what the snapshot holds");
    }
    threads.into_iter().for_each(|thread| thread.join().expect("it ends"));
}

pub(super) fn late_give_up() {
    give_up_against_a_writer_and_a_reader(Steps::InOrder);
}

#[test]
fn nothing_is_overwritten_unsaved_before_the_break_is_recorded_and_readers_are_refused() {
    explore("late-give-up", late_give_up);
}

#[test]
#[should_panic]
fn recording_the_break_last_is_noticed() {
    explore("late-planted-record", || give_up_against_a_writer_and_a_reader(Steps::RecordsLast));
}

#[test]
#[should_panic]
fn refusing_readers_last_is_noticed() {
    explore("late-planted-readers", || give_up_against_a_writer_and_a_reader(Steps::RefusesLast));
}
