//! What an administrator decided about a volume: one JSON file a volume in the state directory.
//!
//! Invariants:
//! - A configuration is replaced as a whole and durably: a crash leaves the old one or the new one.
//! - Unknown fields are refused, so that a newer file is never half understood.

use crate::paths::{Paths, VolumePaths};
use cairn_engine::error::{Error, ErrorKind, Result};
use cairn_engine::lateness::{self, SaveDeadline};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// Version of the file's meaning; a file with a greater one is refused.
pub const CONFIG_VERSION: u32 = 1;
/// What a save deadline may be, in milliseconds.
pub const SAVE_DEADLINE_MS_RANGE: RangeInclusive<u64> = 100..=3_600_000;
/// Requests a queue holds at once, by default.
pub const DEPTH_DEFAULT: u16 = 128;

const VOLUME_NAME_BYTES_MAX: usize = 64;
const SNAPSHOT_NAME_BYTES_MAX: usize = 128;

/// Which frontend serves the volume read-write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Frontend {
    /// ublk where the kernel has it, else NBD.
    #[default]
    Auto,
    /// A block device of this kernel, or failure.
    Ublk,
    /// A Unix socket that speaks NBD.
    Nbd,
}

/// What is done when a write has waited for the store until the save deadline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnLate {
    /// It goes on waiting, and `cairn show` says so.
    #[default]
    Wait,
    /// The snapshots break, so that writes go on.
    Break,
}

/// One volume's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeConfig {
    /// [`CONFIG_VERSION`].
    pub version: u32,
    /// The volume's name.
    pub name: String,
    /// Path of the real disk or image; best one that survives a reboot (/dev/disk/by-id/...).
    pub origin: PathBuf,
    /// Path of the store: a block device or a file.
    pub store: PathBuf,
    /// Identity of the store, from its superblock, as text; a store with another one is not joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_id: Option<String>,
    /// Frontend of the volume itself.
    #[serde(default)]
    pub frontend: Frontend,
    /// Queues of the ublk device; as many as CPUs when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queues: Option<u16>,
    /// Requests a queue holds at once; [`DEPTH_DEFAULT`] when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<u16>,
    /// A TCP address for NBD ("127.0.0.1:10809") beside the Unix socket; a loopback one where there is no TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbd_listen: Option<String>,
    /// The directory of the TLS credentials that every client over TCP then needs to match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_creds: Option<PathBuf>,
    /// How long a write may wait for the store; the engine's default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub save_deadline_ms: Option<u64>,
    /// What happens then; [`OnLate::Wait`] when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_late: Option<OnLate>,
}

impl VolumeConfig {
    /// A configuration with defaults for everything but the name and the two devices.
    pub fn new(name: impl Into<String>, origin: impl Into<PathBuf>, store: impl Into<PathBuf>) -> VolumeConfig {
        VolumeConfig {
            version: CONFIG_VERSION,
            name: name.into(),
            origin: origin.into(),
            store: store.into(),
            store_id: None,
            frontend: Frontend::Auto,
            queues: None,
            depth: None,
            nbd_listen: None,
            tls_creds: None,
            save_deadline_ms: None,
            on_late: None,
        }
    }

    /// Reads the configuration of volume `name`. [`ErrorKind::NotFound`] when there is none.
    pub fn load(paths: &Paths, name: &str) -> Result<VolumeConfig> {
        let path = paths.volume(name)?.config;
        let text = std::fs::read(&path).map_err(|source| {
            if source.kind() == std::io::ErrorKind::NotFound {
                Error::new(ErrorKind::NotFound, "read the configuration", name).saying(format!(
                    "there is no volume of this name in {}; `cairn list` shows those that exist",
                    paths.state_dir.display()
                ))
            } else {
                file_error("read the configuration", &path, source)
            }
        })?;
        let config: VolumeConfig = serde_json::from_slice(&text).map_err(|source| {
            Error::new(ErrorKind::Invalid, "read the configuration", path.display().to_string())
                .saying("the file is not a volume configuration of this version; mend it or restore it from a backup")
                .caused_by(source)
        })?;
        if config.version > CONFIG_VERSION {
            return Err(Error::new(ErrorKind::TooNew, "read the configuration", path.display().to_string())
                .saying(format!("it has version {}, this program knows {CONFIG_VERSION}", config.version)));
        }
        if config.name != name {
            return Err(Error::new(ErrorKind::Invalid, "read the configuration", path.display().to_string())
                .saying(format!("the file is of volume {:?}; a copy must get its own name inside too", config.name)));
        }
        if let Some(deadline_ms) = config.save_deadline_ms.filter(|one| !SAVE_DEADLINE_MS_RANGE.contains(one)) {
            let (least, most) = SAVE_DEADLINE_MS_RANGE.into_inner();
            return Err(Error::new(ErrorKind::Invalid, "read the configuration", path.display().to_string())
                .saying(format!("its save_deadline_ms is {deadline_ms}; it may be {least} to {most}, or be absent")));
        }
        Ok(config)
    }

    /// Every volume configured, by name. Files that cannot be read are errors of their own, so that one bad file does
    /// not hide the others.
    pub fn load_all(paths: &Paths) -> Result<Vec<(String, Result<VolumeConfig>)>> {
        let directory = paths.volumes_dir();
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(file_error("list the volumes", &directory, source)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|source| file_error("list the volumes", &directory, source))?;
            let file_name = entry.file_name();
            if let Some(name) = file_name.to_str().and_then(|text| text.strip_suffix(".json")) {
                if check_volume_name(name).is_ok() {
                    names.push(name.to_owned());
                }
            }
        }
        names.sort();
        Ok(names
            .into_iter()
            .map(|name| {
                let config = VolumeConfig::load(paths, &name);
                (name, config)
            })
            .collect())
    }

    /// Writes the configuration durably. `replace` false: [`ErrorKind::Exists`] when the volume is configured already.
    pub fn save(&self, paths: &Paths, replace: bool) -> Result<()> {
        let path = paths.volume(&self.name)?.config;
        if !replace && path.exists() {
            return Err(Error::new(ErrorKind::Exists, "create the volume", self.name.clone())
                .saying("a volume of this name exists; choose another name, or destroy that one first"));
        }
        let mut text = serde_json::to_vec_pretty(self).expect("a configuration is plain data");
        text.push(b'\n');
        write_durably(&path, &text)
    }

    /// Removes the configuration of a volume that is being destroyed, and its broken mark.
    pub fn remove(paths: &VolumePaths) -> Result<()> {
        for path in [&paths.broken_mark, &paths.config] {
            match std::fs::remove_file(path) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    return Err(file_error("remove the configuration", path, source));
                }
                _ => {}
            }
        }
        sync_parent(&paths.config)
    }

    /// Queues of the ublk device.
    pub fn queue_count(&self) -> u16 {
        let cpus = std::thread::available_parallelism().map_or(1, |count| count.get());
        self.queues.unwrap_or(u16::try_from(cpus).unwrap_or(u16::MAX)).max(1)
    }

    /// How long a write may wait for the store, and what happens then.
    pub fn save_deadline(&self) -> SaveDeadline {
        let default = SaveDeadline::default();
        SaveDeadline {
            deadline_ms: self.save_deadline_ms.unwrap_or(default.deadline_ms),
            on_late: match self.on_late.unwrap_or_default() {
                OnLate::Wait => lateness::OnLate::Wait,
                OnLate::Break => lateness::OnLate::Break,
            },
        }
    }

    /// Requests a queue holds at once.
    pub fn queue_depth(&self) -> u16 {
        self.depth.unwrap_or(DEPTH_DEFAULT)
    }
}

/// Whether a volume may have this name: a letter or digit, then up to 63 of letters, digits, `_`, `.`, `:`, `-`.
pub fn check_volume_name(name: &str) -> Result<()> {
    check_name("volume", name, VOLUME_NAME_BYTES_MAX)
}

/// Whether a snapshot may have this name: as a volume, up to 128 characters.
pub fn check_snapshot_name(name: &str) -> Result<()> {
    check_name("snapshot", name, SNAPSHOT_NAME_BYTES_MAX)
}

fn check_name(what: &str, name: &str, length_bytes_max: usize) -> Result<()> {
    let legal = |character: char| character.is_ascii_alphanumeric() || "_.:-".contains(character);
    let starts_well = name.starts_with(|character: char| character.is_ascii_alphanumeric());
    if starts_well && name.len() <= length_bytes_max && name.chars().all(legal) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Invalid, "check the name", format!("{name:?}")).saying(format!(
        "not a legal {what} name: it takes 1 to {length_bytes_max} of the characters A-Z a-z 0-9 _ . : - and starts \
         with a letter or a digit"
    )))
}

/// Replaces the content of `path` so that a crash leaves either the old or the new one. Makes its directory.
pub fn write_durably(path: &Path, content: &[u8]) -> Result<()> {
    let failed = |source| file_error("write", path, source);
    let directory = path.parent().expect("paths of a volume lie in a directory");
    std::fs::create_dir_all(directory).map_err(failed)?;
    let mut name = path.file_name().expect("paths of a volume have a name").to_owned();
    name.push(format!(".new.{}", std::process::id()));
    let temporary = directory.join(name);
    let mut file = std::fs::File::create(&temporary).map_err(failed)?;
    file.write_all(content).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    std::fs::rename(&temporary, path).map_err(failed)?;
    sync_parent(path)
}

fn sync_parent(path: &Path) -> Result<()> {
    let directory = path.parent().expect("paths of a volume lie in a directory");
    std::fs::File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|source| file_error("make durable", directory, source))
}

fn file_error(operation: &'static str, path: &Path, source: std::io::Error) -> Error {
    let kind = match source.kind() {
        std::io::ErrorKind::NotFound => ErrorKind::NotFound,
        std::io::ErrorKind::StorageFull => ErrorKind::NoSpace,
        std::io::ErrorKind::ReadOnlyFilesystem => ErrorKind::ReadOnly,
        _ => ErrorKind::Io,
    };
    Error::new(kind, operation, path.display().to_string()).saying("the file system refused it").caused_by(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths_in(directory: &Path) -> Paths {
        Paths::resolve(Some(directory.join("state")), Some(directory.join("run")), Some(directory.join("dev")))
    }

    #[test]
    fn a_configuration_survives_a_round_trip_and_is_not_overwritten_unasked() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let paths = paths_in(directory.path());
        let mut config = VolumeConfig::new("web", "/dev/vdb", "/srv/web.store");
        config.save(&paths, false).expect("the first save");
        assert_eq!(config.save(&paths, false).expect_err("exists").kind(), ErrorKind::Exists);
        config.queues = Some(3);
        config.save(&paths, true).expect("replacing is allowed when asked for");
        assert_eq!(VolumeConfig::load(&paths, "web").expect("loads"), config);
        assert_eq!(VolumeConfig::load_all(&paths).expect("lists").len(), 1);
        assert_eq!(VolumeConfig::load(&paths, "db").expect_err("absent").kind(), ErrorKind::NotFound);
    }

    #[test]
    fn unknown_fields_and_newer_versions_are_refused() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let paths = paths_in(directory.path());
        let mut config = VolumeConfig::new("web", "/dev/vdb", "/srv/web.store");
        config.version = CONFIG_VERSION + 1;
        config.save(&paths, false).expect("saves");
        assert_eq!(VolumeConfig::load(&paths, "web").expect_err("newer").kind(), ErrorKind::TooNew);
        let path = paths.volume("web").expect("legal").config;
        std::fs::write(&path, br#"{"version":1,"name":"web","origin":"/a","store":"/b","novel":1}"#).expect("writes");
        assert_eq!(VolumeConfig::load(&paths, "web").expect_err("unknown").kind(), ErrorKind::Invalid);
    }

    #[test]
    fn a_save_deadline_that_cannot_be_kept_is_refused_clearly() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let paths = paths_in(directory.path());
        let mut config = VolumeConfig::new("web", "/dev/vdb", "/srv/web.store");
        for (deadline_ms, is_legal) in [(0, false), (99, false), (100, true), (3_600_000, true), (3_600_001, false)] {
            config.save_deadline_ms = Some(deadline_ms);
            config.save(&paths, true).expect("saves");
            match VolumeConfig::load(&paths, "web") {
                Ok(loaded) => assert!(is_legal && loaded == config, "{deadline_ms}"),
                Err(error) => {
                    assert!(!is_legal && error.kind() == ErrorKind::Invalid, "{deadline_ms}: {error}");
                    assert!(error.to_string().contains("save_deadline_ms"), "{error}");
                }
            }
        }
    }

    #[test]
    fn illegal_names_are_refused() {
        for name in ["", "-a", "a/b", "a@b", "a b", "é", ".", "..", &"x".repeat(65)] {
            assert!(check_volume_name(name).is_err(), "{name:?}");
        }
        for name in ["a", "0", "web-1.prod:db_2", &"x".repeat(64)] {
            assert!(check_volume_name(name).is_ok(), "{name:?}");
        }
        assert!(check_snapshot_name(&"x".repeat(128)).is_ok());
        assert!(check_snapshot_name(&"x".repeat(129)).is_err());
    }
}
