//! Writes an `rbd diff` stream.
//!
//! Invariants:
//! - The order of metadata is the one that `rbd export-diff` has: from, to, size.
//! - Without `finish` there is no end record, and every reader refuses the stream.

use super::{tag, Header, Version, BANNER_V1, BANNER_V2, NAME_BYTES_MAX};
use crate::bounds::Bounds;
use crate::error::{ErrorKind, Result};
use crate::extent::{Extent, Frame};
use std::io::Write;

/// Writes one stream.
pub struct Writer<W> {
    output: W,
    version: Version,
    bounds: Bounds,
    end_bytes: u64,
    written_bytes: u64,
    failed: bool,
}

impl<W: Write> Writer<W> {
    /// Begins a stream.
    pub fn new(output: W, header: &Header) -> Result<Writer<W>> {
        let bounds = Bounds { block_bytes: 1, size_bytes: header.size_bytes };
        let mut writer =
            Writer { output, version: header.version, bounds, end_bytes: 0, written_bytes: 0, failed: false };
        writer.put(match header.version {
            Version::V1 => BANNER_V1,
            Version::V2 => BANNER_V2,
        })?;
        let names = [(tag::FROM_SNAPSHOT, &header.from_snapshot), (tag::TO_SNAPSHOT, &header.to_snapshot)];
        for (tag, name) in names {
            if let Some(name) = name {
                writer.name(tag, name)?;
            }
        }
        writer.record(tag::SIZE, &[&header.size_bytes.to_le_bytes()])?;
        Ok(writer)
    }

    /// Adds an extent, which lies behind those before.
    pub fn write(&mut self, frame: Frame<'_>) -> Result<()> {
        self.alive()?;
        let extent = frame.extent();
        self.end_bytes = self.bounds.check(self.end_bytes, extent).map_err(|kind| kind.at(self.written_bytes))?;
        let Extent { offset_bytes, length_bytes, .. } = extent;
        let (offset, length) = (&offset_bytes.to_le_bytes()[..], &length_bytes.to_le_bytes()[..]);
        match frame {
            Frame::Data { content, .. } => self.record(tag::WRITE, &[offset, length, content]),
            Frame::Zero { .. } | Frame::NotInUse { .. } => self.record(tag::ZERO, &[offset, length]),
        }
    }

    /// Ends the stream, and flushes.
    pub fn finish(mut self) -> Result<W> {
        self.alive()?;
        self.put(&[tag::END])?;
        self.output.flush().map_err(|error| ErrorKind::Io(error).at(self.written_bytes))?;
        Ok(self.output)
    }

    /// Bytes written so far.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    fn name(&mut self, tag: u8, name: &str) -> Result<()> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(ErrorKind::Malformed("the name of a snapshot has 1 to 4096 bytes").at(self.written_bytes));
        }
        self.record(tag, &[&(name.len() as u32).to_le_bytes(), name.as_bytes()])
    }

    fn record(&mut self, tag: u8, pieces: &[&[u8]]) -> Result<()> {
        self.put(&[tag])?;
        if self.version == Version::V2 {
            let length: usize = pieces.iter().map(|piece| piece.len()).sum();
            self.put(&(length as u64).to_le_bytes())?;
        }
        pieces.iter().try_for_each(|piece| self.put(piece))
    }

    fn alive(&self) -> Result<()> {
        match self.failed {
            true => Err(ErrorKind::Malformed("the stream failed before").at(self.written_bytes)),
            false => Ok(()),
        }
    }

    fn put(&mut self, piece: &[u8]) -> Result<()> {
        if let Err(error) = self.output.write_all(piece) {
            self.failed = true;
            return Err(ErrorKind::Io(error).at(self.written_bytes));
        }
        self.written_bytes += piece.len() as u64;
        Ok(())
    }
}
