//! Where snapshots are read: an attached volume through its target, a detached one through its store.
//!
//! Invariants:
//! - Whoever reads does not know which of the two it is.
//! - What is held cannot be deleted meanwhile.

mod attached;
mod changes;
mod detached;
mod read_ahead;

pub use attached::Attached;
pub use changes::{Changes, Piece, Pieces};
pub use read_ahead::ReadAhead;

use crate::context::Context;
use crate::exit::{ExitCode, Failure};
use crate::names::VolumeName;
use cairn_delta::SnapshotIdentity;
use cairn_target::control::api::{ChangesPage, SnapshotReport, SnapshotState};
use std::sync::Arc;
use uuid::Uuid;

/// Reads of one piece that run side by side.
pub const READERS: usize = 8;

/// What is known of a volume whose snapshots can be read.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Name of the volume here.
    pub volume: String,
    /// Its identity, for ever.
    pub volume_id: Uuid,
    /// Identity of its store.
    pub store_id: Uuid,
    /// Its snapshots, oldest first.
    pub snapshots: Vec<SnapshotReport>,
    /// Its bookmarks, oldest first.
    pub bookmarks: Vec<SnapshotReport>,
}

/// Keeps a snapshot while it exists.
pub trait Hold: Send {}

/// A volume whose snapshots can be read.
pub trait SnapshotSource: Send + Sync {
    /// What is known of it.
    fn facts(&self) -> &Facts;
    /// A page of what changed; `from` is a snapshot, `#` and a bookmark, or none for everything in use; `to` is a
    /// snapshot, or none for the volume as it is.
    fn changes(
        &self,
        from: Option<&str>,
        to: Option<&str>,
        offset_bytes: u64,
        max: usize,
    ) -> Result<ChangesPage, Failure>;
    /// Fills `buffer` with what a snapshot has at `offset_bytes`.
    fn read(&self, snapshot: &str, offset_bytes: u64, buffer: &mut [u8]) -> Result<(), Failure>;
    /// Keeps a snapshot from being deleted.
    fn hold(&self, snapshot: &str) -> Result<Box<dyn Hold>, Failure>;
}

/// The snapshots of a volume, attached or not.
pub fn open(context: &Context, volume: &VolumeName) -> Result<Arc<dyn SnapshotSource>, Failure> {
    let config = context.config(volume)?;
    match Attached::open(context.client_of(&config)) {
        Ok(attached) => Ok(Arc::new(attached)),
        Err(failure) if failure.code == ExitCode::NotAttached => {
            Ok(Arc::new(detached::Detached::open(context, &config)?))
        }
        Err(failure) => Err(failure),
    }
}

impl Facts {
    /// A snapshot by name; one that is broken is refused.
    pub fn whole(&self, name: &str) -> Result<&SnapshotReport, Failure> {
        let volume = &self.volume;
        let found = self.snapshots.iter().find(|snapshot| snapshot.name == name).ok_or_else(|| {
            let message = format!("{volume}@{name}: no such snapshot; see `cairn show {volume}`");
            Failure::new(ExitCode::NotFound, message)
        })?;
        self.refuse_broken(found)
    }

    fn refuse_broken<'a>(&self, found: &'a SnapshotReport) -> Result<&'a SnapshotReport, Failure> {
        let (volume, name) = (&self.volume, &found.name);
        match (found.state, &found.state_reason) {
            (SnapshotState::Whole, _) => Ok(found),
            (SnapshotState::Broken, reason) => {
                let reason = reason.as_deref().unwrap_or("no reason was recorded");
                Err(Failure::new(ExitCode::Damaged, format!("{volume}@{name} is broken: {reason}")))
            }
        }
    }

    /// The older end of a delta: as [`Facts::whole`], but one that is gone is a missing base. `word` may begin with `#`.
    pub fn base(&self, word: &str) -> Result<&SnapshotReport, Failure> {
        let found = match word.strip_prefix('#') {
            Some(name) => self.bookmarks.iter().find(|bookmark| bookmark.name == name),
            None => self.snapshots.iter().find(|snapshot| snapshot.name == word),
        };
        let found = found.ok_or_else(|| {
            let left = self.bookmarks.iter().any(|bookmark| bookmark.name == word);
            let hint = if left { format!("; a bookmark of it is: #{word}") } else { String::new() };
            let message = format!("{}: {word} is not kept{hint}; take another base, or everything", self.volume);
            Failure::new(ExitCode::BaseMissing, message)
        })?;
        self.refuse_broken(found)
    }

    /// Who a snapshot is, also where names are used again.
    pub fn identity(&self, snapshot: &SnapshotReport) -> SnapshotIdentity {
        SnapshotIdentity {
            store_id: self.store_id.into_bytes(),
            epoch: snapshot.epoch,
            created_unix_ms: snapshot.created_at.unix_ms,
            name: snapshot.name.clone(),
        }
    }
}
