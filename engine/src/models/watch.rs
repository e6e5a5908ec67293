//! Writes to watched blocks, against the watch that moves to other blocks.
//!
//! The writer restates `Lane::overwrite_blocks`, the other side `Watch::move_to`: announce; only then read what the new
//! blocks hold. A write that was not logged must be in what is read.

use super::{block_on, explore, Place};
use crate::deadline::Deadline;
use crate::gate::Gate;
use crate::watch::WatchedBlocks;
use ::loom::thread;
use std::sync::Arc;

const BLOCK: u64 = 3;

struct Model {
    gate: Gate,
    watched: WatchedBlocks,
    origin: Place,
}

impl Model {
    /// Writes the block; tells whether the write has to be logged.
    fn write(&self) -> bool {
        let passage = block_on(self.gate.enter(0));
        let is_logged = self.watched.any_in(BLOCK..BLOCK + 1);
        if !is_logged {
            self.origin.write(1);
        }
        drop(passage);
        is_logged
    }

    fn announce(&self, drains: bool) {
        self.gate.close();
        assert!(!drains || block_on(self.gate.drain(&Deadline::new())));
        self.watched.replace([1, BLOCK].into_iter());
        self.gate.open();
    }
}

fn write_and_announce(drains: bool) {
    let model =
        Arc::new(Model { gate: Gate::new(1), watched: WatchedBlocks::new([1].into_iter()), origin: Place::new(0) });
    let writer = model.clone();
    let thread = thread::spawn(move || writer.write());
    model.announce(drains);
    let hashed = model.origin.read();
    let is_logged = thread.join().expect("the writer ends");
    assert_eq!(hashed == 0, is_logged, "a write is logged, or in what the watch begins with");
}

pub(super) fn watch_move() {
    write_and_announce(true);
}

#[test]
fn a_write_to_a_block_that_becomes_watched_is_logged_or_seen() {
    explore("watch-move", watch_move);
}

#[test]
#[should_panic]
fn a_watch_that_moves_without_draining_the_gate_is_noticed() {
    explore("watch-planted", || write_and_announce(false));
}
