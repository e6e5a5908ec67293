//! What a process that serves a disk needs from the kernel before it serves: no swap-out, no write-back through itself,
//! no mounts of its own, no half-dead state; and who it is.
//!
//! Invariants:
//! - Set up before the first thread, so that every thread inherits it.
//! - A panic anywhere ends the whole process: a successor can serve, a half-dead process cannot.

#![allow(unsafe_code)]

use crate::config::write_durably;
use crate::paths::Paths;
use cairn_engine::error::{Error, ErrorKind, Result};
use rustix::mm::MlockAllFlags;
use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::thread::UnshareFlags;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long to wait for a process that is just ending, in steps.
const ENDING_POLL: Duration = Duration::from_millis(20);
const ENDING_POLLS: u32 = 100;

/// Where systemd keeps the identity of this machine; containers mount it from outside.
pub const MACHINE_ID: &str = "/etc/machine-id";

/// Makes this process fit to serve a disk. What the kernel refuses is said, not fatal: without privileges the
/// volume can still be served over NBD.
pub fn prepare_to_serve() {
    abort_on_panic();
    std::env::set_current_dir("/").expect("the root directory is there");
    let measures: [(&str, std::io::Result<()>); 3] = [
        (
            "its memory allocations may wait for its own disk",
            rustix::process::configure_io_flusher_behavior(true).map_err(Into::into),
        ),
        ("its memory may be swapped out", lock_memory()),
        ("it may be killed when memory is short", std::fs::write("/proc/self/oom_score_adj", "-1000")),
    ];
    for (consequence, result) in measures {
        if let Err(error) = result {
            tracing::warn!(%error, "this process is less protected than it should be: {consequence}");
        }
    }
}

/// Ends the process on a panic in any thread, after the message.
pub fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

/// Locks pages when they are first used, so that buffers nobody needed cost nothing.
fn lock_memory() -> std::io::Result<()> {
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    Ok(rustix::mm::mlockall(flags)?)
}

/// Gives this process a mount namespace of its own that holds only the mounts it needs, those over the `needed` paths.
///
/// Otherwise the end of this process could be what unmounts a filesystem on its own device, which needs the process;
/// and this process's copies would keep other volumes' filesystems busy after they were unmounted.
pub fn leave_mount_namespace(needed: &[&Path]) -> std::io::Result<()> {
    // SAFETY: only the mount namespace is left; descriptors stay shared, and there is no other thread yet.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
    // From here on nothing that is unmounted below is unmounted anywhere else.
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let text = std::fs::read_to_string("/proc/self/mountinfo")?;
    let mut points: Vec<PathBuf> = text.lines().filter_map(crate::device::mount_point_in).collect();
    // The deepest first; a mount over another one is listed after it.
    points.reverse();
    for point in points {
        if !keeps(&point, needed) {
            if let Err(error) = rustix::mount::unmount(&point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
                tracing::debug!(%error, point = %point.display(), "a mount stays in this process's view");
            }
        }
    }
    Ok(())
}

fn keeps(point: &Path, needed: &[&Path]) -> bool {
    const SYSTEM: [&str; 4] = ["/proc", "/sys", "/dev", "/run"];
    let system = SYSTEM.iter().any(|path| point == Path::new(path));
    system || needed.iter().any(|path| path.starts_with(point))
}

/// This machine, as systemd knows it, or as a random identity kept in the state directory.
pub fn host_id(paths: &Paths) -> Result<[u8; 16]> {
    let from_system = std::fs::read_to_string(MACHINE_ID).ok().and_then(|text| parse_id(&text));
    if let Some(id) = from_system {
        return Ok(id);
    }
    let kept = paths.state_dir.join("host-id");
    if let Some(id) = std::fs::read_to_string(&kept).ok().and_then(|text| parse_id(&text)) {
        return Ok(id);
    }
    let id = uuid::Uuid::new_v4();
    write_durably(&kept, format!("{}\n", id.simple()).as_bytes())?;
    Ok(*id.as_bytes())
}

/// This boot of the machine.
pub fn boot_id() -> Result<[u8; 16]> {
    let path = "/proc/sys/kernel/random/boot_id";
    std::fs::read_to_string(path).ok().and_then(|text| parse_id(&text)).ok_or_else(|| {
        Error::new(ErrorKind::Io, "read the boot id", path).saying("the kernel does not tell; is /proc mounted?")
    })
}

fn parse_id(text: &str) -> Option<[u8; 16]> {
    let id = uuid::Uuid::parse_str(text.trim()).ok()?;
    (!id.is_nil()).then(|| *id.as_bytes())
}

/// The clock, in milliseconds since 1970 UTC.
pub fn now_unix_ms() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

/// A file locked by this process until it ends.
#[derive(Debug)]
pub struct InstanceLock(#[allow(dead_code)] std::fs::File);

impl InstanceLock {
    /// As [`InstanceLock::take`], with patience for a process that has said its last word and is just ending.
    pub fn take_soon(path: &Path, what: &str) -> Result<InstanceLock> {
        for _ in 0..ENDING_POLLS {
            match InstanceLock::take(path, what) {
                Err(error) if error.kind() == ErrorKind::Busy => std::thread::sleep(ENDING_POLL),
                result => return result,
            }
        }
        InstanceLock::take(path, what)
    }

    /// Locks `path`, made with its directory where it is missing. `Busy` when another process has it; `what` says
    /// what that process would be.
    pub fn take(path: &Path, what: &str) -> Result<InstanceLock> {
        let failed = |source: std::io::Error| {
            Error::new(ErrorKind::Io, "lock", path.display().to_string())
                .saying("the run directory cannot be used; run this as root, or name another with --run-dir")
                .caused_by(source)
        };
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(failed)?;
        }
        let file = std::fs::File::options().create(true).truncate(false).write(true).open(path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(InstanceLock(file)),
            Err(std::fs::TryLockError::WouldBlock) => {
                Err(Error::new(ErrorKind::Busy, "lock", path.display().to_string())
                    .saying(format!("{what} is running already")))
            }
            Err(std::fs::TryLockError::Error(source)) => Err(failed(source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_mounts_over_needed_paths_are_kept() {
        let needed = [Path::new("/var/lib/cairn"), Path::new("/srv/store/web")];
        assert!(keeps(Path::new("/"), &needed));
        assert!(keeps(Path::new("/var/lib"), &needed));
        assert!(keeps(Path::new("/srv/store"), &needed));
        assert!(keeps(Path::new("/dev"), &needed));
        assert!(!keeps(Path::new("/srv/store2"), &needed));
        assert!(!keeps(Path::new("/mnt/volume"), &needed));
    }

    #[test]
    fn a_second_instance_is_refused_until_the_first_ends() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("web/lock");
        let first = InstanceLock::take(&path, "a target").expect("free");
        let error = InstanceLock::take(&path, "a target").expect_err("taken");
        assert_eq!(error.kind(), ErrorKind::Busy);
        drop(first);
        InstanceLock::take(&path, "a target").expect("free again");
    }

    #[test]
    fn a_process_that_is_just_ending_is_waited_for() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("lock");
        let ending = InstanceLock::take(&path, "a target").expect("free");
        let waiting = std::thread::spawn(move || InstanceLock::take_soon(&path, "a target").map(drop));
        std::thread::sleep(Duration::from_millis(100));
        drop(ending);
        waiting.join().expect("ends").expect("taken when it was free");
    }

    #[test]
    fn a_machine_id_is_read_with_or_without_dashes() {
        let plain = parse_id("0123456789abcdef0123456789abcdef\n");
        assert!(plain.is_some());
        assert_eq!(plain, parse_id("01234567-89ab-cdef-0123-456789abcdef"));
        assert_eq!(parse_id("uninitialized"), None);
        assert_eq!(parse_id("00000000000000000000000000000000"), None);
    }
}
