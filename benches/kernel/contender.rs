//! What every contender can do, and the simplest of them: the bare disk.

use super::disk::Disk;
use anyhow::{Context, Result};
use cairn_engine::disk::aligned_buffer;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// One that is measured.
pub trait Stack {
    /// The device that the load goes to.
    fn device(&self) -> &Path;
    /// The disk of the volume.
    fn origin(&self) -> &[Disk];
    /// The disks that hold what snapshots need.
    fn stores(&self) -> &[Disk];
    /// Makes every block one that a snapshot needs.
    fn renew_snapshots(&mut self) -> Result<()>;
    /// The process that serves the device.
    fn process_id(&self) -> Option<u32> {
        None
    }
    /// Devices of the oldest and the youngest snapshot.
    fn snapshot_devices(&mut self) -> Result<[PathBuf; 2]> {
        anyhow::bail!("snapshots of this contender are not read")
    }
    /// Takes a snapshot beside all others.
    fn cut(&mut self) -> Result<()> {
        anyhow::bail!("this contender is not cut under load")
    }
    /// What the process says of itself.
    fn report(&self) -> Result<serde_json::Value> {
        Ok(serde_json::Value::Null)
    }
}

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
    fn device(&self) -> &Path {
        &self.path
    }
    fn origin(&self) -> &[Disk] {
        &self.disk
    }
    fn stores(&self) -> &[Disk] {
        &[]
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

/// Time that a process spent on a CPU so far.
pub fn cpu_time_us(process_id: u32) -> Result<u64> {
    let path = format!("/proc/{process_id}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("{path} cannot be read"))?;
    // Behind the name, which is in parentheses and may hold anything: field 14 and 15, in ticks of 10 ms.
    let rest = text.rsplit_once(')').with_context(|| format!("{path}: {text}"))?.1;
    let ticks = |index: usize| -> Result<u64> {
        let field = rest.split_whitespace().nth(index).with_context(|| format!("{path}: {text}"))?;
        Ok(field.parse()?)
    };
    Ok((ticks(11)? + ticks(12)?) * 10_000)
}
