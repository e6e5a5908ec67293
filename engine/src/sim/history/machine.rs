//! The machine a history runs on: a scheduler, two disks, an attached volume and its background task.
//!
//! Invariants:
//! - Whatever ran on a machine that crashed is gone; only what its disks hold goes on.

use super::operations::Context;
use super::plan::Plan;
use super::shared::Shared;
use super::stalls;
use crate::disk::Disks;
use crate::error::Error;
use crate::lane::Lane;
use crate::lateness::{OnLate, SaveDeadline};
use crate::sim::executor::block_on;
use crate::sim::rig::{create_options, open_options};
use crate::sim::{Crash, Scheduler, SimDisk};
use crate::volume::{self, Accept, Volume};
use std::rc::Rc;
use std::sync::Arc;

/// One boot of the simulated machine.
pub(super) struct Host {
    pub(super) scheduler: Scheduler,
    pub(super) disks: Rc<Disks<SimDisk>>,
}

/// A host with the volume attached.
pub(super) struct Machine {
    pub(super) host: Host,
    pub(super) context: Context,
}

/// How an attach ended.
pub(super) enum Recovery {
    Done(Machine),
    /// It was stopped in the middle, to crash there.
    Stopped(Host),
    /// It was refused or failed.
    Failed(Host, Error),
}

/// Makes the store of a history.
pub(super) fn create(plan: &Plan, disks: &Disks<SimDisk>) {
    block_on(volume::create(disks, &create_options(plan.segment_bytes))).expect("the plan's store is large enough");
}

impl Host {
    pub(super) fn boot(disks: Disks<SimDisk>, seed: u64) -> Host {
        let mut scheduler = Scheduler::new(seed);
        scheduler.drive(&disks.origin);
        scheduler.drive(&disks.store);
        Host { scheduler, disks: Rc::new(disks) }
    }

    /// Stops the machine; gives the disks as they are found afterwards, and a number that sums up what happened.
    pub(super) fn crash(self, seed: u64, crash: Crash) -> (Disks<SimDisk>, u64) {
        let origin = self.disks.origin.crash(seed, crash);
        let store = self.disks.store.crash(seed.rotate_left(32), crash);
        let events = self.scheduler.event_hash();
        self.scheduler.kill();
        (Disks { origin, store }, events)
    }

    /// Makes a store anew, on disks that work.
    pub(super) fn create_again(&mut self, plan: &Plan) {
        let (disks, mut options) = (Rc::clone(&self.disks), create_options(plan.segment_bytes));
        // New at every creation: what an earlier store left behind does not count.
        options.store_id[..8].copy_from_slice(&self.scheduler.event_hash().to_le_bytes());
        let create = self.scheduler.spawn("create", async move { volume::create(&disks, &options).await });
        self.scheduler.run_until(&create).expect("the plan's store is large enough");
    }

    /// The same disks, for the next boot; nothing is in flight.
    pub(super) fn shut_down(self) -> (Disks<SimDisk>, u64) {
        let disks = Disks { origin: self.disks.origin.clone(), store: self.disks.store.clone() };
        (disks, self.scheduler.event_hash())
    }
}

impl Machine {
    /// Attaches the volume, but stops after so many steps if it takes that long.
    pub(super) fn recover(
        plan: &Plan,
        shared: &Rc<Shared>,
        mut host: Host,
        accept: Accept,
        stop_after: Option<u64>,
    ) -> Recovery {
        let had_mark = shared.state.recorded().is_some();
        let mut options = open_options(plan.lanes + 1, plan.limits, &shared.state);
        options.accept = accept;
        if plan.stalls {
            options.save_deadline = SaveDeadline { deadline_ms: stalls::DEADLINE_MS, on_late: OnLate::Break };
        }
        let disks = Rc::clone(&host.disks);
        let open = host.scheduler.spawn("open", async move { Volume::open(&disks, options).await });
        if let Some(steps) = stop_after {
            for _ in 0..steps {
                if open.is_finished() || !host.scheduler.step() {
                    break;
                }
            }
            if !open.is_finished() {
                return Recovery::Stopped(host);
            }
        }
        let volume = match host.scheduler.run_until(&open) {
            Ok(volume) => volume,
            Err(error) => return Recovery::Failed(host, error),
        };
        if had_mark {
            // As the target does: the store has recorded it.
            shared.state.clear();
        }
        let lane = |index| Lane::new(Arc::clone(&volume), index, Rc::clone(&host.disks));
        let context = Context {
            shared: Rc::clone(shared),
            lanes: Rc::new((0..=plan.lanes).map(lane).collect()),
            disks: Rc::clone(&host.disks),
            volume,
            tight_store: plan.tight_store,
        };
        host.scheduler.spawn("background", work_in_background(context.clone()));
        if plan.stalls {
            stalls::run_errands(&mut host.scheduler, &context);
        }
        Recovery::Done(Machine { host, context })
    }

    /// Detaches; the host goes on without the volume.
    pub(super) fn detach(self) -> (Host, Result<(), Error>) {
        let Machine { mut host, context } = self;
        // A store that stalled would keep the detach, and nobody hears of it.
        context.disks.store.release();
        let close = host.scheduler.spawn("close", async move { context.volume.close(&context.disks, 0).await });
        let result = host.scheduler.run_until(&close);
        while host.scheduler.step() {}
        (host, result)
    }
}

async fn work_in_background(context: Context) {
    let control = context.lanes.last().expect("the last lane is for background work");
    loop {
        let (listener, tick) = (context.volume.background_listener(), context.shared.ticked.listen());
        match context.volume.background_step(control).await {
            Ok(true) => {
                context.shared.background_failure.set(None);
                context.shared.reached("background steps", 1);
            }
            Ok(false) => listener.await,
            Err(error) if context.excused(error.kind()) => {
                context.note_latch(&error);
                context.shared.background_failure.set(Some(error.kind()));
                context.shared.reached("background work failed", 1);
                tick.await;
            }
            Err(error) => return context.shared.fail(format!("background work failed: {error:?}")),
        }
    }
}
