//! What is remembered of a target: what it is a copy of, and a receive that is under way or was done last.
//!
//! Invariants:
//! - One receive at a time into a target, held by a lock.
//! - What is written here is durable before what it speaks of is done.

use super::identity::TargetIdentity;
use crate::exit::{ExitCode, Failure, Outcome};
use cairn_target::config::write_durably;
use cairn_target::paths::Paths;
use rustix::fs::{flock, FlockOperation};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Version of these files.
const VERSION: u32 = 1;

/// How far a receive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The target is neither what it was nor what it will be.
    Receiving,
    /// Done; it can be taken back.
    Done,
    /// Being taken back.
    Undoing,
}

/// A receive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Version of this file.
    pub version: u32,
    /// How far it is.
    pub stage: Stage,
    /// The target as it was named.
    pub target: String,
    /// Which delta.
    pub stream_id: String,
    /// Name of the snapshot that comes.
    pub snapshot: String,
    /// The target is a file that this receive made.
    pub created: bool,
    /// Size of the target before, where it is a file.
    pub length_before_bytes: u64,
    /// Size of the volume that the target was a copy of; 0 with a full stream.
    pub size_before_bytes: u64,
    /// What the target was a copy of.
    pub identity_before: Option<TargetIdentity>,
    /// Fingerprint of the target before, where it is known.
    pub base_fingerprint: Option<String>,
    /// Where the old content is, of a disk or a file.
    pub undo_file: Option<PathBuf>,
    /// The automatic snapshot of the state before, of a volume.
    pub before: Option<String>,
    /// That of the receive before this one, which goes when this one has begun.
    #[serde(default)]
    pub older_before: Option<String>,
    /// `before` was taken. Until then nothing is written.
    pub before_taken: bool,
    /// The snapshot that was taken at the end, of a volume.
    pub received: Option<String>,
    /// Where a continuation begins; none where nothing came yet.
    pub token: Option<String>,
}

/// The files of one target, held.
pub struct Place {
    directory: PathBuf,
    _lock: File,
}

impl Place {
    /// Those of the target with this key. Fails with `Busy` while another receive into it runs.
    pub fn open(paths: &Paths, key: &str, target: &str) -> Result<Place, Failure> {
        let digest = blake3::hash(key.as_bytes()).to_hex();
        let directory = paths.state_dir.join("receive").join(&digest[..32]);
        let failed = |error| Failure::io("open the state directory", &directory, error);
        std::fs::create_dir_all(&directory).map_err(failed)?;
        let lock =
            File::options().create(true).truncate(false).write(true).open(directory.join("lock")).map_err(failed)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            Failure::new(ExitCode::Busy, format!("{target}: another receive into it is under way; wait until it ends"))
        })?;
        Ok(Place { directory, _lock: lock })
    }

    /// Where old content is kept by default.
    pub fn undo_file(&self) -> PathBuf {
        self.directory.join("undo")
    }

    /// Where the identity of a disk or a volume is.
    pub fn identity_file(&self) -> PathBuf {
        self.directory.join("identity.json")
    }

    fn progress_file(&self) -> PathBuf {
        self.directory.join("progress.json")
    }

    /// The receive that is under way or was done last.
    pub fn progress(&self) -> Result<Option<Progress>, Failure> {
        let path = self.progress_file();
        let Some(progress) = read_json::<Progress>(&path)? else { return Ok(None) };
        match progress.version {
            VERSION => Ok(Some(progress)),
            version => {
                let message = format!("{}: version {version} of a newer cairn; use that", path.display());
                Err(Failure::new(ExitCode::Refused, message))
            }
        }
    }

    /// Remembers how far it is.
    pub fn save(&self, progress: &Progress) -> Outcome {
        write_json(&self.progress_file(), progress)
    }

    /// Remembers that it is being taken back.
    pub fn save_undoing(&self, progress: &mut Progress) -> Outcome {
        progress.stage = Stage::Undoing;
        self.save(progress)
    }

    /// Remembers that all of it came, and is durable.
    pub fn save_done(&self, progress: &mut Progress) -> Outcome {
        progress.stage = Stage::Done;
        progress.token = None;
        self.save(progress)
    }

    /// Forgets the receive.
    pub fn clear(&self) -> Outcome {
        remove(&self.progress_file())
    }
}

impl Progress {
    /// Of a receive that begins.
    pub fn new(target: &str, stream_id: &str, snapshot: &str) -> Progress {
        Progress {
            version: VERSION,
            stage: Stage::Receiving,
            target: target.to_owned(),
            stream_id: stream_id.to_owned(),
            snapshot: snapshot.to_owned(),
            created: false,
            length_before_bytes: 0,
            size_before_bytes: 0,
            identity_before: None,
            base_fingerprint: None,
            undo_file: None,
            before: None,
            older_before: None,
            before_taken: false,
            received: None,
            token: None,
        }
    }
}

/// What a file of ours holds; none where there is none.
pub fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, Failure> {
    match std::fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| {
            Failure::new(ExitCode::Damaged, format!("{}: not understood ({error}); move it away", path.display()))
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::io("read", path, error)),
    }
}

/// Writes a file of ours, durably.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Outcome {
    Ok(write_durably(path, &serde_json::to_vec_pretty(value).expect("plain data"))?)
}

/// Removes a file of ours, durably; it may be gone already.
pub fn remove(path: &Path) -> Outcome {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Failure::io("remove", path, error)),
        _ => {}
    }
    make_name_durable(path)
}

/// That there is a file of this name, or none, is durable afterwards.
pub fn make_name_durable(path: &Path) -> Outcome {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(|error| Failure::io("make durable", directory, error))
}
