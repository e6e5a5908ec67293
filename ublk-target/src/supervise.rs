//! The supervisor: starts the worker that serves a volume, and starts a successor when it dies.
//!
//! While a worker is dead its block devices wait, and with them every filesystem above; so a successor is started at
//! once, and only repeated failures are slowed down.
//!
//! Invariants:
//! - At most one worker of a volume at a time, and one supervisor.
//! - The supervisor does no I/O on the volume and keeps no memory that grows.
//! - A worker that ends as it was asked to is not replaced; giving up is said loudly and leaves a file that says so.

use crate::paths::VolumePaths;
use crate::process::{self, InstanceLock};
use crate::readiness::Readiness;
use cairn_engine::error::{Error, ErrorKind, Result};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tokio::signal::unix::{signal, Signal, SignalKind};

/// A worker's exit code after a detach that was asked for and done; any other end is a failure to be mended.
pub const EXIT_DETACHED: i32 = 0;
/// A worker's exit code when the volume cannot be served and trying again would not help.
pub const EXIT_REFUSED: i32 = 3;

/// A worker that lived no longer than this, or never served, has failed quickly.
const QUICK: Duration = Duration::from_secs(2);
/// Quick failures in a row after which the supervisor gives up.
const QUICK_FAILURES_MAX: u32 = 10;
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(15);

/// What is supervised.
#[derive(Clone, Debug)]
pub struct SuperviseOptions {
    /// The program to start; this one.
    pub program: PathBuf,
    /// Arguments of the worker, without `--recover`.
    pub arguments: Vec<OsString>,
    /// Arguments of the first worker only: what the owner accepts once.
    pub arguments_once: Vec<OsString>,
    /// The first worker is a successor already.
    pub recover: bool,
    /// The volume's files.
    pub paths: VolumePaths,
    /// The volume's name.
    pub volume: String,
}

/// How long to wait before the next worker is started, or that it is not.
#[derive(Debug, Default)]
struct Patience {
    quick_failures: u32,
}

impl Patience {
    /// After a worker's death: the pause before the next one; none when it is enough.
    fn after(&mut self, served: bool, lived: Duration) -> Option<Duration> {
        if served && lived > QUICK {
            self.quick_failures = 0;
            return Some(Duration::ZERO);
        }
        self.quick_failures += 1;
        if self.quick_failures > QUICK_FAILURES_MAX {
            return None;
        }
        if self.quick_failures == 1 {
            return Some(Duration::ZERO);
        }
        let doubled = BACKOFF_FIRST.saturating_mul(1 << (self.quick_failures - 2).min(16));
        Some(doubled.min(BACKOFF_MAX))
    }
}

/// Supervises until the volume is detached. Announces readiness, or why there is none, on standard output.
pub fn supervise(options: &SuperviseOptions) -> Result<()> {
    let lock = InstanceLock::take_soon(&options.paths.supervisor_lock(), "a target of this volume");
    let _lock = announce_failure(lock)?;
    let _ = std::fs::remove_file(gave_up_mark(&options.paths));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = announce_failure(runtime.map_err(|source| failed(options).caused_by(source)))?;
    runtime.block_on(async {
        let mut signals = announce_failure(Signals::new().map_err(|source| failed(options).caused_by(source)))?;
        let mut patience = Patience::default();
        let mut recover = options.recover;
        let mut announced = false;
        loop {
            let started = Instant::now();
            let (child, served) = start(options, recover, announced)?;
            announced = true;
            if !served && !recover {
                let status = signals.wait_for(child).await;
                return Err(failed(options).saying(format!("the volume could not be served ({status})")));
            }
            let status = signals.wait_for(child).await;
            if matches!(status.code(), Some(EXIT_DETACHED | EXIT_REFUSED)) {
                return Ok(());
            }
            tracing::error!(volume = options.volume, %status, "the worker died; starting a successor");
            match patience.after(served, started.elapsed()) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(give_up(options)),
            }
            recover = true;
        }
    })
}

/// Starts a worker and waits for its one line; passes the first one on. Whether it serves.
fn start(options: &SuperviseOptions, recover: bool, announced: bool) -> Result<(Child, bool)> {
    let mut command = Command::new(&options.program);
    command.args(&options.arguments).stdin(Stdio::null()).stdout(Stdio::piped());
    if recover {
        command.arg("--recover");
    }
    if !announced {
        command.args(&options.arguments_once);
    }
    let spawned = command.spawn().map_err(|source| failed(options).caused_by(source));
    let mut child = if announced { spawned? } else { announce_failure(spawned)? };
    let output = child.stdout.take().expect("the worker's output is a pipe");
    let heard = Readiness::hear(output, &options.volume);
    let served = matches!(heard, Ok(Readiness::Ready(_)));
    if let Ok(Readiness::Failed(why)) = &heard {
        tracing::error!(volume = options.volume, "the worker cannot serve: {}", why.message);
    }
    if !announced {
        heard.unwrap_or_else(|error| Readiness::failed(&error)).announce();
    }
    Ok((child, served))
}

struct Signals {
    child: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            child: signal(SignalKind::child())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the end of the worker; requests to end are passed on to it, and it decides.
    async fn wait_for(&mut self, mut child: Child) -> ExitStatus {
        loop {
            if let Some(status) = child.try_wait().expect("a child of ours can be waited for") {
                return status;
            }
            tokio::select! {
                _ = self.child.recv() => {}
                _ = self.terminate.recv() => pass_on(&child),
                _ = self.interrupt.recv() => pass_on(&child),
            }
        }
    }
}

fn pass_on(child: &Child) {
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    let pid = pid.expect("a child has a process number");
    // It may have ended in between; then the next look tells.
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
}

fn give_up(options: &SuperviseOptions) -> Error {
    let message = format!(
        "{QUICK_FAILURES_MAX} workers died in a row; giving up. Requests to the volume wait. See {}, mend the cause, then \
         `cairn attach {}` goes on where it stopped",
        options.paths.log().display(),
        options.volume
    );
    let mark = gave_up_mark(&options.paths);
    if let Err(error) = std::fs::write(&mark, format!("{message}\n")) {
        tracing::error!(%error, path = %mark.display(), "that cannot be recorded");
    }
    let error = failed(options).saying(message);
    tracing::error!("{error}");
    error
}

/// The file that says that a supervisor gave up.
pub fn gave_up_mark(paths: &VolumePaths) -> PathBuf {
    paths.run_dir.join("gave-up")
}

fn failed(options: &SuperviseOptions) -> Error {
    Error::new(ErrorKind::Io, "serve", options.volume.clone())
}

fn announce_failure<T>(result: Result<T>) -> Result<T> {
    if let Err(error) = &result {
        Readiness::failed(error).announce();
    }
    result
}

/// Starts the supervisor as a process of its own, in the background, and passes on what it announces. Whether it
/// serves.
pub fn start_in_background(program: &std::path::Path, arguments: &[OsString], paths: &VolumePaths) -> Result<bool> {
    let failed = |source: std::io::Error| {
        Error::new(ErrorKind::Io, "start the target", paths.run_dir.display().to_string()).caused_by(source)
    };
    std::fs::create_dir_all(&paths.run_dir).map_err(failed)?;
    let log = std::fs::File::options().create(true).append(true).open(paths.log()).map_err(failed)?;
    let mut command = Command::new(program);
    command.args(arguments).current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    let mut child = command.spawn().map_err(failed)?;
    let output = child.stdout.take().expect("the supervisor's output is a pipe");
    let heard = Readiness::hear(output, &paths.run_dir.display().to_string());
    let heard = heard.unwrap_or_else(|error| Readiness::failed(&error));
    heard.announce();
    Ok(matches!(heard, Readiness::Ready(_)))
}

/// Makes this process independent of the terminal and session it was started from.
pub fn leave_session() {
    // Fails only for a process that leads a session already, which is as good.
    let _ = rustix::process::setsid();
    process::abort_on_panic();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths::Paths;

    #[test]
    fn a_worker_that_served_is_replaced_at_once_and_one_that_cannot_is_given_up() {
        let mut patience = Patience::default();
        for _ in 0..100 {
            assert_eq!(patience.after(true, Duration::from_secs(5)), Some(Duration::ZERO));
        }
        assert_eq!(patience.after(false, Duration::ZERO), Some(Duration::ZERO));
        let pauses: Vec<_> = std::iter::from_fn(|| patience.after(false, Duration::ZERO)).collect();
        assert_eq!(pauses.len() as u32, QUICK_FAILURES_MAX - 1);
        assert!(pauses.windows(2).all(|pair| pair[0] <= pair[1] && pair[1] <= BACKOFF_MAX));
    }

    fn shell(directory: &std::path::Path, script: &str) -> SuperviseOptions {
        let paths = Paths::resolve(Some(directory.into()), Some(directory.into()), Some(directory.into()));
        SuperviseOptions {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into(), "worker".into()],
            arguments_once: Vec::new(),
            recover: false,
            paths: paths.volume("web").expect("legal"),
            volume: "web".to_owned(),
        }
    }

    #[test]
    fn a_killed_worker_gets_a_successor_that_is_told_to_recover() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let ready = r#"{"ready":{"volume":"web","device":null,"nbd_uri":null,"control_socket":"/x","pid":1}}"#;
        let script = format!("echo '{ready}'; echo \"$1\" >> {0}/runs; [ -n \"$1\" ] || kill -9 $$", {
            directory.path().display()
        });
        supervise(&shell(directory.path(), &script)).expect("the second worker ends well");
        let runs = std::fs::read_to_string(directory.path().join("runs")).expect("recorded");
        assert_eq!(runs, "\n--recover\n");
    }

    #[test]
    fn a_volume_that_cannot_be_served_at_first_is_not_tried_again() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let script = format!("echo x >> {}/runs; exit 1", directory.path().display());
        supervise(&shell(directory.path(), &script)).expect_err("refused");
        assert_eq!(std::fs::read_to_string(directory.path().join("runs")).expect("recorded"), "x\n");
    }

    #[test]
    fn a_supervisor_beside_another_is_refused() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let options = shell(directory.path(), "exit 0");
        let _held = InstanceLock::take(&options.paths.supervisor_lock(), "a target").expect("free");
        assert_eq!(supervise(&options).expect_err("refused").kind(), ErrorKind::Busy);
    }
}
