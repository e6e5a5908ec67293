//! SIGUSR1, sent to a command that runs: it says how far it is, and goes on.

mod common;

use common::attached::Volume;
use common::streams::write_at;
use common::Place;
use rustix::process::{kill_process, Pid, Signal};
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

#[test]
fn a_send_says_how_far_it_is_when_it_is_asked_and_goes_on() {
    let place = Place::new();
    let volume = Volume::attached(&place);
    write_at(&volume, 0, &[1; 256 << 10]);
    place.done(&["snapshot", "v@one"]);
    let mut command = place.command(&["send", "v@one", "--limit-rate", "8M"]);
    let mut sender = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let (mut stream, told) = (sender.stdout.take().expect("a pipe"), sender.stderr.take().expect("a pipe"));
    let mut told = BufReader::new(told);
    let mut first = [0; 16];
    stream.read_exact(&mut first).expect("the stream begins");
    let process = Pid::from_child(&sender);
    // Nobody reads the stream meanwhile: the answer does not wait for that.
    for _ in 0..2 {
        kill_process(process, Signal::USR1).expect("it runs");
        let mut line = String::new();
        told.read_line(&mut line).expect("an answer");
        assert!(line.starts_with("cairn: sending v@one: ") && line.ends_with("/s\n"), "{line:?}");
    }
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("the stream goes on to its end");
    assert!(sender.wait().expect("ended").success());
    let full = place.cairn(&["send", "v@one", "-n", "--json"]).stdout;
    let full: serde_json::Value = serde_json::from_str(&full).expect("one document");
    assert_eq!(full["stream_bytes"], (first.len() + rest.len()) as u64);
}
