//! `cairn send | cairn receive`, with one side killed again and again, and gone on with: always exact.
//! `CAIRN_INTERRUPTIONS` says how often, 6 by default.

mod common;

use common::attached::{kill, wait_until, Volume, MIB, VOLUME_BYTES};
use common::streams::{content, noise, write_at, Pipe};
use common::{ran, Place};
use std::process::{Child, Stdio};
use std::time::Duration;

fn interruptions() -> u32 {
    std::env::var("CAIRN_INTERRUPTIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(6)
}

struct Running {
    sender: Child,
    receiver: Child,
}

impl Running {
    fn start(place: &Place, send: &[&str], receive: &[&str]) -> Running {
        let mut sender = place.command(send).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("starts");
        let pipe = sender.stdout.take().expect("a pipe");
        let mut receiver = place.command(receive);
        let receiver = receiver.stdin(pipe).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starts");
        Running { sender, receiver }
    }

    /// Kills one side after a while; the other ends by itself. Whether the receiver was done before.
    fn interrupt(mut self, after: Duration, the_sender: bool) -> bool {
        std::thread::sleep(after);
        let victim = if the_sender { &self.sender } else { &self.receiver };
        // Where it has ended already, its process number is still its own: nobody waited for it.
        kill(victim.id() as i32);
        self.sender.wait().expect("ends");
        let ended = ran(self.receiver.wait_with_output().expect("ends"));
        assert!(!ended.stderr.contains("olling back failed"), "{}", ended.stderr);
        ended.code == 0
    }
}

/// One delta brought over with interruptions; how many there were.
fn bring_over(place: &Place, target: &str, base: &str, to: &str, seed: u32, left: &mut u32) {
    let snapshot = format!("v@{to}");
    let mut token: Option<String> = None;
    let mut turn = 0u32;
    loop {
        let mut send = vec!["send", "-i", base, &snapshot];
        if let Some(token) = &token {
            send.extend(["-t", token]);
        }
        let receive = ["receive", "-s", target];
        if *left == 0 {
            let told = Pipe::new(place).send_to(&send, &receive, || {});
            // Killed after its last word: it is there already, which the caller looks at.
            assert!([0, 4, 10].contains(&told.code), "the last part: {}", told.stderr);
            return;
        }
        *left -= 1;
        let slowed = [&send[..], &["--limit-rate", "8M"]].concat();
        let after = Duration::from_millis(u64::from((seed.wrapping_add(turn).wrapping_mul(0x9e37_79b9) >> 16) % 900));
        let done = Running::start(place, &slowed, &receive).interrupt(after, turn.is_multiple_of(2));
        if done {
            return;
        }
        let told = place.cairn(&["receive", target, "--token"]);
        token = (told.code == 0).then(|| told.stdout.trim().to_owned());
        turn += 1;
    }
}

#[test]
fn a_delta_interrupted_on_either_side_arrives_exactly() {
    let place = Place::new();
    let volume = Volume::attached(&place);
    write_at(&volume, 0, &noise(1, 8 << 20));
    place.done(&["snapshot", "v@s0"]);
    let replica = place.text("replica.img");
    common::sh(&place.shell(&format!("$CAIRN send v@s0 | $CAIRN receive {replica}")));
    let (origin, store) = (place.image("w.img", VOLUME_BYTES), place.text("w.store"));
    place.done(&["create", "w", "--origin", &origin, "--store", &store, "--store-size", "256M"]);
    place.done(&["attach", "w", "--frontend=nbd"]);
    let _detached = place.detach_later("w");
    common::sh(&place.shell("$CAIRN send v@s0 | $CAIRN receive w"));
    let (mut left, mut round, asked) = (interruptions(), 0u32, interruptions());
    while left > 0 {
        round += 1;
        let (base, to) = (format!("s{}", round - 1), format!("s{round}"));
        for piece in 0..6u32 {
            let offset = u64::from(noise(round * 16 + piece, 4)[3]) % 14 * MIB;
            write_at(&volume, offset + u64::from(piece) * 8192, &noise(round * 100 + piece, 1 << 20));
        }
        place.done(&["snapshot", &format!("v@{to}")]);
        let mut half = left.min(6).div_ceil(2);
        left -= half;
        bring_over(&place, &replica, &base, &to, round, &mut half);
        left += half;
        let mut rest = left.min(3);
        left -= rest;
        bring_over(&place, "w", &base, &to, round + 1000, &mut rest);
        left += rest;
        let expected = volume.snapshot_content(&to);
        assert!(content(&replica) == expected, "round {round}: the file");
        let received = common::streams::read_export(&place.path("run/w/nbd.sock"), &format!("w@{to}"), VOLUME_BYTES);
        assert!(received == expected, "round {round}: the volume");
    }
    println!("{asked} interruptions in {round} rounds, always exact");
}

#[test]
fn a_receive_that_was_killed_is_taken_back_exactly_and_refused_until_then() {
    let place = Place::new();
    let volume = Volume::attached(&place);
    write_at(&volume, 0, &noise(1, 4 << 20));
    place.done(&["snapshot", "v@one"]);
    let replica = place.text("replica.img");
    common::sh(&place.shell(&format!("$CAIRN send v@one | $CAIRN receive {replica}")));
    let before = content(&replica);
    write_at(&volume, MIB, &noise(2, 8 << 20));
    place.done(&["snapshot", "v@two"]);
    write_at(&volume, 0, &noise(3, 1 << 20));
    place.done(&["snapshot", "v@three"]);
    let slow = ["send", "-i", "one", "v@two", "--limit-rate", "6M"];
    let running = Running::start(&place, &slow, &["receive", &replica]);
    wait_until("it has begun to write", || content(&replica) != before);
    let done = running.interrupt(Duration::ZERO, false);
    assert!(!done, "the receive was not interrupted in time");
    let told = Pipe::new(&place).send_to(&["send", "-i", "one", "v@three"], &["receive", &replica], || {});
    assert_eq!(told.code, 9, "another stream: {}", told.stderr);
    assert!(told.stderr.contains("--undo"), "{}", told.stderr);
    place.done(&["receive", &replica, "--undo"]);
    assert!(content(&replica) == before);
    let told = Pipe::new(&place).send_to(&["send", "-i", "one", "v@three"], &["receive", &replica], || {});
    assert_eq!(told.code, 0, "{}", told.stderr);
    assert!(content(&replica) == volume.snapshot_content("three"));
}
