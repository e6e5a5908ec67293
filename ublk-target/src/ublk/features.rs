//! The ladder of what the running kernel offers, and which kernels are known to be broken.
//!
//! Invariants:
//! - A rung is optional, or its absence is a reason not to use ublk at all; nothing else is ever assumed.
//! - Looking changes nothing, except that the driver's module may be loaded when asked.

use libublk::ctrl::UblkCtrl;
use libublk::sys;
use std::path::Path;

/// One thing the kernel may offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rung {
    /// The driver is there.
    Driver,
    /// io_uring may be used.
    IoUring,
    /// This kernel is not known to be broken.
    SoundKernel,
    /// This process may create devices.
    Privilege,
    /// As much memory may be locked as is needed.
    LockedMemory,
    /// A successor can take over a device.
    UserRecovery,
    /// It repeats what was not acknowledged.
    Reissue,
    /// Discards go through io_uring.
    DiscardByRing,
    /// A device can grow while in use.
    UpdateSize,
    /// The driver's copies of data do not fail in a process that is being killed.
    DriverCopy,
    /// Data need not be copied.
    ZeroCopy,
    /// A device can be handed over without killing its process.
    Quiesce,
    /// Several threads can serve a queue.
    ThreadsPerQueue,
    /// Requests travel in batches.
    BatchIo,
    /// A device in use refuses to be stopped by itself.
    SafeStop,
}

/// Whether a rung is there, and if not, why and what it takes.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Feature {
    /// Stable key.
    pub key: String,
    /// What it is good for.
    pub purpose: String,
    /// Without it ublk is not used.
    pub required: bool,
    /// It is there.
    pub present: bool,
    /// Why not, and what to do; empty when present.
    pub reason: String,
}

struct RungText {
    rung: Rung,
    key: &'static str,
    purpose: &'static str,
    required: bool,
}

const fn text(rung: Rung, key: &'static str, purpose: &'static str, required: bool) -> RungText {
    RungText { rung, key, purpose, required }
}

const LADDER: [RungText; 15] = [
    text(Rung::Driver, "driver", "block devices served by a process", true),
    text(Rung::IoUring, "io-uring", "all I/O", true),
    text(Rung::SoundKernel, "sound-kernel", "creating devices without a kernel crash", true),
    text(Rung::Privilege, "privilege", "creating devices", true),
    text(Rung::LockedMemory, "locked-memory", "no page fault on the write-back path", false),
    text(Rung::UserRecovery, "user-recovery", "a killed target is replaced under mounted filesystems", true),
    text(Rung::Reissue, "reissue", "no I/O error when that happens", true),
    text(Rung::DiscardByRing, "discard-by-ring", "discards without a helper thread", false),
    text(Rung::UpdateSize, "update-size", "growing a volume while it is in use", false),
    text(Rung::DriverCopy, "driver-copy", "one system call less for a read or a write", false),
    text(Rung::ZeroCopy, "zero-copy", "large I/O without copying (not used yet)", false),
    text(Rung::Quiesce, "quiesce", "upgrading the target without killing it (not used yet)", false),
    text(Rung::ThreadsPerQueue, "threads-per-queue", "more than one thread a queue (not used yet)", false),
    text(Rung::BatchIo, "batch-io", "requests in batches (not used yet)", false),
    text(Rung::SafeStop, "safe-stop", "the kernel itself refuses to stop a device in use (not used yet)", false),
];

/// All rungs, in order.
pub fn ladder() -> Vec<Feature> {
    let kernel = Kernel::running();
    let driver = driver_features();
    LADDER
        .iter()
        .map(|entry| {
            let reason = missing(entry.rung, &kernel, driver);
            Feature {
                key: entry.key.to_owned(),
                purpose: entry.purpose.to_owned(),
                required: entry.required,
                present: reason.is_none(),
                reason: reason.unwrap_or_default(),
            }
        })
        .collect()
}

/// Why ublk cannot be used here, as one sentence; none when it can.
pub fn obstacle() -> Option<String> {
    let missing = ladder().into_iter().find(|feature| feature.required && !feature.present)?;
    Some(format!("ublk cannot be used here: {}", missing.reason))
}

/// Whether the loaded driver has a rung that a flag of its own stands for.
pub fn driver_has(rung: Rung) -> bool {
    missing(rung, &Kernel::running(), driver_features()).is_none()
}

/// Asks for the driver's module where the driver is not there; whether that helped shows in the ladder.
pub fn load_driver() {
    if Path::new("/dev/ublk-control").exists() {
        return;
    }
    let _ = std::process::Command::new("modprobe")
        .arg("ublk_drv")
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status();
}

fn driver_features() -> Option<u64> {
    if !Path::new("/dev/ublk-control").exists() {
        return None;
    }
    // On a thread of its own: libublk's control ring belongs to the thread that made it.
    std::thread::spawn(UblkCtrl::get_features).join().ok().flatten()
}

fn missing(rung: Rung, kernel: &Kernel, driver: Option<u64>) -> Option<String> {
    let flag = |flag: u32, since: &str| match driver {
        Some(features) if features & u64::from(flag) != 0 => None,
        _ => Some(format!("the driver of {} does not have it; Linux {since} does", kernel.release)),
    };
    match rung {
        Rung::Driver => (!Path::new("/dev/ublk-control").exists()).then(|| {
            "the driver is not loaded; try `modprobe ublk_drv` (Debian 13, Ubuntu: package \
             linux-modules-extra); the stock kernel of Debian 12 does not have it"
                .to_owned()
        }),
        Rung::IoUring => io_uring_disabled(),
        Rung::SoundKernel => kernel.known_broken(),
        Rung::Privilege => (!rustix::process::geteuid().is_root()).then(|| "run this as root".to_owned()),
        Rung::LockedMemory => locked_memory_missing(),
        Rung::UserRecovery => flag(sys::UBLK_F_USER_RECOVERY, "6.1"),
        Rung::Reissue => flag(sys::UBLK_F_USER_RECOVERY_REISSUE, "6.1"),
        Rung::DiscardByRing => (!kernel.at_least(6, 12)).then(|| "it takes Linux 6.12".to_owned()),
        Rung::UpdateSize => flag(sys::UBLK_F_UPDATE_SIZE, "6.16"),
        Rung::DriverCopy => (!kernel.at_least(7, 0)).then(|| {
            "before Linux 7.0 the driver fails reads of a process that is being killed; data is copied here instead"
                .to_owned()
        }),
        Rung::ZeroCopy => flag(sys::UBLK_F_AUTO_BUF_REG, "6.16"),
        Rung::Quiesce => flag(sys::UBLK_F_QUIESCE, "6.16"),
        Rung::ThreadsPerQueue => flag(sys::UBLK_F_PER_IO_DAEMON, "6.16"),
        Rung::BatchIo => flag(sys::UBLK_F_BATCH_IO, "7.0"),
        Rung::SafeStop => flag(sys::UBLK_F_SAFE_STOP_DEV, "7.0"),
    }
}

fn io_uring_disabled() -> Option<String> {
    let setting = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    if setting.trim() == "2" {
        return Some("io_uring is switched off; `sysctl kernel.io_uring_disabled=0`".to_owned());
    }
    match io_uring::IoUring::new(2) {
        Ok(_) => None,
        Err(error) => Some(format!("io_uring cannot be used ({error}); a container's seccomp profile may forbid it")),
    }
}

fn locked_memory_missing() -> Option<String> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
    match limit {
        Some(bytes) if bytes < (64 << 20) && !rustix::process::geteuid().is_root() => {
            Some(format!("only {bytes} bytes may be locked; raise RLIMIT_MEMLOCK"))
        }
        _ => None,
    }
}

/// The running kernel, by its release.
struct Kernel {
    release: String,
    version: (u32, u32, u32),
}

impl Kernel {
    fn running() -> Kernel {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Kernel::from_release(release.trim().to_owned())
    }

    fn from_release(release: String) -> Kernel {
        let digits = release.split(|character: char| !character.is_ascii_digit());
        let mut numbers = digits.map(|number| number.parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        let version = (next(), next(), next());
        Kernel { release, version }
    }

    fn at_least(&self, major: u32, minor: u32) -> bool {
        (self.version.0, self.version.1) >= (major, minor)
    }

    /// Kernels that crash when a ublk device is added.
    fn known_broken(&self) -> Option<String> {
        let vanilla = [(6, 18, 4), (6, 18, 5)].contains(&self.version);
        let ubuntu = ["6.17.0-1015", "6.17.0-1017", "6.17.0-1018"].iter().any(|bad| {
            let rest = self.release.strip_prefix(bad);
            rest.is_some_and(|rest| !rest.starts_with(|character: char| character.is_ascii_digit()))
        });
        (vanilla || ubuntu).then(|| {
            format!("Linux {} crashes when a ublk device is added; update the kernel (6.18.6 is sound)", self.release)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_known_to_crash_are_refused_and_their_neighbours_are_not() {
        let broken = |release: &str| Kernel::from_release(release.to_owned()).known_broken().is_some();
        for release in ["6.18.4", "6.18.5-arch1", "6.17.0-1015-azure", "6.17.0-1018-aws"] {
            assert!(broken(release), "{release}");
        }
        for release in ["6.18.3", "6.18.6", "6.18.44", "6.17.0-1016-azure", "6.17.0-10150", "6.12.107+deb13"] {
            assert!(!broken(release), "{release}");
        }
        assert!(Kernel::from_release("6.12.107+deb13-amd64".to_owned()).at_least(6, 12));
        assert!(!Kernel::from_release("6.8.0-31-generic".to_owned()).at_least(6, 12));
    }

    #[test]
    fn the_ladder_gives_a_reason_for_everything_that_is_missing() {
        let features = ladder();
        assert_eq!(features.len(), LADDER.len());
        assert!(features.iter().all(|feature| feature.present == feature.reason.is_empty()));
    }
}
