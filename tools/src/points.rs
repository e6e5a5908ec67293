//! Points in the life of a volume, as people write them: `VOL@SNAP`, `VOL#BOOKMARK`, and `VOL` for now.
//!
//! Invariants:
//! - A bookmark is written with `#` wherever one is named, also in the control API.

use crate::names::VolumeName;
use cairn_target::config::check_snapshot_name;
use std::fmt;
use std::str::FromStr;

/// Which point it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The volume as it is.
    Now,
    /// A snapshot.
    Snapshot(String),
    /// A deleted snapshot that has left its map.
    Bookmark(String),
}

/// A point in the life of one volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// The volume.
    pub volume: VolumeName,
    /// The point.
    pub moment: Moment,
}

/// The older end of a delta where the volume is known already: `SNAP`, `@SNAP`, `#BOOKMARK`, or with the volume in front.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Older {
    /// The volume, where it was named.
    pub volume: Option<VolumeName>,
    /// A snapshot or a bookmark.
    pub moment: Moment,
}

impl Moment {
    /// As the control API writes it; none for now.
    pub fn word(&self) -> Option<String> {
        match self {
            Moment::Now => None,
            Moment::Snapshot(name) => Some(name.clone()),
            Moment::Bookmark(name) => Some(format!("#{name}")),
        }
    }

    fn named(mark: char, name: &str) -> Result<Moment, String> {
        check_snapshot_name(name).map_err(|error| error.message().to_owned())?;
        Ok(if mark == '#' { Moment::Bookmark(name.to_owned()) } else { Moment::Snapshot(name.to_owned()) })
    }
}

fn split(text: &str) -> Option<(&str, char, &str)> {
    let at = text.find(['@', '#'])?;
    Some((&text[..at], char::from(text.as_bytes()[at]), &text[at + 1..]))
}

impl FromStr for Point {
    type Err = String;

    fn from_str(text: &str) -> Result<Point, String> {
        match split(text) {
            None => Ok(Point { volume: text.parse()?, moment: Moment::Now }),
            Some((volume, mark, name)) => Ok(Point { volume: volume.parse()?, moment: Moment::named(mark, name)? }),
        }
    }
}

impl FromStr for Older {
    type Err = String;

    fn from_str(text: &str) -> Result<Older, String> {
        match split(text) {
            None => Ok(Older { volume: None, moment: Moment::named('@', text)? }),
            Some(("", mark, name)) => Ok(Older { volume: None, moment: Moment::named(mark, name)? }),
            Some((volume, mark, name)) => {
                Ok(Older { volume: Some(volume.parse()?), moment: Moment::named(mark, name)? })
            }
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.moment {
            Moment::Now => write!(formatter, "{}", self.volume),
            Moment::Snapshot(name) => write!(formatter, "{}@{name}", self.volume),
            Moment::Bookmark(name) => write!(formatter, "{}#{name}", self.volume),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_written_as_they_are_read() {
        for text in ["v", "v@one", "v#one", "data-1@2026-11-21T12:00"] {
            assert_eq!(text.parse::<Point>().expect("legal").to_string(), text);
        }
        for bad in ["", "@one", "v@", "v#", "v@a#b", "v#a@b", "v@a/b"] {
            assert!(bad.parse::<Point>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_older_point_may_leave_the_volume_out() {
        for (text, word) in [("one", "one"), ("@one", "one"), ("v@one", "one"), ("#b", "#b"), ("v#b", "#b")] {
            assert_eq!(text.parse::<Older>().expect("legal").moment.word().as_deref(), Some(word));
        }
        assert!("".parse::<Older>().is_err());
    }
}
