//! A disk that does not answer, while the store does: the store is not blamed for it, and no snapshot breaks.

use crate::places::{breaking, write_table};
use crate::stage::{Scene, Stage, BLOCK, HOLE, TICKS};
use crate::SEEDS;
use cairn_engine::deadline::Deadline;
use cairn_engine::error::{ErrorKind, Result};
use cairn_engine::sim::rig::{snapshot_name, snapshot_options};
use cairn_engine::sim::{Fault, FaultTarget, Handle};
use cairn_engine::volume::Limits;
use fastrand::Rng;
use std::rc::Rc;

/// Time passes, the disk answers, and nothing has broken.
fn judge(mut stage: Stage, seed: u64, waiting: &[Handle<Result<()>>]) {
    (0..3 * TICKS).for_each(|_| stage.tick());
    assert!(waiting.iter().any(|write| !write.is_finished()), "somebody waits for the disk");
    let report = stage.rig.volume.lateness();
    assert_eq!((report.given_up, report.late_for_ms, report.times_late), (None, None, 0), "seed {seed}");
    stage.rig.disks.origin.release();
    stage.go();
    assert!(waiting.iter().all(|write| write.is_finished()), "seed {seed}: {}", stage.scheduler.hanging());
    stage.judge_after_crash(seed, &["a"]);
}

#[test]
fn a_write_of_the_disks_identity_that_the_disk_keeps_waiting_is_not_the_stores_fault() {
    for seed in 0..SEEDS {
        let mut stage = Stage::new(seed, breaking());
        stage.begin();
        stage.rig.disks.origin.inject(Fault::stall(FaultTarget::Write, 0).within(0..BLOCK));
        let first = stage.write(0..1, 2);
        stage.go();
        let second = stage.write(1..2, 2);
        stage.go();
        judge(stage, seed, &[first, second]);
    }
}

#[test]
fn a_cut_that_the_disk_keeps_waiting_is_not_the_stores_fault() {
    for seed in 0..SEEDS {
        let mut stage = Stage::new(seed, breaking());
        stage.begin();
        // The first flush of a cut comes before it has the ledger.
        stage.rig.disks.origin.inject(Fault::stall(FaultTarget::Flush, 1));
        let (rig, deadline) = (Rc::clone(&stage.rig), Deadline::new());
        let its_deadline = deadline.clone();
        let cut = stage.scheduler.spawn("cut", async move {
            rig.volume.snapshot(&rig.disks, &snapshot_name("cut"), snapshot_options(), &its_deadline).await
        });
        stage.go();
        // The gate opens, but the flush goes on, and the cut has the ledger.
        deadline.expire();
        let write = stage.write(HOLE.start + 5..HOLE.start + 6, 2);
        stage.go();
        judge(stage, seed, &[write]);
        assert_eq!(cut.take().expect("it has ended").expect_err("too late").kind(), ErrorKind::TimedOut);
    }
}

/// Whatever is going on, the disk stalls from some request on.
#[test]
fn whatever_the_disk_keeps_waiting_the_store_is_not_blamed() {
    let mut kept_waiting = 0;
    for seed in 0..300 {
        let mut random = Rng::with_seed(seed);
        let limits = Limits { spill_entries: random.usize(4..40), entries_max: 64, ..breaking().limits };
        let mut stage = Stage::new(seed, Scene { has_fua: random.bool(), limits, ..breaking() });
        stage.begin();
        stage.work();
        let target = *random.choice(&[FaultTarget::Any, FaultTarget::Write, FaultTarget::Flush]).expect("not empty");
        stage.rig.disks.origin.inject(Fault::stall(target, random.u64(0..60)));
        let mut requests = Vec::new();
        for (value, name) in (2..8).zip(["one", "two", "three", "four", "five", "six"]) {
            let start = random.u64(17..120);
            requests.push(stage.write(start..start + 20, value));
            let watched = random.u64(0..2);
            requests.push(stage.write_by(random.bool(), watched..watched + 1, value));
            requests.push(stage.write_by(random.bool(), HOLE.start + u64::from(value)..HOLE.end, value));
            let others = [random.bool().then(|| stage.snapshot(name)), random.bool().then(|| write_table(&mut stage))];
            stage.steps(random.usize(0..400));
            drop(others);
        }
        stage.go();
        (0..3 * TICKS).for_each(|_| stage.tick());
        kept_waiting += u32::from(requests.iter().any(|request| !request.is_finished()));
        let report = stage.rig.volume.lateness();
        let hanging = stage.scheduler.hanging();
        assert_eq!((report.given_up, report.late_for_ms, report.times_late), (None, None, 0), "seed {seed}: {hanging}");
        stage.rig.disks.origin.release();
        stage.go();
        assert!(requests.iter().all(Handle::is_finished), "seed {seed}: {}", stage.scheduler.hanging());
    }
    assert!(kept_waiting > 150, "{kept_waiting}");
}
