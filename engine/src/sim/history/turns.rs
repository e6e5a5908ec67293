//! Letting the machine run, and noticing that somebody hangs.
//!
//! Invariants:
//! - An operation ends by what the engine and its frontend do, ticks included; or it waits for the store because nothing
//!   can record that snapshots are broken, and ends when the store is repaired.

use super::stalls;
use super::History;
use crate::sim::executor::Handle;

/// Ticks that may pass before operations that do not end are called hanging. Background work that fails eight times in
/// a row lets go of the store.
const RESCUES_MAX: u32 = 24;

impl History {
    /// Lets the machine take some steps, as long as an operation is under way.
    pub(super) fn advance(&mut self, steps: usize) {
        for _ in 0..steps {
            if !self.machine().host.scheduler.step() {
                if self.shared.underway.get() == 0 {
                    return;
                }
                self.rescue();
            }
        }
    }

    /// Nothing is left to do, and somebody waits: perhaps for a tick. If ticks bring nobody to the end, they hang, unless
    /// they wait for the store because nothing records that snapshots are broken: then it is repaired.
    pub(super) fn rescue(&mut self) {
        let ended = self.shared.ended.get();
        self.rescues = if ended == self.ended_seen { self.rescues + 1 } else { 1 };
        self.ended_seen = ended;
        let is_stalled = self.context().disks.store.hanging() > 0;
        self.stalled_ticks = if is_stalled && self.rescues > 1 { self.stalled_ticks + 1 } else { 0 };
        let begun = self.shared.production_begun.get();
        let is_joined = std::mem::replace(&mut self.production_seen, begun) != begun;
        self.waited_ticks = if is_joined { 0 } else { self.waited_ticks + 1 };
        if self.stalled_ticks > stalls::TICKS_MAX {
            self.judge_stall();
            (self.rescues, self.stalled_ticks) = (0, 0);
        }
        if self.rescues > RESCUES_MAX {
            let store_fails = !self.context().disks.store.faults().is_empty();
            if !self.shared.state.is_failing() || !store_fails {
                let message = format!("these hang: {}", self.machine().host.scheduler.hanging());
                self.give_up(message);
            }
            self.shared.reached("first writes waited for the store", 1);
            self.repair();
            self.rescues = 0;
        }
        self.shared.reached("woken by a tick", 1);
        let context = self.context();
        self.machine().host.scheduler.spawn("rescuing tick", context.tick());
    }

    /// Runs until the task of `handle` is finished.
    pub(super) fn wait<T>(&mut self, handle: &Handle<T>) -> T {
        loop {
            if let Some(output) = handle.take() {
                return output;
            }
            if !self.machine().host.scheduler.step() {
                self.rescue();
            }
        }
    }

    pub(super) fn drain(&mut self) {
        while self.shared.underway.get() > 0 {
            self.advance(1);
        }
        self.shared.assert_right(self.seed);
    }
}
