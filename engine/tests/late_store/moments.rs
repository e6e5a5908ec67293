//! Moments at which giving up a store that is late, or taking it back, meets something else.

use crate::places::{breaking, write_table, PLACES};
use crate::stage::{Scene, Stage, BLOCK, DEADLINE_MS, HOLE, TICKS};
use crate::SEEDS;
use cairn_engine::error::ErrorKind;
use cairn_engine::sim::rig::{snapshot_name, StateDirectory};
use cairn_engine::sim::{Crash, Fault, FaultTarget};
use cairn_engine::snapshot::BrokenReason;
use fastrand::Rng;
use std::rc::Rc;
use std::sync::{mpsc, Arc};
use std::thread;
use std::time::Duration;

#[test]
fn a_store_that_is_given_up_while_a_cut_waits_for_the_disk_keeps_no_gate_closed() {
    for seed in 0..SEEDS {
        // As yet it can be recorded nowhere that snapshots break.
        let state = StateDirectory::failing();
        let (mut stage, late) = Stage::late(seed, Scene { state: state.clone(), ..breaking() });
        stage.go();
        (0..TICKS).for_each(|_| stage.tick());
        assert!(stage.rig.volume.lateness().late_for_ms.is_some());
        // The first flush of a cut comes before the gate is closed.
        stage.rig.disks.origin.inject(Fault::stall(FaultTarget::Flush, 1));
        let cut = stage.snapshot("cut");
        stage.go();
        let held = stage.write(60..61, 3);
        stage.go();
        assert!(!cut.is_finished() && !held.is_finished(), "the gate is closed");
        state.repair();
        stage.tick();
        assert!(stage.rig.volume.lateness().given_up.is_some());
        stage.stall_catalog(0);
        stage.rig.disks.origin.release();
        stage.go();
        assert!(late.is_finished() && held.is_finished(), "seed {seed}: {}", stage.scheduler.hanging());
        let error = cut.take().expect("it submitted nothing").expect_err("nothing is saved");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        stage.release_and_judge(&[]);
    }
}

#[test]
fn a_save_of_an_epoch_that_ended_waits_behind_no_record_that_hangs() {
    for seed in 0..SEEDS {
        for is_taken_back in [false, true] {
            let (mut stage, first) = Stage::late(seed, breaking());
            stage.rig.disks.origin.inject(Fault::stall(FaultTarget::Read, 0).within(50 * BLOCK..51 * BLOCK));
            let slow = stage.write(50..51, 3);
            stage.go();
            let waits_for_its_claim = stage.write_by(true, 50..51, 3);
            let _cut = stage.snapshot("cut");
            stage.go();
            (0..TICKS).for_each(|_| stage.tick());
            assert!(first.is_finished() && stage.rig.volume.lateness().given_up.is_some());
            if is_taken_back {
                stage.work();
                stage.go();
                assert_eq!(stage.rig.volume.lateness().given_up, None);
            }
            stage.rig.disks.origin.release();
            stage.go();
            let all = slow.is_finished() && waits_for_its_claim.is_finished();
            assert!(all, "seed {seed}, {is_taken_back}: {}", stage.scheduler.hanging());
            stage.judge_after_crash(seed, &[]);
        }
    }
}

#[test]
fn no_snapshot_is_taken_before_the_watch_is_set_up_anew() {
    for seed in 0..SEEDS {
        let (mut stage, late) = Stage::late(seed, breaking());
        (0..=TICKS).for_each(|_| stage.tick());
        // The disk's identity lies there; nobody logs what it becomes.
        let unlogged = stage.write(0..1, 3);
        stage.go();
        assert!(late.is_finished() && unlogged.is_finished());
        stage.rig.disks.store.release();
        // The watch waits for the disk.
        stage.rig.disks.origin.inject(Fault::stall(FaultTarget::Read, 0).within(0..BLOCK));
        stage.work();
        stage.go();
        let cut = stage.snapshot("cut");
        stage.go();
        let error = cut.take().expect("nothing keeps it").expect_err("a crash would be held against it");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(stage.rig.volume.lateness().given_up.is_some(), "whoever looks is told");
        stage.judge_after_crash(seed, &[]);
        stage.rig.disks.origin.release();
        stage.go();
        assert_eq!(stage.rig.volume.lateness().given_up, None);
        let cut = stage.snapshot("after");
        stage.scheduler.run_until(&cut).expect("everything is settled");
        stage.snapshots.insert("after".to_owned(), stage.content_of_snapshot());
        stage.judge_after_crash(seed, &["after"]);
    }
}

#[test]
fn a_failed_flush_does_not_keep_the_mark_for_ever() {
    for seed in 0..SEEDS {
        let (mut stage, late) = Stage::late(seed, breaking());
        (0..=TICKS).for_each(|_| stage.tick());
        stage.rig.disks.origin.inject(Fault::once(FaultTarget::Flush, 0));
        let rig = Rc::clone(&stage.rig);
        let flush = stage.scheduler.spawn("flush", async move { rig.lane.flush().await });
        // Of its partition nobody knows yet, and nothing can be flushed to find out what it holds.
        let table = write_table(&mut stage);
        stage.go();
        assert!(late.is_finished() && table.is_finished());
        flush.take().expect("it ended").expect_err("the disk failed");
        stage.release();
        let left = stage.rig.state.recorded();
        assert_eq!((stage.rig.volume.lateness().given_up, left), (None, None), "seed {seed}");
        assert!(stage.rig.volume.is_flush_failed());
        let rig = stage.recovered(seed, Crash::Process);
        assert!(rig.volume.is_flush_failed(), "the store has it now");
    }
}

#[test]
fn while_it_is_recorded_that_the_store_is_given_up_others_go_on_and_what_they_cut_breaks_too() {
    let state = StateDirectory::default();
    let (mut stage, late) = Stage::late(1, Scene { state: state.clone(), ..breaking() });
    stage.go();
    (1..TICKS).for_each(|_| stage.tick());
    let (begins, begun) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    state.before_next(move || {
        begins.send(()).expect("the test listens");
        // Also where the test has failed.
        let _ = may_go_on.recv();
    });
    let volume = Arc::clone(&stage.rig.volume);
    let timekeeper = thread::spawn(move || volume.keep_time(DEADLINE_MS));
    begun.recv().expect("the state directory is written");
    let (volume, (answer, answered)) = (Arc::clone(&stage.rig.volume), mpsc::channel());
    thread::spawn(move || answer.send(volume.lateness()));
    let report = answered.recv_timeout(Duration::from_secs(10)).expect("whoever asks is answered");
    assert_eq!((report.given_up, report.late_for_ms), (None, Some(DEADLINE_MS)));
    let _cut = stage.snapshot("cut");
    let passes = stage.write(60..61, 1);
    stage.go();
    assert!(!passes.is_finished(), "it is needed, as nothing is given up yet");
    go_on.send(()).expect("the timekeeper listens");
    timekeeper.join().expect("it does not fail");
    stage.go();
    assert!(late.is_finished() && passes.is_finished(), "{}", stage.scheduler.hanging());
    let rig = stage.recovered(1, Crash::Process);
    assert_eq!(rig.snapshot_reason("cut"), Some(BrokenReason::StoreFailed));
    assert_eq!(stage.judge(&rig, Crash::Process), Vec::<String>::new());
}

#[test]
fn a_snapshot_that_broke_for_lateness_leaves_no_bookmark() {
    let (mut stage, _late) = Stage::late(1, breaking());
    (0..=TICKS).for_each(|_| stage.tick());
    assert!(stage.rig.volume.lateness().given_up.is_some());
    let rig = Rc::clone(&stage.rig);
    let bookmark =
        stage.scheduler.spawn("bookmark", async move { rig.volume.bookmark(&rig.disks, &snapshot_name("a")).await });
    let error = stage.scheduler.run_until(&bookmark).expect_err("nobody knows what changed since");
    assert_eq!(error.kind(), ErrorKind::Broken);
}

#[test]
fn at_whatever_step_of_the_way_back_the_machine_stops_it_is_attached_again_and_nothing_is_wrong() {
    let mut on_the_way = 0;
    for seed in 0..60 {
        let mut random = Rng::with_seed(seed);
        let place = random.choice(PLACES.iter().filter(|place| !place.fails).collect::<Vec<_>>()).expect("not empty");
        let (mut stage, _requests) = place.set(seed, breaking());
        (0..TICKS).for_each(|_| stage.tick());
        // The disk's identity, what was not in use, and what a snapshot needed.
        let unsaved = [stage.write(0..1, 3), stage.write(HOLE.start + 2..HOLE.start + 4, 3), stage.write(60..70, 3)];
        stage.go();
        assert!(unsaved.iter().all(|write| write.is_finished()), "{}", place.name);
        stage.rig.disks.store.release();
        stage.work();
        let mut cut = None;
        for step in 0..60 {
            on_the_way += u32::from(stage.rig.volume.lateness().given_up.is_some());
            stage.steps(random.usize(1..8));
            if cut.is_none() && stage.rig.volume.lateness().given_up.is_none() {
                stage.snapshots.insert("later".to_owned(), stage.content_unreported_now());
                cut = Some(stage.snapshot("later"));
            }
            if step % 3 == 0 {
                let crash = *random.choice(&[Crash::Process, Crash::Power]).expect("not empty");
                let rig = stage.recovered(seed + step, crash);
                let whole = stage.judge(&rig, crash);
                let is_reported = cut.as_ref().is_some_and(|cut| cut.is_finished());
                assert!(!is_reported || whole == ["later"], "{}, seed {seed}: {whole:?}", place.name);
            }
        }
    }
    assert!(on_the_way > 100, "{on_the_way}");
}
