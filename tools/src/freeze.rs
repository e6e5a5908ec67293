//! Freezes a filesystem for the instant of a cut (mission A8).
//!
//! Invariants:
//! - A frozen filesystem is thawed at the time limit, whatever happens: a child process holds the freeze, and thaws
//!   when told, when the time is over, or when its parent is gone. Should the child die first, the parent thaws.
//! - Between freeze and thaw neither process touches a file: it could lie on the frozen filesystem.
//! - "Held until the end" is said only by the process that thawed.

#![allow(unsafe_code)]

use crate::exit::{ExitCode, Failure, Outcome};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// `_IOWR('X', 119, int)` and `_IOWR('X', 120, int)` of linux/fs.h.
const FIFREEZE: libc::c_ulong = 0xC004_5877;
const FITHAW: libc::c_ulong = 0xC004_5878;

/// A filesystem held frozen by a child process.
pub struct Frozen {
    mount_point: PathBuf,
    directory: File,
    child: Child,
    told: Option<ChildStdin>,
    heard: BufReader<ChildStdout>,
    since: Instant,
    limit: Duration,
}

impl Frozen {
    /// Freezes the filesystem at `mount_point`, for at most `limit_ms`.
    pub fn freeze(mount_point: &Path, limit_ms: u64) -> Result<Frozen, Failure> {
        let failed = |operation: &str, error| Failure::io(operation, mount_point, error);
        let directory = File::open(mount_point).map_err(|error| failed("open the mount point", error))?;
        let program = std::env::current_exe().map_err(|error| failed("find cairn itself", error))?;
        let mut child = Command::new(program)
            .arg("hold-frozen")
            .arg(mount_point)
            .arg(format!("--timeout-ms={limit_ms}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| failed("start the watchdog of the freeze", error))?;
        let told = child.stdin.take();
        let heard = BufReader::new(child.stdout.take().expect("standard output was asked to be a pipe"));
        let mut frozen = Frozen {
            mount_point: mount_point.to_owned(),
            directory,
            child,
            told,
            heard,
            since: Instant::now(),
            limit: Duration::from_millis(limit_ms),
        };
        match frozen.hear()?.as_str() {
            "frozen" => Ok(frozen),
            why => Err(Failure::new(
                ExitCode::Failed,
                format!(
                    "{}: cannot be frozen: {why}. Take the snapshot without --freeze, or see whether the filesystem \
                     supports it and is mounted for writing.",
                    mount_point.display()
                ),
            )),
        }
    }

    /// What is left of the time limit, in milliseconds.
    pub fn left_ms(&self) -> u64 {
        let left = self.limit.saturating_sub(self.since.elapsed());
        u64::try_from(left.as_millis()).expect("a time limit fits 64 bits of milliseconds")
    }

    /// Thaws. Fails with `TimedOut` when the filesystem had been thawed before.
    pub fn thaw(mut self) -> Outcome {
        drop(self.told.take());
        match self.hear()?.as_str() {
            "thawed" => Ok(()),
            "expired" => Err(Failure::new(
                ExitCode::TimedOut,
                format!(
                    "{}: was thawed at the time limit of {} ms, before the cut was done",
                    self.mount_point.display(),
                    self.limit.as_millis()
                ),
            )),
            why => Err(Failure::new(ExitCode::Failed, format!("{}: {why}", self.mount_point.display()))),
        }
    }

    /// One line from the child. A child that died leaves nothing: then nobody holds the freeze but us.
    fn hear(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        match self.heard.read_line(&mut line) {
            Ok(length) if length > 0 => Ok(line.trim_end().to_owned()),
            _ => {
                // Thawing what is not frozen is an error without consequences.
                let _ = control(&self.directory, FITHAW);
                Err(Failure::new(
                    ExitCode::Failed,
                    format!(
                        "{}: the watchdog of the freeze died; the filesystem is thawed",
                        self.mount_point.display()
                    ),
                ))
            }
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // The end of its input makes the child thaw and end.
        drop(self.told.take());
        let _ = self.child.wait();
    }
}

/// The child: freezes, holds until input ends or the time is over, thaws, and says how it went, a word a line.
pub fn hold(mount_point: &Path, limit_ms: u64) -> Outcome {
    // A Ctrl-C at the terminal is for the parent; its end reaches us as the end of input.
    let _ = rustix::process::setsid();
    let directory = match File::open(mount_point) {
        Ok(directory) => directory,
        Err(error) => return say(&error.to_string()),
    };
    if let Err(error) = control(&directory, FIFREEZE) {
        return say(&error.to_string());
    }
    let deadline = Instant::now() + Duration::from_millis(limit_ms);
    let told = say("frozen").and_then(|()| wait_for_end_of_input(deadline));
    let thawed = control(&directory, FITHAW);
    match (told, thawed) {
        (_, Err(error)) => say(&format!("thawing failed ({error}); run: fsfreeze -u {}", mount_point.display())),
        (Ok(true), Ok(())) => say("thawed"),
        (Ok(false), Ok(())) => say("expired"),
        (Err(failure), Ok(())) => Err(failure),
    }
}

/// Whether input ended before the deadline.
fn wait_for_end_of_input(deadline: Instant) -> Result<bool, Failure> {
    use rustix::event::{poll, PollFd, PollFlags, Timespec};
    let stdin = std::io::stdin();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        let mut watched = [PollFd::new(&stdin, PollFlags::IN)];
        match poll(&mut watched, Some(&left)) {
            Ok(0) => return Ok(false),
            Ok(_) => {
                let mut ignored = [0; 64];
                if matches!(stdin.lock().read(&mut ignored), Ok(0) | Err(_)) {
                    return Ok(true);
                }
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Failure::io("wait", Path::new("standard input"), error)),
        }
    }
}

fn say(word: &str) -> Outcome {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{word}")
        .and_then(|()| stdout.flush())
        .map_err(|error| Failure::io("write", Path::new("standard output"), error))
}

fn control(directory: &File, request: libc::c_ulong) -> std::io::Result<()> {
    // SAFETY: both requests take an int that the kernel ignores; the descriptor is open as long as `directory` lives.
    match unsafe { libc::ioctl(directory.as_raw_fd(), request as _, 0) } {
        0.. => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
