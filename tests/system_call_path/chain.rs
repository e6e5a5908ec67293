//! One device as the engine meets it in this rig: a file that `nbdfuse` shows, which is an NBD export of a
//! `qemu-storage-daemon`, which keeps an image and does something with each request on the way.
//!
//! Invariants:
//! - Every request passes a filter of QEMU: one that logs it in the order of completion, or one that fails some.
//! - Dropping a chain unmounts the file and ends the processes it started.
//!
//! The daemon's own FUSE export is not used: with more than one request in flight it writes wrong bytes (10.0.2).

use serde_json::{json, Value};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a process may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// Says why the rig cannot run here, past the capture of the test harness. In continuous integration that is a failure.
pub fn is_possible(test: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_missing = |tool: &&str| !std::env::split_paths(&path).any(|directory| directory.join(tool).is_file());
    let missing: Vec<_> =
        ["qemu-storage-daemon", "nbdfuse", "fusermount3"].into_iter().filter(|tool| is_missing(tool)).collect();
    let reason = if !missing.is_empty() {
        format!("not installed: {} (packages qemu-utils, libnbd-bin, fuse3)", missing.join(", "))
    } else if let Err(error) = File::options().read(true).write(true).open("/dev/fuse") {
        format!("/dev/fuse cannot be opened: {error}")
    } else {
        return true;
    };
    // A failure to say so cannot be said either.
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {reason}");
    assert!(std::env::var_os("CI").is_none(), "{test} cannot run: {reason}");
    false
}

/// What the daemon does with the requests on their way to the image.
#[derive(Clone, Debug)]
pub enum Filter {
    /// Writes each of them to a log, in the format of the kernel's dm-log-writes.
    Log,
    /// Fails one of them.
    Fault(Fault),
}

/// Which requests fail, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Writes or flushes.
    pub target: Target,
    /// The first that fails, counted from 1.
    pub number: u64,
    /// All of them from there on, or that one alone.
    pub is_persistent: bool,
    /// What it fails with.
    pub errno: i32,
}

/// What a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Writes with data.
    Write,
    /// Flushes that have something to flush.
    Flush,
}

impl Fault {
    /// The options of QEMU's `blkdebug`. It has no counter, but states: each matching request moves it to the next one,
    /// and the fault belongs to the state in which the request with the right number finds it.
    fn options(self) -> Value {
        let (event, kind) = match self.target {
            Target::Write => ("pwritev", "write"),
            Target::Flush => ("flush_to_disk", "flush"),
        };
        let once = !self.is_persistent;
        let fault = json!({"event": event, "iotype": kind, "errno": self.errno, "state": self.number, "once": once});
        let mut options = json!({"driver": "blkdebug", "image": "image", "inject-error": [fault]});
        let steps: Vec<_> =
            (1..self.number).map(|state| json!({"event": event, "state": state, "new_state": state + 1})).collect();
        if !steps.is_empty() {
            options["set-state"] = Value::Array(steps);
        }
        options
    }
}

/// A running chain.
pub struct Chain {
    directory: PathBuf,
    processes: Vec<Child>,
}

impl Chain {
    /// Starts a chain over an image file of any name and size; everything else goes to `directory`, which is made.
    pub fn start(directory: &Path, image: &Path, filter: &Filter) -> Chain {
        fs::create_dir(directory).expect("a new directory");
        let size_bytes = fs::metadata(image).expect("an image").len();
        let mut chain = Chain { directory: directory.to_owned(), processes: Vec::new() };
        chain.start_daemon(image, filter);
        chain.start_fuse(size_bytes);
        chain
    }

    /// The file that the engine opens.
    pub fn file(&self) -> PathBuf {
        self.directory.join("device")
    }

    /// The log of a chain that has one.
    pub fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// How many requests nbdfuse saw fail.
    pub fn failures(&self) -> usize {
        let said = fs::read_to_string(self.directory.join("nbdfuse.err")).expect("what nbdfuse said");
        said.lines().filter(|line| line.contains("command failed")).count()
    }

    fn start_daemon(&mut self, image: &Path, filter: &Filter) {
        let file =
            |name, path: &Path| json!({"driver": "file", "node-name": name, "filename": path, "discard": "unmap"});
        let mut nodes = vec![file("image", image)];
        let filter = match filter {
            Filter::Log => {
                File::create(self.log()).expect("a log file");
                nodes.push(file("log", &self.log()));
                json!({"driver": "blklogwrites", "file": "image", "log": "log", "log-sector-size": 512})
            }
            Filter::Fault(fault) => fault.options(),
        };
        nodes.push(merged(filter, json!({"node-name": "filter", "discard": "unmap"})));
        // A flush is counted by `blkdebug` only when it comes from a node above it.
        nodes.push(json!({"driver": "raw", "node-name": "top", "file": "filter", "discard": "unmap"}));
        let mut command = Command::new("qemu-storage-daemon");
        for node in nodes {
            command.arg("--blockdev").arg(node.to_string());
        }
        let socket = self.directory.join("nbd.sock");
        let listen = json!({"addr": {"type": "unix", "path": socket}, "max-connections": 8});
        let export = json!({"type": "nbd", "id": "export", "node-name": "top", "name": "x", "writable": true});
        command.arg("--nbd-server").arg(listen.to_string()).arg("--export").arg(export.to_string());
        let ready = self.directory.join("daemon.pid");
        command.arg("--pidfile").arg(&ready);
        self.spawn(command, "daemon.err", || ready.exists());
    }

    fn start_fuse(&mut self, size_bytes: u64) {
        let file = self.file();
        File::create(&file).expect("a file to mount on");
        let uri = format!("nbd+unix:///x?socket={}", self.directory.join("nbd.sock").display());
        let mut command = Command::new("nbdfuse");
        command.arg(&file).arg(uri);
        self.spawn(command, "nbdfuse.err", || fs::metadata(&file).is_ok_and(|found| found.len() == size_bytes));
    }

    /// Starts a process and waits until it does its work.
    fn spawn(&mut self, mut command: Command, said: &str, is_ready: impl Fn() -> bool) {
        let said = self.directory.join(said);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let until = Instant::now() + PATIENCE;
        loop {
            let output = File::create(&said).expect("a file for what it says");
            let mut process = command.stderr(output).spawn().expect("is_possible was asked first");
            let Err(ended) = wait_until_ready(&mut process, &is_ready, until) else {
                return self.processes.push(process);
            };
            let words = fs::read_to_string(&said).unwrap_or_default();
            // A process that another test starts at this moment holds a copy of every file of this one, and with it the
            // lock of an image that was just made, until it becomes the program it is to be.
            let passes = ended.is_some() && words.contains("Failed to lock byte") && Instant::now() < until;
            assert!(passes, "{command:?} does not start: {ended:?}\n{words}");
            sleep(Duration::from_millis(10));
        }
    }
}

/// Waits until a process does its work. If it ended instead, how; none where it was ended because the time was over.
fn wait_until_ready(
    process: &mut Child,
    is_ready: impl Fn() -> bool,
    until: Instant,
) -> Result<(), Option<ExitStatus>> {
    while !is_ready() {
        let ended = process.try_wait().expect("a child can be asked");
        if ended.is_some() {
            return Err(ended);
        }
        if Instant::now() > until {
            // It may have ended by now.
            let _ = process.kill();
            let _ = process.wait();
            return Err(None);
        }
        sleep(Duration::from_millis(2));
    }
    Ok(())
}

impl Drop for Chain {
    fn drop(&mut self) {
        let unmounted = Command::new("fusermount3").arg("-u").arg("-z").arg(self.file()).status();
        let is_unmounted = unmounted.is_ok_and(|status| status.success());
        // The filesystem first, the daemon last: it closes its log when it is told to end.
        for process in self.processes.iter_mut().rev() {
            end(process);
        }
        assert!(is_unmounted || std::thread::panicking(), "{} cannot be unmounted", self.file().display());
    }
}

/// Asks a process to end, and makes it.
fn end(process: &mut Child) {
    let pid = i32::try_from(process.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a process number");
    // It may have ended by itself.
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if !matches!(process.try_wait(), Ok(None)) {
            return;
        }
        sleep(Duration::from_millis(2));
    }
    let _ = process.kill();
    let _ = process.wait();
}

fn merged(mut options: Value, more: Value) -> Value {
    let (Value::Object(target), Value::Object(more)) = (&mut options, more) else { panic!("two objects") };
    target.extend(more);
    options
}
