//! A store that stalls: requests to it neither complete nor fail, until it goes on.
//!
//! Invariants:
//! - Time passes, by ticks, only while the store stalls: a store that is merely slow is never late.
//! - While the store stalls, ticks bring every request of production to its end, unless a restore is under way or
//!   nothing can record that snapshots broke.

use super::operations::Context;
use super::History;
use crate::sim::{Effect, Fault, FaultTarget, Scheduler};

/// The save deadline of volumes whose store may stall.
pub(super) const DEADLINE_MS: u64 = 400;
const TICK_MS: u64 = 100;
/// Ticks that the store stalls.
pub(super) const TICKS_MAX: u32 = 8;
/// Ticks after which somebody who waits for the store was let go.
const TICKS_WAITED_MAX: u32 = 6;

/// Goes on with what requests leave behind.
pub(super) fn run_errands(scheduler: &mut Scheduler, context: &Context) {
    for lane in 0..context.lanes.len() {
        let context = context.clone();
        scheduler.spawn(format!("errands of lane {lane}"), async move { context.lanes[lane].run_errands().await });
    }
}

impl Context {
    /// A tick has passed.
    pub(super) fn keep_time(&self) {
        if self.disks.store.hanging() > 0 {
            self.shared.told_ms.set(self.shared.told_ms.get() + TICK_MS);
            self.volume.keep_time(self.shared.told_ms.get());
        }
    }
}

impl History {
    /// From some request on the store stalls, or some of its requests hang.
    pub(super) fn stall(&mut self) {
        let target =
            *self.random.choice(&[FaultTarget::Write, FaultTarget::Flush, FaultTarget::Any]).expect("not empty");
        let times = *self.random.choice(&[1, 1, 3, u64::MAX]).expect("not empty");
        let fault = Fault { times, effect: Effect::Stall, ..Fault::once(target, self.random.u64(0..30)) };
        self.shared.note(format!("=== stall: {fault:?}"));
        self.context().disks.store.inject(fault);
    }

    /// The store has stalled for longer than the deadline: nobody waits for it who writes and did not begin just now.
    /// Then it goes on.
    pub(super) fn judge_stall(&mut self) {
        let context = self.context();
        let may_wait = self.shared.state.is_failing() || context.volume.restore_progress().is_some();
        let waits_rightly = may_wait || self.waited_ticks < TICKS_WAITED_MAX;
        if self.shared.production.get() > 0 && !waits_rightly {
            let lateness = context.volume.lateness();
            let hanging = self.machine().host.scheduler.hanging();
            self.give_up(format!("writes wait for a store that stalls, {lateness:?}: {hanging}"));
        }
        let given_up = context.volume.lateness().given_up.is_some();
        self.shared.reached("stalls", 1);
        self.shared.reached("stores given up for lateness", u64::from(given_up));
        self.shared.note("=== the store goes on".to_owned());
        context.disks.store.release();
    }
}
