//! Random histories, and deltas between any two points of them, against a model that knows what was overwritten when.
//!
//! A history writes, discards, cuts, deletes, bookmarks, restores, grows, crashes and goes on; all along random triples
//! (history, older, newer) are asked for, attached and detached. Each answer must be exactly the model's, and lead from
//! the older content to the newer bit for bit.
//!
//! CAIRN_DELTA_TRIPLES: how many triples (5,000). CAIRN_DELTA_SEED: one history alone.

mod machine;
mod model;

use machine::{Machine, Reached};

const TRIPLES_DEFAULT: u64 = 5_000;

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")))
}

fn add(total: &mut Reached, one: &Reached) {
    total.triples += one.triples;
    total.triples_of_bookmarks += one.triples_of_bookmarks;
    total.triples_of_the_live_volume += one.triples_of_the_live_volume;
    total.triples_detached += one.triples_detached;
    total.triples_across_sizes += one.triples_across_sizes;
    total.applied += one.applied;
    total.crashes += one.crashes;
    total.restores += one.restores;
    total.broken += one.broken;
    total.overwrites_without_snapshots += one.overwrites_without_snapshots;
}

fn run(seed: u64) -> Reached {
    let mut machine = Machine::new(seed);
    machine.run();
    machine.reached
}

#[test]
fn a_delta_says_exactly_what_was_overwritten_in_between() {
    if let Some(seed) = from_environment("CAIRN_DELTA_SEED") {
        println!("seed {seed}: {:#?}", run(seed));
        return;
    }
    let wanted = from_environment("CAIRN_DELTA_TRIPLES").unwrap_or(TRIPLES_DEFAULT);
    let (mut total, mut seed) = (Reached::default(), 0);
    while total.triples < wanted {
        let one = std::panic::catch_unwind(|| run(seed)).unwrap_or_else(|_| panic!("seed {seed} failed, see above"));
        add(&mut total, &one);
        seed += 1;
    }
    println!("{seed} histories: {total:#?}");
    println!("{{\"kind\":\"deltas\",\"triples\":{},\"histories\":{seed},\"failures\":0}}", total.triples);
    if wanted < TRIPLES_DEFAULT {
        return;
    }
    let reached = [
        total.triples_of_bookmarks,
        total.triples_of_the_live_volume,
        total.triples_detached,
        total.triples_across_sizes,
        total.applied,
        total.crashes,
        total.restores,
        total.broken,
        total.overwrites_without_snapshots,
    ];
    assert!(reached.iter().all(|count| *count > 0), "something was never reached: {total:?}");
}
