//! A disk or a file, held exclusively.
//!
//! Invariants:
//! - Nobody else has it mounted, attached or open for serving while it is held here.

use super::BlockIo;
use crate::exit::{Failure, Outcome};
use cairn_target::device::{Access, Device, DeviceKind};
use rustix::fs::{fadvise, fallocate, seek, Advice, FallocateFlags, SeekFrom};
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How long to wait for a device that somebody is just closing.
const OPEN_WAIT_MS: u64 = 2000;
/// Zeroes that have to be written are written in pieces of this size.
const ZERO_PIECE_BYTES: u64 = 1 << 20;

/// A disk or a file.
pub struct PlainIo {
    name: String,
    path: PathBuf,
    file: File,
    kind: DeviceKind,
    size_bytes: u64,
    /// The exclusive claim. I/O goes through another descriptor, and the page cache.
    _held: Option<Arc<Device>>,
}

impl PlainIo {
    /// Holds what is at `path`. Fails with `Busy` where it is mounted or somebody else holds it.
    pub fn open(path: &Path) -> Result<PlainIo, Failure> {
        let held = Device::open(path, Access::Exclusive { wait_ms: OPEN_WAIT_MS })?;
        let file = File::options().read(true).write(true).open(path);
        let file = file.map_err(|error| Failure::io("open", path, error))?;
        let (kind, size_bytes) = (held.kind(), held.size_bytes());
        Ok(PlainIo {
            name: path.display().to_string(),
            path: path.to_owned(),
            file,
            kind,
            size_bytes,
            _held: Some(held),
        })
    }

    /// A file that was just made and that nobody knows yet.
    pub fn of_new_file(file: &File, path: &Path, size_bytes: u64) -> Result<PlainIo, Failure> {
        let file = file.try_clone().map_err(|error| Failure::io("open", path, error))?;
        file.set_len(size_bytes).map_err(|error| Failure::io("set the size of", path, error))?;
        let name = path.display().to_string();
        Ok(PlainIo { name, path: path.to_owned(), file, kind: DeviceKind::File, size_bytes, _held: None })
    }

    /// Whether it is a file.
    pub fn is_file(&self) -> bool {
        self.kind == DeviceKind::File
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Gives a file another size.
    pub fn set_size(&mut self, size_bytes: u64) -> Outcome {
        assert!(self.is_file(), "only files have a size of their own choice");
        self.file.set_len(size_bytes).map_err(|error| self.failed("set the size of", error))?;
        self.size_bytes = size_bytes;
        Ok(())
    }

    fn failed(&self, operation: &str, error: impl Into<std::io::Error>) -> Failure {
        Failure::io(operation, &self.path, error)
    }
}

impl BlockIo for PlainIo {
    fn name(&self) -> &str {
        &self.name
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read(&mut self, offset_bytes: u64, buffer: &mut [u8]) -> Outcome {
        self.file.read_exact_at(buffer, offset_bytes).map_err(|error| self.failed("read", error))
    }

    fn write(&mut self, offset_bytes: u64, data: &[u8]) -> Outcome {
        self.file.write_all_at(data, offset_bytes).map_err(|error| self.failed("write", error))
    }

    fn write_zeroes(&mut self, offset_bytes: u64, length_bytes: u64) -> Outcome {
        let mode = match self.is_file() {
            true => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            false => FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
        };
        match fallocate(&self.file, mode, offset_bytes, length_bytes) {
            Ok(()) => return Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
            Err(error) => return Err(self.failed("zero", error)),
        }
        let zeroes = vec![0; ZERO_PIECE_BYTES.min(length_bytes) as usize];
        let end_bytes = offset_bytes + length_bytes;
        (offset_bytes..end_bytes).step_by(ZERO_PIECE_BYTES as usize).try_for_each(|at| {
            let length = ZERO_PIECE_BYTES.min(end_bytes - at) as usize;
            self.write(at, &zeroes[..length])
        })
    }

    fn make_durable(&mut self) -> Outcome {
        self.file.sync_all().map_err(|error| self.failed("flush", error))
    }

    fn forget(&mut self) {
        // Where the kernel keeps it all the same, what is compared later is what it keeps.
        let _ = fadvise(&self.file, 0, None, Advice::DontNeed);
    }

    fn next_content(&mut self, offset_bytes: u64) -> Result<Option<u64>, Failure> {
        if !self.is_file() {
            return Ok((offset_bytes < self.size_bytes).then_some(offset_bytes));
        }
        match seek(&self.file, SeekFrom::Data(offset_bytes)) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NXIO) => Ok(None),
            // A filesystem without holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok((offset_bytes < self.size_bytes).then_some(offset_bytes)),
            Err(error) => Err(self.failed("look for holes in", error)),
        }
    }
}
