//! libublk's own loop example: what a ublk target costs that does nothing of its own.

use super::disk::Disk;
use crate::turns::{device_target, Stack};
use anyhow::{ensure, Context, Result};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A number that nobody else gets.
const DEVICE_NUMBER: u32 = 50;

/// The example, serving a disk.
pub struct LoopTarget {
    process: Child,
    path: PathBuf,
    disk: [Disk; 1],
}

impl LoopTarget {
    /// Starts it, with as many queues and as much depth as Cairn has.
    pub fn start(disk: Disk) -> Result<LoopTarget> {
        let mut command = Command::new("libublk-loop");
        command.args(["add", "--foreground", "--queues", "2", "--depth", "128"]);
        command.args(["--number", &DEVICE_NUMBER.to_string(), "--backing_file"]).arg(disk.path());
        let process = command.stdout(Stdio::null()).spawn().context("libublk-loop cannot be started")?;
        let path = PathBuf::from(format!("/dev/ublkb{DEVICE_NUMBER}"));
        let begun = Instant::now();
        while !path.exists() {
            ensure!(begun.elapsed() < Duration::from_secs(20), "{} does not appear", path.display());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(LoopTarget { process, path, disk: [disk] })
    }
}

impl Drop for LoopTarget {
    fn drop(&mut self) {
        // It lets go of its device when that is deleted; the kernel ends soon, so nobody waits for it.
        let _ = Command::new("libublk-loop").args(["del", "--number", &DEVICE_NUMBER.to_string()]).status();
        let _ = self.process.kill();
    }
}

impl Stack for LoopTarget {
    fn target(&self) -> Vec<String> {
        device_target(&self.path)
    }
    fn origin(&self) -> &[Disk] {
        &self.disk
    }
    fn renew_snapshots(&mut self) -> Result<()> {
        Ok(())
    }
    fn process_id(&self) -> Option<u32> {
        Some(self.process.id())
    }
}
