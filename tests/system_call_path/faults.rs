//! Fixed workloads in which one device fails one request, or all from one on, for each request that there is.
//!
//! Invariants:
//! - The failing request is chosen by its number among the writes or the flushes of the device; the numbers go up until
//!   the workload ends without meeting the fault, so every request has been the one.
//! - One operation runs at a time, so that the requests in front of the fault are the same in every run.

use super::chain::{Chain, Fault, Filter, Target};
use super::judge::{judge, Found, Terms};
use super::machine::{create_store, open_disks, Machine, Manner, LANES, LIMITS};
use super::recording::{load, make_images};
use super::timeline::Timeline;
use super::watchdog::Watchdog;
use cairn_engine::disk::Disks;
use cairn_engine::error::{Error, ErrorKind, Result};
use cairn_engine::lane::Lane;
use cairn_engine::sim::executor::block_on;
use cairn_engine::sim::rig::{open_options, StateDirectory};
use cairn_engine::sim::{Crash, SimDisk};
use cairn_engine::volume::{Accept, OpenOptions, Volume};
use cairn_target::own_ring::{self, OwnRing};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Which device fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Origin,
    Store,
}

/// One operation of the workload.
#[derive(Clone, Copy, Debug)]
enum Operation {
    Change(Sectors, Manner),
    Flush,
    Snapshot(&'static str),
    Delete(&'static str),
    Restore(&'static str, &'static str),
    Background,
    Tick,
}

/// First sector and the one behind the last.
type Sectors = (u64, u64);

const PLAIN: Manner = Manner::Write { durable: false };
const DURABLE: Manner = Manner::Write { durable: true };

/// What a run does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    /// First and second overwrites, whole blocks and parts, three epochs, sealing, deletion, freeing.
    Overwrites,
    /// A restore, and writes while it moves blocks.
    Restore,
}

/// One run: what it does and what fails.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub script: Script,
    pub side: Side,
    pub fault: Fault,
}

const OVERWRITES: &[Operation] = &[
    Operation::Change((0, 64), PLAIN),
    Operation::Flush,
    Operation::Snapshot("first"),
    Operation::Change((0, 8), PLAIN),
    Operation::Change((20, 21), PLAIN),
    Operation::Change((200, 360), PLAIN),
    Operation::Change((8, 16), DURABLE),
    Operation::Background,
    Operation::Snapshot("second"),
    Operation::Change((0, 8), Manner::Zeroes { durable: false, may_unmap: true }),
    Operation::Change((3, 43), PLAIN),
    Operation::Flush,
    Operation::Change((400, 408), Manner::Zeroes { durable: true, may_unmap: false }),
    Operation::Background,
    Operation::Delete("first"),
    Operation::Change((0, 8), DURABLE),
    Operation::Background,
    Operation::Tick,
    Operation::Snapshot("third"),
    Operation::Change((30, 50), PLAIN),
    Operation::Change((200, 300), PLAIN),
    Operation::Change((600, 640), Manner::Discard),
    Operation::Change((1016, 1024), DURABLE),
    Operation::Background,
    Operation::Tick,
    Operation::Change((30, 50), PLAIN),
    Operation::Flush,
];

const RESTORE: &[Operation] = &[
    Operation::Change((0, 64), PLAIN),
    Operation::Change((200, 260), PLAIN),
    Operation::Snapshot("first"),
    Operation::Change((0, 40), PLAIN),
    Operation::Change((210, 340), DURABLE),
    Operation::Background,
    Operation::Restore("first", "before"),
    Operation::Change((250, 260), PLAIN),
    Operation::Background,
    Operation::Tick,
    Operation::Background,
    Operation::Change((0, 8), DURABLE),
    Operation::Tick,
    Operation::Background,
    Operation::Flush,
];

/// What was seen of one run.
#[derive(Debug)]
pub struct Run {
    /// The fault struck at least once.
    pub struck: bool,
    /// What the judge found after the death of the process.
    pub found: Found,
}

/// The results of the operations, in order.
type Results = Vec<(Operation, Result<()>)>;

impl Operation {
    async fn run(self, machine: &Machine) -> Result<()> {
        match self {
            Operation::Change((start, end), manner) => machine.change(0, start..end, manner).await,
            Operation::Flush => machine.flush(0).await,
            Operation::Snapshot(name) => machine.snapshot(name).await,
            Operation::Delete(name) => machine.delete(name).await,
            Operation::Restore(name, before) => machine.restore(name, before).await,
            Operation::Tick => machine.tick().await,
            Operation::Background => {
                machine.work_until_idle().await;
                Ok(())
            }
        }
    }

    fn is_durable(self) -> bool {
        match self {
            Operation::Change(_, Manner::Write { durable } | Manner::Zeroes { durable, .. }) => durable,
            Operation::Flush | Operation::Snapshot(_) | Operation::Restore(..) => true,
            _ => false,
        }
    }
}

/// Runs a script with a fault on one side; the other side is a plain file. Says what was wrong, if anything was.
pub fn run(case: Case) -> std::result::Result<Run, String> {
    let Case { script, side, fault } = case;
    let directory = tempfile::tempdir().expect("a directory");
    let (content, images) = make_images(directory.path());
    let state = StateDirectory::default();
    let timeline = Timeline::new(&content, None);
    make_store(&images, &timeline);
    let chain = Chain::start(&directory.path().join("chain"), &images[side as usize], &Filter::Fault(fault));
    let mut paths = images.clone();
    paths[side as usize] = chain.file();
    let results = live(script, &paths, &timeline, &state);
    let struck = chain.failures();
    drop(chain);
    let results = results?;
    judge_results(case, struck, &results)?;
    let read = |name, path: &Path| load(name, &std::fs::read(path).expect("an image"));
    let disks = || Disks { origin: read("origin", &images[0]), store: read("store", &images[1]) };
    if struck > 0 && side == Side::Origin && fault.target == Target::Flush {
        judge_latch(disks(), &state)?;
    }
    let terms = Terms { crash: Crash::Process, may_be_broken: side == Side::Store && struck > 0, state };
    let found = judge(disks(), &timeline.model(), &terms)?;
    Ok(Run { struck: struck > 0, found })
}

fn make_store(images: &[PathBuf; 2], timeline: &Rc<Timeline>) {
    let made = own_ring::run(async |ring: OwnRing| {
        create_store(&open_disks(&images[0], &images[1], &ring, timeline, [None, None])).await
    });
    made.expect("a ring").expect("the store is large enough");
}

/// All operations, whatever comes of them, and a look at the volume while it is still attached.
fn live(
    script: Script,
    paths: &[PathBuf; 2],
    timeline: &Rc<Timeline>,
    state: &StateDirectory,
) -> std::result::Result<Results, String> {
    own_ring::run(async |ring: OwnRing| {
        let _watchdog = Watchdog::start("the workload with a fault");
        let disks = open_disks(&paths[0], &paths[1], &ring, timeline, [None, None]);
        let machine = match Machine::attach(&disks, timeline, state, Accept::default()).await {
            Ok(machine) => machine,
            // Refused, with nothing changed: the judge attaches again.
            Err(_) => return Ok(Results::new()),
        };
        let mut results = Results::new();
        let operations = if script == Script::Overwrites { OVERWRITES } else { RESTORE };
        for operation in operations {
            results.push((*operation, operation.run(&machine).await));
            if matches!(results.last(), Some((Operation::Restore(..), Err(_)))) {
                // Whether what is written now goes on top of the old content or of the restored one is not known.
                break;
            }
        }
        machine.inspect(true).await?;
        Ok(results)
    })
    .expect("a ring")
}

/// Production goes on, and nobody is told that something succeeded that failed.
fn judge_results(case: Case, struck: usize, results: &Results) -> std::result::Result<(), String> {
    let Case { script, side, fault } = case;
    let failed: Vec<_> = results.iter().filter(|(_, result)| result.is_err()).collect();
    if struck == 0 {
        return if failed.is_empty() { Ok(()) } else { Err(format!("failed without a fault: {failed:?}")) };
    }
    let is_change = |operation: &Operation| matches!(operation, Operation::Change(..) | Operation::Flush);
    match (side, fault.target) {
        (Side::Store, _) => match failed.iter().find(|(operation, _)| is_change(operation)) {
            Some(failed) => Err(format!("production suffers from the store: {failed:?}")),
            None => Ok(()),
        },
        (Side::Origin, Target::Write) => {
            let changes = failed.iter().filter(|(operation, _)| is_change(operation)).count();
            // A write of the restore is tried again by itself.
            let is_swallowed = changes == 0 && script == Script::Overwrites;
            if changes != failed.len() || is_swallowed || (!fault.is_persistent && changes > 1) {
                return Err(format!("{struck} writes of the origin failed, and of the operations: {failed:?}"));
            }
            Ok(())
        }
        (Side::Origin, Target::Flush) => judge_flushes(script, results),
    }
}

/// From the first failed flush on nothing that promises durability succeeds, and everything else does.
fn judge_flushes(script: Script, results: &Results) -> std::result::Result<(), String> {
    let first = results.iter().position(|(_, result)| result.is_err());
    let Some(first) = first else { return Err("a flush of the origin failed and nobody was told".into()) };
    let needs_snapshot = |operation: &Operation| matches!(operation, Operation::Delete(_) | Operation::Restore(..));
    let is_flush_failed = |error: &Error| error.kind() == ErrorKind::FlushFailed;
    for (operation, result) in &results[first..] {
        match result {
            Ok(()) if operation.is_durable() => {
                return Err(format!("after a failed flush this succeeds: {operation:?}"))
            }
            // What the failure kept from being made cannot be used.
            Err(error) if error.kind() == ErrorKind::NotFound && needs_snapshot(operation) => {}
            // A write to a block that a restore has not moved flushes the origin first.
            Err(error) if script == Script::Restore && is_flush_failed(error) => {}
            Err(error) if !operation.is_durable() || !is_flush_failed(error) => {
                return Err(format!("after a failed flush {operation:?} fails with {error}"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The latch outlives the process, and goes when the owner says so.
fn judge_latch(disks: Disks<SimDisk>, state: &StateDirectory) -> std::result::Result<(), String> {
    let disks = Rc::new(disks);
    let flush = |accept: Accept| {
        block_on(async {
            let options = OpenOptions { accept, ..open_options(LANES + 1, LIMITS, state) };
            let volume = Volume::open(&disks, options).await?;
            Lane::new(volume, 0, disks.clone()).flush().await
        })
    };
    match flush(Accept::default()) {
        Err(error) if error.kind() == ErrorKind::FlushFailed => {}
        other => return Err(format!("the next process does not know of the failed flush: {other:?}")),
    }
    flush(Accept { failed_flush: true, ..Accept::default() }).map_err(|error| format!("the latch stays: {error}"))
}
