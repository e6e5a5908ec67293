//! Snapshots: names for the epochs they opened; and bookmarks, what a deleted snapshot may leave.
//!
//! Invariants:
//! - A snapshot is whole, or broken with a reason; it never becomes whole again.
//! - A handle keeps its snapshot from being deleted.
//! - A bookmark never becomes a snapshot again.

use crate::error::{Error, ErrorKind, Result};
use crate::format::item::{SnapshotRecord, SNAPSHOT_AUTOMATIC, SNAPSHOT_BOOKMARK, TEXT_BYTES_MAX};
use crate::holes::Holes;
use crate::sync::{Arc, OnceLock};
use crate::units::Epoch;
use std::fmt;

pub use crate::format::item::{BrokenReason, Consistency};

/// Longest snapshot name, in bytes.
pub const NAME_BYTES_MAX: usize = 128;

/// A checked snapshot name: letters, digits and `_ . : -`, beginning with a letter or a digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotName(String);

impl SnapshotName {
    /// Checks a name. Fails with `Invalid`, saying which character is wrong.
    pub fn new(name: &str) -> Result<SnapshotName> {
        let invalid = |message: String| Err(Error::new(ErrorKind::Invalid, "name a snapshot", name).saying(message));
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return invalid(format!("a snapshot name has 1 to {NAME_BYTES_MAX} characters"));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || "_.:-".contains(c);
        if let Some(wrong) = name.chars().find(|c| !allowed(*c)) {
            return invalid(format!("'{}' is not allowed; use letters, digits and _ . : -", wrong.escape_default()));
        }
        if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            return invalid("a snapshot name begins with a letter or a digit".to_string());
        }
        Ok(SnapshotName(name.to_string()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// One snapshot, as shown to people and programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its name.
    pub name: SnapshotName,
    /// The epoch it opened.
    pub epoch: Epoch,
    /// When it was cut, in milliseconds since 1970 UTC.
    pub created_unix_ms: u64,
    /// Size of the volume at the cut, in bytes.
    pub size_bytes: u64,
    /// What the cut promised.
    pub consistency: Consistency,
    /// Made by Cairn itself (before a restore).
    pub automatic: bool,
    /// What it held is gone; what changed since is still known. A bookmark is never read.
    pub bookmark: bool,
    /// Why it is broken, with a sentence; `None` while it is whole.
    pub broken: Option<(BrokenReason, String)>,
}

impl Snapshot {
    /// As the catalog records it.
    pub(crate) fn to_record(&self) -> SnapshotRecord {
        SnapshotRecord {
            epoch: self.epoch,
            created_unix_ms: self.created_unix_ms,
            size_bytes: self.size_bytes,
            flags: flag(self.automatic, SNAPSHOT_AUTOMATIC) | flag(self.bookmark, SNAPSHOT_BOOKMARK),
            consistency: self.consistency,
            broken: self.broken.as_ref().map(|(reason, _)| *reason),
            name: self.name.0.clone(),
            reason: self.broken.as_ref().map_or(String::new(), |(_, sentence)| cut_off(sentence).to_owned()),
        }
    }

    /// From the catalog.
    pub(crate) fn from_record(record: &SnapshotRecord) -> Snapshot {
        Snapshot {
            name: SnapshotName(record.name.clone()),
            epoch: record.epoch,
            created_unix_ms: record.created_unix_ms,
            size_bytes: record.size_bytes,
            consistency: record.consistency,
            automatic: record.flags & SNAPSHOT_AUTOMATIC != 0,
            bookmark: record.is_bookmark(),
            broken: record.broken.map(|reason| (reason, record.reason.clone())),
        }
    }
}

fn flag(is_set: bool, flag: u32) -> u32 {
    if is_set {
        flag
    } else {
        0
    }
}

/// As much of a sentence as a record holds. It may come from outside.
fn cut_off(sentence: &str) -> &str {
    &sentence[..sentence.floor_char_boundary(TEXT_BYTES_MAX)]
}

/// How to take a snapshot.
#[derive(Clone, Debug)]
pub struct SnapshotOptions {
    /// The caller's clock, in milliseconds since 1970 UTC.
    pub now_unix_ms: u64,
    /// What the caller did before.
    pub consistency: Consistency,
}

/// Keeps a snapshot readable: it cannot be deleted while a handle exists.
#[derive(Clone, Debug)]
pub struct SnapshotHandle {
    pub(crate) pin: Arc<SnapshotPin>,
}

pub(crate) struct SnapshotPin {
    pub(crate) epoch: Epoch,
    pub(crate) size_bytes: u64,
    pub(crate) name: SnapshotName,
    /// What is not in use in it. There before anybody has a handle.
    pub(crate) holes: OnceLock<Arc<Holes>>,
}

impl SnapshotPin {
    pub(crate) fn holes(&self) -> &Arc<Holes> {
        self.holes.get().expect("a handle is given out when they are known")
    }
}

impl fmt::Debug for SnapshotPin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} (epoch {})", self.name, self.epoch)
    }
}

impl SnapshotHandle {
    /// The blocks that are not in use in the snapshot; they read as zeroes (mission A4).
    pub fn holes(&self) -> &Arc<Holes> {
        self.pin.holes()
    }

    /// Size of the snapshot in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.pin.size_bytes
    }

    /// The snapshot's name.
    pub fn name(&self) -> &SnapshotName {
        &self.pin.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_illegal_characters_are_refused_with_the_character() {
        for (name, said) in [("a b", "' '"), ("vol@snap", "'@'"), ("a/b", "'/'"), ("\u{fc}", "'\\u{fc}'")] {
            let error = SnapshotName::new(name).expect_err("illegal");
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains(said), "{error}");
        }
        assert!(SnapshotName::new("").is_err());
        assert!(SnapshotName::new("-x").is_err());
        assert!(SnapshotName::new(&"x".repeat(NAME_BYTES_MAX + 1)).is_err());
        assert!(SnapshotName::new("before-2026.11:21_a").is_ok());
    }
}
