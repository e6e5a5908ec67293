//! What was to be decided about a store that was late, and was not: nothing of it is left when the store works again.

use crate::places::breaking;
use crate::stage::{Scene, Stage, DEADLINE_MS, TICKS};
use crate::SEEDS;
use cairn_engine::deadline::Deadline;
use cairn_engine::sim::rig::{snapshot_name, snapshot_options, Rig, StateDirectory};
use cairn_engine::sim::{Crash, Fault, FaultTarget};
use cairn_engine::volume::Limits;
use std::rc::Rc;
use std::sync::{mpsc, Arc};
use std::thread;

#[test]
fn a_break_that_could_not_be_recorded_does_not_come_along_with_what_is_recorded_later() {
    for seed in 0..SEEDS {
        let state = StateDirectory::failing();
        let (mut stage, late) = Stage::late(seed, Scene { state: state.clone(), ..breaking() });
        stage.go();
        (0..2 * TICKS).for_each(|_| stage.tick());
        assert!(!late.is_finished() && stage.rig.volume.lateness().given_up.is_none());
        stage.rig.disks.store.release();
        stage.go();
        assert!(late.is_finished(), "the store is late, but it works");
        state.repair();
        // The catalog does not take that a flush failed, so the state directory has to.
        stage.rig.disks.store.inject(Fault::persistent(FaultTarget::Write, 0));
        stage.rig.disks.origin.inject(Fault::once(FaultTarget::Flush, 0));
        let rig = Rc::clone(&stage.rig);
        let flush = stage.scheduler.spawn("flush", async move { rig.lane.flush().await });
        stage.scheduler.run_until(&flush).expect_err("the disk failed");
        let recorded = state.recorded().expect("it took it");
        assert!(recorded.flush_failed && recorded.through.0 == 0, "seed {seed}: {recorded:?}");
        stage.rig.disks.store.clear_faults();
        stage.judge_after_crash(seed, &["a"]);
    }
}

#[test]
fn a_break_that_was_recorded_but_not_decided_is_retracted_and_no_restore_begins_before() {
    let state = StateDirectory::default();
    let (mut stage, late) = Stage::late(1, Scene { state: state.clone(), ..breaking() });
    stage.go();
    (1..TICKS).for_each(|_| stage.tick());
    let ((begins, begun), (go_on, may_go_on)) = (mpsc::channel(), mpsc::channel::<()>());
    let breaking_down = state.clone();
    state.before_next(move || {
        begins.send(()).expect("the test listens");
        let _ = may_go_on.recv();
        // A cut comes meanwhile, so it has to be recorded once more.
        let state = breaking_down.clone();
        breaking_down.before_next(move || state.fail());
    });
    let volume = Arc::clone(&stage.rig.volume);
    let timekeeper = thread::spawn(move || volume.keep_time(DEADLINE_MS));
    begun.recv().expect("the state directory is written");
    let cut = stage.snapshot("cut");
    stage.go();
    stage.snapshots.insert("cut".to_owned(), stage.snapshots["a"].clone());
    go_on.send(()).expect("the timekeeper listens");
    timekeeper.join().expect("it does not fail");
    assert!(state.recorded().is_some_and(|recorded| recorded.through.0 > 0), "for the first time it was recorded");
    assert_eq!(stage.rig.volume.lateness().given_up, None, "not for the second time");
    stage.release();
    assert!(late.is_finished());
    cut.take().expect("the store answered").expect("nothing was given up");
    let rig = Rc::clone(&stage.rig);
    let restore = stage.scheduler.spawn("restore", async move {
        let (a, before, deadline) = (snapshot_name("a"), snapshot_name("before"), Deadline::new());
        rig.volume.restore(&rig.disks, &a, &before, snapshot_options(), &deadline).await
    });
    stage.scheduler.run_until(&restore).expect_err("after a crash its snapshot would be broken");
    stage.snapshots.insert("before".to_owned(), stage.content_of_snapshot());
    state.repair();
    stage.tick();
    assert!(state.recorded().is_none_or(|recorded| recorded.through.0 == 0), "it is retracted");
    stage.judge_after_crash(1, &["a", "cut", "before"]);
}

#[test]
fn a_mark_that_a_crash_brings_back_breaks_nothing_that_was_taken_since() {
    for seed in 0..SEEDS {
        let (mut stage, _late) = Stage::late(seed, breaking());
        (0..=TICKS).for_each(|_| stage.tick());
        let mark = stage.rig.state.recorded().expect("the store is given up");
        stage.release();
        assert_eq!(stage.rig.volume.lateness().given_up, None);
        let rig = stage.recovered(seed, Crash::Process);
        rig.snapshot("later").expect("no fault");
        rig.write(60 * 4096, 4096, 7).expect("no fault");
        // The file was removed, but its directory was not durable.
        let state = StateDirectory::default();
        assert!(cairn_engine::volume::BrokenLog::record(&state, &mark));
        let rig = Rig::attach(rig.crash(seed, Crash::Power), Limits::default(), state).expect("it can be attached");
        assert_eq!(rig.snapshot_reason("later"), None, "seed {seed}: {mark:?}");
    }
}
