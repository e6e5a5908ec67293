//! What a successor has to know when a worker is killed: which kernel devices are its own, and what they show.
//!
//! Invariants:
//! - A device is recorded before the kernel shows it to anybody.
//! - A record of another boot of the machine means nothing: its devices are gone.

use crate::config::write_durably;
use crate::paths::VolumePaths;
use cairn_engine::error::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The run state of one volume, JSON in the run directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunState {
    /// The boot it belongs to, as the kernel writes it.
    pub boot_id: String,
    /// The worker that wrote it.
    pub worker_pid: u32,
    /// Number of the volume's ublk device, where ublk serves it.
    pub volume_device: Option<u32>,
    /// Snapshots that are exposed, by name.
    pub exposed: Vec<Exposed>,
}

/// One exposed snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exposed {
    /// The snapshot's name.
    pub snapshot: String,
    /// Number of its ublk device; none where its NBD export shows it.
    pub device: Option<u32>,
    /// It takes writes into an overlay that dies with its worker.
    pub scratch: bool,
}

impl RunState {
    /// An empty state of this process in this boot.
    pub fn new(boot_id: [u8; 16]) -> RunState {
        let boot_id = uuid::Uuid::from_bytes(boot_id).to_string();
        RunState { boot_id, worker_pid: std::process::id(), volume_device: None, exposed: Vec::new() }
    }

    /// A predecessor's state as this process's: it is responsible for all of it now.
    pub fn taken_over(left: RunState) -> RunState {
        RunState { worker_pid: std::process::id(), ..left }
    }

    /// Records how a snapshot is exposed, in place of what was recorded of it before.
    pub fn put_exposed(&mut self, exposed: Exposed) {
        self.remove_exposed(&exposed.snapshot);
        self.exposed.push(exposed);
    }

    /// Forgets how a snapshot is exposed.
    pub fn remove_exposed(&mut self, snapshot: &str) {
        self.exposed.retain(|entry| entry.snapshot != snapshot);
    }

    /// What a predecessor in this boot left behind; none where there was none, or its record cannot be understood.
    pub fn load(paths: &VolumePaths, boot_id: [u8; 16]) -> Option<RunState> {
        let text = std::fs::read(paths.run_state()).ok()?;
        match serde_json::from_slice::<RunState>(&text) {
            Ok(state) => (state.boot_id == uuid::Uuid::from_bytes(boot_id).to_string()).then_some(state),
            Err(error) => {
                tracing::warn!(%error, path = %paths.run_state().display(), "the run state cannot be understood");
                None
            }
        }
    }

    /// Writes it.
    pub fn save(&self, paths: &VolumePaths) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).expect("plain data");
        write_durably(&paths.run_state(), &text)
    }

    /// Removes it after a clean end.
    pub fn remove(paths: &VolumePaths) {
        let _ = std::fs::remove_file(paths.run_state());
    }
}

/// Points `link` at `device`, replacing an older link but nothing else.
pub fn link_device(link: &Path, device: &Path) -> Result<()> {
    let failed = |source: std::io::Error| {
        Error::new(ErrorKind::Io, "link the device", link.display().to_string()).caused_by(source)
    };
    let directory = link.parent().expect("links lie in the device directory");
    std::fs::create_dir_all(directory).map_err(failed)?;
    match std::fs::symlink_metadata(link) {
        Ok(metadata) if !metadata.is_symlink() => {
            return Err(Error::new(ErrorKind::Exists, "link the device", link.display().to_string())
                .saying("something that is no link is in the way; remove it"));
        }
        _ => {}
    }
    let mut name = link.file_name().expect("links have names").to_owned();
    name.push(".new");
    let temporary = directory.join(name);
    let _ = std::fs::remove_file(&temporary);
    std::os::unix::fs::symlink(device, &temporary).map_err(failed)?;
    std::fs::rename(&temporary, link).map_err(failed)
}

/// Removes a link to a device that is gone.
pub fn unlink_device(link: &Path) {
    if std::fs::symlink_metadata(link).is_ok_and(|metadata| metadata.is_symlink()) {
        let _ = std::fs::remove_file(link);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths::Paths;

    #[test]
    fn a_state_of_another_boot_means_nothing() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let paths = Paths::resolve(Some(directory.path().into()), Some(directory.path().into()), None);
        let volume = paths.volume("web").expect("legal");
        let mut state = RunState::new([1; 16]);
        state.volume_device = Some(3);
        state.exposed.push(Exposed { snapshot: "monday".to_owned(), device: Some(4), scratch: false });
        state.save(&volume).expect("saves");
        assert_eq!(RunState::load(&volume, [1; 16]), Some(state));
        assert_eq!(RunState::load(&volume, [2; 16]), None);
        std::fs::write(volume.run_state(), "{").expect("writes");
        assert_eq!(RunState::load(&volume, [1; 16]), None);
    }

    #[test]
    fn what_a_predecessor_left_stays_recorded_until_it_is_dealt_with() {
        let mut left = RunState { worker_pid: 1, ..RunState::new([1; 16]) };
        left.volume_device = Some(3);
        left.put_exposed(Exposed { snapshot: "monday".to_owned(), device: Some(4), scratch: false });
        let mut state = RunState::taken_over(left);
        assert_eq!((state.worker_pid, state.volume_device), (std::process::id(), Some(3)));
        state.put_exposed(Exposed { snapshot: "monday".to_owned(), device: Some(5), scratch: false });
        assert_eq!(state.exposed.iter().map(|exposed| exposed.device).collect::<Vec<_>>(), [Some(5)]);
        state.remove_exposed("monday");
        assert!(state.exposed.is_empty());
    }

    #[test]
    fn a_link_is_replaced_and_a_file_is_not() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let link = directory.path().join("dev/web");
        link_device(&link, Path::new("/dev/ublkb0")).expect("links");
        link_device(&link, Path::new("/dev/ublkb1")).expect("links again");
        assert_eq!(std::fs::read_link(&link).expect("a link"), Path::new("/dev/ublkb1"));
        unlink_device(&link);
        std::fs::write(&link, "data").expect("writes");
        assert_eq!(link_device(&link, Path::new("/dev/ublkb0")).expect_err("a file").kind(), ErrorKind::Exists);
        unlink_device(&link);
        assert!(link.exists());
    }
}
