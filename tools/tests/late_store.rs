//! A store that does not answer, for real: a file that `nbdfuse` shows, whose server is stopped and goes on.

mod common;

use common::attached::{kill, wait_until, Volume, VOLUME_BYTES};
use common::{have, Place};
use rustix::process::{kill_process, Pid, Signal};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const DEADLINE_MS: u64 = 1000;

/// A file of 64 MiB whose content comes from another process, and so can fail to come.
struct StallingFile {
    server: Child,
    fuse: Child,
    path: String,
}

impl StallingFile {
    fn new(place: &Place) -> StallingFile {
        let (content, socket, path) = (place.image("content", 64 << 20), place.text("store.sock"), place.text("store"));
        let mut command = Command::new("qemu-nbd");
        command.args(["--persistent", "--format=raw", "--cache=none", "--socket", &socket, &content]);
        let server = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("qemu-nbd starts");
        wait_until("qemu-nbd serves", || std::path::Path::new(&socket).exists());
        std::fs::write(&path, "").expect("a place to mount on");
        let mut command = Command::new("nbdfuse");
        let fuse = command.args([&path, &format!("nbd+unix:///?socket={socket}")]).spawn().expect("nbdfuse starts");
        wait_until("the file is there", || std::fs::metadata(&path).is_ok_and(|file| file.len() == 64 << 20));
        StallingFile { server, fuse, path }
    }

    /// Until what this gives is dropped nothing that is asked of the file is answered.
    fn stop(&self) -> Stopped<'_> {
        self.signal(Signal::STOP);
        Stopped(self)
    }

    fn signal(&self, signal: Signal) {
        let process = Pid::from_raw(self.server.id() as i32).expect("a process number");
        kill_process(process, signal).expect("a process of ours");
    }
}

/// While it exists the file stalls.
struct Stopped<'a>(&'a StallingFile);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.signal(Signal::CONT);
    }
}

impl Drop for StallingFile {
    fn drop(&mut self) {
        // It ends when its file is not mounted any more. What fails here was gone already.
        let _ = Command::new("fusermount3").args(["-u", "-z", &self.path]).status();
        kill(self.server.id() as i32);
        let _ = (self.server.wait(), self.fuse.wait());
    }
}

fn volume<'a>(place: &'a Place, store: &StallingFile, more: &[&str]) -> Volume<'a> {
    let origin = place.image("disk.img", VOLUME_BYTES);
    let create = ["create", "v", "--origin", &origin, "--store", &store.path, "--force"];
    place.done(&[&create[..], more].concat());
    Volume { place, origin: origin.into(), store: store.path.clone().into() }
}

#[test]
fn a_store_that_does_not_answer_holds_no_write_longer_than_the_deadline_and_comes_back() {
    if !have("late_store", &["qemu-nbd", "nbdfuse", "fusermount3"], &["/dev/fuse"]) {
        return;
    }
    let place = Place::new();
    let store = StallingFile::new(&place);
    let volume = volume(&place, &store, &["--save-deadline-ms", "1000", "--on-late", "break"]);
    let shown = volume.attach();
    assert_eq!(shown["save_deadline"]["deadline_ms"], DEADLINE_MS);
    assert_eq!((&shown["save_deadline"]["on_late"], &shown["state"]), (&"break".into(), &"whole".into()));
    volume.fill(1);
    place.done(&["snapshot", "v@one"]);
    volume.fill(2);
    assert!(volume.holds("v@one", 1));
    place.done(&["snapshot", "v@two"]);
    let stopped = store.stop();
    let began = Instant::now();
    volume.fill(3);
    let took = began.elapsed();
    println!("a write of the whole waited {} ms for a store with a deadline of {DEADLINE_MS} ms", took.as_millis());
    assert!(took >= Duration::from_millis(DEADLINE_MS / 2), "it waited for the store: {took:?}");
    assert!(took < Duration::from_millis(3 * DEADLINE_MS), "and not longer than it may: {took:?}");
    let shown = volume.show();
    assert_eq!(shown["volume"]["state"], "broken", "{shown}");
    assert!(shown["volume"]["save_deadline"]["given_up"].is_string(), "{shown}");
    assert_eq!(shown["snapshots"][0]["state"], "broken", "{shown}");
    assert!(place.done(&["show", "v"]).stdout.contains("ALARM"));
    assert!(volume.holds("v", 3), "reads go on as well");
    drop(stopped);
    wait_until("the store is taken back", || volume.show()["volume"]["save_deadline"]["given_up"].is_null());
    place.done(&["snapshot", "v@three"]);
    volume.fill(4);
    assert!(volume.holds("v@three", 3) && volume.holds("v", 4));
    assert_eq!(volume.snapshot_state("two").0, "broken");
    assert!(place.json(&["stat", "v"])["engine"]["times_late"].as_u64().is_some_and(|times| times > 0));
    wait_until("the mark is gone", || !place.path("state/volumes/v.broken").exists());
    volume.detach();
    assert!(volume.origin_holds(4));
    volume.attach();
    assert!(volume.holds("v@three", 3));
}

#[test]
fn a_store_that_does_not_answer_is_an_alarm_and_breaks_nothing_by_default() {
    if !have("late_store", &["qemu-nbd", "nbdfuse", "fusermount3"], &["/dev/fuse"]) {
        return;
    }
    let place = Place::new();
    let store = StallingFile::new(&place);
    let volume = volume(&place, &store, &[]);
    let attached = place.json(&["attach", "v", "--frontend=nbd", "--save-deadline-ms=200"]);
    assert_eq!(
        (&attached["save_deadline"]["deadline_ms"], &attached["save_deadline"]["on_late"]),
        (&200.into(), &"wait".into())
    );
    volume.fill(1);
    place.done(&["snapshot", "v@one"]);
    let stopped = store.stop();
    std::thread::scope(|scope| {
        let write = scope.spawn(|| volume.fill(2));
        wait_until("it is an alarm", || volume.show()["volume"]["save_deadline"]["late_for_ms"].is_u64());
        assert!(place.done(&["show", "v"]).stdout.contains("ALARM"));
        assert!(!write.is_finished(), "the write waits");
        drop(stopped);
        write.join().expect("the write ends when the store answers");
    });
    assert!(volume.holds("v@one", 1) && volume.holds("v", 2));
}
