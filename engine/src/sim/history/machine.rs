//! The machine a history runs on: a scheduler, two disks, an attached volume and its background task.
//!
//! Invariants:
//! - Whatever ran on a machine that crashed is gone; only what its disks hold goes on.

use super::operations::Context;
use super::plan::Plan;
use super::shared::Shared;
use crate::disk::Disks;
use crate::lane::Lane;
use crate::sim::executor::block_on;
use crate::sim::rig::{create_options, open_options, StateDirectory};
use crate::sim::{Crash, Scheduler, SimDisk};
use crate::volume::{self, Volume};
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
}

/// Makes the store of a history.
pub(super) fn create(plan: &Plan, origin: &SimDisk, store: &SimDisk) {
    let disks = Disks { origin: origin.clone(), store: store.clone() };
    block_on(volume::create(&disks, &create_options(plan.segment_bytes))).expect("the plan's store is large enough");
}

impl Host {
    fn boot(origin: SimDisk, store: SimDisk, seed: u64) -> Host {
        let mut scheduler = Scheduler::new(seed);
        scheduler.drive(&origin);
        scheduler.drive(&store);
        Host { scheduler, disks: Rc::new(Disks { origin, store }) }
    }

    /// Stops the machine; gives the disks as they are found afterwards, and a number that sums up what happened.
    pub(super) fn crash(self, seed: u64, crash: Crash) -> (SimDisk, SimDisk, u64) {
        let origin = self.disks.origin.crash(seed, crash);
        let store = self.disks.store.crash(seed.rotate_left(32), crash);
        let events = self.scheduler.event_hash();
        self.scheduler.kill();
        (origin, store, events)
    }
}

impl Machine {
    /// Attaches the volume; fails with what the engine said.
    pub(super) fn attach(
        plan: &Plan,
        shared: &Rc<Shared>,
        disks: (SimDisk, SimDisk),
        seed: u64,
    ) -> Result<Machine, String> {
        match Machine::recover(plan, shared, disks, seed, None)? {
            Recovery::Done(machine) => Ok(machine),
            Recovery::Stopped(_) => unreachable!("nobody asked to stop"),
        }
    }

    /// Attaches the volume, but stops after so many steps if it takes that long.
    pub(super) fn recover(
        plan: &Plan,
        shared: &Rc<Shared>,
        disks: (SimDisk, SimDisk),
        seed: u64,
        stop_after: Option<u64>,
    ) -> Result<Recovery, String> {
        let mut host = Host::boot(disks.0, disks.1, seed);
        // Without faults nothing is ever recorded in the state directory; a failing one would show it.
        let state = StateDirectory::failing();
        let (opened_disks, options) = (Rc::clone(&host.disks), open_options(plan.lanes + 1, plan.limits, &state));
        let open = host.scheduler.spawn("open", async move { Volume::open(&opened_disks, options).await });
        if let Some(steps) = stop_after {
            for _ in 0..steps {
                if open.is_finished() || !host.scheduler.step() {
                    break;
                }
            }
            if !open.is_finished() {
                return Ok(Recovery::Stopped(host));
            }
        }
        let volume = host.scheduler.run_until(&open).map_err(|error| format!("attach failed: {error:?}"))?;
        let lane = |index| Lane::new(Arc::clone(&volume), index, Rc::clone(&host.disks));
        let context = Context {
            shared: Rc::clone(shared),
            lanes: Rc::new((0..=plan.lanes).map(lane).collect()),
            disks: Rc::clone(&host.disks),
            volume,
            tight_store: plan.tight_store,
        };
        host.scheduler.spawn("background", work_in_background(context.clone()));
        Ok(Recovery::Done(Machine { host, context }))
    }

    /// Detaches cleanly; gives the disks back.
    pub(super) fn detach(self) -> Result<(SimDisk, SimDisk), String> {
        let Machine { mut host, context } = self;
        let shared = Rc::clone(&context.shared);
        let close = host.scheduler.spawn("close", async move { context.volume.close(&context.disks, 0).await });
        let result = host.scheduler.run_until(&close);
        while host.scheduler.step() {}
        shared.mix(host.scheduler.event_hash());
        result.map_err(|error| format!("detach failed: {error:?}"))?;
        Ok((host.disks.origin.clone(), host.disks.store.clone()))
    }
}

async fn work_in_background(context: Context) {
    let control = context.lanes.last().expect("the last lane is for background work");
    loop {
        let listener = context.volume.background_listener();
        match context.volume.background_step(control).await {
            Ok(true) => context.shared.reached("background steps", 1),
            Ok(false) => listener.await,
            Err(error) if context.excused(error.kind()) => listener.await,
            Err(error) => return context.shared.fail(format!("background work failed: {error:?}")),
        }
    }
}
