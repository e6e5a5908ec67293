//! A frozen filesystem is thawed whatever happens (mission A8): asked to, at the time limit, and with either process killed.

mod common;

use common::{have, http_error, sh, Place};
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// A filesystem on a loop device; unmounted when dropped.
struct Mounted {
    point: String,
}

impl Mounted {
    fn new(place: &Place) -> Mounted {
        let image = place.image("fs.img", 64 << 20);
        let point = place.text("mounted");
        sh(&format!("PATH=$PATH:/usr/sbin:/sbin; mkfs.ext4 -q {image}; mkdir {point}; mount -o loop {image} {point}"));
        Mounted { point }
    }

    /// Whether a write gets through within `limit_ms`.
    fn takes_writes(&self, limit_ms: u64) -> bool {
        let mut writer = std::process::Command::new("touch").arg(format!("{}/x", self.point)).spawn().expect("touch");
        let deadline = Instant::now() + Duration::from_millis(limit_ms);
        while Instant::now() < deadline {
            if writer.try_wait().expect("a child").is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        // It sleeps in the frozen filesystem, and ends when that is thawed.
        std::thread::spawn(move || writer.wait());
        false
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let script = format!("fsfreeze -u {0}; umount {0}", self.point);
        let _ = std::process::Command::new("sh").args(["-c", &script]).stderr(Stdio::null()).status();
    }
}

fn hold(place: &Place, mounted: &Mounted, limit_ms: u64) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut command = place.command(&["hold-frozen", &mounted.point, &format!("--timeout-ms={limit_ms}")]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("cairn runs");
    let heard = BufReader::new(child.stdout.take().expect("a pipe"));
    (child, heard)
}

fn line(heard: &mut impl BufRead) -> String {
    let mut line = String::new();
    heard.read_line(&mut line).expect("a line");
    line.trim().to_owned()
}

const NEEDS: [&str; 3] = ["mkfs.ext4", "fsfreeze", "losetup"];

#[test]
fn the_end_of_the_caller_thaws() {
    if !have("the_end_of_the_caller_thaws", &NEEDS, &["/dev/loop-control"]) {
        return;
    }
    let place = Place::new();
    let mounted = Mounted::new(&place);
    let (mut child, mut heard) = hold(&place, &mounted, 30_000);
    assert_eq!(line(&mut heard), "frozen");
    assert!(!mounted.takes_writes(300), "it is not frozen");
    drop(child.stdin.take());
    assert_eq!(line(&mut heard), "thawed");
    child.wait().expect("ends");
    assert!(mounted.takes_writes(5000));
}

#[test]
fn the_time_limit_thaws() {
    if !have("the_time_limit_thaws", &NEEDS, &["/dev/loop-control"]) {
        return;
    }
    let place = Place::new();
    let mounted = Mounted::new(&place);
    let (mut child, mut heard) = hold(&place, &mounted, 500);
    assert_eq!(line(&mut heard), "frozen");
    assert!(!mounted.takes_writes(200), "it is not frozen");
    assert_eq!(line(&mut heard), "expired");
    assert!(mounted.takes_writes(5000));
    drop(child.stdin.take());
    child.wait().expect("ends");
}

/// The target answers only after `held_ms`, or never within the time limit.
fn snapshot_while_answering_late(place: &Place, mounted: &Mounted, held_ms: u64, limit_ms: u64) -> std::process::Child {
    place.configure("v");
    place.fake_target("v", move |line, _| {
        if line == "GET /v1/volume" {
            return common::http(200, VOLUME);
        }
        std::thread::sleep(Duration::from_millis(held_ms));
        http_error(504, "timed-out")
    });
    let freeze = format!("--freeze={}", mounted.point);
    let limit = format!("--freeze-timeout-ms={limit_ms}");
    let mut command = place.command(&["snapshot", "v@s", &freeze, &limit, "--json"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("cairn runs")
}

const VOLUME: &str = r#"{"name":"v","volume_id":"1","store_id":"2","clients":0,"size_bytes":1,
    "origin":{"path":"/o","size_bytes":1,"sector_bytes":512},
    "store":{"path":"/s","size_bytes":1,"used_bytes":0,"free_bytes":1},"state":"whole","state_reason":null,
    "frontend":"nbd","device":null,"nbd_uri":"nbd+unix:///v","snapshots":0,"restore":null,"process_id":1,
    "attached_at":"2026-11-21T12:00:00.000Z"}"#;

#[test]
fn a_snapshot_that_fails_leaves_the_filesystem_thawed() {
    if !have("a_snapshot_that_fails_leaves_the_filesystem_thawed", &NEEDS, &["/dev/loop-control"]) {
        return;
    }
    let place = Place::new();
    let mounted = Mounted::new(&place);
    let output = snapshot_while_answering_late(&place, &mounted, 0, 5000).wait_with_output().expect("ends");
    assert_eq!(output.status.code(), Some(7));
    assert!(mounted.takes_writes(1000));
}

#[test]
fn a_snapshot_taken_after_the_time_limit_is_deleted_again() {
    if !have("a_snapshot_taken_after_the_time_limit_is_deleted_again", &NEEDS, &["/dev/loop-control"]) {
        return;
    }
    let place = Place::new();
    let mounted = Mounted::new(&place);
    place.configure("v");
    let (tell, told) = std::sync::mpsc::channel();
    place.fake_target("v", move |line, _| {
        tell.send(line.to_owned()).expect("the test listens");
        match line {
            "GET /v1/volume" => common::http(200, VOLUME),
            "POST /v1/snapshots" => {
                std::thread::sleep(Duration::from_millis(600));
                common::http(200, SNAPSHOT)
            }
            _ => common::http(200, r#"{"deleted":"s"}"#),
        }
    });
    let freeze = format!("--freeze={}", mounted.point);
    let said = place.fails(&["snapshot", "v@s", &freeze, "--freeze-timeout-ms=300"], 7, "timed-out");
    assert!(said.contains("deleted again"), "{said}");
    assert_eq!(told.try_iter().last().as_deref(), Some("DELETE /v1/snapshots/s"));
    assert!(mounted.takes_writes(1000));
}

const SNAPSHOT: &str = r#"{"name":"s","epoch":1,"created_at":"2026-11-21T12:00:00.000Z","size_bytes":1,
    "consistency":"filesystem","automatic":false,"state":"whole","state_reason":null,"exposed":null}"#;

#[test]
fn killing_the_command_while_it_holds_the_freeze_thaws() {
    if !have("killing_the_command_while_it_holds_the_freeze_thaws", &NEEDS, &["/dev/loop-control"]) {
        return;
    }
    let place = Place::new();
    let mounted = Mounted::new(&place);
    let mut child = snapshot_while_answering_late(&place, &mounted, 20_000, 30_000);
    let deadline = Instant::now() + Duration::from_secs(10);
    while mounted.takes_writes(200) {
        assert!(Instant::now() < deadline, "it is never frozen");
    }
    child.kill().expect("a kill -9");
    child.wait().expect("ends");
    assert!(mounted.takes_writes(5000), "the watchdog did not thaw");
}

#[test]
fn a_filesystem_of_no_known_mount_is_asked_for() {
    let place = Place::new();
    place.configure("v");
    place.fake_target("v", |_, _| common::http(200, VOLUME));
    let said = place.fails(&["snapshot", "v@s", "--freeze"], 3, "not-found");
    assert!(said.contains("--freeze=/where/it/is"), "{said}");
    place.fails(&["snapshot", "v@s", "--freeze=/no/such/place"], 3, "not-found");
}
