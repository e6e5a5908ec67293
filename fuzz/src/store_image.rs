//! A real store, damaged in any way, under a volume that is attached, read, written, checked, detached and attached
//! again.
//!
//! Input: which scenario (u8), what the owner accepts (u8), three writes (block u8, value u8 each), then damage in the
//! language of [`crate::damage`].
//!
//! What must hold is said in [`crate::judge`]; beside that, two attaches of the same bytes come to the same, and what
//! an attachment showed as whole when it ended is what the next one shows.

use crate::bytes::Bytes;
use crate::damage::Damage;
use crate::judge::{exercise, Judge, Shown};
use crate::machine::{assert_typed, copy_of, Machine, Pair};
use crate::memory::bounded;
use crate::scenario::{scenarios, Scenario, VOLUME_BLOCKS, VOLUME_BYTES};
use cairn_engine::volume::Accept;

const MEMORY_BYTES_MAX: usize = 64 << 20;

/// What the owner accepts, as an input says it.
fn accept(flags: u8) -> Accept {
    Accept {
        changed_origin: flags & 1 != 0,
        other_host: flags & 2 != 0,
        failed_flush: flags & 4 != 0,
        abandoned_restore: flags & 8 != 0,
    }
}

/// Lives through what `data` describes.
pub fn run(data: &[u8]) {
    run_judged(data, |damage, scenario| !damage.sealed && !damage.hits_a_tail(scenario));
}

/// The same, with another idea of when the judge is strict.
pub fn run_judged(data: &[u8], strict: impl FnOnce(&Damage, &Scenario) -> bool) {
    let mut bytes = Bytes::new(data);
    let all = scenarios();
    let scenario = &all[usize::from(bytes.u8()) % all.len()];
    let accept = accept(bytes.u8());
    let writes: [(u8, u8); 3] = std::array::from_fn(|_| (bytes.u8(), bytes.u8()));
    let disks = scenario.disks();
    let damage = Damage::inflict(&mut bytes, &disks.store, scenario);
    let again = copy_of(&disks);
    damage.break_reads(&disks.store);
    damage.break_reads(&again.store);
    let judge = Judge {
        strict: strict(&damage, scenario) && !(scenario.restoring && accept.abandoned_restore),
        restoring: scenario.restoring,
        snapshots: scenario.snapshots.clone(),
        volume: scenario.volume.clone(),
    };
    bounded(MEMORY_BYTES_MAX, || live(judge, disks, again, accept, writes));
}

fn live(mut judge: Judge, disks: Pair, again: Pair, accept: Accept, writes: [(u8, u8); 3]) {
    let first = Machine::attach(disks, accept);
    let second = Machine::attach(again, accept);
    let (mut machine, mut twin) = match (first, second) {
        (Ok(first), Ok(second)) => (first, second),
        (Err(first), Err(second)) => {
            assert_eq!(first.kind(), second.kind(), "{first:?}\n{second:?}");
            return assert_typed("attach", &first);
        }
        (first, second) => panic!("two attaches differ: {:?} and {:?}", first.err(), second.err()),
    };
    let shown = judge.look(&mut machine);
    assert_eq!(shown, judge.look(&mut twin), "two attaches of the same bytes show different things");
    drop(twin.kill());
    write(&mut judge, &mut machine, writes);
    machine.settle();
    judge.look(&mut machine);
    if !judge.strict {
        exercise(&mut machine);
    }
    check(&judge, &mut machine);
    let shown = judge.look(&mut machine);
    let (detached, disks) = machine.detach();
    if let Err(error) = detached {
        assert!(judge.restoring || !judge.strict, "detach: {error:?}");
        assert_typed("detach", &error);
    }
    attach_again(&judge, disks, accept, &shown);
}

fn write(judge: &mut Judge, machine: &mut Machine, writes: [(u8, u8); 3]) {
    for (block, value) in writes {
        let start = u64::from(block) % VOLUME_BLOCKS * 4096;
        let length = (VOLUME_BYTES - start).min(4096) as usize;
        match machine.write(usize::from(block), start, length, value) {
            Ok(()) => judge.volume[start as usize..start as usize + length].fill(value),
            Err(error) => {
                assert!(judge.restoring || !judge.strict, "a write failed: {error:?}");
                assert_typed("write", &error);
            }
        }
    }
}

/// What cannot be read must be found by a check.
fn check(judge: &Judge, machine: &mut Machine) {
    let shown = judge.look(machine);
    let unreadable = shown.values().any(|(reason, content)| reason.is_none() && content.is_none());
    match machine.check() {
        Ok(findings) => {
            let serious = findings.iter().any(|finding| finding.serious);
            assert!(!judge.strict || serious || !unreadable, "a check misses what cannot be read: {findings:?}");
        }
        Err(error) => assert_typed("check", &error),
    }
}

fn attach_again(judge: &Judge, disks: Pair, accept: Accept, before: &Shown) {
    let mut machine = match Machine::attach(disks, accept) {
        Ok(machine) => machine,
        Err(error) => {
            assert!(!judge.strict, "the second attach failed: {error:?}");
            return assert_typed("attach", &error);
        }
    };
    let shown = judge.look(&mut machine);
    if judge.strict {
        let names = |shown: &Shown| shown.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(before), names(&shown), "the second attach shows other snapshots");
        for (name, (reason, _)) in before.iter().filter(|(_, (reason, _))| reason.is_some()) {
            assert_eq!(&shown[name].0, reason, "snapshot {name} is broken for another reason, or whole again");
        }
    }
    drop(machine.kill());
}
