//! Ends this process at a named step, for tests of what its successor finds. Compiled in by the feature `crash-at`.
//!
//! `CAIRN_CRASH_AT=origin-write-after:3` aborts right after the third write of the origin has completed, before anybody
//! above hears of it. `CAIRN_CRASH_AT=@FILE` takes the same from a file and removes it: one process takes it, its
//! successor finds nothing. All that the engine does to the outside it does by a call of its disks, so a step is one of
//! these calls and a moment of it:
//!
//! - `before`: nothing was submitted yet;
//! - `during`: it was submitted, and may or may not have completed;
//! - `after`: it has completed, and nobody was told.
//!
//! Invariants:
//! - What is not a step is refused before anything is served, with a list of the steps.
//! - Nothing is unwound or written on the way out: to the kernel it is as good as `kill -9`.

use crate::uring_disk::Direct;
use cairn_engine::disk::Disk;
use cairn_engine::error::{Error, ErrorKind, Result};
use io_uring::squeue;
use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::OnceLock;
use std::time::Duration;

/// The variable that names the step.
pub const VARIABLE: &str = "CAIRN_CRASH_AT";
/// From the submission to the end of the process, at a step `during`: time for the ring to hand the request on.
const DURING: Duration = Duration::from_micros(500);

const DISKS: [&str; 2] = ["origin", "store"];
const CALLS: [&str; 6] = ["read", "write", "write-durable", "write-zeroes", "discard", "flush"];
const MOMENTS: [&str; 3] = ["before", "during", "after"];

static CRASH: OnceLock<Crash> = OnceLock::new();

/// Where this process ends.
#[derive(Debug)]
struct Crash {
    step: String,
    /// Passings left; the last one is the end.
    left: AtomicU64,
}

impl Crash {
    fn parse(text: &str) -> Result<Crash> {
        let refused = |why: String| Error::new(ErrorKind::Invalid, "use", VARIABLE).saying(why);
        let (step, passing) = text.rsplit_once(':').unwrap_or((text, ""));
        if !steps().any(|known| known == step) {
            let known = steps().collect::<Vec<_>>().join(" ");
            return Err(refused(format!("there is no step {step:?}; the steps are: {known}")));
        }
        match passing.parse::<u64>() {
            Ok(left) if left > 0 => Ok(Crash { step: step.to_owned(), left: left.into() }),
            _ => Err(refused(format!("{text:?} does not say at which passing, counted from 1, as in {step}:1"))),
        }
    }

    /// Whether this passing of the step is the one.
    fn is_due(&self, disk: &str, call: &str, moment: &str) -> bool {
        let names = [disk, call, moment];
        let length = names.iter().map(|name| name.len() + 1).sum::<usize>() - 1;
        if self.step.len() != length || self.step != names.join("-") {
            return false;
        }
        // Once it is due it stays so for whoever comes after, until the process is gone.
        let counted = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| Some(left.saturating_sub(1)));
        counted.is_ok_and(|left| left <= 1)
    }

    fn end(&self) -> ! {
        eprintln!("{VARIABLE}: the process ends at {}", self.step);
        std::process::abort()
    }
}

fn steps() -> impl Iterator<Item = String> {
    DISKS.into_iter().flat_map(|disk| {
        CALLS.into_iter().flat_map(move |call| MOMENTS.into_iter().map(move |moment| format!("{disk}-{call}-{moment}")))
    })
}

/// Reads the variable, once, before anything is served.
pub fn arm_from_environment() -> Result<()> {
    let Ok(text) = std::env::var(VARIABLE) else { return Ok(()) };
    let text = match text.strip_prefix('@') {
        None => text,
        Some(path) => match take_file(Path::new(path))? {
            None => {
                tracing::info!("no step to end at");
                return Ok(());
            }
            Some(text) => text,
        },
    };
    let crash = Crash::parse(text.trim())?;
    tracing::warn!(step = crash.step, "this process is going to end itself there");
    CRASH.set(crash).expect("the variable is read once");
    Ok(())
}

fn take_file(path: &Path) -> Result<Option<String>> {
    let failed = |source| Error::new(ErrorKind::Io, "take", path.display().to_string()).caused_by(source);
    match std::fs::read_to_string(path) {
        Ok(text) => std::fs::remove_file(path).map(|()| Some(text)).map_err(failed),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// A disk whose calls are steps.
pub struct CrashAtDisk<D> {
    below: D,
    disk: &'static str,
}

impl<D: Disk> CrashAtDisk<D> {
    /// `disk`: "origin" or "store".
    pub fn new(below: D, disk: &'static str) -> CrashAtDisk<D> {
        assert!(DISKS.contains(&disk), "{disk} is no disk that steps are named after");
        CrashAtDisk { below, disk }
    }

    async fn step<T>(&self, call: &'static str, doing: impl Future<Output = Result<T>>) -> Result<T> {
        let Some(crash) = CRASH.get() else { return doing.await };
        if crash.is_due(self.disk, call, "before") {
            crash.end();
        }
        let mut doing = pin!(doing);
        let mut submitted = false;
        let result = std::future::poll_fn(|context| {
            let polled = doing.as_mut().poll(context);
            // The first poll is what submits.
            if !std::mem::replace(&mut submitted, true) && crash.is_due(self.disk, call, "during") {
                std::thread::spawn(|| {
                    std::thread::sleep(DURING);
                    crash.end()
                });
            }
            polled
        })
        .await;
        if crash.is_due(self.disk, call, "after") {
            crash.end();
        }
        result
    }
}

/// Where a process is to end at a step, everything goes by the calls, which are the steps; elsewhere nothing changes.
impl<D: Direct> Direct for CrashAtDisk<D> {
    fn direct_read(&self, offset_bytes: u64, buffer: &mut [u8]) -> Option<squeue::Entry> {
        CRASH.get().map_or_else(|| self.below.direct_read(offset_bytes, buffer), |_| None)
    }

    fn direct_write(&self, offset_bytes: u64, data: &[u8]) -> Option<squeue::Entry> {
        CRASH.get().map_or_else(|| self.below.direct_write(offset_bytes, data), |_| None)
    }

    fn direct_error(&self, operation: &'static str, offset_bytes: u64, errno: i32) -> Error {
        self.below.direct_error(operation, offset_bytes, errno)
    }
}

impl<D: Disk> Disk for CrashAtDisk<D> {
    fn size_bytes(&self) -> u64 {
        self.below.size_bytes()
    }

    fn sector_bytes(&self) -> u32 {
        self.below.sector_bytes()
    }

    fn discard_bytes_max(&self) -> u64 {
        self.below.discard_bytes_max()
    }

    async fn read(&self, offset_bytes: u64, buffer: &mut [u8]) -> Result<()> {
        self.step("read", self.below.read(offset_bytes, buffer)).await
    }

    async fn write(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.step("write", self.below.write(offset_bytes, data)).await
    }

    async fn write_durable(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.step("write-durable", self.below.write_durable(offset_bytes, data)).await
    }

    async fn write_zeroes(&self, offset_bytes: u64, length_bytes: u64, may_unmap: bool) -> Result<()> {
        self.step("write-zeroes", self.below.write_zeroes(offset_bytes, length_bytes, may_unmap)).await
    }

    async fn discard(&self, offset_bytes: u64, length_bytes: u64) -> Result<()> {
        self.step("discard", self.below.discard(offset_bytes, length_bytes)).await
    }

    async fn flush(&self) -> Result<()> {
        self.step("flush", self.below.flush()).await
    }

    fn flush_failures(&self) -> u64 {
        self.below.flush_failures()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_due_at_its_passing_and_at_no_other_step() {
        let crash = Crash::parse("store-write-durable-after:2").expect("a step");
        assert!(!crash.is_due("store", "write-durable", "after"));
        assert!(!crash.is_due("store", "write-durable", "before"));
        assert!(!crash.is_due("store", "write", "after"));
        assert!(!crash.is_due("origin", "write-durable", "after"));
        assert!(crash.is_due("store", "write-durable", "after"));
    }

    #[test]
    fn what_is_no_step_is_refused_with_the_steps() {
        let message = Crash::parse("origin-wriet-after:1").expect_err("no step").to_string();
        assert!(message.contains("origin-wriet-after") && message.contains("store-flush-during"), "{message}");
        for text in ["origin-read-before", "origin-read-before:", "origin-read-before:0", "origin-read-before:x", ""] {
            Crash::parse(text).expect_err(text);
        }
    }

    #[test]
    fn a_file_is_taken_by_one_process_only() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("crash-at");
        std::fs::write(&path, "store-flush-before:1\n").expect("written");
        assert_eq!(take_file(&path).expect("taken").as_deref(), Some("store-flush-before:1\n"));
        assert_eq!(take_file(&path).expect("nothing there"), None);
    }
}
