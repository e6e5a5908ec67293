//! What other programs write, as something that can be received: Ceph's diffs, and the bytes of a disk.
//!
//! Invariants:
//! - A format that carries no identity is believed only as far as its names go, and no fingerprint is made up for it.

use crate::exit::{ExitCode, Failure, Outcome};
use crate::receive::{nothing_follows, Announced, Base, Input};
use crate::stream::refused;
use cairn_delta::{is_zero, rbd, Fingerprint, Frame, SnapshotIdentity, FRAME_BYTES_MAX};
use cairn_target::config::check_snapshot_name;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;

/// A snapshot of which only the name is known. A volume takes that name, so it has to be a legal one.
fn named(name: &str) -> SnapshotIdentity {
    let name = if check_snapshot_name(name).is_ok() { name } else { "imported" };
    SnapshotIdentity { store_id: [0; 16], epoch: 0, created_unix_ms: 0, name: name.to_owned() }
}

/// The same input has the same id.
fn id_of(parts: &[&[u8]]) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

/// Refuses to go on in the middle: these formats have no such thing.
fn no_continuation() -> Outcome {
    Err(Failure::new(ExitCode::Refused, "only a stream of `cairn send` can go on where it stopped"))
}

/// An `rbd diff` of either version.
pub struct RbdInput<R> {
    name: String,
    /// None behind the end.
    reader: Option<rbd::Reader<R>>,
    announced: Announced,
}

impl<R: Read> RbdInput<R> {
    /// Reads what stands in front of the extents.
    pub fn new(name: &str, input: R) -> Result<RbdInput<R>, Failure> {
        let reader = rbd::Reader::new(input).map_err(|error| refused(name, &error))?;
        let header = reader.header();
        let target = header.to_snapshot.as_deref().unwrap_or("imported");
        let from = header.from_snapshot.as_deref().unwrap_or_default();
        let size = header.size_bytes.to_le_bytes();
        let announced = Announced {
            stream_id: id_of(&[b"rbd", from.as_bytes(), target.as_bytes(), &size]),
            volume_id: None,
            base: header.from_snapshot.clone().map_or(Base::Anything, Base::Named),
            target: named(target),
            size_before_bytes: header.from_snapshot.is_none().then_some(0),
            size_after_bytes: header.size_bytes,
            base_fingerprint: None,
        };
        Ok(RbdInput { name: name.to_owned(), reader: Some(reader), announced })
    }
}

impl<R: Read> Input for RbdInput<R> {
    fn announced(&self) -> &Announced {
        &self.announced
    }

    fn is_continuation(&self) -> bool {
        false
    }

    fn continue_from(&mut self, _token: &str) -> Outcome {
        no_continuation()
    }

    fn next(&mut self) -> Result<Option<Frame<'_>>, Failure> {
        match &mut self.reader {
            Some(reader) => reader.next_frame().map_err(|error| refused(&self.name, &error)),
            None => Ok(None),
        }
    }

    fn finish(&mut self) -> Outcome {
        self.reader.take().map_or(Ok(()), |reader| nothing_follows(&self.name, reader.into_inner()))
    }

    fn token(&self) -> Option<String> {
        None
    }

    fn result(&self) -> Option<Fingerprint> {
        None
    }
}

/// The bytes of a disk.
pub struct RawInput {
    name: String,
    file: File,
    at: u64,
    content: Vec<u8>,
    announced: Announced,
    /// Of what was read, so that what is read back can be compared.
    sum: Fingerprint,
}

impl RawInput {
    /// All of a file or a device.
    pub fn new(path: &Path, file: File) -> Result<RawInput, Failure> {
        let failed = |error| Failure::io("read", path, error);
        let metadata = file.metadata().map_err(failed)?;
        let size_bytes = match metadata.file_type().is_block_device() {
            true => rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0)).map_err(|error| failed(error.into()))?,
            false => metadata.len(),
        };
        if size_bytes == 0 || !size_bytes.is_multiple_of(512) {
            let message = format!("{}: no image of a disk: {size_bytes} bytes are no whole sectors", path.display());
            return Err(Failure::new(ExitCode::Refused, message));
        }
        let name = path.display().to_string();
        let changed = metadata.mtime().to_le_bytes();
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let announced = Announced {
            stream_id: id_of(&[b"raw", name.as_bytes(), &size_bytes.to_le_bytes(), &changed]),
            volume_id: None,
            base: Base::Anything,
            target: named(&stem),
            size_before_bytes: Some(0),
            size_after_bytes: size_bytes,
            base_fingerprint: None,
        };
        Ok(RawInput { name, file, at: 0, content: Vec::new(), announced, sum: Fingerprint::EMPTY })
    }
}

impl Input for RawInput {
    fn announced(&self) -> &Announced {
        &self.announced
    }

    fn is_continuation(&self) -> bool {
        false
    }

    fn continue_from(&mut self, _token: &str) -> Outcome {
        no_continuation()
    }

    fn next(&mut self) -> Result<Option<Frame<'_>>, Failure> {
        while self.at < self.announced.size_after_bytes {
            let offset_bytes = self.at;
            let length = (self.announced.size_after_bytes - offset_bytes).min(FRAME_BYTES_MAX as u64);
            self.content.resize(length as usize, 0);
            let read = self.file.read_exact_at(&mut self.content, offset_bytes);
            read.map_err(|error| Failure::new(ExitCode::Failed, format!("{}: {error}", self.name)))?;
            self.at += length;
            if !is_zero(&self.content) {
                self.sum += Fingerprint::of_content(offset_bytes, &self.content);
                return Ok(Some(Frame::Data { offset_bytes, content: &self.content }));
            }
        }
        Ok(None)
    }

    fn finish(&mut self) -> Outcome {
        Ok(())
    }

    fn token(&self) -> Option<String> {
        None
    }

    fn result(&self) -> Option<Fingerprint> {
        Some(self.sum)
    }
}
