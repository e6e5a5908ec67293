//! Input that knows how far it was read.
//!
//! Invariants:
//! - Takes exactly what was asked for, so that whatever follows a stream is left to the caller.
//! - The end of the input within a piece is `Truncated`, at the offset where the piece begins.

use crate::error::{ErrorKind, Result};
use std::io::{self, Read};

/// A `Read` with an offset.
#[derive(Debug)]
pub(crate) struct Counted<R> {
    input: R,
    offset_bytes: u64,
}

impl<R: Read> Counted<R> {
    pub(crate) fn new(input: R) -> Counted<R> {
        Counted { input, offset_bytes: 0 }
    }

    /// How much was read.
    pub(crate) fn offset_bytes(&self) -> u64 {
        self.offset_bytes
    }

    /// Fills `piece`.
    pub(crate) fn read_exact(&mut self, piece: &mut [u8]) -> Result<()> {
        match self.input.read_exact(piece) {
            Ok(()) => {
                self.offset_bytes += piece.len() as u64;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(ErrorKind::Truncated.at(self.offset_bytes))
            }
            Err(error) => Err(ErrorKind::Io(error).at(self.offset_bytes)),
        }
    }

    /// The next bytes, as many as the array holds.
    pub(crate) fn array<const LENGTH: usize>(&mut self) -> Result<[u8; LENGTH]> {
        let mut array = [0; LENGTH];
        self.read_exact(&mut array)?;
        Ok(array)
    }

    /// Takes `length_bytes` in pieces, each handed to `see`.
    pub(crate) fn pass(&mut self, mut length_bytes: u64, mut see: impl FnMut(&[u8])) -> Result<()> {
        let mut piece = [0; 4096];
        while length_bytes > 0 {
            let taken = length_bytes.min(piece.len() as u64) as usize;
            self.read_exact(&mut piece[..taken])?;
            see(&piece[..taken]);
            length_bytes -= taken as u64;
        }
        Ok(())
    }

    pub(crate) fn into_inner(self) -> R {
        self.input
    }
}
