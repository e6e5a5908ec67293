//! Where Cairn keeps things: state, run files, device nodes.
//!
//! Invariants:
//! - The state directory survives a reboot, the run directory does not; nothing in the run directory is needed to
//!   find data again.
//! - Every path of a volume is made here, from a checked name, so that a name can never leave its directory.

use crate::config::check_volume_name;
use cairn_engine::error::Result;
use std::path::{Path, PathBuf};

/// Volume configurations, broken marks, scratch overlays.
pub const STATE_DIR_DEFAULT: &str = "/var/lib/cairn";
/// Control sockets, pids, ids of kernel devices.
pub const RUN_DIR_DEFAULT: &str = "/run/cairn";
/// Links to the kernel's block devices, one a volume and one an exposed snapshot.
pub const DEVICE_DIR_DEFAULT: &str = "/dev/cairn";

/// The three directories one installation of Cairn works in. Two installations with different directories live side by
/// side on one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Survives a reboot.
    pub state_dir: PathBuf,
    /// Does not.
    pub run_dir: PathBuf,
    /// Where the links to the block devices are made.
    pub device_dir: PathBuf,
}

impl Default for Paths {
    fn default() -> Paths {
        Paths::resolve(None, None, None)
    }
}

impl Paths {
    /// Each directory by option, else by `CAIRN_STATE_DIR`, `CAIRN_RUN_DIR`, `CAIRN_DEV_DIR`, else the default.
    /// Relative ones are made absolute, because the target changes its working directory.
    pub fn resolve(state_dir: Option<PathBuf>, run_dir: Option<PathBuf>, device_dir: Option<PathBuf>) -> Paths {
        Paths {
            state_dir: directory(state_dir, "CAIRN_STATE_DIR", STATE_DIR_DEFAULT),
            run_dir: directory(run_dir, "CAIRN_RUN_DIR", RUN_DIR_DEFAULT),
            device_dir: directory(device_dir, "CAIRN_DEV_DIR", DEVICE_DIR_DEFAULT),
        }
    }

    /// Directory of the volume configurations.
    pub fn volumes_dir(&self) -> PathBuf {
        self.state_dir.join("volumes")
    }

    /// The files of one volume. An illegal name is an error.
    pub fn volume(&self, name: &str) -> Result<VolumePaths> {
        check_volume_name(name)?;
        Ok(VolumePaths {
            name: name.to_owned(),
            config: self.volumes_dir().join(format!("{name}.json")),
            broken_mark: self.volumes_dir().join(format!("{name}.broken")),
            audit: self.state_dir.join("audit").join(format!("{name}.json")),
            scratch_dir: self.state_dir.join("scratch"),
            run_dir: self.run_dir.join(name),
            device_dir: self.device_dir.clone(),
        })
    }
}

/// Every path that belongs to one volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumePaths {
    name: String,
    /// The configuration, JSON.
    pub config: PathBuf,
    /// Exists when the store could not record that snapshots are broken.
    pub broken_mark: PathBuf,
    /// What the last audit found, JSON.
    pub audit: PathBuf,
    /// Where overlays of scratch devices are made.
    pub scratch_dir: PathBuf,
    /// The run directory of this volume.
    pub run_dir: PathBuf,
    /// The directory of device links, shared by all volumes.
    pub device_dir: PathBuf,
}

impl VolumePaths {
    /// The control API's socket.
    pub fn control_socket(&self) -> PathBuf {
        self.run_dir.join("control.sock")
    }

    /// The NBD server's socket.
    pub fn nbd_socket(&self) -> PathBuf {
        self.run_dir.join("nbd.sock")
    }

    /// The worker's run state, JSON: what a successor has to re-adopt.
    pub fn run_state(&self) -> PathBuf {
        self.run_dir.join("run.json")
    }

    /// Locked by the worker as long as it lives.
    pub fn instance_lock(&self) -> PathBuf {
        self.run_dir.join("lock")
    }

    /// Locked by the supervisor as long as it lives.
    pub fn supervisor_lock(&self) -> PathBuf {
        self.run_dir.join("supervisor.lock")
    }

    /// What supervisor and worker say when nobody watches.
    pub fn log(&self) -> PathBuf {
        self.run_dir.join("target.log")
    }

    /// The link to the volume's block device.
    pub fn device_link(&self) -> PathBuf {
        self.device_dir.join(&self.name)
    }

    /// The link to an exposed snapshot's block device.
    pub fn snapshot_link(&self, snapshot: &str) -> PathBuf {
        self.device_dir.join(format!("{}@{snapshot}", self.name))
    }
}

fn directory(option: Option<PathBuf>, variable: &str, default: &str) -> PathBuf {
    let chosen = option
        .or_else(|| std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from))
        .unwrap_or_else(|| PathBuf::from(default));
    std::path::absolute(&chosen).unwrap_or_else(|_| Path::new("/").join(&chosen))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_never_leaves_its_directory() {
        let paths = Paths::resolve(Some("/s".into()), Some("/r".into()), Some("/d".into()));
        for bad in ["", "../x", "a/b", "a@b", ".hidden", "a b"] {
            assert!(paths.volume(bad).is_err(), "{bad:?}");
        }
        let volume = paths.volume("web-1").expect("a legal name");
        assert_eq!(volume.config, Path::new("/s/volumes/web-1.json"));
        assert_eq!(volume.control_socket(), Path::new("/r/web-1/control.sock"));
        assert_eq!(volume.snapshot_link("monday"), Path::new("/d/web-1@monday"));
    }
}
