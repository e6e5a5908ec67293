//! The last resort for "these snapshots are broken": a file in the state directory, when the store cannot record it.
//!
//! Invariants:
//! - The file is durable before the first overwrite that nobody saved.
//! - It is removed only after the store has recorded it: when a volume was opened with it, or when a store that was
//!   given up for lateness works again.

use crate::config::write_durably;
use crate::paths::VolumePaths;
use cairn_engine::units::Epoch;
use cairn_engine::volume::{BrokenElsewhere, BrokenLog};
use std::path::PathBuf;

/// The file of one volume.
#[derive(Clone, Debug)]
pub struct BrokenMark(PathBuf);

impl BrokenMark {
    /// The volume's file; it need not exist.
    pub fn new(paths: &VolumePaths) -> BrokenMark {
        BrokenMark(paths.broken_mark.clone())
    }

    /// What it says, if it exists. What cannot be read breaks all.
    pub fn read(&self) -> Option<BrokenElsewhere> {
        let through = Epoch(u64::MAX - 1);
        let all = |reason: String| Some(BrokenElsewhere { through, reason, flush_failed: true });
        match std::fs::read_to_string(&self.0) {
            Ok(text) => parse(&text).or_else(|| all(text.trim().to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => all(format!("the store could not record why, and the reason cannot be read: {error}")),
        }
    }

    /// Removes it: the store has recorded it.
    pub fn remove(&self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            if error.kind() != std::io::ErrorKind::NotFound {
                tracing::warn!(%error, path = %self.0.display(), "a mark that is in the store now cannot be removed");
            }
        }
    }
}

/// One line: the last broken epoch, 1 where a flush failed and 0 where none did, the reason.
fn parse(text: &str) -> Option<BrokenElsewhere> {
    let mut words = text.trim_end().splitn(3, ' ');
    let through = Epoch(words.next()?.parse().ok()?);
    let flush_failed = match words.next()? {
        "0" => false,
        "1" => true,
        _ => return None,
    };
    Some(BrokenElsewhere { through, reason: words.next().unwrap_or_default().to_owned(), flush_failed })
}

impl BrokenLog for BrokenMark {
    fn record(&self, elsewhere: &BrokenElsewhere) -> bool {
        let BrokenElsewhere { through, reason, flush_failed } = elsewhere;
        let text = format!("{} {} {reason}\n", through.0, u8::from(*flush_failed));
        let written = write_durably(&self.0, text.as_bytes());
        if let Err(error) = &written {
            tracing::error!(%error, "the state directory cannot record that snapshots are broken");
        }
        written.is_ok()
    }

    fn clear(&self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths::Paths;

    #[test]
    fn a_mark_is_read_back_and_one_that_cannot_be_written_says_so() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let paths = Paths::resolve(Some(directory.path().join("state")), Some(directory.path().into()), None);
        let mark = BrokenMark::new(&paths.volume("web").expect("legal"));
        assert_eq!(mark.read(), None);
        let reason = "the store failed".to_owned();
        let elsewhere = BrokenElsewhere { through: Epoch(7), reason, flush_failed: false };
        assert!(mark.record(&elsewhere));
        assert_eq!(mark.read().as_ref(), Some(&elsewhere));
        std::fs::write(&paths.volume("web").expect("legal").broken_mark, "gone wrong").expect("writes");
        assert_eq!(mark.read().map(|mark| mark.through), Some(Epoch(u64::MAX - 1)));
        mark.remove();
        assert_eq!(mark.read(), None);
        std::fs::write(directory.path().join("file"), "").expect("writes");
        let paths = Paths::resolve(Some(directory.path().join("file")), None, None);
        assert!(!BrokenMark::new(&paths.volume("web").expect("legal")).record(&elsewhere));
    }
}
