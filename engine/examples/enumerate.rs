//! scratch
use cairn_engine::sim::enumerate::{Enumerator, Settings, Workload};
use std::time::Instant;

fn main() {
    let length: u32 = std::env::args().nth(1).unwrap().parse().unwrap();
    let seconds: u64 = std::env::args().nth(2).unwrap().parse().unwrap();
    let started = Instant::now();
    let mut enumerator = Enumerator::new(length, Settings::default());
    let mut failures = 0;
    let mut number = 0;
    while number < Workload::count(length) {
        if let Err(failure) = enumerator.explore(number) {
            println!("CAIRN_ENUMERATE='{}'\n  {}", failure.place, failure.message);
            failures += 1;
            if failures >= 10 {
                break;
            }
        }
        number += 1;
        if started.elapsed().as_secs() >= seconds {
            break;
        }
    }
    let counts = enumerator.counts();
    let took = started.elapsed().as_secs_f64();
    println!(
        "to workload {number} of {}: {counts:?}; {took:.1} s, {:.0} states/s, {:.0} distinct/s",
        Workload::count(length),
        counts.states as f64 / took,
        counts.distinct as f64 / took
    );
}
