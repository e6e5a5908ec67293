//! Whole volumes on threads: four writers, a cutter, a reader of snapshots and background work, in schedules that shuttle
//! picks at random and by probabilistic concurrency testing (depth 3). Built with `--cfg shuttle` only.
//!
//! Environment: CAIRN_SHUTTLE_SCHEDULES (how many; a quarter of them by PCT), CAIRN_SHUTTLE_SEED.

#![cfg(shuttle)]

mod judge;
mod machine;

use machine::{run, Mistake};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, Runner};
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::time::Instant;

/// Threads poll the engine's whole futures.
const STACK_BYTES: usize = 512 << 10;
const PCT_DEPTH: usize = 3;

fn from_environment(name: &str, otherwise: u64) -> u64 {
    let told = std::env::var(name).ok();
    told.map_or(otherwise, |value| value.parse().unwrap_or_else(|_| panic!("{name} is no number: {value}")))
}

fn explore(scheduler: impl Scheduler + 'static, mistake: Mistake) {
    let mut config = Config::new();
    config.stack_size = STACK_BYTES;
    // That weak memory is loom's part is known.
    config.silence_warnings = true;
    Runner::new(scheduler, config).run(move || run(mistake));
}

#[test]
fn snapshots_are_exact_in_every_schedule() {
    let schedules = from_environment("CAIRN_SHUTTLE_SCHEDULES", 4_000);
    let seed = from_environment("CAIRN_SHUTTLE_SEED", 1);
    let (by_pct, started) = ((schedules / 4) as usize, Instant::now());
    let result = catch_unwind(AssertUnwindSafe(|| {
        explore(RandomScheduler::new_from_seed(seed, schedules as usize - by_pct), Mistake::None);
        explore(PctScheduler::new_from_seed(seed, PCT_DEPTH, by_pct), Mistake::None);
    }));
    let (seconds, failures) = (started.elapsed().as_secs_f64(), u32::from(result.is_err()));
    println!(
        "{{\"kind\":\"shuttle\",\"seed\":{seed},\"schedules\":{schedules},\"seconds\":{seconds:.1},\
         \"failures\":{failures}}}"
    );
    result.unwrap_or_else(|panic| resume_unwind(panic));
}

#[test]
#[should_panic(expected = "snapshot")]
fn a_write_that_saves_nothing_first_is_noticed() {
    explore(RandomScheduler::new_from_seed(1, 200), Mistake::WritesPastTheVolume);
}
