//! The life of an attached volume, end to end over NBD: the commands, the built target, image files.

mod common;

use common::attached::{kill, wait_until, Volume, VOLUME_BYTES};
use common::{have, Place};

#[test]
fn every_version_comes_back_and_the_disk_stays_the_disk() {
    let place = Place::new();
    let volume = Volume::create(&place);
    let attached = volume.attach();
    assert_eq!((&attached["frontend"], attached["size_bytes"].as_u64()), (&"nbd".into(), Some(VOLUME_BYTES)));
    assert!(attached["nbd_uri"].as_str().expect("an address").starts_with("nbd+unix:///v?socket="));
    volume.fill(1);
    place.done(&["snapshot", "v@one"]);
    volume.fill(2);
    place.done(&["snapshot", "v@two"]);
    volume.fill(3);
    for (export, value) in [("v@one", 1), ("v@two", 2), ("v", 3)] {
        assert!(volume.holds(export, value), "{export}");
    }
    let restored = place.json(&["restore", "v@one", "--before", "three", "--yes"]);
    assert_eq!((&restored["restored"], &restored["before"]), (&"one".into(), &"three".into()));
    assert!(volume.holds("v", 1) && volume.holds("v@three", 3));
    place.done(&["delete", "v@two", "--yes"]);
    volume.detach();
    assert!(volume.origin_holds(1), "the bare disk shows what was restored");
    volume.attach();
    assert!(volume.holds("v@one", 1) && volume.holds("v@three", 3));
    place.done(&["restore", "v@three", "--yes"]);
    assert!(volume.holds("v", 3), "a restore is undone by restoring what it kept");
    assert_eq!(place.json(&["check", "v", "--data"])["clean"], true);
    volume.detach();
    assert_eq!(place.json(&["check", "v", "--data"])["clean"], true);
    assert!(volume.origin_holds(3));
    place.done(&["destroy", "v", "--yes"]);
    assert!(volume.origin_holds(3));
}

#[test]
fn exposing_without_ublk_answers_with_an_nbd_address_and_holds_the_snapshot() {
    if std::path::Path::new("/dev/ublk-control").exists() {
        eprintln!("SKIPPED: this kernel has ublk, which expose uses; tests/kernel/jobs/snapshot-devices.sh tests that");
        return;
    }
    let place = Place::new();
    let volume = Volume::attached(&place);
    volume.fill(1);
    place.done(&["snapshot", "v@one"]);
    volume.fill(2);
    let exposed = place.json(&["expose", "v@one"]);
    assert!(exposed["device"].is_null(), "{exposed}");
    assert!(exposed["nbd_uri"].as_str().expect("an address").starts_with("nbd+unix:///v@one?socket="));
    assert_eq!(place.json(&["show", "v@one"])["exposed"], exposed);
    let told = place.cairn(&["expose", "v@one"]);
    assert_eq!(told.code, 4, "exposed already: {}", told.stderr);
    assert!(volume.holds("v@one", 1));
    for arguments in [&["delete", "v@one", "--yes"], &["restore", "v@one", "--yes"]] {
        let said = place.fails(arguments, 5, "busy");
        assert!(said.contains("cairn unexpose v@one"), "{said}");
    }
    let reader = volume.open("v@one");
    place.fails(&["unexpose", "v@one"], 5, "busy");
    drop(reader);
    place.done(&["unexpose", "v@one"]);
    place.fails(&["unexpose", "v@one"], 3, "not-found");
    assert!(place.json(&["show", "v@one"])["exposed"].is_null());
    let said = place.fails(&["expose", "v@one", "--scratch"], 1, "invalid");
    assert!(said.contains("nbd+unix:///v@one"), "it says what can be done instead: {said}");
    place.fails(&["expose", "v@none"], 3, "not-found");
    place.done(&["restore", "v@one", "--yes"]);
    assert!(volume.holds("v", 1));
}

#[test]
fn a_snapshot_that_exists_or_does_not_is_said_and_nothing_is_done() {
    let place = Place::new();
    let volume = Volume::attached(&place);
    volume.fill(1);
    place.done(&["snapshot", "v@one"]);
    place.done(&["snapshot", "v@two"]);
    volume.fill(2);
    let said = place.fails(&["snapshot", "v@one"], 4, "exists");
    assert!(said.contains("one"), "{said}");
    place.fails(&["restore", "v@one", "--before", "two", "--yes"], 4, "exists");
    for arguments in [&["delete", "v@none", "--yes"][..], &["restore", "v@none", "--yes"], &["unexpose", "v@none"]] {
        let said = place.fails(arguments, 3, "not-found");
        assert!(said.contains("none"), "{said}");
    }
    assert!(volume.holds("v", 2) && volume.holds("v@one", 1));
    assert_eq!(volume.show()["snapshots"].as_array().map(Vec::len), Some(2));
}

#[test]
fn what_is_in_use_is_neither_detached_nor_restored_nor_deleted() {
    let place = Place::new();
    let volume = Volume::attached(&place);
    place.done(&["snapshot", "v@one"]);
    let user = volume.open("v");
    for arguments in [&["detach", "v"][..], &["restore", "v@one", "--yes"]] {
        let said = place.fails(arguments, 5, "busy");
        assert!(said.contains("NBD client"), "{said}");
    }
    drop(user);
    let reader = volume.open("v@one");
    place.fails(&["delete", "v@one", "--yes"], 5, "busy");
    place.fails(&["detach", "v"], 5, "busy");
    drop(reader);
    wait_until("the reader is forgotten", || place.cairn(&["delete", "v@one", "--yes"]).code == 0);
    volume.detach();
}

#[test]
fn a_worker_that_is_killed_is_replaced_and_loses_nothing() {
    let place = Place::new();
    let volume = Volume::attached(&place);
    volume.fill(1);
    place.done(&["snapshot", "v@one"]);
    let exposed = place.json(&["expose", "v@one"]);
    volume.fill(2);
    for _ in 0..3 {
        let killed = volume.worker().expect("a worker");
        kill(killed);
        wait_until("a successor answers", || {
            let shown = place.cairn(&["show", "v", "--json"]);
            shown.code == 0
                && shown.stdout.contains("\"attached\": true")
                && volume.worker().is_some_and(|is| is != killed)
        });
        assert!(volume.holds("v", 2) && volume.holds("v@one", 1));
        assert_eq!(place.json(&["show", "v@one"])["exposed"], exposed, "what was exposed still is");
        assert_eq!(volume.snapshot_state("one"), ("whole".to_owned(), None));
    }
    place.done(&["unexpose", "v@one"]);
    volume.detach();
    assert!(volume.origin_holds(2));
}

#[test]
fn a_target_killed_whole_is_recovered_by_the_next_attach() {
    let place = Place::new();
    let volume = Volume::attached(&place);
    volume.fill(1);
    place.done(&["snapshot", "v@one"]);
    volume.fill(2);
    volume.kill();
    place.fails(&["stat", "v"], 6, "not-attached");
    assert!(volume.origin_holds(2), "the bare disk is current");
    volume.attach();
    assert!(volume.holds("v", 2) && volume.holds("v@one", 1));
    volume.detach();
}

#[test]
fn a_request_to_end_detaches_what_nobody_uses_and_refuses_otherwise() {
    let place = Place::new();
    let volume = Volume::attached(&place);
    let ask = || {
        let worker = volume.worker().and_then(rustix::process::Pid::from_raw).expect("a worker");
        rustix::process::kill_process(worker, rustix::process::Signal::TERM).expect("asked");
    };
    let mut user = volume.open("v");
    ask();
    // Longer than the target waits for clients that are just leaving.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert_eq!(user.write(0, 0, &[7; 4096]), 0, "the volume is served as before");
    drop(user);
    ask();
    wait_until("it is detached", || place.cairn(&["stat", "v"]).code == 6);
    assert_eq!(volume.show()["attached"], false);
}

#[test]
fn what_was_done_is_counted_cut_pauses_too() {
    let place = Place::new();
    let volume = Volume::attached(&place);
    place.done(&["snapshot", "v@one"]);
    volume.fill(1);
    place.done(&["snapshot", "v@two"]);
    let stats = place.json(&["stat", "v"]);
    assert_eq!((stats["engine"]["cuts"].as_u64(), stats["cut_pauses"]["count"].as_u64()), (Some(2), Some(2)));
    assert!(stats["cut_pauses"]["max_us"].as_u64().expect("a time") > 0);
    assert!(stats["cut_drains"]["max_us"].as_u64() <= stats["cut_pauses"]["max_us"].as_u64());
    assert_eq!(stats["cut_drains"]["count"].as_u64(), Some(2));
    assert_eq!(stats["engine"]["saved_blocks"], 256);
    let text = place.done(&["stat", "v"]).stdout;
    assert!(text.lines().any(|line| line.starts_with("cut pause") && line.contains(" 2 ")), "{text}");
}

#[test]
fn a_store_file_and_an_image_file_grow_while_attached() {
    let place = Place::new();
    let volume = Volume::attached(&place);
    volume.fill(1);
    place.done(&["snapshot", "v@one"]);
    let grown = place.json(&["grow", "v", "--store-size", "96M"]);
    assert_eq!(grown["store_bytes"], 96 << 20);
    let file = std::fs::File::options().write(true).open(&volume.origin).expect("the origin");
    file.set_len(2 * VOLUME_BYTES).expect("grown");
    assert_eq!(place.json(&["grow", "v"])["size_bytes"], 2 * VOLUME_BYTES);
    let mut client = volume.open("v");
    assert_eq!(client.write(0, VOLUME_BYTES, &[9; 4096]), 0);
    drop(client);
    assert_eq!(volume.open("v@one").read(VOLUME_BYTES, 4096), Err(22), "the snapshot has its own size");
    assert!(volume.holds("v@one", 1));
    volume.detach();
}

#[test]
fn two_installations_live_side_by_side_and_cannot_take_each_others_disks() {
    let (place, other) = (Place::new(), Place::new());
    let volume = Volume::attached(&place);
    let (origin, store) = (volume.origin.display().to_string(), volume.store.display().to_string());
    let (free, new) = (other.image("free.img", 16 << 20), other.text("new.store"));
    let size = ["--store-size", "32M"];
    let create = |origin: &str, store: &str, more: &[&str]| {
        other.fails(&[&["create", "w", "--origin", origin, "--store", store], more].concat(), 5, "busy")
    };
    let said = create(&origin, &new, &size);
    assert!(said.contains(&origin) && said.contains("cairn-target"), "{said}");
    create(&free, &store, &["--force"]);
    let second = Volume::attached(&other);
    second.fill(4);
    volume.fill(5);
    assert!(volume.holds("v", 5) && second.holds("v", 4));
}

#[test]
fn a_foreground_target_ends_with_its_signal() {
    if !have("a_foreground_target_ends_with_its_signal", &["true"], &[]) {
        return;
    }
    let place = Place::new();
    let volume = Volume::create(&place);
    let mut child = place.command(&["attach", "v", "--frontend=nbd", "--foreground"]).spawn().expect("starts");
    wait_until("it serves", || volume.worker().is_some() && place.cairn(&["stat", "v"]).code == 0);
    volume.fill(1);
    let supervisor = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(supervisor, rustix::process::Signal::TERM).expect("asked");
    assert!(child.wait().expect("ends").success());
    assert!(volume.origin_holds(1));
}
