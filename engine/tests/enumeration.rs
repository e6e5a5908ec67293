//! Every small workload, crashed at every point, in every way: volume and snapshots are what the model allows.
//!
//! `CAIRN_ENUMERATE_LENGTH` (2) says how long workloads are; a release build takes 3 in a few minutes.
//! `CAIRN_ENUMERATE='LINE'` makes one state again, by the line that a failure gave.

use cairn_engine::sim::enumerate::{enumerate, replay, replay_noting, Counts, Enumerator, Lie, Settings, Workload};
use std::sync::atomic::{AtomicU64, Ordering};

const THREADS: usize = 2;

/// States that were wrong once: they stay right.
const REGRESSIONS: [&str; 2] = [
    // A catalog record that a crash had torn was completed by sectors of the next attach's record in its place.
    "fua:write-b,snapshot,write-head;tears=64;torn=8;crash=2.process.11;crash=18.process.61;crash=18.power.48",
    "flush:write-a,snapshot,write-b;tears=64;torn=8;crash=4.power.8;crash=26.process.66;crash=26.power.15",
];

/// All workloads of one length, by two threads.
fn explore(length: u32, settings: Settings) -> Counts {
    let next = AtomicU64::new(0);
    let work = || {
        let mut enumerator = Enumerator::new(length, settings);
        loop {
            let first = next.fetch_add(Workload::FAMILY, Ordering::SeqCst);
            if first >= Workload::count(length) {
                return enumerator.counts();
            }
            for number in first..first + Workload::FAMILY {
                if let Err(failure) = enumerator.explore(number) {
                    panic!("CAIRN_ENUMERATE='{}'\n  {}", failure.place, failure.message);
                }
            }
        }
    };
    let mut sum = Counts::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            sum.add(&thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
    });
    sum
}

#[test]
fn every_crash_of_every_small_workload_leaves_what_the_model_allows() {
    if let Ok(line) = std::env::var("CAIRN_ENUMERATE") {
        let (result, notes) = replay_noting(&line);
        println!("{}", notes.join("\n"));
        return result.unwrap_or_else(|message| panic!("{line}\n  {message}"));
    }
    let length = std::env::var("CAIRN_ENUMERATE_LENGTH").map_or(2, |text| text.parse().expect("a number"));
    let settings = match length {
        0..=2 => Settings { tears: 8, torn: 2, ..Settings::default() },
        _ => Settings::default(),
    };
    let mut sum = Counts::default();
    let started = std::time::Instant::now();
    for length in 1..=length {
        sum.add(&explore(length, settings));
    }
    let seconds = started.elapsed().as_secs_f64();
    let Counts { workloads, states, again, distinct, used } = sum;
    let rate = states as f64 / seconds / THREADS as f64;
    println!(
        "{workloads} workloads, {states} crash states ({again} after a crash during recovery, {used} used further), \
         {distinct} different images, 0 failures, {seconds:.0} s, {rate:.0} states/s on each of {THREADS} threads"
    );
    assert!(sum.states > 20_000 && sum.again > 2_000 && sum.used > 10, "{sum:?}");
}

#[test]
fn what_was_wrong_once_stays_right() {
    for line in REGRESSIONS {
        replay(line).unwrap_or_else(|message| panic!("{line}\n  {message}"));
    }
}

#[test]
fn disks_that_lie_are_noticed_and_the_line_leads_back_to_the_state() {
    for lie in [Lie::OriginFlushIgnored, Lie::StoreFlushIgnored, Lie::StoreDurableTooEarly] {
        let settings = Settings { lie: Some(lie), ..Settings::default() };
        let failure = enumerate(3, u64::MAX, settings).expect_err("a lie is noticed");
        println!("{lie:?}: CAIRN_ENUMERATE='{}'\n  {}", failure.place, failure.message);
        assert_eq!(replay(&failure.place), Err(failure.message));
    }
}
