//! Power cuts in recorded runs, and the proof that they would be seen if they did harm.

use super::chain::is_possible;
use super::commit;
use super::judge::{judge, Terms};
use super::recording::{record, run_on_plain_files};
use super::replay::{Recording, Verdict};
use super::sampled_disk::Mistake;
use super::workload::Workload;
use cairn_engine::disk::Disks;
use cairn_engine::sim::rig::StateDirectory;
use cairn_engine::sim::{Crash, SimDisk};
use serde_json::json;
use std::path::Path;
use std::time::Instant;

/// Power cuts of one run, more where it flushed more often.
const POINTS_A_RUN: usize = 750;
/// Power cuts of a push.
const POINTS_OF_A_PUSH: usize = 1500;
const GROUPS: usize = 60;

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// What is wrong at a point, with all that is needed to look into it.
fn keep_evidence(seed: u64, recording: &Recording, verdict: &Verdict) {
    let Some((point, message)) = verdict.failures.first() else { return };
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("power-cut-{seed}"));
    std::fs::create_dir_all(&directory).expect("a directory for what failed");
    recording.keep(point, &directory).expect("room for what failed");
    println!("seed {seed}: {} of {} points are wrong; {point:?}: {message}", verdict.failures.len(), verdict.points);
    println!("both images and the story are in {}", directory.display());
}

#[test]
fn a_power_cut_at_any_logged_request_loses_nothing_that_was_promised() {
    if !is_possible("a_power_cut_at_any_logged_request_loses_nothing_that_was_promised") {
        return;
    }
    let wanted = from_environment("CAIRN_LOG_REPLAY_POINTS").map_or(POINTS_OF_A_PUSH, |points| points as usize);
    let first = from_environment("CAIRN_LOG_REPLAY_SEED").unwrap_or(1);
    let (began, mut points, mut snapshots, mut failures, mut flushes) = (Instant::now(), 0, 0, 0, 0);
    let mut seed = first;
    while points < wanted {
        let recording = record(Workload { seed, groups: GROUPS, mistakes: [None, None] });
        let verdict = recording.judge(&recording.points(POINTS_A_RUN.min(wanted - points), seed));
        keep_evidence(seed, &recording, &verdict);
        points += verdict.points;
        snapshots += verdict.snapshots;
        failures += verdict.failures.len();
        flushes += recording.flushes();
        seed += 1;
    }
    let seconds = (began.elapsed().as_secs_f64() * 10.0).round() / 10.0;
    let line = json!({"commit": commit(), "kind": "log-replay", "first_seed": first, "last_seed": seed - 1,
        "points": points, "flushes": flushes, "snapshots": snapshots, "failures": failures, "seconds": seconds});
    println!("{line}");
    assert!(snapshots > points, "so few snapshots say nothing: {line}");
    assert_eq!(failures, 0, "{line}");
}

/// The control: the same workload where nothing of the rig stands between the engine and its files.
#[test]
fn the_same_workload_on_plain_files_is_right() {
    for seed in 1..=3 {
        let (model, [origin, store]) = run_on_plain_files(Workload { seed, groups: GROUPS, mistakes: [None, None] });
        let terms = Terms { crash: Crash::Process, may_be_broken: false, state: StateDirectory::failing() };
        let found = judge(Disks { origin, store }, &model, &terms).expect("plain files hold what was written");
        assert!(found.whole > 0, "seed {seed} leaves no snapshot to compare");
    }
}

/// Mistakes of the kind that this rig is for: requests that the engine makes and the disk does not pass on.
#[test]
fn a_flush_that_is_not_made_is_seen() {
    if !is_possible("a_flush_that_is_not_made_is_seen") {
        return;
    }
    for mistakes in [
        [Some(Mistake::FlushesAreForgotten), None],
        [Some(Mistake::DurableWritesAreNot), None],
        [None, Some(Mistake::FlushesAreForgotten)],
        [None, Some(Mistake::DurableWritesAreNot)],
    ] {
        let seen = (1..=8).find_map(|seed| {
            let recording = record(Workload { seed, groups: 30, mistakes });
            let verdict = recording.judge(&recording.points(150, seed));
            verdict.failures.first().map(|(_, message)| (seed, verdict.failures.len(), verdict.points, message.clone()))
        });
        println!("{mistakes:?}: {seen:?}");
        assert!(seen.is_some(), "nobody notices {mistakes:?}");
    }
}

/// Damage to what was recorded: a flushed write that is not there, and a byte that is another.
#[test]
fn a_flushed_write_that_is_lost_and_a_flipped_byte_are_seen() {
    if !is_possible("a_flushed_write_that_is_lost_and_a_flipped_byte_are_seen") {
        return;
    }
    let recording = record(Workload { seed: 2, groups: GROUPS, mistakes: [None, None] });
    let (model, end) = recording.end();
    let terms = Terms { crash: Crash::Power, may_be_broken: false, state: StateDirectory::failing() };
    let is_seen = |origin: SimDisk, store: SimDisk| judge(Disks { origin, store }, &model, &terms).is_err();
    let copy = |disk: &SimDisk| disk.crash(0, Crash::Process);
    assert!(!is_seen(copy(&end[0]), copy(&end[1])), "undamaged images are right");

    let on_origin = recording.origin.lasting_writes();
    let lost = on_origin.iter().filter(|victim| is_seen(recording.origin.without(**victim), copy(&end[1]))).count();
    println!("{lost} of {} writes to the origin that were lost are seen", on_origin.len());
    assert!(lost == on_origin.len() && lost > 0);

    // Much of what the store was sent is not needed any more, or was written twice.
    let on_store = recording.store.lasting_writes();
    let lost = on_store.iter().filter(|victim| is_seen(copy(&end[0]), recording.store.without(**victim))).count();
    let flips = on_store.iter().filter_map(|victim| recording.store.last_byte(*victim));
    let flipped = flips.filter(|byte| {
        let store = copy(&end[1]);
        store.flip(*byte, 1);
        is_seen(copy(&end[0]), store)
    });
    let flipped = flipped.count();
    println!(
        "of {} writes to the store {lost} that were lost and {flipped} with a flipped bit are seen",
        on_store.len()
    );
    assert!(lost > 0 && flipped > 0);
}
