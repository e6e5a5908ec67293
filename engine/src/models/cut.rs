//! The cut against writers, and sealing against the last records of an epoch.
//!
//! The loop restates `Lane::overwrite_blocks`; a save is a record as `LaneLog::write_next_record` does it: counted in
//! flight, then looked whether the epoch is still active, then published and settled.

use super::{block_on, explore, Place};
use crate::deadline::Deadline;
use crate::entry::Entry;
use crate::epoch::{ActiveEpoch, EpochState, Keeping};
use crate::gate::Gate;
use crate::in_use::InUseMap;
use crate::units::Epoch;
use ::loom::thread;
use std::sync::Arc;

pub(super) const BLOCKS: u64 = 2;
pub(super) const FIRST: Epoch = Epoch(1);
pub(super) const SECOND: Epoch = Epoch(2);

/// What a cut does wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mistake {
    None,
    SwitchesBeforeTheDrain,
    OpensBeforeTheSwitch,
    /// Nothing goes wrong, but an assertion says that a gate once drained counts nobody.
    BelievesTheCount,
}

struct Model {
    gate: Gate,
    active: ActiveEpoch,
    epochs: [Arc<EpochState>; 2],
    origin: [Place; BLOCKS as usize],
}

pub(super) fn entry(block: u64, epoch: Epoch, content: u64) -> Entry {
    Entry { block, epoch, address: 1, checksum: content as u32 }
}

/// One record of one image. False when the epoch was over before it was appended.
pub(super) fn append(active: &ActiveEpoch, epoch: &EpochState, entry: &Entry) -> bool {
    epoch.record_begins();
    let is_active = active.number() == epoch.number;
    if is_active {
        let saved = epoch.saved.read().expect("nobody panics");
        saved.publish(entry);
        epoch.note_published(0, 1);
    }
    epoch.record_ends();
    is_active
}

impl Model {
    /// The first epoch saves nothing unless `first_saves`; the second one does.
    fn new(first_saves: bool) -> Arc<Model> {
        let epochs = [(FIRST, first_saves), (SECOND, true)].map(|(number, saves)| {
            let keeping = if saves { Keeping::Images } else { Keeping::Nothing };
            Arc::new(EpochState::new(number, BLOCKS, keeping, 2, InUseMap::all_in_use(BLOCKS, 0)))
        });
        let active = ActiveEpoch::new(epochs[0].clone());
        let origin = [Place::new(0), Place::new(0)];
        Arc::new(Model { gate: Gate::new(2), active, epochs, origin })
    }

    /// Writes the lane's own block; gives the epoch it fell into.
    fn write(&self, lane: u16) -> Epoch {
        let block = u64::from(lane);
        let mut known = self.epochs[0].clone();
        loop {
            let passage = block_on(self.gate.enter(lane));
            self.active.refresh(&mut known);
            if !known.needed.any_needed(block..block + 1) {
                self.origin[block as usize].write(1);
                drop(passage);
                return known.number;
            }
            drop(passage);
            let mut claimed = Vec::new();
            known.needed.claim(block..block + 1, &mut claimed);
            assert_eq!(claimed.len(), 1, "nobody else writes this block");
            let old = self.origin[block as usize].read();
            match append(&self.active, &known, &entry(block, known.number, old)) {
                true => known.needed.settle(block),
                false => known.needed.release(&claimed),
            }
        }
    }

    /// Cuts; gives what the snapshot shows.
    fn cut(&self, mistake: Mistake) -> [u64; BLOCKS as usize] {
        self.gate.close();
        if mistake != Mistake::SwitchesBeforeTheDrain {
            assert!(block_on(self.gate.drain(&Deadline::new())));
        }
        if mistake == Mistake::OpensBeforeTheSwitch {
            self.gate.open();
        }
        assert!(self.gate.is_closed() || mistake == Mistake::OpensBeforeTheSwitch);
        assert!(
            self.gate.is_drained() || mistake != Mistake::BelievesTheCount,
            "the count says that somebody is inside"
        );
        let shown = [0, 1].map(|block| self.origin[block].read());
        self.active.switch(self.epochs[1].clone());
        if mistake != Mistake::OpensBeforeTheSwitch {
            self.gate.open();
        }
        shown
    }

    /// What the second epoch saved, else what is on the origin.
    fn read_snapshot(&self, block: u64) -> u64 {
        let saved = self.epochs[1].saved_now().find(block);
        saved.map_or_else(|| self.origin[block as usize].read(), |entry| u64::from(entry.checksum))
    }
}

fn cut_under_writers(writers: u16, mistake: Mistake) {
    let model = Model::new(false);
    let threads = Vec::from_iter((0..writers).map(|lane| {
        let model = model.clone();
        thread::spawn(move || model.write(lane))
    }));
    let shown = model.cut(mistake);
    let epochs = threads.into_iter().map(|thread| thread.join().expect("the writer ends"));
    for (block, epoch) in (0..).zip(epochs) {
        let content = shown[block as usize];
        assert_eq!(content == 1, epoch == FIRST, "a write is in the snapshot exactly if it fell before the cut");
        assert_eq!(model.read_snapshot(block), content, "the snapshot stays what it was at the cut");
    }
}

pub(super) fn cut_writer() {
    cut_under_writers(1, Mistake::None);
}

pub(super) fn seal_records() {
    let model = Model::new(true);
    let lane = model.clone();
    let thread = thread::spawn(move || append(&lane.active, &lane.epochs[0], &entry(0, FIRST, 0)));
    model.active.switch(model.epochs[1].clone());
    let ended = &model.epochs[0];
    let sealed = ended.is_quiet().then(|| (ended.published(), ended.saved_now().sorted().len()));
    let appended = thread.join().expect("the lane ends");
    if let Some((published, entries)) = sealed {
        assert_eq!(entries == 1, appended, "the run holds all that was published");
        assert_eq!(published[0] == 1, appended, "the catalog says so");
    }
}

#[test]
fn a_write_falls_before_or_after_a_cut_and_never_between() {
    explore("cut-writer", cut_writer);
}

#[test]
fn writes_of_two_lanes_fall_before_or_after_a_cut() {
    explore("cut-two-writers", || cut_under_writers(2, Mistake::None));
}

#[test]
#[should_panic]
fn a_switch_before_the_drain_is_noticed() {
    explore("cut-planted-switch", || cut_under_writers(1, Mistake::SwitchesBeforeTheDrain));
}

#[test]
#[should_panic]
fn a_gate_that_opens_before_the_switch_is_noticed() {
    explore("cut-planted-open", || cut_under_writers(1, Mistake::OpensBeforeTheSwitch));
}

#[test]
fn nothing_is_published_in_an_epoch_that_is_over_and_quiet() {
    explore("seal-records", seal_records);
}

#[test]
#[should_panic(expected = "the count says that somebody is inside")]
fn a_drained_gate_counts_who_tries_to_enter() {
    explore("cut-planted-count", || cut_under_writers(1, Mistake::BelievesTheCount));
}
