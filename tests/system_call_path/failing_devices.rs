//! Each write and each flush of fixed workloads fails once, and from there on, on either device.
//!
//! Invariants:
//! - Requests fail in turn until a run meets no fault any more: no request is left out.

use super::chain::{is_possible, Fault, Target};
use super::commit;
use super::faults::{run, Case, Script, Side};
use serde_json::json;
use std::time::Instant;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
/// The workload has at least so many requests of each kind; fewer would mean that it was not run.
const REQUESTS_MIN: u64 = 5;

/// Lets every request of one kind fail in turn.
fn every_request(script: Script, side: Side, target: Target, errno: i32, is_persistent: bool) {
    let began = Instant::now();
    let (mut whole, mut broken, mut failures) = (0, 0, Vec::new());
    let mut number = 1;
    loop {
        let fault = Fault { target, number, is_persistent, errno };
        match run(Case { script, side, fault }) {
            Ok(run) => {
                whole += run.found.whole;
                broken += run.found.broken;
                if !run.struck {
                    break;
                }
            }
            Err(message) => {
                println!("{script:?} {side:?} {fault:?}: {message}");
                failures.push(number);
            }
        }
        number += 1;
    }
    let seconds = (began.elapsed().as_secs_f64() * 10.0).round() / 10.0;
    let persistent = if is_persistent { "from it on" } else { "once" };
    let target = format!("{script:?}, {side:?} {target:?} errno {errno} {persistent}").to_lowercase();
    let line = json!({"commit": commit(), "kind": "device-faults", "target": target, "runs": number,
        "whole": whole, "broken": broken, "failures": failures.len(), "seconds": seconds});
    println!("{line}");
    assert!(number > REQUESTS_MIN, "the fault struck nothing: {line}");
    assert!(failures.is_empty(), "{line}: requests {failures:?}");
}

macro_rules! every_request {
    ($($test:ident: $script:ident $side:ident $target:ident $errno:ident $is_persistent:literal;)*) => {$(
        #[test]
        fn $test() {
            if is_possible(stringify!($test)) {
                every_request(Script::$script, Side::$side, Target::$target, $errno, $is_persistent);
            }
        }
    )*};
}

every_request! {
    each_write_of_the_store_fails_once: Overwrites Store Write EIO false;
    each_write_of_the_store_finds_no_space_once: Overwrites Store Write ENOSPC false;
    the_store_takes_no_write_from_each_one_on: Overwrites Store Write EIO true;
    the_store_has_no_space_from_each_write_on: Overwrites Store Write ENOSPC true;
    each_flush_of_the_store_fails_once: Overwrites Store Flush EIO false;
    no_flush_of_the_store_succeeds_from_each_one_on: Overwrites Store Flush EIO true;
    each_write_of_the_origin_fails_once: Overwrites Origin Write EIO false;
    each_write_of_the_origin_finds_no_space_once: Overwrites Origin Write ENOSPC false;
    the_origin_takes_no_write_from_each_one_on: Overwrites Origin Write EIO true;
    the_origin_has_no_space_from_each_write_on: Overwrites Origin Write ENOSPC true;
    each_flush_of_the_origin_fails_once: Overwrites Origin Flush EIO false;
    no_flush_of_the_origin_succeeds_from_each_one_on: Overwrites Origin Flush EIO true;
    each_write_of_the_store_fails_once_in_a_restore: Restore Store Write EIO false;
    each_flush_of_the_store_fails_once_in_a_restore: Restore Store Flush EIO false;
    each_write_of_the_origin_fails_once_in_a_restore: Restore Origin Write EIO false;
    each_flush_of_the_origin_fails_once_in_a_restore: Restore Origin Flush EIO false;
}
