//! What a target is a copy of.
//!
//! Invariants:
//! - An identity is removed before the target is first written, and written after the last write is durable.
//! - A file that was touched since is told by its stamp; a disk has none, so its content decides.

use crate::stream::identity_text;
use cairn_delta::{Fingerprint, SnapshotIdentity};
use serde::{Deserialize, Serialize};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use uuid::Uuid;

/// A snapshot, as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// The store it was taken in.
    pub store_id: Uuid,
    /// The epoch it opened there.
    pub epoch: u64,
    /// When, in milliseconds since 1970 UTC.
    pub created_unix_ms: u64,
    /// Its name then.
    pub name: String,
}

/// What changes whenever a file is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStamp {
    inode: u64,
    length_bytes: u64,
    modified_ns: i128,
    changed_ns: i128,
}

/// What a target is a copy of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetIdentity {
    /// The volume it came from; null where the stream did not say.
    pub volume_id: Option<Uuid>,
    /// The snapshot of it.
    pub snapshot: SnapshotRecord,
    /// Size of the copy.
    pub size_bytes: u64,
    /// Its fingerprint, where it is known.
    pub fingerprint: Option<String>,
    /// Of a file: when it was as described.
    pub stamp: Option<FileStamp>,
    /// Of a volume: its own snapshot that has this content.
    pub local_snapshot: Option<String>,
}

impl From<&SnapshotIdentity> for SnapshotRecord {
    fn from(identity: &SnapshotIdentity) -> SnapshotRecord {
        SnapshotRecord {
            store_id: Uuid::from_bytes(identity.store_id),
            epoch: identity.epoch,
            created_unix_ms: identity.created_unix_ms,
            name: identity.name.clone(),
        }
    }
}

impl SnapshotRecord {
    /// For people.
    pub fn text(&self) -> String {
        identity_text(&SnapshotIdentity {
            store_id: self.store_id.into_bytes(),
            epoch: self.epoch,
            created_unix_ms: self.created_unix_ms,
            name: self.name.clone(),
        })
    }
}

impl FileStamp {
    /// Of a file as it is.
    pub fn of(metadata: &Metadata) -> FileStamp {
        let ns = |seconds: i64, ns: i64| i128::from(seconds) * 1_000_000_000 + i128::from(ns);
        FileStamp {
            inode: metadata.ino(),
            length_bytes: metadata.len(),
            modified_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl TargetIdentity {
    /// The fingerprint, where it is known.
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.fingerprint.as_ref()?.parse().ok()
    }
}
