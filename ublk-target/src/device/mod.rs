//! A device Cairn stands on: the origin or the store, a block device or a regular file.
//!
//! Invariants:
//! - An exclusively opened device is held by one open file description until the last duplicate is closed *and* the
//!   last I/O submitted through it is done; so whoever opens it next finds nothing of ours in flight.
//! - All I/O bypasses the page cache; offsets and lengths are multiples of the logical sector.
//! - The size known here never shrinks, and is always a multiple of the logical sector.

mod backing;
mod limits;
mod mounts;
mod syscalls;

pub use backing::{backing_chain, refuse_recursion, Backing};
pub use limits::Limits;
pub use mounts::{mount_point_in, mount_points_of, users_of};
pub(crate) use syscalls::{discard_range, zero_range};

use cairn_engine::error::{Error, ErrorKind, Result};
use cairn_engine::flushes::Flushes;
use rustix::fs::{FileType, Mode, OFlags};
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How a device is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// For serving: read and write, and nobody else. While another process holds the device, opening is tried again
    /// for `wait_ms`, which a successor of a killed target needs until the kernel has let go.
    Exclusive {
        /// How long to wait for another holder, in milliseconds.
        wait_ms: u64,
    },
    /// For looking: read only, beside others.
    Inspect,
}

/// What a device is to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// A disk, partition, logical volume, loop device ...
    Block {
        /// Its device number.
        number: DeviceNumber,
    },
    /// A regular file on some filesystem.
    File,
}

/// Major and minor of a block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceNumber {
    /// The driver.
    pub major: u32,
    /// The device of that driver.
    pub minor: u32,
}

impl DeviceNumber {
    /// From the kernel's packed form.
    pub fn from_raw(raw: u64) -> DeviceNumber {
        DeviceNumber { major: rustix::fs::major(raw), minor: rustix::fs::minor(raw) }
    }
}

impl std::fmt::Display for DeviceNumber {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}:{}", self.major, self.minor)
    }
}

/// An open device. Shared by all threads; each drives its own ring over it.
#[derive(Debug)]
pub struct Device {
    path: PathBuf,
    file: File,
    kind: DeviceKind,
    size_bytes: AtomicU64,
    limits: Limits,
    flushes: Flushes,
    blocks_submitters: bool,
}

impl Device {
    /// All flushes of the device go through here, whichever thread asks for them.
    pub fn flushes(&self) -> &Flushes {
        &self.flushes
    }

    /// Whether whoever submits a request may have to wait for others: FUSE takes the file's lock while the request is
    /// submitted, and has it for as long as its server does not answer a flush.
    pub fn blocks_submitters(&self) -> bool {
        self.blocks_submitters
    }

    /// Opens the device at `path`. Errors name the device, who holds it, and what to do.
    pub fn open(path: &Path, access: Access) -> Result<Arc<Device>> {
        let wait_ms = if let Access::Exclusive { wait_ms } = access { wait_ms } else { 0 };
        let until = Instant::now() + Duration::from_millis(wait_ms);
        loop {
            match Device::open_once(path, access) {
                Err(error) if error.kind() == ErrorKind::Busy && Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(100));
                }
                result => return result.map(Arc::new),
            }
        }
    }

    fn open_once(path: &Path, access: Access) -> Result<Device> {
        let kind = kind_of(path)?;
        let exclusive = matches!(access, Access::Exclusive { .. });
        let mut flags = OFlags::DIRECT | OFlags::CLOEXEC;
        flags |= if exclusive { OFlags::RDWR } else { OFlags::RDONLY };
        if exclusive && kind != DeviceKind::File {
            flags |= OFlags::EXCL;
        }
        let descriptor = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| open_error(path, kind, errno))?;
        let file = File::from(descriptor);
        if exclusive && kind == DeviceKind::File {
            syscalls::lock_exclusively(&file).map_err(|_| held_error(path, kind))?;
            if let Some(user) = mounts::loop_device_over(path) {
                return Err(Error::new(ErrorKind::Busy, "open", path.display().to_string()).saying(format!(
                    "the file is attached to {user}, which may write to it; detach that with `losetup -d {user}`"
                )));
            }
        }
        let limits = Limits::probe(&file, kind).map_err(|source| {
            Error::new(ErrorKind::Io, "open", path.display().to_string())
                .saying("the device does not tell its sector size, or refuses direct I/O")
                .caused_by(source)
        })?;
        let (size_bytes, flushes) = Default::default();
        let blocks_submitters = kind == DeviceKind::File && is_on_fuse(&file);
        let device = Device { path: path.to_owned(), file, kind, size_bytes, limits, flushes, blocks_submitters };
        device.refresh_size()?;
        Ok(device)
    }

    /// Asks the kernel for the size again, and gives it, in bytes. A device that became smaller is an error.
    pub fn refresh_size(&self) -> Result<u64> {
        let failed = |source: std::io::Error| {
            Error::new(ErrorKind::Io, "get the size", self.path.display().to_string()).caused_by(source)
        };
        let size_bytes = match self.kind {
            DeviceKind::File => self.file.metadata().map_err(failed)?.len(),
            DeviceKind::Block { .. } => {
                rustix::fs::seek(&self.file, rustix::fs::SeekFrom::End(0)).map_err(|errno| failed(errno.into()))?
            }
        };
        let size_bytes = size_bytes - size_bytes % u64::from(self.limits.sector_bytes);
        let known_bytes = self.size_bytes.load(Ordering::Acquire);
        if size_bytes < known_bytes {
            return Err(Error::new(ErrorKind::Invalid, "get the size", self.path.display().to_string())
                .saying(format!("the device shrank from {known_bytes} to {size_bytes} bytes; give it back its size")));
        }
        self.size_bytes.fetch_max(size_bytes, Ordering::AcqRel);
        Ok(size_bytes)
    }

    /// Size as last asked for, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Ordering::Acquire)
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it is to the kernel.
    pub fn kind(&self) -> DeviceKind {
        self.kind
    }

    /// What it takes and likes.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The open file, for calls that need one.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The descriptor that rings submit on; valid as long as the device lives.
    pub fn raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// What stands at `path`: a block device or a regular file; anything else is an error.
pub fn kind_of(path: &Path) -> Result<DeviceKind> {
    let stat = rustix::fs::stat(path).map_err(|errno| open_error(path, DeviceKind::File, errno))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::BlockDevice => Ok(DeviceKind::Block { number: DeviceNumber::from_raw(stat.st_rdev) }),
        FileType::RegularFile => Ok(DeviceKind::File),
        _ => Err(Error::new(ErrorKind::Invalid, "open", path.display().to_string())
            .saying("this is neither a block device nor a regular file; name one of those")),
    }
}

fn is_on_fuse(file: &File) -> bool {
    const FUSE_SUPER_MAGIC: u64 = 0x6573_5546;
    rustix::fs::fstatfs(file).is_ok_and(|filesystem| filesystem.f_type as u64 == FUSE_SUPER_MAGIC)
}

fn open_error(path: &Path, kind: DeviceKind, errno: rustix::io::Errno) -> Error {
    use rustix::io::Errno;
    let (error_kind, message) = match errno {
        Errno::BUSY => return held_error(path, kind),
        Errno::NOENT | Errno::NXIO | Errno::NODEV | Errno::NOTDIR => {
            (ErrorKind::NotFound, "there is no such device or file; check the path and whether the disk is plugged in")
        }
        Errno::ACCESS | Errno::PERM => (ErrorKind::Invalid, "permission denied; run this as root"),
        Errno::ROFS => (ErrorKind::ReadOnly, "the device is read-only; make it writable (`blockdev --setrw`)"),
        Errno::INVAL => (ErrorKind::Invalid, "direct I/O is refused here; put the file on another file system"),
        _ => (ErrorKind::Io, "the kernel refused to open it"),
    };
    Error::new(error_kind, "open", path.display().to_string()).saying(message).caused_by(std::io::Error::from(errno))
}

fn held_error(path: &Path, kind: DeviceKind) -> Error {
    let users = match kind {
        DeviceKind::Block { number } => users_of(number),
        DeviceKind::File => Vec::new(),
    };
    let message = if users.is_empty() {
        "another process holds it exclusively, perhaps another cairn-target; stop that first".to_owned()
    } else {
        format!("it is in use: {}; free it first", users.join(", "))
    };
    Error::new(ErrorKind::Busy, "open", path.display().to_string()).saying(message)
}

#[cfg(test)]
mod tests;
