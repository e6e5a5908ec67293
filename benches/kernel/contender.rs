//! The simplest contender, the bare disk, and what others need.

use super::disk::Disk;
use crate::turns::{device_target, Stack};
use anyhow::{Context, Result};
use cairn_engine::disk::aligned_buffer;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The disk itself.
pub struct Bare {
    path: PathBuf,
    disk: [Disk; 1],
}

impl Bare {
    /// This disk.
    pub fn new(disk: Disk) -> Bare {
        Bare { path: disk.path(), disk: [disk] }
    }
}

impl Stack for Bare {
    fn target(&self) -> Vec<String> {
        device_target(&self.path)
    }
    fn origin(&self) -> &[Disk] {
        &self.disk
    }
    fn renew_snapshots(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Opens a device past the page cache.
pub fn open_direct(path: &Path) -> Result<File> {
    let options = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path);
    options.with_context(|| format!("{} cannot be opened", path.display()))
}

/// Writes all of a device, in large pieces.
pub fn fill(path: &Path, size_bytes: u64) -> Result<()> {
    const PIECE_BYTES: u64 = 1 << 20;
    let (file, mut piece) = (open_direct(path)?, aligned_buffer(PIECE_BYTES as usize));
    for offset in (0..size_bytes).step_by(PIECE_BYTES as usize) {
        piece.fill((offset / PIECE_BYTES) as u8 | 1);
        file.write_all_at(&piece, offset).with_context(|| format!("{} cannot be written", path.display()))?;
    }
    Ok(())
}
