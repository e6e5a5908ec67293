//! Random histories against the reference model: no snapshot is ever wrong, no flushed write is ever lost.
//!
//! CAIRN_SIM_STEPS sets how many steps all histories have together, CAIRN_SIM_SEED replays a single history, and
//! CAIRN_SIM_FIRST_SEED sets where the seeds begin.

use cairn_engine::sim::history::{self, Reach, Report};

const STEPS_DEFAULT: u64 = 20_000;
const STEPS_PER_HISTORY: u64 = 200;
const FIRST_SEED_DEFAULT: u64 = 1;

/// What a run of this many steps must have reached: a generator that stopped reaching it tests nothing.
const REACHED_BY_ANY_LONG_RUN: [&str; 14] = [
    "saves",
    "records",
    "cuts",
    "cuts timed out",
    "runs written",
    "merges",
    "segments freed",
    "blocks restored",
    "restores",
    "grown",
    "detached",
    "power cuts",
    "process crashes",
    "crashes during recovery",
];

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")))
}

fn add(total: &mut Reach, reach: &Reach) {
    for (what, times) in reach {
        *total.entry(what).or_default() += times;
    }
}

#[test]
fn no_snapshot_is_wrong_and_no_flushed_write_is_lost() {
    if let Some(seed) = from_environment("CAIRN_SIM_SEED") {
        let report = history::run(seed, STEPS_PER_HISTORY);
        println!("seed {seed}: {report:#?}");
        return;
    }
    let steps = from_environment("CAIRN_SIM_STEPS").unwrap_or(STEPS_DEFAULT);
    let first_seed = from_environment("CAIRN_SIM_FIRST_SEED").unwrap_or(FIRST_SEED_DEFAULT);
    let histories = steps.div_ceil(STEPS_PER_HISTORY);
    let mut reach = Reach::new();
    let mut crashes = 0;
    for seed in first_seed..first_seed + histories {
        let report = history::run(seed, STEPS_PER_HISTORY);
        crashes += report.crashes;
        add(&mut reach, &report.reach);
    }
    let last_seed = first_seed + histories - 1;
    let steps = histories * STEPS_PER_HISTORY;
    println!("{steps} steps, {crashes} crashes, {histories} histories, seeds {first_seed} to {last_seed}");
    for (what, times) in &reach {
        println!("{times:>12} {what}");
    }
    if steps >= STEPS_DEFAULT {
        let missed: Vec<&&str> = REACHED_BY_ANY_LONG_RUN.iter().filter(|what| !reach.contains_key(**what)).collect();
        assert!(missed.is_empty(), "never reached: {missed:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in 1000..1004 {
        let reports: [Report; 2] = std::array::from_fn(|_| history::run(seed, STEPS_PER_HISTORY));
        assert_eq!(reports[0], reports[1]);
    }
}
