//! What the tests of deltas share: contents, pipes between two runs of `cairn`.

use super::attached::{Volume, MIB, VOLUME_BYTES};
use super::nbd::Client;
use super::{ran, Place, Ran};
use std::fs::File;
use std::path::Path;
use std::process::Stdio;

/// Writes to the volume, durably.
pub fn write_at(volume: &Volume<'_>, offset_bytes: u64, bytes: &[u8]) {
    let mut client = volume.open("v");
    assert_eq!((client.write(0, offset_bytes, bytes), client.flush()), (0, 0));
}

/// Content that does not repeat.
pub fn noise(seed: u32, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state >> 16) as u8
        })
        .collect()
}

/// All of a file.
pub fn content(path: impl AsRef<Path>) -> Vec<u8> {
    std::fs::read(path).expect("a file")
}

/// All of an NBD export.
pub fn read_export(socket: &Path, export: &str, size_bytes: u64) -> Vec<u8> {
    let mut client = Client::open(socket, export);
    let mut all = Vec::new();
    for offset in (0..size_bytes).step_by(MIB as usize) {
        all.extend(client.read(offset, MIB as u32).expect("reads"));
    }
    all
}

impl Volume<'_> {
    /// All of a snapshot, over NBD.
    pub fn snapshot_content(&self, name: &str) -> Vec<u8> {
        read_export(&self.place.path("run/v/nbd.sock"), &format!("v@{name}"), VOLUME_BYTES)
    }
}

/// Detaches a volume at the end of a test.
pub struct Detached<'a> {
    place: &'a Place,
    volume: &'static str,
}

impl Drop for Detached<'_> {
    fn drop(&mut self) {
        self.place.cairn(&["detach", self.volume]);
    }
}

impl Place {
    /// A script in which $CAIRN is the command, with this place's directories.
    pub fn shell(&self, script: &str) -> String {
        let set = |name: &str, directory: &str| format!("export CAIRN_{name}_DIR={}\n", self.text(directory));
        let directories = [set("STATE", "state"), set("RUN", "run"), set("DEV", "dev")].concat();
        format!("{directories}CAIRN={}\n{script}", env!("CARGO_BIN_EXE_cairn"))
    }

    /// Sees to it that a volume does not outlive the test.
    pub fn detach_later(&self, volume: &'static str) -> Detached<'_> {
        Detached { place: self, volume }
    }
}

/// Runs `cairn` with a stream at one end.
pub struct Pipe<'a> {
    place: &'a Place,
}

impl<'a> Pipe<'a> {
    pub fn new(place: &'a Place) -> Pipe<'a> {
        Pipe { place }
    }

    /// `cairn receive ARGUMENTS --json < FILE`.
    pub fn try_receive(&self, file: &str, arguments: &[&str]) -> Ran {
        let all = [&["receive", "--json"], arguments].concat();
        let input = File::open(file).expect("a stream");
        ran(self.place.command(&all).stdin(input).output().expect("runs"))
    }

    /// The same, which must succeed.
    pub fn receive(&self, file: &str, arguments: &[&str]) -> serde_json::Value {
        let ran = self.try_receive(file, arguments);
        assert_eq!(ran.code, 0, "receive {arguments:?}: {}{}", ran.stdout, ran.stderr);
        serde_json::from_str(&ran.stdout).expect("one JSON document")
    }

    /// Prepares, then pipes one run into another; what the second says.
    pub fn send_to(&self, sender: &[&str], receiver: &[&str], prepare: impl FnOnce()) -> Ran {
        prepare();
        let mut sender = self.place.command(sender).stdout(Stdio::piped()).spawn().expect("starts");
        let pipe = sender.stdout.take().expect("a pipe");
        let received = ran(self.place.command(receiver).stdin(pipe).output().expect("runs"));
        sender.wait().expect("ends");
        received
    }
}
