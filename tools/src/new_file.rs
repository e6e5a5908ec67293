//! A file that appears under its name only when it is whole.
//!
//! Invariants:
//! - Whatever happens, the name stands for what it stood for before, or for a whole and durable file.
//! - What was begun and is not to be kept is removed; a process that is killed leaves a name that says so.

use crate::exit::{Failure, Outcome};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// A file under a temporary name, in the directory in which it is to appear.
pub struct NewFile {
    path: PathBuf,
    temporary: PathBuf,
    file: File,
    appeared: bool,
}

impl NewFile {
    /// An empty file that will replace `path`.
    pub fn create(path: &Path) -> Result<NewFile, Failure> {
        let name = path.file_name().ok_or_else(|| {
            let reason = std::io::Error::from(std::io::ErrorKind::IsADirectory);
            Failure::io("write the file", path, reason)
        })?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.partial", std::process::id()));
        let temporary = path.with_file_name(hidden);
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(true).open(&temporary);
        let file = file.map_err(|error| Failure::io("create the file", &temporary, error))?;
        Ok(NewFile { path: path.to_owned(), temporary, file, appeared: false })
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where it is until it appears.
    pub fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// Makes it durable and gives it its name.
    pub fn appear(mut self) -> Outcome {
        let failed = |error| Failure::io("make the file durable", &self.path, error);
        // Another program may have written it under this name meanwhile: that file is meant, not the one opened here.
        File::open(&self.temporary).and_then(|file| file.sync_all()).map_err(failed)?;
        std::fs::rename(&self.temporary, &self.path).map_err(failed)?;
        let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)?;
        self.appeared = true;
        Ok(())
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.appeared {
            // It was made here and is of no use; one that stays does not carry the final name.
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}
