//! Identifiers of snapshots and bookmarks, as they travel through the interface.
//!
//! Invariants:
//! - An identifier that was parsed holds legal names only: it never leads out of a directory, and needs no escaping.

use cairn_target::config::{check_snapshot_name, check_volume_name};
use tonic::Status;

/// `VOL@SNAP`, or `VOL#NAME` for a bookmark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotId {
    /// The volume.
    pub volume: String,
    /// The snapshot or bookmark.
    pub name: String,
    /// It is a bookmark.
    pub is_bookmark: bool,
}

impl SnapshotId {
    /// `field` is what the interface calls it. An identifier that nobody can have been given is not found.
    pub fn parse(field: &str, id: &str) -> Result<SnapshotId, Status> {
        if id.is_empty() {
            return Err(Status::invalid_argument(format!("{field} is missing")));
        }
        let unknown = || Status::not_found(format!("{field}: there is no snapshot {id:?}; snapshots are VOL@SNAP"));
        let place = id.find(['@', '#']).ok_or_else(unknown)?;
        let (volume, name) = (&id[..place], &id[place + 1..]);
        if check_volume_name(volume).is_err() || check_snapshot_name(name).is_err() {
            return Err(unknown());
        }
        let is_bookmark = id[place..].starts_with('#');
        Ok(SnapshotId { volume: volume.to_owned(), name: name.to_owned(), is_bookmark })
    }

    /// As the control API wants it in a question.
    pub fn in_query(&self) -> String {
        format!("{}{}", if self.is_bookmark { "%23" } else { "" }, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    #[test]
    fn only_legal_names_come_through() {
        let id = SnapshotId::parse("snapshot_id", "web-1@mon:1").expect("legal");
        assert_eq!((id.volume.as_str(), id.in_query().as_str(), id.is_bookmark), ("web-1", "mon:1", false));
        let bookmark = SnapshotId::parse("base_snapshot_id", "web#mon").expect("legal");
        assert_eq!((bookmark.in_query().as_str(), bookmark.is_bookmark), ("%23mon", true));
        assert_eq!(SnapshotId::parse("snapshot_id", "").expect_err("missing").code(), Code::InvalidArgument);
        for bad in ["web", "@", "web@", "@mon", "../x@y", "a/b@c", "a@b@c", "a#b@c", "a@b c", "a@b&from=c", "a@é"] {
            assert_eq!(SnapshotId::parse("snapshot_id", bad).expect_err(bad).code(), Code::NotFound, "{bad}");
        }
    }
}
