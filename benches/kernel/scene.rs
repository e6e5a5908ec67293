//! What is played on the real kernel, and for how long.

use super::disk::Model;
use super::steps::Unit;
use crate::fio::Extent;
use crate::sample::{Contender, Shape, Work};
use serde::{Deserialize, Serialize};

/// One kind of load on all contenders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// What to do.
    pub work: Work,
    /// How much at a time.
    pub shape: Shape,
    /// How long.
    pub extent: Extent,
}

/// Cuts under load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cuts {
    /// How many.
    pub count: u32,
    /// Requests in flight meanwhile.
    pub depth: u32,
}

/// What is counted of the processes that serve devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// What.
    pub unit: Unit,
    /// While this is done.
    pub work: Work,
    /// So many requests in flight.
    pub depth: u32,
    /// So often.
    pub requests: u64,
}

/// One boot of a kernel: contenders on disks of one model, measured in turns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scene {
    /// What it is called in the report.
    pub name: String,
    /// What the disks are like.
    pub model: Model,
    /// Size of every volume.
    pub volume_mib: u64,
    /// Size of every store.
    pub store_mib: u64,
    /// Who.
    pub contenders: Vec<Contender>,
    /// What; every contender has its turn at each before the next.
    pub turns: Vec<Turn>,
    /// How often.
    pub rounds: u32,
    /// Cuts of the first Cairn, at the end.
    pub cuts: Option<Cuts>,
    /// Turns at which the instructions and system calls of the targets are counted, at the end.
    #[serde(default)]
    pub counted: Vec<Counted>,
    /// Memory of the kernel, as `4G`.
    pub memory: String,
    /// Time limit of the whole.
    pub seconds_max: u32,
}

fn contenders(list: &[(&str, u32)]) -> Vec<Contender> {
    list.iter().map(|(name, snapshots)| Contender { name: (*name).to_owned(), snapshots: *snapshots }).collect()
}

fn shape(block_bytes: u64, depth: u32, jobs: u32) -> Shape {
    Shape { block_bytes, depth, jobs }
}

const fn once(requests_max: u64) -> Extent {
    Extent::Once { requests_max, time_max_ms: 2000 }
}

const fn lasting(time_ms: u64) -> Extent {
    Extent::For { time_ms }
}

fn turn(work: Work, shape: Shape, extent: Extent) -> Turn {
    Turn { work, shape, extent }
}

const PEERS: [(&str, u32); 9] = [
    ("raw", 0),
    ("dm-snapshot", 1),
    ("cairn", 1),
    ("dm-snapshot", 4),
    ("cairn", 16),
    ("dm-snapshot", 16),
    ("dm-thin", 1),
    ("cairn", 1000),
    ("dm-thin", 16),
];

/// First writes against the kernel's own snapshots, on disks of each model.
fn first_writes() -> [Scene; 3] {
    let first = |block_bytes, depth, requests| turn(Work::FirstWrite, shape(block_bytes, depth, 1), once(requests));
    let ram = Scene {
        name: "ram-first".to_owned(),
        model: Model::Ram,
        volume_mib: 128,
        store_mib: 768,
        contenders: contenders(&PEERS),
        turns: vec![first(4096, 32, 16384)],
        rounds: 7,
        cuts: None,
        counted: Vec::new(),
        memory: "6G".to_owned(),
        seconds_max: 600,
    };
    let latency = Scene {
        name: "latency-first".to_owned(),
        model: Model::Latency { us: 1000 },
        contenders: contenders(&[&PEERS[..], &[("cairn one queue", 1)]].concat()),
        turns: vec![first(4096, 1, 300), first(4096, 32, 5000)],
        rounds: 7,
        cuts: Some(Cuts { count: 200, depth: 32 }),
        seconds_max: 900,
        ..ram.clone()
    };
    let bandwidth = Scene {
        name: "bandwidth-first".to_owned(),
        model: Model::Bandwidth { mib_per_s: 20 },
        volume_mib: 32,
        turns: vec![first(4096, 32, 4096)],
        rounds: 7,
        ..ram.clone()
    };
    [ram, latency, bandwidth]
}

/// What needs no saving, against a target that does nothing, and the bare disk.
fn pass_through() -> [Scene; 2] {
    let both = |work, time_ms, deep_ms| {
        [turn(work, shape(4096, 1, 1), lasting(time_ms)), turn(work, shape(4096, 32, 1), lasting(deep_ms))]
    };
    let ram = Scene {
        name: "ram-pass".to_owned(),
        model: Model::Ram,
        volume_mib: 128,
        store_mib: 512,
        contenders: contenders(&[("raw", 0), ("loop", 0), ("cairn", 0), ("cairn", 1)]),
        turns: [both(Work::Rewrite, 450, 450), both(Work::Read, 450, 450)].concat(),
        rounds: 15,
        cuts: None,
        counted: counted_on_targets(),
        memory: "4G".to_owned(),
        seconds_max: 900,
    };
    let latency = Scene {
        name: "latency-pass".to_owned(),
        model: Model::Latency { us: 10_000 },
        turns: [both(Work::Rewrite, 800, 600), both(Work::Read, 800, 600)].concat(),
        contenders: contenders(&[("raw", 0), ("loop", 0), ("cairn", 0), ("cairn", 1)]),
        counted: Vec::new(),
        ..ram.clone()
    };
    [ram, latency]
}

/// Few instructions, because each step takes long; system calls alone and many at a time. How many requests meet in one
/// call is a matter of luck, so that is counted several times.
fn counted_on_targets() -> Vec<Counted> {
    let mut counted = Vec::new();
    for work in [Work::Rewrite, Work::Read] {
        let counts = [(Unit::SystemCalls, 1, 200, 1), (Unit::SystemCalls, 32, 2000, 3), (Unit::Instructions, 1, 64, 1)];
        for (unit, depth, requests, times) in counts {
            counted.extend((0..times).map(|_| Counted { unit, work, depth, requests }));
        }
    }
    counted
}

/// Other loads, for the picture as a whole.
fn others() -> Scene {
    let sequential = |work, block_bytes| turn(work, shape(block_bytes, 32, 1), lasting(700));
    Scene {
        name: "ram-others".to_owned(),
        model: Model::Ram,
        volume_mib: 128,
        store_mib: 768,
        contenders: contenders(&[
            ("raw", 0),
            ("loop", 0),
            ("dm-snapshot", 1),
            ("dm-thin", 1),
            ("cairn", 0),
            ("cairn", 1),
        ]),
        turns: vec![
            turn(Work::SequentialFirstWrite, shape(64 << 10, 32, 1), once(2048)),
            turn(Work::SequentialFirstWrite, shape(1 << 20, 8, 1), once(128)),
            sequential(Work::SequentialWrite, 64 << 10),
            sequential(Work::SequentialWrite, 1 << 20),
            sequential(Work::SequentialRead, 64 << 10),
            sequential(Work::SequentialRead, 1 << 20),
            turn(Work::Mixed, shape(4096, 32, 1), lasting(700)),
            turn(Work::SyncWrite, shape(4096, 1, 1), lasting(700)),
            turn(Work::Rewrite, shape(4096, 32, 4), lasting(700)),
            turn(Work::Read, shape(4096, 32, 4), lasting(700)),
            turn(Work::FirstWrite, shape(4096, 32, 4), once(4096)),
        ],
        rounds: 2,
        cuts: None,
        counted: Vec::new(),
        memory: "4G".to_owned(),
        seconds_max: 600,
    }
}

/// The oldest of a thousand snapshots against the youngest.
fn snapshot_reads() -> Scene {
    let random = |work, depth| turn(work, shape(4096, depth, 1), lasting(600));
    let sequential = |work| turn(work, shape(64 << 10, 8, 1), lasting(600));
    let cold = |work| turn(work, shape(4096, 1, 1), once(200));
    Scene {
        name: "ram-snapshot-reads".to_owned(),
        model: Model::Ram,
        volume_mib: 64,
        store_mib: 768,
        contenders: contenders(&[("cairn", 1000)]),
        turns: vec![
            // Both are read whole, so that what follows is warm.
            sequential(Work::SequentialReadYoungest),
            sequential(Work::SequentialReadOldest),
            random(Work::ReadYoungest, 1),
            random(Work::ReadOldest, 1),
            random(Work::ReadYoungest, 16),
            random(Work::ReadOldest, 16),
            cold(Work::ColdReadYoungest),
            cold(Work::ColdReadOldest),
        ],
        rounds: 9,
        cuts: None,
        counted: Vec::new(),
        memory: "3G".to_owned(),
        seconds_max: 400,
    }
}

/// Everything that is played on the real kernel; `quick` keeps to one short round and fifty snapshots.
pub fn scenes(quick: bool) -> Vec<Scene> {
    let [ram, latency, bandwidth] = first_writes();
    let [ram_pass, latency_pass] = pass_through();
    let mut scenes = vec![latency, bandwidth, ram, ram_pass, latency_pass, others(), snapshot_reads()];
    if quick {
        for scene in &mut scenes {
            scene.rounds = 1;
            scene.contenders.iter_mut().filter(|one| one.snapshots == 1000).for_each(|one| one.snapshots = 50);
            scene.cuts = scene.cuts.map(|cuts| Cuts { count: 30, ..cuts });
            scene.turns.iter_mut().for_each(|turn| turn.extent = turn.extent.shortened());
        }
    }
    scenes
}
