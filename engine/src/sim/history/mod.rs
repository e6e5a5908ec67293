//! Random histories: everything a volume can live through, from one seed, judged by the reference model.
//!
//! Invariants:
//! - The same seed gives the same history, event by event.
//! - Whatever the engine does that the model does not allow ends in a panic that names the seed, the last operations
//!   and what differed.

mod machine;
mod operations;
mod plan;
mod shared;

pub use plan::{Kind, Plan};
pub use shared::Reach;

use super::disk::{Crash, SimDisk};
use super::executor::Handle;
use super::oracle::Oracle;
use super::stamp::stamp;
use crate::deadline::Deadline;
use crate::units::TEAR_BYTES;
use machine::{Machine, Recovery};
use operations::{Context, Manner};
use shared::Shared;
use std::future::Future;
use std::ops::Range;
use std::rc::Rc;

/// What a history reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Operations.
    pub steps: u64,
    /// Crashes, those during recovery included.
    pub crashes: u64,
    /// How often what was reached.
    pub reach: Reach,
    /// Equal for two runs of one seed.
    pub event_hash: u64,
}

/// Lives through `steps` operations of the seed's history. Panics when anything is wrong.
pub fn run(seed: u64, steps: u64) -> Report {
    let mut history = History::new(seed);
    for step in 0..steps {
        history.step(step);
        history.shared.assert_right(seed);
    }
    history.finish();
    history.shared.assert_right(seed);
    let reach = history.shared.reach.borrow().clone();
    Report { steps, crashes: history.crashes, reach, event_hash: history.shared.event_hash() }
}

struct History {
    seed: u64,
    plan: Plan,
    random: fastrand::Rng,
    shared: Rc<Shared>,
    machine: Option<Machine>,
    crashes: u64,
    names: u64,
    /// Ticks in a row that brought no operation to its end, and how many had ended at the last of them.
    rescues: u32,
    ended_seen: u64,
}

/// Ticks that may pass before operations that do not end are called hanging.
const RESCUES_MAX: u32 = 4;

/// A restore that a crash may cut off.
struct Restoring {
    content: Vec<u8>,
}

impl History {
    fn new(seed: u64) -> History {
        let plan = Plan::new(seed);
        let (origin, store) = (SimDisk::new(plan.origin.clone()), SimDisk::new(plan.store.clone()));
        let mut content = vec![0; plan.origin.size_bytes as usize];
        stamp(0, 0, &mut content);
        origin.poke(0, &content);
        let shared = Rc::new(Shared::new(Oracle::new(&content)));
        let mut random = fastrand::Rng::with_seed(seed ^ 0x6869_7374_6f72_7900);
        machine::create(&plan, &origin, &store);
        let machine = Machine::attach(&plan, &shared, (origin, store), random.u64(..));
        let mut history =
            History { seed, plan, random, shared, machine: None, crashes: 0, names: 0, rescues: 0, ended_seen: 0 };
        match machine {
            Ok(machine) => history.machine = Some(machine),
            Err(message) => history.give_up(message),
        }
        history
    }

    fn give_up(&self, message: String) -> ! {
        self.shared.fail(message);
        self.shared.assert_right(self.seed);
        unreachable!("a failure was just reported");
    }

    fn machine(&mut self) -> &mut Machine {
        self.machine.as_mut().expect("a machine runs between operations")
    }

    fn context(&self) -> Context {
        self.machine.as_ref().expect("a machine runs between operations").context.clone()
    }

    fn step(&mut self, step: u64) {
        let kind = self.plan.choose(&mut self.random);
        while self.shared.underway.get() >= self.plan.depth {
            self.advance(1);
        }
        match kind {
            Kind::Crash => self.crash(None),
            Kind::Reattach => self.reattach(),
            Kind::Restore => self.restore(),
            Kind::Inspect => self.inspect(),
            Kind::Grow => self.grow(),
            _ => self.spawn(step, kind),
        }
        let steps = self.random.usize(0..=self.plan.pace);
        if self.shared.underway.get() > 0 {
            self.advance(steps);
        }
    }

    /// Starts an operation, which counts as under way from now on.
    fn launch<T: 'static>(
        &mut self,
        name: impl Into<String>,
        operation: impl Future<Output = T> + 'static,
    ) -> Handle<T> {
        self.shared.underway.set(self.shared.underway.get() + 1);
        let shared = Rc::clone(&self.shared);
        self.machine().host.scheduler.spawn(name, async move {
            let output = operation.await;
            shared.underway.set(shared.underway.get() - 1);
            shared.ended.set(shared.ended.get() + 1);
            output
        })
    }

    fn spawn(&mut self, step: u64, kind: Kind) {
        let context = self.context();
        let lane = self.random.usize(0..usize::from(self.plan.lanes));
        let sectors = self.sectors();
        let name = format!("{kind:?} of step {step}");
        match kind {
            Kind::Write => {
                let manner = Manner::Write { durable: self.random.u8(0..5) == 0 };
                self.launch(name, context.change(lane, sectors, manner));
            }
            Kind::Zeroes => {
                let manner = Manner::Zeroes { durable: self.random.u8(0..5) == 0, may_unmap: self.random.bool() };
                self.launch(name, context.change(lane, sectors, manner));
            }
            Kind::Discard => drop(self.launch(name, context.change(lane, sectors, Manner::Discard))),
            Kind::Flush => drop(self.launch(name, context.flush(lane))),
            Kind::Read => drop(self.launch(name, context.read(lane, sectors))),
            Kind::Tick => drop(self.launch(name, context.tick())),
            Kind::Snapshot => self.spawn_snapshot(name, context),
            Kind::Delete => {
                if let Some(victim) = self.pick_snapshot() {
                    self.shared.busy.borrow_mut().insert(victim.clone());
                    self.launch(name, context.delete(victim));
                }
            }
            Kind::ReadSnapshot => {
                if let Some(snapshot) = self.pick_snapshot() {
                    let size = self.shared.oracle.borrow().snapshot_sectors(&snapshot).expect("it was picked");
                    let sectors = self.range_within(size);
                    self.launch(name, context.read_snapshot(snapshot, sectors));
                }
            }
            Kind::Crash | Kind::Reattach | Kind::Restore | Kind::Inspect | Kind::Grow => {
                unreachable!("these run alone")
            }
        }
    }

    fn spawn_snapshot(&mut self, task: String, context: Context) {
        if self.shared.oracle.borrow().snapshots().count() >= self.plan.snapshots_max {
            return;
        }
        let deadline = Deadline::new();
        if self.random.u8(0..6) == 0 {
            let turns = self.random.usize(0..30);
            self.machine().host.scheduler.spawn("deadline", Context::expire(deadline.clone(), turns));
        }
        let name = self.fresh_name("s");
        self.launch(task, context.snapshot(name, deadline));
    }

    fn fresh_name(&mut self, prefix: &str) -> String {
        self.names += 1;
        format!("{prefix}{}", self.names)
    }

    /// The oldest, the youngest or any snapshot that nobody is creating or deleting.
    fn pick_snapshot(&mut self) -> Option<String> {
        let busy = self.shared.busy.borrow();
        let oracle = self.shared.oracle.borrow();
        let mut names: Vec<&str> =
            oracle.snapshots().map(|(name, _)| name).filter(|name| !busy.contains(*name)).collect();
        // By age: the number at the end of the name.
        names.sort_by_key(|name| name.trim_start_matches(|c: char| !c.is_ascii_digit()).parse::<u64>().unwrap_or(0));
        match self.random.u8(0..4) {
            0 => names.first().map(|name| name.to_string()),
            1 => names.last().map(|name| name.to_string()),
            _ => self.random.choice(&names).map(|name| name.to_string()),
        }
    }

    /// Sectors for a request, whole logical sectors of the device, within the volume.
    fn sectors(&mut self) -> Range<u64> {
        let size = self.shared.oracle.borrow().sectors();
        if self.random.u8(0..8) > 0 {
            let hot = self.plan.hot_sectors.min(size);
            return self.range_within(hot.next_multiple_of(8).min(size));
        }
        self.range_within(size)
    }

    fn range_within(&mut self, size: u64) -> Range<u64> {
        let unit = u64::from(self.plan.origin.sector_bytes) / TEAR_BYTES as u64;
        let length = match self.random.u8(0..10) {
            0..=3 => 8,
            4..=6 => self.random.u64(1..=16),
            7 => unit,
            8 => self.random.u64(8..=200),
            _ => size,
        };
        let length = (length.div_ceil(unit) * unit).min(size);
        let mut start = self.random.u64(0..=(size - length) / unit) * unit;
        if length == 8 && self.random.u8(0..4) > 0 {
            start -= start % 8;
        }
        start..start + length
    }

    /// Lets the machine take some steps. Nothing left to do while operations wait: they may wait for a tick; if ticks
    /// bring none of them to its end, they hang.
    fn advance(&mut self, steps: usize) {
        for _ in 0..steps {
            if self.machine().host.scheduler.step() {
                continue;
            }
            if self.shared.underway.get() == 0 {
                return;
            }
            let ended = self.shared.ended.get();
            self.rescues = if ended == self.ended_seen { self.rescues + 1 } else { 1 };
            self.ended_seen = ended;
            if self.rescues > RESCUES_MAX {
                let message = format!("these hang: {}", self.machine().host.scheduler.hanging());
                self.shared.fail(message);
                self.shared.assert_right(self.seed);
            }
            self.shared.reached("woken by a tick", 1);
            let context = self.context();
            self.machine().host.scheduler.spawn("rescuing tick", context.tick());
        }
    }

    fn drain(&mut self) {
        while self.shared.underway.get() > 0 {
            self.advance(1);
        }
        self.shared.assert_right(self.seed);
    }

    fn inspect(&mut self) {
        self.drain();
        let context = self.context();
        self.launch("inspect", context.inspect());
        self.drain();
        self.observe(false);
    }

    fn grow(&mut self) {
        self.drain();
        let unit = u64::from(self.plan.origin.sector_bytes);
        let size_bytes = self.plan.origin.size_bytes + unit * self.random.u64(1..=64);
        if size_bytes > 4 << 20 {
            return;
        }
        self.plan.origin.size_bytes = size_bytes;
        self.machine().host.disks.origin.resize(size_bytes);
        let context = self.context();
        self.launch("grow", context.grow());
        if self.random.u8(0..4) == 0 {
            let steps = self.random.usize(0..100);
            self.advance(steps);
            return self.crash(None);
        }
        self.drain();
        self.follow_size();
        self.shared.reached("grown", 1);
    }

    /// The model's volume becomes as large as the engine's: growing may or may not have happened.
    fn follow_size(&mut self) {
        let known = self.shared.oracle.borrow().sectors() * TEAR_BYTES as u64;
        let size_bytes = self.context().volume.size_bytes();
        assert!(size_bytes >= known && size_bytes <= self.plan.origin.size_bytes, "a volume of {size_bytes} bytes");
        self.shared.oracle.borrow_mut().extend(&vec![0; (size_bytes - known) as usize]);
    }

    fn restore(&mut self) {
        self.drain();
        let Some(name) = self.pick_snapshot() else { return };
        let before = self.fresh_name("before");
        let context = self.context();
        let size = self.shared.oracle.borrow().snapshot_sectors(&name);
        if size != Some(self.shared.oracle.borrow().sectors()) {
            return;
        }
        let reader = context.clone();
        let target = name.clone();
        let handle = self.machine().host.scheduler.spawn("read", async move { reader.snapshot_content(&target).await });
        let Ok(content) = self.machine().host.scheduler.run_until(&handle) else { return };
        let done = self.launch("restore", context.restore(name, before));
        if self.random.u8(0..3) == 0 {
            let steps = self.random.usize(0..300);
            self.advance(steps);
        } else {
            self.drain();
        }
        match done.take() {
            Some(true) => {
                self.shared.oracle.borrow_mut().replace_volume(&content);
                self.shared.reached("restores", 1);
            }
            Some(false) => {}
            None => self.crash(Some(Restoring { content })),
        }
    }

    fn crash(&mut self, restoring: Option<Restoring>) {
        let Machine { mut host, context } = self.machine.take().expect("a machine runs between operations");
        context.count();
        drop(context);
        let mut depth = 0;
        let last = loop {
            let crash = if self.random.bool() { Crash::Process } else { Crash::Power };
            self.shared.note(format!("=== crash: {crash:?}, {depth} deep"));
            self.shared.reached(if crash == Crash::Power { "power cuts" } else { "process crashes" }, 1);
            self.shared.oracle.borrow_mut().crash(crash);
            self.shared.forget_underway();
            self.crashes += 1;
            let (origin, store, events) = host.crash(self.random.u64(..), crash);
            self.shared.mix(events);
            let stop_after = (depth < 3 && self.random.u8(0..3) == 0).then(|| self.random.u64(0..200));
            let seed = self.random.u64(..);
            match Machine::recover(&self.plan, &self.shared, (origin, store), seed, stop_after) {
                Ok(Recovery::Done(machine)) => {
                    self.machine = Some(machine);
                    break crash;
                }
                Ok(Recovery::Stopped(stopped)) => host = stopped,
                Err(message) => self.give_up(message),
            }
            self.shared.reached("crashes during recovery", 1);
            depth += 1;
        };
        self.follow_size();
        self.settle_restore(restoring);
        self.observe(last == Crash::Power);
        self.inspect_after_attach();
    }

    /// A restore that was cut off by the crash took place as a whole, or not at all.
    fn settle_restore(&mut self, restoring: Option<Restoring>) {
        let Some(restoring) = restoring else { return };
        let content = self.whole_volume();
        let untouched = self.shared.oracle.borrow().permits(&content);
        if untouched {
            return;
        }
        if content != restoring.content {
            self.shared.fail("after a restore was cut off the volume is neither what it was nor the snapshot".into());
        }
        self.shared.reached("restores cut off", 1);
        self.shared.oracle.borrow_mut().replace_volume(&content);
    }

    fn whole_volume(&mut self) -> Vec<u8> {
        let context = self.context();
        let handle = self.machine().host.scheduler.spawn("read all", async move { context.volume_content().await });
        self.machine().host.scheduler.run_until(&handle)
    }

    /// The model follows what is there. `durable` where power was lost and nothing was written since.
    fn observe(&mut self, durable: bool) {
        let content = self.whole_volume();
        let verdict = self.shared.oracle.borrow_mut().observe_volume(&content, durable);
        self.shared.require(verdict);
        self.shared.assert_right(self.seed);
    }

    fn inspect_after_attach(&mut self) {
        let context = self.context();
        let thorough = self.random.bool();
        let inspection = async move { context.inspect_snapshots(thorough).await };
        let handle = self.machine().host.scheduler.spawn("inspect snapshots", inspection);
        self.machine().host.scheduler.run_until(&handle);
        self.shared.assert_right(self.seed);
    }

    /// Lets a restore move all its blocks: before that there is no detaching.
    fn finish_restore(&mut self) {
        self.drain();
        let mut ticks = 0;
        while self.context().volume.restore_progress().is_some() {
            if self.machine().host.scheduler.step() {
                continue;
            }
            ticks += 1;
            if ticks > RESCUES_MAX {
                self.give_up("a restore does not end".to_owned());
            }
            let context = self.context();
            self.machine().host.scheduler.spawn("rescuing tick", context.tick());
        }
    }

    fn reattach(&mut self) {
        self.finish_restore();
        self.shared.note("=== detach and attach".into());
        let machine = self.machine.take().expect("a machine runs between operations");
        machine.context.count();
        let seed = self.random.u64(..);
        // A detach promises what a flush promises.
        let ticket = self.shared.oracle.borrow_mut().start_flush();
        let disks = machine.detach().unwrap_or_else(|message| self.give_up(message));
        self.shared.oracle.borrow_mut().end_flush(ticket, true);
        match Machine::attach(&self.plan, &self.shared, disks, seed) {
            Ok(machine) => self.machine = Some(machine),
            Err(message) => self.give_up(message),
        }
        self.shared.reached("detached", 1);
        self.observe(false);
        self.inspect_after_attach();
    }

    fn finish(&mut self) {
        self.inspect();
        self.reattach();
        self.inspect();
        // Background work may still be under way: the power goes.
        let Machine { host, context } = self.machine.take().expect("a machine runs between operations");
        drop(context);
        drop(host.crash(self.random.u64(..), Crash::Power));
    }
}
