//! What the tests of the command share: a place of its own for each, and a target that answers by rote.

#![allow(dead_code)] // Each test program uses a part of it.

pub mod attached;
#[path = "../../../ublk-target/tests/common/client.rs"]
pub mod nbd;
pub mod streams;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Directories of a test's own.
pub struct Place {
    pub directory: tempfile::TempDir,
}

/// What a run of `cairn` gave.
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Place {
    pub fn new() -> Place {
        // /tmp may be a tmpfs, which takes no direct I/O before Linux 6.6.
        let directory = tempfile::Builder::new().prefix("cairn-test.").tempdir_in("/var/tmp").expect("a directory");
        Place { directory }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cairn"));
        command
            .args(arguments)
            .env("CAIRN_STATE_DIR", self.path("state"))
            .env("CAIRN_RUN_DIR", self.path("run"))
            .env("CAIRN_DEV_DIR", self.path("dev"))
            .stdin(Stdio::null());
        command
    }

    pub fn cairn(&self, arguments: &[&str]) -> Ran {
        ran(self.command(arguments).output().expect("cairn runs"))
    }

    /// Runs and expects success.
    pub fn done(&self, arguments: &[&str]) -> Ran {
        let ran = self.cairn(arguments);
        assert_eq!(ran.code, 0, "cairn {arguments:?}: {}{}", ran.stdout, ran.stderr);
        ran
    }

    /// Runs with `--json`, expects success and one JSON document.
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let mut all = arguments.to_vec();
        all.push("--json");
        let ran = self.done(&all);
        serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {}", ran.stdout))
    }

    /// Runs with `--json` and expects this failure: exit code, and the kind of the error.
    pub fn fails(&self, arguments: &[&str], code: i32, kind: &str) -> String {
        let mut all = arguments.to_vec();
        all.push("--json");
        let ran = self.cairn(&all);
        assert_eq!(ran.code, code, "cairn {arguments:?}: {}{}", ran.stdout, ran.stderr);
        assert_eq!(ran.stdout, "", "a failure prints nothing on standard output");
        let error: serde_json::Value = serde_json::from_str(&ran.stderr).expect("a failure is one JSON object");
        assert_eq!(error["error"]["exit_code"], code);
        assert_eq!(error["error"]["kind"], kind, "{error}");
        error["error"]["message"].as_str().expect("a message").to_owned()
    }

    /// A file of zeroes.
    pub fn image(&self, name: &str, size_bytes: u64) -> String {
        std::fs::File::create(self.path(name)).and_then(|file| file.set_len(size_bytes)).expect("an image");
        self.text(name)
    }

    /// A configuration as `create` would leave it.
    pub fn configure(&self, volume: &str) {
        let directory = self.path("state/volumes");
        std::fs::create_dir_all(&directory).expect("the state directory");
        let config = serde_json::json!({
            "version": 1, "name": volume, "origin": self.image("origin.img", 1 << 20), "store": self.text("no.store"),
        });
        std::fs::write(directory.join(format!("{volume}.json")), config.to_string()).expect("a configuration");
    }

    /// A target for `volume` that gives `answer` to every request and remembers nothing. It ends with the test.
    pub fn fake_target(&self, volume: &str, answer: impl Fn(&str, &str) -> Vec<u8> + Send + 'static) {
        let directory = self.path("run").join(volume);
        std::fs::create_dir_all(&directory).expect("the run directory");
        let listener = UnixListener::bind(directory.join("control.sock")).expect("a socket");
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
                let (line, body) = read_request(&mut reader);
                // A client that went away is what some tests are about.
                let _ = stream.write_all(&answer(&line, &body));
            }
        });
    }
}

/// An HTTP answer.
pub fn http(status: u16, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} Any\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        .into_bytes()
}

/// An HTTP answer with an error of the control API.
pub fn http_error(status: u16, kind: &str) -> Vec<u8> {
    http(status, &format!(r#"{{"error":{{"kind":"{kind}","message":"what happened","errno":5}}}}"#))
}

fn read_request(reader: &mut impl BufRead) -> (String, String) {
    let mut first = String::new();
    reader.read_line(&mut first).expect("a request line");
    let mut length_bytes = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a header");
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length_bytes = value.trim().parse().expect("a length");
        }
    }
    let mut body = vec![0; length_bytes];
    reader.read_exact(&mut body).expect("a body");
    let mut words = first.split(' ');
    let request = format!("{} {}", words.next().expect("a method"), words.next().expect("a path"));
    (request, String::from_utf8(body).expect("text"))
}

pub fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).expect("text"),
        stderr: String::from_utf8(output.stderr).expect("text"),
    }
}

/// Runs a program and expects success.
pub fn sh(script: &str) -> String {
    let output = Command::new("bash").args(["-euo", "pipefail", "-c", script]).output().expect("bash runs");
    let ran = ran(output);
    assert_eq!(ran.code, 0, "{script}: {}{}", ran.stdout, ran.stderr);
    ran.stdout.trim().to_owned()
}

/// Whether what a test needs is here; where not, says loudly what is missing. With `CI=true` that is a failure.
pub fn have(test: &str, programs: &[&str], files: &[&str]) -> bool {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let missing_program = |name: &&&str| !path.split(':').any(|directory| Path::new(directory).join(name).exists());
    let missing_file = |name: &&&str| !Path::new(name).exists();
    let mut missing: Vec<&str> = programs.iter().filter(missing_program).copied().collect();
    missing.extend(files.iter().filter(missing_file));
    if !rustix::process::geteuid().is_root() {
        missing.push("root");
    }
    if missing.is_empty() {
        return true;
    }
    assert!(std::env::var("CI").is_err(), "{test}: missing here: {missing:?}");
    eprintln!("SKIPPED {test}: missing here: {missing:?}");
    false
}
