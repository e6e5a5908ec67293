//! Random histories: everything a volume can live through, from one seed, judged by the reference model.
//!
//! Invariants:
//! - The same seed gives the same history, event by event.
//! - Whatever the engine does that the model does not allow ends in a panic that names the seed, the last operations
//!   and what differed.

mod attach;
mod bookmarks;
mod deltas;
mod evidence;
mod inject;
mod judge;
mod looking;
mod machine;
mod operations;
mod plan;
mod restoring;
mod shared;
mod stalls;
mod trouble;
mod turns;

pub use plan::{FaultKind, Kind, Plan};
pub use shared::Reach;

use super::disk::SimDisk;
use super::executor::Handle;
use super::oracle::{Form, Oracle};
use super::rig::StateDirectory;
use super::stamp::stamp;
use crate::deadline::Deadline;
use crate::disk::Disks;
use crate::sim::picture::Picture;
use crate::units::TEAR_BYTES;
use machine::Machine;
use operations::{Context, Manner};
use shared::Shared;
use std::future::Future;
use std::ops::Range;
use std::rc::Rc;
use trouble::Latch;

/// What a history reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Operations.
    pub steps: u64,
    /// Crashes, those during recovery included.
    pub crashes: u64,
    /// Requests of the devices that faults struck.
    pub faults: u64,
    /// How often what was reached.
    pub reach: Reach,
    /// Equal for two runs of one seed.
    pub event_hash: u64,
}

/// Lives through `steps` operations of the seed's history. Panics when anything is wrong.
pub fn run(seed: u64, steps: u64) -> Report {
    let mut history = History::new(seed);
    for step in 0..steps {
        let kind = history.plan.choose(&mut history.random);
        history.step(step, kind);
        history.shared.assert_right(seed);
    }
    history.end(steps)
}

/// Lives through a history that somebody else steers, in the world of a seed: of each step the kind is given, and a seed
/// that decides the rest of it. Panics when anything is wrong.
pub fn run_steered(seed: u64, script: impl IntoIterator<Item = (Kind, u64)>) -> Report {
    let mut history = History::new(seed);
    let mut steps = 0;
    for (kind, step_seed) in script {
        history.random = fastrand::Rng::with_seed(step_seed);
        history.step(steps, kind);
        history.shared.assert_right(seed);
        steps += 1;
    }
    history.end(steps)
}

struct History {
    seed: u64,
    plan: Plan,
    random: fastrand::Rng,
    shared: Rc<Shared>,
    machine: Option<Machine>,
    crashes: u64,
    names: u64,
    /// No more faults come.
    quiet: bool,
    /// Since the last attach something silent hit the superblocks or the catalog.
    metadata_damaged: bool,
    /// What the volume held before the last restore, while that may go on.
    before_restore: Option<Picture>,
    /// The store did not confirm it.
    restore_in_doubt: bool,
    /// Ticks in a row that brought no operation to its end, and how many had ended at the last of them.
    rescues: u32,
    ended_seen: u64,
    /// How many of these ticks the store has stalled.
    stalled_ticks: u32,
    /// Ticks since a request of production began, and how many had begun by then.
    waited_ticks: u32,
    production_seen: u64,
}

impl History {
    fn new(seed: u64) -> History {
        let plan = Plan::new(seed);
        let (origin, store) = (SimDisk::new(plan.origin.clone()), SimDisk::new(plan.store.clone()));
        let mut content = vec![0; plan.origin.size_bytes as usize];
        stamp(0, 0, &mut content);
        origin.poke(0, &content);
        // Without faults nothing is ever recorded in the state directory; a failing one would show it.
        let state_fails = plan.state_fails || plan.faults.is_empty();
        let state = if state_fails { StateDirectory::failing() } else { StateDirectory::default() };
        let shared = Rc::new(Shared::new(Oracle::new(&content), state));
        let random = fastrand::Rng::with_seed(seed ^ 0x6869_7374_6f72_7900);
        let disks = Disks { origin, store };
        machine::create(&plan, &disks);
        let mut history = History {
            seed,
            plan,
            random,
            shared,
            machine: None,
            crashes: 0,
            names: 0,
            quiet: false,
            metadata_damaged: false,
            before_restore: None,
            restore_in_doubt: false,
            rescues: 0,
            ended_seen: 0,
            stalled_ticks: 0,
            waited_ticks: 0,
            production_seen: 0,
        };
        history.come_up(disks, None, None);
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

    /// Everything that was begun comes to its end, and what was reached is reported.
    fn end(mut self, steps: u64) -> Report {
        self.finish();
        self.shared.assert_right(self.seed);
        let (reach, faults) = (self.shared.reach.borrow().clone(), self.shared.trouble.struck());
        Report { steps, crashes: self.crashes, faults, reach, event_hash: self.shared.event_hash() }
    }

    fn step(&mut self, step: u64, kind: Kind) {
        while self.shared.underway.get() >= self.plan.depth {
            self.advance(1);
        }
        match kind {
            Kind::Crash => self.crash_if_seen(),
            Kind::Reattach => self.reattach(),
            Kind::Restore => self.restore(),
            Kind::Inspect => self.inspect(),
            Kind::Grow => self.grow(),
            Kind::Fault => self.inject(),
            Kind::Repair => self.repair(),
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
                if let Some(victim) = self.pick(|_| true) {
                    self.shared.busy.borrow_mut().insert(victim.clone());
                    self.shared.deleting.set(self.shared.deleting.get() + 1);
                    self.launch(name, context.delete(victim));
                }
            }
            Kind::Bookmark => {
                if let Some(victim) = self.pick_snapshot() {
                    self.shared.busy.borrow_mut().insert(victim.clone());
                    self.launch(name, context.bookmark(victim));
                }
            }
            Kind::ReadSnapshot => {
                if let Some(snapshot) = self.pick_snapshot() {
                    let size = self.shared.oracle.borrow().snapshot_sectors(&snapshot).expect("it was picked");
                    let sectors = self.range_within(size);
                    self.launch(name, context.read_snapshot(snapshot, sectors));
                }
            }
            _ => unreachable!("the others run alone"),
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
        self.pick(|form| form != Form::Bookmark)
    }

    /// The same, of snapshots and bookmarks.
    fn pick(&mut self, is_wanted: impl Fn(Form) -> bool) -> Option<String> {
        let busy = self.shared.busy.borrow();
        let oracle = self.shared.oracle.borrow();
        let is_free = |name: &&str| !busy.contains(*name) && oracle.form(name).is_some_and(&is_wanted);
        let mut names: Vec<&str> = oracle.snapshots().map(|(name, _)| name).filter(is_free).collect();
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
            if self.close_windows() {
                self.shared.reached("crashes while growing", u64::from(self.shared.underway.get() > 0));
                return self.crash(None);
            }
        }
        self.drain();
        self.follow_size();
        self.shared.reached("grown", 1);
    }

    /// The faults end, the owner clears the latch, and everything comes to its end.
    fn finish(&mut self) {
        self.inspect();
        self.quiet = true;
        self.repair();
        self.drain();
        if self.shared.trouble.latch() != Latch::Clear && !self.clear_latch() {
            self.shared.reached("histories that end in a window", 1);
            return self.switch_off();
        }
        self.write_what_cannot_be_restored();
        let ends = self.finish_restore() || (self.enlarge_full_store() && self.finish_restore());
        if !ends {
            if self.shared.trouble.damaged() || self.shared.trouble.lied() {
                // Where the index is damaged only the owner ends a restore, by giving it up.
                self.shared.reached("histories that end in a restore which damage holds up", 1);
                return self.switch_off();
            }
            self.give_up("a restore does not end although the devices work".to_owned());
        }
        self.inspect();
        self.reattach();
        self.inspect();
        self.switch_off();
    }

    /// Background work may still be under way: the power goes, for good.
    fn switch_off(&mut self) {
        let Machine { host, context } = self.machine.take().expect("a machine runs between operations");
        drop(context);
        drop(host.crash(self.random.u64(..), super::Crash::Power));
    }

    /// The power goes until the owner has accepted what it took. False where a crash could hide a loss.
    fn clear_latch(&mut self) -> bool {
        for _ in 0..100 {
            if !self.close_windows() {
                return false;
            }
            self.crash(None);
            if self.shared.trouble.latch() == Latch::Clear {
                return true;
            }
        }
        self.give_up("the latch cannot be cleared".to_owned());
    }
}
