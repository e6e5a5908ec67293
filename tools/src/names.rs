//! Names of volumes and snapshots as people write them: `VOL` and `VOL@SNAP`.
//!
//! Invariants:
//! - The rules for names are the target's and the engine's; here they are only put together.

use cairn_target::config::{check_snapshot_name, check_volume_name};
use std::fmt;
use std::str::FromStr;

/// The name of a volume.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VolumeName(String);

/// `VOL@SNAP`: one snapshot of one volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotPath {
    /// The volume.
    pub volume: VolumeName,
    /// The snapshot's own name.
    pub snapshot: String,
}

/// A volume, or one snapshot of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `VOL`
    Volume(VolumeName),
    /// `VOL@SNAP`
    Snapshot(SnapshotPath),
}

impl VolumeName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VolumeName {
    type Err = String;

    fn from_str(text: &str) -> Result<VolumeName, String> {
        if let Some((volume, snapshot)) = text.split_once('@') {
            return Err(format!("a volume is meant here, not a snapshot: write {volume:?} without \"@{snapshot}\""));
        }
        check_volume_name(text).map_err(|error| error.message().to_owned())?;
        Ok(VolumeName(text.to_owned()))
    }
}

impl FromStr for SnapshotPath {
    type Err = String;

    fn from_str(text: &str) -> Result<SnapshotPath, String> {
        let Some((volume, snapshot)) = text.split_once('@') else {
            return Err(format!("a snapshot is written VOL@SNAP, for example \"{text}@monday\""));
        };
        check_snapshot_name(snapshot).map_err(|error| error.message().to_owned())?;
        Ok(SnapshotPath { volume: volume.parse()?, snapshot: snapshot.to_owned() })
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        match text.contains('@') {
            true => text.parse().map(Target::Snapshot),
            false => text.parse().map(Target::Volume),
        }
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl fmt::Display for SnapshotPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}@{}", self.volume, self.snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn illegal_names_are_refused_with_the_character_named() {
        for bad in ["", "-x", ".x", "a/b", "a b", "ä", "a\n", "..", &"x".repeat(65)] {
            assert!(bad.parse::<VolumeName>().is_err(), "{bad:?} was accepted");
        }
        assert!("v@a/b".parse::<SnapshotPath>().is_err());
        assert!("vol@".parse::<SnapshotPath>().is_err());
        assert!("@snap".parse::<SnapshotPath>().is_err());
        assert!("a@b@c".parse::<SnapshotPath>().is_err());
        assert!(format!("v@{}", "s".repeat(129)).parse::<SnapshotPath>().is_err());
    }

    #[test]
    fn legal_names_are_kept_as_they_are() {
        for good in ["a", "0", "data-1", "A_b.c:d", &"x".repeat(64)] {
            assert_eq!(good.parse::<VolumeName>().unwrap().as_str(), good);
        }
        let path: SnapshotPath = "data@2026-11-21T12:00".parse().unwrap();
        assert_eq!(path.to_string(), "data@2026-11-21T12:00");
    }
}
