//! Which process has a block device open.
//!
//! Invariants:
//! - Processes that may not be looked into are skipped: the exclusive claim that follows still protects mounts.

use crate::device::DeviceNumber;
use rustix::fs::{FileType, RawMode};
use std::path::Path;

/// One process, other than this one, that has the block device open: its number and name.
pub fn opener_of(number: DeviceNumber) -> Option<String> {
    let own = std::process::id();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if pid == own {
            continue;
        }
        let descriptors = std::fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        if descriptors.into_iter().any(|descriptor| is_device(&descriptor.path(), number)) {
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{pid} ({})", name.trim()));
        }
    }
    None
}

fn is_device(path: &Path, number: DeviceNumber) -> bool {
    // Asks about what the descriptor refers to, without opening it.
    let Ok(stat) = rustix::fs::stat(path) else { return false };
    let block_device = FileType::from_raw_mode(stat.st_mode as RawMode) == FileType::BlockDevice;
    block_device && DeviceNumber::from_raw(stat.st_rdev) == number
}
