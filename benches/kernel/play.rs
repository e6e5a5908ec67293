//! Plays a scene inside a test kernel, and the cuts at its end.

use super::profile::{by_function, Places};
use super::scene::{Counted, Cuts, Scene};
use super::stage::set_up;
use super::steps::{Stepped, Steps, Unit};
use crate::fio::{self, Job};
use crate::sample::{Contender, Sample, Shape, Work};
use crate::turns::{play_rounds, Player};
use anyhow::{ensure, Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What cuts under load made of the pauses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CutPauses {
    /// The scene.
    pub scene: String,
    /// How many cuts.
    pub count: u64,
    /// Half were at most this long.
    pub p50_us: u64,
    /// 99 per cent were at most this long.
    pub p99_us: u64,
    /// The longest.
    pub max_us: u64,
    /// What of it was waiting for the writes in flight.
    #[serde(default)]
    pub drain_p50_us: u64,
    /// 99 per cent of the waits for them.
    #[serde(default)]
    pub drain_p99_us: u64,
    /// A write of the bare disk at the same depth: what a cut has to wait for at least.
    pub origin_write: WriteLatency,
    /// A lone write of the bare disk.
    pub store_write: WriteLatency,
}

/// How long writes of a bare disk take.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct WriteLatency {
    /// Half took at most this long.
    pub p50_us: f64,
    /// 99 per cent took at most this long.
    pub p99_us: f64,
}

/// What a request costs a process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetCost {
    /// The scene.
    pub scene: String,
    /// Whose process.
    pub contender: Contender,
    /// What was counted, while what was done.
    pub counted: Counted,
    /// How many of it for each request. Of instructions those that each request executes: what fewer than half of the
    /// requests execute is left out, a tick of the clock or a request that went another way. Stepping through a request
    /// takes so long that few can be, and far more ticks come between them than otherwise.
    pub each: f64,
    /// Where the instructions are spent, where those were counted: the functions with the most first.
    #[serde(default)]
    pub functions: Vec<Hot>,
}

/// A function of a process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hot {
    /// Its name.
    pub function: String,
    /// Its instructions for each request.
    pub each: f64,
}

/// Functions that a profile names.
const FUNCTIONS_NAMED: usize = 25;
/// For so long a target is counted while nobody asks it for anything: for some ticks of its clock.
const IDLE: Duration = Duration::from_secs(3);

/// What the load writes between two cuts takes so long: some hundred requests.
const BETWEEN_CUTS: Duration = Duration::from_millis(50);
/// Writes after which a load has begun, and how long that may take.
const WRITES_OF_A_LOAD: u64 = 200;
const LOAD_BEGINS_TIMEOUT: Duration = Duration::from_secs(60);

/// Where results go: a line of JSON each.
struct Results {
    samples: File,
    directory: PathBuf,
}

impl Results {
    fn add(&mut self, sample: &Sample) -> Result<()> {
        writeln!(self.samples, "{}", serde_json::to_string(sample)?).context("results cannot be written")
    }
}

/// Plays the scene; leaves `samples.jsonl` and, where there were cuts, `cuts.json` in `directory`.
pub fn play(scene: &Scene, directory: &Path) -> Result<()> {
    let mut results = Results { samples: File::create(directory.join("samples.jsonl"))?, directory: directory.into() };
    let mut players = Vec::new();
    for (index, contender) in scene.contenders.iter().enumerate() {
        println!("setting up {contender}");
        players.push(set_up(scene, index, contender).with_context(|| format!("{contender} cannot be set up"))?);
    }
    play_rounds(scene, &mut players, &mut |sample| results.add(sample))?;
    if let (Some(cuts), Some(position)) = (scene.cuts, players.iter().position(|one| one.contender.name == "cairn")) {
        let baseline = players.iter().position(|one| one.contender.name == "raw").context("nothing to compare with")?;
        let alone = write_latency(scene, &players[baseline], 1)?;
        let crowded = write_latency(scene, &players[baseline], cuts.depth)?;
        let pauses = cut_under_load(scene, cuts, &mut players[position], [alone, crowded])?;
        std::fs::write(results.directory.join("cuts.json"), serde_json::to_string(&pauses)?)?;
    }
    let costs = count_targets(scene, &players);
    std::fs::write(results.directory.join("costs.json"), serde_json::to_string(&costs)?)?;
    // The devices live until the kernel ends.
    Ok(())
}

/// Everything that is counted of the targets without snapshots. What cannot be counted is missing in the report.
fn count_targets(scene: &Scene, players: &[Player]) -> Vec<TargetCost> {
    let mut costs = Vec::new();
    for player in players.iter().filter(|player| !scene.counted.is_empty() && player.contender.snapshots == 0) {
        let Some(process_id) = player.stack.process_id() else { continue };
        let counted = Steps::begin(process_id).and_then(|steps| {
            scene.counted.iter().try_for_each(|counted| {
                costs.push(count_target(scene, *counted, player, &steps)?);
                Ok(())
            })
        });
        if let Err(error) = counted {
            println!("SKIPPED: counting what {} does: {error:#}", player.contender);
        }
    }
    costs
}

/// Counts what a process does for requests that pass through, without what it does when there are none.
fn count_target(scene: &Scene, counted: Counted, player: &Player, steps: &Steps) -> Result<TargetCost> {
    let Counted { unit, work, depth, requests } = counted;
    println!("counting {unit:?} of {} at {work:?}, depth {depth}", player.contender);
    let target = player.stack.target();
    let shape = Shape { block_bytes: 4096, depth, jobs: 1 };
    let extent = fio::Extent::Once { requests_max: requests, time_max_ms: 15_000 };
    let job = Job { target: &target, work, shape, extent, seed: 1, size_bytes: scene.volume_mib << 20 };
    let rest = || {
        std::thread::sleep(IDLE);
        Ok(())
    };
    let (idle, (idle_time, ())) = steps.count(unit, || timed(rest))?;
    let (busy, (time, speed)) = steps.count(unit, || timed(|| fio::run(&job)))?;
    let idle_times = time.as_secs_f64() / idle_time.as_secs_f64();
    let per_request = |count: f64, idle: f64| (count - idle * idle_times) / speed.requests as f64;
    let sum = |threads: &BTreeMap<i32, Stepped>| threads.values().map(|thread| thread.count).sum::<u64>() as f64;
    let (each, functions) = match unit {
        Unit::Instructions => {
            // Which queue's thread a request meets does not matter: all of them run the same code.
            let (of_idle, of_busy) = (places_of(&idle), places_of(&busy));
            let rounded = |(address, count): (&u64, &u64)| {
                let of_idle = of_idle.get(address).copied().unwrap_or(0);
                (*address, per_request(*count as f64, of_idle as f64).round().max(0.0) as u64)
            };
            let places: Places = of_busy.iter().map(rounded).collect();
            (places.values().sum::<u64>() as f64, hottest(player, &places)?)
        }
        Unit::SystemCalls => (per_request(sum(&busy), sum(&idle)), Vec::new()),
    };
    Ok(TargetCost { scene: scene.name.clone(), contender: player.contender.clone(), counted, each, functions })
}

/// Where the threads of a process stood, together.
fn places_of(threads: &BTreeMap<i32, Stepped>) -> Places {
    let mut places = Places::new();
    for (address, count) in threads.values().flat_map(|thread| &thread.places) {
        *places.entry(*address).or_default() += count;
    }
    places
}

/// The functions in which most instructions of a request are spent.
fn hottest(player: &Player, places: &Places) -> Result<Vec<Hot>> {
    let process_id = player.stack.process_id().context("it has a process")?;
    let functions = by_function(process_id, places)?;
    let mut functions: Vec<Hot> =
        functions.into_iter().map(|(function, count)| Hot { function, each: count as f64 }).collect();
    functions.sort_by(|one, other| other.each.total_cmp(&one.each));
    functions.truncate(FUNCTIONS_NAMED);
    Ok(functions)
}

/// How long something took, and what it gave.
fn timed<T>(what: impl FnOnce() -> Result<T>) -> Result<(Duration, T)> {
    let begun = Instant::now();
    let result = what()?;
    Ok((begun.elapsed(), result))
}

/// How long a write of the bare disk takes among so many.
fn write_latency(scene: &Scene, player: &Player, depth: u32) -> Result<WriteLatency> {
    let target = player.stack.target();
    let shape = Shape { block_bytes: 4096, depth, jobs: 1 };
    let extent = fio::Extent::For { time_ms: 1000 };
    let job = Job { target: &target, work: Work::Rewrite, shape, extent, seed: 1, size_bytes: scene.volume_mib << 20 };
    let speed = fio::run(&job)?;
    Ok(WriteLatency { p50_us: speed.latency_p50_us, p99_us: speed.latency_p99_us })
}

/// Takes snapshots while random writes go on.
fn cut_under_load(
    scene: &Scene,
    cuts: Cuts,
    player: &mut Player,
    [alone, crowded]: [WriteLatency; 2],
) -> Result<CutPauses> {
    println!("{} cuts of {} under load", cuts.count, player.contender);
    // The process counts from its beginning, and the cuts of the set-up had no load.
    player.stack.forget()?;
    let mut load = Command::new("fio")
        .args(["--name=load", "--rw=randwrite", "--bs=4096", "--direct=1", "--thread", "--time_based", "--runtime=600"])
        .args([format!("--iodepth={}", cuts.depth), format!("--size={}m", scene.volume_mib)])
        .args(player.stack.target())
        .stdout(Stdio::null())
        .spawn()
        .context("fio cannot be started")?;
    let taken = wait_for_load(player).and_then(|()| {
        (0..cuts.count).try_for_each(|_| {
            // The load is itself again before the next one.
            std::thread::sleep(BETWEEN_CUTS);
            player.stack.cut()
        })
    });
    load.kill()?;
    load.wait()?;
    taken?;
    let report = player.stack.report()?;
    let figure = |of: &str, key: &str| {
        let figure = report[of][key].as_u64();
        figure.with_context(|| format!("the process reports no {key} of {of}"))
    };
    let (value, drain) = (|key| figure("cut_pauses", key), |key| figure("cut_drains", key));
    Ok(CutPauses {
        scene: scene.name.clone(),
        count: value("count")?,
        p50_us: value("p50_us")?,
        p99_us: value("p99_us")?,
        max_us: value("max_us")?,
        drain_p50_us: drain("p50_us")?,
        drain_p99_us: drain("p99_us")?,
        origin_write: crowded,
        store_write: alone,
    })
}

/// Waits until a load that was started writes.
fn wait_for_load(player: &Player) -> Result<()> {
    let begun = Instant::now();
    loop {
        let report = player.stack.report()?;
        let operations = report["operations"].as_array().context("the process reports no operations")?;
        let writes = operations.iter().find(|one| one["operation"] == "write").context("it reports no writes")?;
        if writes["latency"]["count"].as_u64().is_some_and(|count| count >= WRITES_OF_A_LOAD) {
            return Ok(());
        }
        ensure!(begun.elapsed() < LOAD_BEGINS_TIMEOUT, "the load does not begin");
        std::thread::sleep(Duration::from_millis(100));
    }
}
