//! A store that neither completes nor fails (mission X11): no write waits for it longer than the save deadline, if the
//! owner wants that; and snapshots are exact or broken, whenever it stalls, comes back, or the machine stops.

mod disk;
mod moments;
mod places;
mod stage;
mod undecided;

use cairn_engine::deadline::Deadline;
use cairn_engine::error::ErrorKind;
use cairn_engine::lateness::OnLate;
use cairn_engine::sim::rig::{snapshot_name, snapshot_options, StateDirectory};
use cairn_engine::sim::{block_on, Crash, Fault, FaultTarget};
use fastrand::Rng;
use places::{breaking, PLACES};
use stage::{Scene, Stage, BLOCKS, DEADLINE_MS, HOLE, TICKS};

const SEEDS: u64 = 8;

#[test]
fn no_write_waits_longer_than_the_deadline_and_a_tick_wherever_the_store_stalls() {
    for place in PLACES {
        for seed in 0..SEEDS {
            let (mut stage, requests) = place.set(seed, breaking());
            for _ in 1..TICKS {
                stage.tick();
                let waits = requests.iter().any(|request| !request.is_finished());
                assert!(waits && stage.rig.volume.lateness().given_up.is_none(), "{}: before its time", place.name);
            }
            stage.tick();
            for request in &requests {
                let ended = request.take().unwrap_or_else(|| {
                    panic!("{}, seed {seed}: a write waits on: {}", place.name, stage.scheduler.hanging())
                });
                ended.expect("the disk took it");
            }
            assert!(stage.rig.volume.lateness().given_up.is_some(), "{}", place.name);
        }
    }
}

#[test]
fn snapshots_of_a_store_that_is_late_are_broken_for_readers_and_after_a_crash() {
    for place in PLACES {
        for seed in 0..SEEDS {
            let (mut stage, _requests) = place.set(seed, breaking());
            (0..TICKS).for_each(|_| stage.tick());
            let more = stage.write(60..70, 3);
            stage.go();
            assert!(more.is_finished(), "{}: writes go on", place.name);
            for crash in [Crash::Process, Crash::Power] {
                let rig = stage.recovered(seed, crash);
                assert_eq!(stage.judge(&rig, crash), Vec::<String>::new(), "{}", place.name);
            }
        }
    }
}

#[test]
fn a_store_that_comes_back_takes_snapshots_again_and_they_are_exact() {
    for place in PLACES.iter().filter(|place| place.name != "the latch of a failed flush") {
        for seed in 0..SEEDS {
            let (mut stage, _requests) = place.set(seed, breaking());
            (0..TICKS).for_each(|_| stage.tick());
            let _more = stage.write(60..70, 3);
            stage.go();
            stage.release_and_judge(&[]);
        }
    }
}

#[test]
fn without_a_policy_writes_wait_and_nothing_breaks() {
    for place in PLACES {
        for seed in 0..SEEDS {
            let (mut stage, requests) = place.set(seed, Scene::new(OnLate::Wait));
            (0..3 * TICKS).for_each(|_| stage.tick());
            assert!(requests.iter().any(|request| !request.is_finished()), "{}", place.name);
            let report = stage.rig.volume.lateness();
            assert_eq!((report.given_up, report.times_late), (None, 1), "{}", place.name);
            assert!(report.late_for_ms.is_some_and(|late_for_ms| late_for_ms >= 2 * DEADLINE_MS), "{}", place.name);
            stage.rig.disks.store.release();
            stage.go();
            assert!(
                requests.iter().all(|request| request.is_finished()),
                "{}: {}",
                place.name,
                stage.scheduler.hanging()
            );
            stage.tick();
            assert_eq!(stage.rig.volume.lateness().late_for_ms, None);
            if !place.fails {
                let rig = stage.recovered(seed, Crash::Process);
                let is_deleted = place.name.contains("ledger");
                stage.snapshots.insert("cut".to_owned(), stage.content_unreported());
                let whole = stage.judge(&rig, Crash::Process);
                assert!(is_deleted || whole.contains(&"a".to_owned()), "{}: {whole:?}", place.name);
            }
        }
    }
}

#[test]
fn a_crash_before_the_deadline_breaks_nothing() {
    for place in PLACES.iter().filter(|place| !place.fails) {
        for seed in 0..SEEDS {
            let (mut stage, _requests) = place.set(seed, breaking());
            stage.tick();
            stage.snapshots.insert("cut".to_owned(), stage.content_unreported());
            // Some of the writes are not done: of the volume nothing is expected.
            let rig = stage.recovered(seed, Crash::Power);
            let whole = stage.judge(&rig, Crash::Power);
            assert!(place.name.contains("ledger") || whole.contains(&"a".to_owned()), "{}: {whole:?}", place.name);
        }
    }
}

#[test]
fn a_reader_never_sees_what_nobody_saved() {
    let mut refused = 0;
    for seed in 0..200 {
        let mut stage = Stage::new(seed, breaking());
        let handle = stage.handle("a");
        let expected = stage.snapshots["a"].clone();
        stage.begin();
        stage.stall_segments();
        let _write = stage.write(20..140, 2);
        let mut random = Rng::with_seed(seed);
        for _ in 0..TICKS + 4 {
            let read = stage.read(handle.clone());
            stage.steps(random.usize(0..200));
            stage.tell();
            stage.go();
            match read.take().expect("nothing keeps a reader") {
                Ok(found) => assert_eq!(found, expected, "seed {seed}"),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Broken);
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 0);
}

#[test]
fn what_can_be_recorded_nowhere_is_not_given_up() {
    for place in PLACES {
        let (mut stage, requests) = place.set(1, Scene { state: StateDirectory::failing(), ..breaking() });
        (0..3 * TICKS).for_each(|_| stage.tick());
        assert!(requests.iter().any(|request| !request.is_finished()), "{}: law 3 comes before law 5", place.name);
        assert_eq!(stage.rig.volume.lateness().given_up, None);
    }
}

#[test]
fn a_restore_under_way_breaks_nothing_and_goes_on_when_the_store_does() {
    for seed in 0..SEEDS {
        let mut stage = Stage::new(seed, breaking());
        stage.rig.write(40 * 4096, 20 * 4096, 5).expect("no fault");
        let (a, before, deadline) = (snapshot_name("a"), snapshot_name("before"), Deadline::new());
        let volume = &stage.rig.volume;
        block_on(volume.restore(&stage.rig.disks, &a, &before, snapshot_options(), &deadline)).expect("no fault");
        let mut content = stage.content_of_snapshot();
        content[40..60].fill(5);
        stage.snapshots.insert("before".to_owned(), content);
        stage.begin();
        stage.stall_segments();
        let write = stage.write(70..71, 2);
        let moved = stage.write(45..46, 2);
        stage.go();
        (0..3 * TICKS).for_each(|_| stage.tick());
        assert!(!write.is_finished() && !moved.is_finished());
        assert!(stage.rig.volume.lateness().late_for_ms.is_some(), "it says so");
        stage.release();
        assert!(write.is_finished() && moved.is_finished());
        stage.judge_after_crash(seed, &["a", "before"]);
    }
}

#[test]
fn a_cut_that_the_store_was_late_for_is_told_of_and_broken() {
    for seed in 0..SEEDS {
        let mut stage = Stage::new(seed, breaking());
        stage.begin();
        stage.work();
        stage.go();
        stage.stall_catalog(0);
        let cut = stage.snapshot("cut");
        stage.go();
        let write = stage.write(40..41, 2);
        (0..TICKS).for_each(|_| stage.tick());
        assert!(write.is_finished() && !cut.is_finished(), "the gate is open, the cut waits for its record");
        stage.rig.disks.store.release();
        stage.go();
        let error = cut.take().expect("the store answered").expect_err("writes went on meanwhile");
        assert_eq!(error.kind(), ErrorKind::Broken);
        stage.release_and_judge(&[]);
    }
}

/// Whatever is going on, the store stalls from some write on; then it comes back, or the machine stops.
#[test]
fn whenever_the_store_stalls_snapshots_are_exact_or_broken() {
    let mut given_up = 0;
    for seed in 0..400 {
        let mut random = Rng::with_seed(seed);
        let mut stage = Stage::new(seed, Scene { has_fua: random.bool(), ..breaking() });
        stage.begin();
        stage.work();
        stage.rig.disks.store.inject(Fault::stall(FaultTarget::Any, random.u64(0..60)));
        let mut requests = Vec::new();
        for value in 2..8 {
            let start = random.u64(17..120);
            requests.push(stage.write(start..start + 20, value));
            let watched = random.u64(0..2);
            requests.push(stage.write_by(random.bool(), watched..watched + 1, value));
            requests.push(stage.write(HOLE.start + u64::from(value)..HOLE.start + u64::from(value) + 1, value));
            let cut = random.bool().then(|| stage.snapshot(["one", "two", "three", "four"][usize::from(value) % 4]));
            stage.steps(random.usize(0..400));
            stage.tell();
            drop(cut);
        }
        (0..2 * TICKS).for_each(|_| stage.tick());
        let waiting = requests.iter().filter(|request| !request.is_finished()).count();
        assert_eq!(waiting, 0, "seed {seed}: {}", stage.scheduler.hanging());
        given_up += u64::from(stage.rig.volume.lateness().given_up.is_some());
        // Writes that overlap came in any order, and cuts anywhere among them: only "a" is known.
        stage.content.fill(stage::UNKNOWN);
        let crash = *random.choice(&[Crash::Process, Crash::Power]).expect("not empty");
        let rig = stage.recovered(seed, crash);
        let whole = block_on(rig.volume.snapshots()).into_iter().filter(|snapshot| snapshot.broken.is_none());
        for snapshot in whole {
            let name = snapshot.name.to_string();
            stage.snapshots.entry(name).or_insert_with(|| vec![stage::UNKNOWN; BLOCKS as usize]);
        }
        stage.judge(&rig, crash);
        if random.bool() {
            stage.rig.disks.store.release();
            stage.go();
            stage.keep_house();
            assert_eq!(stage.rig.volume.lateness().given_up, None, "seed {seed}");
        }
    }
    println!("the store was given up in {given_up} of 400");
    assert!(given_up > 100);
}
