//! What a device takes and likes: sectors, hints, discard, cache, identity.
//!
//! Invariants:
//! - `sector_bytes` is 512 or 4096, and direct I/O at that alignment was promised by the kernel or tried.
//! - What is not known reads as the careful choice: a volatile cache, no FUA, no discard.

use super::{DeviceKind, DeviceNumber};
use cairn_engine::disk::aligned_buffer;
use cairn_engine::units::BLOCK_BYTES;
use rustix::fs::{AtFlags, StatxFlags};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Largest piece in which discards and zeroes are given to a device.
const RANGE_BYTES_MAX: u64 = 1 << 30;

/// The limits and hints of one device. Sizes in bytes; 0 where there is no such thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Smallest unit of I/O: 512 or 4096.
    pub sector_bytes: u32,
    /// What the device writes without reading first.
    pub physical_bytes: u32,
    /// Preferred smallest I/O.
    pub io_min_bytes: u32,
    /// Preferred large I/O.
    pub io_opt_bytes: u32,
    /// Largest discard; 0: it takes none.
    pub discard_bytes_max: u64,
    /// Unit of discard.
    pub discard_granularity_bytes: u32,
    /// Largest write-zeroes the device does by itself; 0: zeroes have to be written.
    pub write_zeroes_bytes_max: u64,
    /// A write can be made durable by itself.
    pub fua: bool,
    /// Completed writes may be lost until a flush.
    pub volatile_cache: bool,
    /// It turns, or says it does.
    pub rotational: bool,
    /// World-wide name or serial number, where it has one.
    pub serial: Option<String>,
}

impl Limits {
    /// Asks the kernel, and tries where it does not say.
    pub fn probe(file: &File, kind: DeviceKind) -> io::Result<Limits> {
        match kind {
            DeviceKind::Block { number } => Limits::of_block_device(file, number),
            DeviceKind::File => Limits::of_file(file),
        }
    }

    /// What the volume over such a disk offers: a discard always, for that is how it learns what is not in use.
    pub fn of_volume(&self) -> Limits {
        let mut limits = self.clone();
        if limits.discard_bytes_max == 0 {
            limits.discard_bytes_max = RANGE_BYTES_MAX;
            limits.discard_granularity_bytes = BLOCK_BYTES as u32;
        }
        limits
    }

    fn of_block_device(file: &File, number: DeviceNumber) -> io::Result<Limits> {
        let sector_bytes = rustix::fs::ioctl_blksszget(file)?;
        if sector_bytes != 512 && sector_bytes != 4096 {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("logical sectors of {sector_bytes} bytes; only 512 and 4096 are known"),
            ));
        }
        let physical_bytes = rustix::fs::ioctl_blkpbszget(file).unwrap_or(sector_bytes).max(sector_bytes);
        let disk = disk_directory(number);
        let number_in = |name: &str| disk.as_deref().and_then(|disk| read_number(&disk.join("queue").join(name)));
        let text_in = |name: &str| disk.as_deref().and_then(|disk| read_text(&disk.join(name)));
        let discard_bytes_max = number_in("discard_max_bytes").unwrap_or(0).min(RANGE_BYTES_MAX);
        let write_zeroes_bytes_max = number_in("write_zeroes_max_bytes").unwrap_or(0).min(RANGE_BYTES_MAX);
        let serial = ["device/wwid", "wwid", "device/serial", "serial", "dm/uuid"].into_iter().find_map(text_in);
        Ok(Limits {
            sector_bytes,
            physical_bytes,
            io_min_bytes: number_in("minimum_io_size").map_or(physical_bytes, saturate),
            io_opt_bytes: number_in("optimal_io_size").map_or(0, saturate),
            discard_bytes_max: discard_bytes_max - discard_bytes_max % u64::from(sector_bytes),
            discard_granularity_bytes: number_in("discard_granularity").map_or(0, saturate).max(sector_bytes),
            write_zeroes_bytes_max,
            fua: number_in("fua") == Some(1),
            volatile_cache: text_in("queue/write_cache").is_none_or(|mode| mode != "write through"),
            rotational: number_in("rotational") == Some(1),
            serial,
        })
    }

    fn of_file(file: &File) -> io::Result<Limits> {
        let sector_bytes = file_sector_bytes(file)?;
        Ok(Limits {
            sector_bytes,
            physical_bytes: 4096,
            io_min_bytes: 4096,
            io_opt_bytes: 0,
            discard_bytes_max: RANGE_BYTES_MAX,
            discard_granularity_bytes: 4096,
            write_zeroes_bytes_max: RANGE_BYTES_MAX,
            // RWF_DSYNC would do on most file systems, but not on all: FUSE (so virtiofs, too) drops it from asynchronous
            // direct writes (Linux 6.18). And where its flush fails it says no more than that a write did, while the
            // failure may have cost the writes of others.
            fua: false,
            volatile_cache: true,
            rotational: false,
            serial: None,
        })
    }
}

/// The directory in /sys of the whole disk behind a device: of itself, or of the disk it is a partition of.
pub(super) fn disk_directory(number: DeviceNumber) -> Option<PathBuf> {
    let directory = std::fs::canonicalize(format!("/sys/dev/block/{number}")).ok()?;
    if directory.join("partition").exists() {
        return directory.parent().map(Path::to_owned);
    }
    Some(directory)
}

/// The first line of a file, if there is one with anything in it.
pub(super) fn read_text(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().next()?.trim();
    (!line.is_empty()).then(|| line.to_owned())
}

fn read_number(path: &Path) -> Option<u64> {
    read_text(path)?.parse().ok()
}

fn saturate(bytes: u64) -> u32 {
    u32::try_from(bytes).unwrap_or(0)
}

/// The alignment direct I/O on this file needs: by statx where the file system says, else by trying to read.
fn file_sector_bytes(file: &File) -> io::Result<u32> {
    if let Ok(answer) = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) {
        if answer.stx_mask & StatxFlags::DIOALIGN.bits() != 0 && answer.stx_dio_offset_align != 0 {
            return Ok(if answer.stx_dio_offset_align <= 512 { 512 } else { 4096 });
        }
    }
    let mut buffer = aligned_buffer(4096);
    if file.read_at(&mut buffer[..512], 512).is_ok() {
        return Ok(512);
    }
    file.read_at(&mut buffer, 0)?;
    Ok(4096)
}
