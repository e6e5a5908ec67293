//! Cairn's own NBD export, set up with its own commands.

use super::server::nbd_target;
use crate::kernel::cairn::find;
use crate::turns::Stack;
use anyhow::{ensure, Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// An attached volume; detached with this value.
pub struct Volume {
    directory: PathBuf,
    cairn: PathBuf,
    process_id: u32,
    taken: u64,
}

impl Volume {
    /// Makes a volume over the file `origin` in the directory, attaches it and takes a first snapshot.
    pub fn attach(directory: &Path, binaries: &Path, store_bytes: u64) -> Result<Volume> {
        let (directory, cairn) = (directory.to_owned(), binaries.join("cairn"));
        let mut volume = Volume { directory, cairn, process_id: 0, taken: 0 };
        let path = |name: &str| volume.directory.join(name).display().to_string();
        let (origin, store) = (path("origin"), path("store"));
        let store_bytes = store_bytes.to_string();
        volume.run(&["create", "vol", "--origin", &origin, "--store", &store, "--store-size", &store_bytes])?;
        volume.run(&["attach", "vol", "--frontend", "nbd"])?;
        let shown: serde_json::Value = serde_json::from_str(&volume.run(&["--json", "show", "vol"])?)?;
        let process_id = find(&shown, "process_id").and_then(serde_json::Value::as_u64);
        volume.process_id = process_id.context("the volume's process is not known")? as u32;
        volume.renew_snapshots()?;
        Ok(volume)
    }

    fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(&self.cairn)
            .args(arguments)
            .env("CAIRN_RUN_DIR", self.directory.join("run"))
            .env("CAIRN_STATE_DIR", self.directory.join("state"))
            .env("CAIRN_DEV_DIR", self.directory.join("dev"))
            .output()
            .context("cairn cannot be started")?;
        let complained = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "cairn {}: {complained}", arguments.join(" "));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if let Err(error) = self.run(&["detach", "vol"]) {
            eprintln!("{error}");
        }
    }
}

impl Stack for Volume {
    fn target(&self) -> Vec<String> {
        nbd_target(&self.directory.join("run/vol/nbd.sock"))
    }

    fn renew_snapshots(&mut self) -> Result<()> {
        self.run(&["snapshot", &format!("vol@s{}", self.taken)])?;
        if self.taken > 0 {
            self.run(&["delete", &format!("vol@s{}", self.taken - 1), "--yes"])?;
        }
        self.taken += 1;
        Ok(())
    }

    fn process_id(&self) -> Option<u32> {
        Some(self.process_id)
    }
}
