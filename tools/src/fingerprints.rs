//! Fingerprints of snapshots that were sent, kept so that the next send need not read a whole volume.
//!
//! Invariants:
//! - A fingerprint belongs to an epoch of a store, never to a name: names are used again.
//! - Only what the content of a snapshot was read for, or what follows from such exactly, is kept.

use crate::exit::{Failure, Outcome};
use crate::source::Facts;
use cairn_delta::Fingerprint;
use cairn_target::config::write_durably;
use cairn_target::control::api::SnapshotReport;
use cairn_target::paths::Paths;
use std::path::PathBuf;

/// Where those of one store are.
pub struct Fingerprints {
    directory: PathBuf,
    epochs: Vec<u64>,
}

impl Fingerprints {
    /// Those of the snapshots of a volume.
    pub fn new(paths: &Paths, facts: &Facts) -> Fingerprints {
        let directory = paths.state_dir.join("fingerprints").join(facts.store_id.to_string());
        Fingerprints {
            directory,
            epochs: facts.snapshots.iter().chain(&facts.bookmarks).map(|snapshot| snapshot.epoch).collect(),
        }
    }

    fn path(&self, epoch: u64) -> PathBuf {
        self.directory.join(epoch.to_string())
    }

    /// That of a snapshot, where it is known. One that cannot be read is as good as unknown.
    pub fn of(&self, snapshot: Option<&SnapshotReport>) -> Option<Fingerprint> {
        std::fs::read_to_string(self.path(snapshot?.epoch)).ok()?.trim().parse().ok()
    }

    /// Keeps one, and forgets those of snapshots that are gone.
    pub fn keep(&self, snapshot: &SnapshotReport, fingerprint: &Fingerprint) -> Outcome {
        let failed = |error| Failure::io("keep the fingerprint", &self.directory, error);
        std::fs::create_dir_all(&self.directory).map_err(failed)?;
        write_durably(&self.path(snapshot.epoch), format!("{fingerprint}\n").as_bytes())?;
        for entry in std::fs::read_dir(&self.directory).map_err(failed)?.flatten() {
            let epoch = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if epoch.is_some_and(|epoch: u64| !self.epochs.contains(&epoch)) {
                // One that stays is of no harm: its epoch never comes back.
                let _ = std::fs::remove_file(entry.path());
            }
        }
        Ok(())
    }
}
