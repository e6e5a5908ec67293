//! A run that is recorded: random operations of a seed, some at a time, on a volume of 1024 sectors.
//!
//! Invariants:
//! - Between two groups of operations nothing but background work is under way.
//! - Changes under way never overlap: QEMU logs overlapping writes in another order than it carries them out.
//! - The run ends with a flush and without a detach.

use super::machine::{create_store, open_disks, Background, Machine, Manner, LANES};
use super::sampled_disk::{Mistake, SampledDisk};
use super::timeline::Timeline;
use super::watchdog::Watchdog;
use cairn_engine::disk::Disks;
use cairn_engine::error::{ErrorKind, Result};
use cairn_engine::sim::rig::StateDirectory;
use cairn_engine::volume::Accept;
use cairn_target::own_ring::{self, OwnRing};
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;

/// Sectors of 512 bytes in the volume.
pub const SECTORS: u64 = 1024;
/// Snapshots there are at most.
const SNAPSHOTS_MAX: usize = 5;

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Decides everything.
    pub seed: u64,
    /// Groups of operations.
    pub groups: usize,
    /// What is wrong with the disks: of the origin, of the store.
    pub mistakes: [Option<Mistake>; 2],
}

/// An operation of a group.
#[derive(Clone, Debug)]
enum Operation {
    Change { lane: u16, sectors: Range<u64>, manner: Manner },
    Flush { lane: u16 },
    Snapshot { name: String },
    Delete { name: String },
    ReadSnapshot { name: String },
    Tick,
}

impl Workload {
    /// Runs on two devices, from the creation of the store on. Gives the number of the step from which on a crash is
    /// worth looking at: the store is made and attached.
    pub fn run(self, origin: &Path, store: &Path, timeline: &Rc<Timeline>) -> usize {
        own_ring::run(async |ring: OwnRing| {
            let _watchdog = Watchdog::start("the workload");
            let disks = open_disks(origin, store, &ring, timeline, self.mistakes);
            create_store(&disks).await.expect("the store is large enough");
            let first = timeline.len();
            let mut run = Run { random: fastrand::Rng::with_seed(self.seed), names: 0, timeline, disks };
            let machine = run.attach().await;
            run.go(machine, self.groups).await;
            first
        })
        .expect("a ring")
    }
}

struct Run<'a> {
    random: fastrand::Rng,
    names: u64,
    timeline: &'a Rc<Timeline>,
    disks: Rc<Disks<SampledDisk>>,
}

impl Run<'_> {
    async fn attach(&self) -> Rc<Machine> {
        let state = StateDirectory::failing();
        Machine::attach(&self.disks, self.timeline, &state, Accept::default()).await.expect("attaches")
    }

    async fn go(&mut self, mut machine: Rc<Machine>, groups: usize) {
        let mut background = Background::start(&machine);
        for _ in 0..groups {
            match self.random.u32(0..60) {
                0 => self.restore(&machine).await,
                1 => {
                    machine.finish_restore().await;
                    background.stop().await;
                    machine.detach().await.expect("detaches");
                    machine = self.attach().await;
                    background = Background::start(&machine);
                }
                _ => self.group(&machine).await,
            }
        }
        machine.finish_restore().await;
        machine.inspect(false).await.expect("everything is right while the machine runs");
        machine.flush(0).await.expect("flushes");
        background.stop().await;
    }

    async fn group(&mut self, machine: &Rc<Machine>) {
        let count = self.random.usize(1..=4);
        let mut operations: Vec<Operation> = Vec::new();
        for _ in 0..count {
            let operation = self.operation();
            let is_control = |operation: &Operation| {
                matches!(
                    operation,
                    Operation::Snapshot { .. } | Operation::Delete { .. } | Operation::ReadSnapshot { .. }
                )
            };
            // Names are used by one operation at a time.
            let is_second = is_control(&operation) && operations.iter().any(is_control);
            if !is_second && !operations.iter().any(|other| other.overlaps(&operation)) {
                operations.push(operation);
            }
        }
        let start = |operation: Operation| {
            let machine = machine.clone();
            tokio::task::spawn_local(async move {
                operation.clone().run(&machine).await.map_err(|error| (operation, error))
            })
        };
        let tasks: Vec<_> = operations.into_iter().map(start).collect();
        for task in tasks {
            match task.await.expect("no operation panics") {
                Ok(()) => {}
                Err((_, error)) if error.kind() == ErrorKind::Busy => {}
                Err((operation, error)) => panic!("{operation:?} failed although no device did: {error}"),
            }
        }
    }

    fn operation(&mut self) -> Operation {
        let lane = self.random.u16(0..LANES);
        let manner = match self.random.u32(0..100) {
            0..=49 => Manner::Write { durable: self.random.u8(0..5) == 0 },
            50..=57 => Manner::Zeroes { durable: self.random.u8(0..4) == 0, may_unmap: self.random.bool() },
            58..=62 => Manner::Discard,
            63..=74 => return Operation::Flush { lane },
            75..=77 => return Operation::Tick,
            78..=86 if self.names().len() < SNAPSHOTS_MAX => {
                return Operation::Snapshot { name: self.fresh_name() };
            }
            87..=92 => return self.pick_name().map_or(Operation::Tick, |name| Operation::Delete { name }),
            _ => return self.pick_name().map_or(Operation::Tick, |name| Operation::ReadSnapshot { name }),
        };
        let sectors = self.sectors();
        Operation::Change { lane, sectors, manner }
    }

    fn names(&self) -> Vec<String> {
        self.timeline.model().snapshots().into_iter().map(|(name, _)| name).collect()
    }

    fn pick_name(&mut self) -> Option<String> {
        let names = self.names();
        self.random.choice(&names).cloned()
    }

    fn fresh_name(&mut self) -> String {
        self.names += 1;
        format!("s{}", self.names)
    }

    fn sectors(&mut self) -> Range<u64> {
        // Half of the changes meet on a few blocks.
        let space = if self.random.bool() { 64 } else { SECTORS };
        let length = match self.random.u8(0..8) {
            0..=3 => 8,
            4 => self.random.u64(1..8),
            5 | 6 => self.random.u64(1..=24),
            _ => self.random.u64(24..=space.min(160)),
        };
        let start = self.random.u64(0..=space - length);
        let start = if length == 8 { start - start % 8 } else { start };
        start..start + length
    }

    async fn restore(&mut self, machine: &Rc<Machine>) {
        let Some(name) = self.pick_name() else { return };
        let before = self.fresh_name();
        match machine.restore(&name, &before).await {
            Err(error) if error.kind() != ErrorKind::Busy => panic!("restore of {name} failed: {error}"),
            _ => {}
        }
    }
}

impl Operation {
    fn overlaps(&self, other: &Operation) -> bool {
        match (self, other) {
            (Operation::Change { sectors, .. }, Operation::Change { sectors: others, .. }) => {
                sectors.start < others.end && others.start < sectors.end
            }
            _ => false,
        }
    }

    async fn run(self, machine: &Machine) -> Result<()> {
        match self {
            Operation::Change { lane, sectors, manner } => machine.change(lane, sectors, manner).await,
            Operation::Flush { lane } => machine.flush(lane).await,
            Operation::Snapshot { name } => machine.snapshot(&name).await,
            Operation::Delete { name } => machine.delete(&name).await,
            Operation::ReadSnapshot { name } => machine.read_snapshot(&name).await.map(drop),
            Operation::Tick => machine.tick().await,
        }
    }
}
