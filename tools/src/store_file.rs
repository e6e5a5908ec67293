//! A store that is a file: created whole, or not at all.
//!
//! Invariants:
//! - All of its space is allocated from the start: a store on a full filesystem would break snapshots later.
//! - A file that is not kept is removed again.

use crate::exit::{ExitCode, Failure};
use crate::output::bytes::format_bytes;
use rustix::fs::{fallocate, FallocateFlags};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A store file that was just made.
pub struct StoreFile {
    path: PathBuf,
    kept: bool,
}

impl StoreFile {
    /// Makes the file, readable by its owner only, with all of its space.
    pub fn create(path: &Path, size_bytes: u64) -> Result<StoreFile, Failure> {
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(|error| Failure::io("create the store", path, error))?;
        let made = StoreFile { path: path.to_owned(), kept: false };
        fallocate(&file, FallocateFlags::empty(), 0, size_bytes).map_err(|error| match error {
            rustix::io::Errno::NOSPC => Failure::new(
                ExitCode::Failed,
                format!(
                    "{}: there is no room for {} here; take a smaller --store-size or another place",
                    path.display(),
                    format_bytes(size_bytes)
                ),
            ),
            error => Failure::io("allocate the store", path, error),
        })?;
        file.sync_all().map_err(|error| Failure::io("make the store durable", path, error))?;
        Ok(made)
    }

    /// The store is in use from now on.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for StoreFile {
    fn drop(&mut self) {
        if !self.kept {
            // It was made a moment ago and nothing refers to it; one that stays is refused by name the next time.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
