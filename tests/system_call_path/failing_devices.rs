//! Each write and each flush of a fixed workload fails once, and from there on, on either device.

use super::chain::{is_possible, Fault, Target};
use super::faults::{run, Side};
use serde_json::json;
use std::time::Instant;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
/// The workload has at least so many requests of each kind; fewer would mean that it was not run.
const REQUESTS_MIN: u64 = 5;

/// Lets every request of one kind fail in turn.
fn every_request(side: Side, target: Target, errno: i32, is_persistent: bool) {
    let began = Instant::now();
    let (mut whole, mut broken, mut failures) = (0, 0, Vec::new());
    let mut number = 1;
    loop {
        let fault = Fault { target, number, is_persistent, errno };
        match run(side, fault) {
            Ok(run) => {
                whole += run.found.whole;
                broken += run.found.broken;
                if !run.struck {
                    break;
                }
            }
            Err(message) => {
                println!("{side:?} {fault:?}: {message}");
                failures.push(number);
            }
        }
        number += 1;
    }
    let seconds = (began.elapsed().as_secs_f64() * 10.0).round() / 10.0;
    let persistent = if is_persistent { "from it on" } else { "once" };
    let target = format!("{side:?} {target:?} errno {errno} {persistent}").to_lowercase();
    let line = json!({"kind": "device-faults", "target": target, "runs": number, "whole": whole, "broken": broken,
        "failures": failures.len(), "seconds": seconds});
    println!("{line}");
    assert!(number > REQUESTS_MIN, "the fault struck nothing: {line}");
    assert!(failures.is_empty(), "{line}: requests {failures:?}");
}

macro_rules! every_request {
    ($($test:ident: $side:ident $target:ident $errno:ident $is_persistent:literal;)*) => {$(
        #[test]
        fn $test() {
            if is_possible(stringify!($test)) {
                every_request(Side::$side, Target::$target, $errno, $is_persistent);
            }
        }
    )*};
}

every_request! {
    each_write_of_the_store_fails_once: Store Write EIO false;
    each_write_of_the_store_finds_no_space_once: Store Write ENOSPC false;
    the_store_takes_no_write_from_each_one_on: Store Write EIO true;
    the_store_has_no_space_from_each_write_on: Store Write ENOSPC true;
    each_flush_of_the_store_fails_once: Store Flush EIO false;
    each_write_of_the_origin_fails_once: Origin Write EIO false;
    each_write_of_the_origin_finds_no_space_once: Origin Write ENOSPC false;
    the_origin_takes_no_write_from_each_one_on: Origin Write EIO true;
    each_flush_of_the_origin_fails_once: Origin Flush EIO false;
}
