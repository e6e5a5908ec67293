//! What changed, page after page, and cut into pieces to read.
//!
//! Invariants:
//! - Extents come in ascending order and lie within the younger point.
//! - A piece is at most a frame of a stream, and pieces are cut where a stream cuts its frames.

use super::SnapshotSource;
use crate::exit::Failure;
use cairn_delta::FRAME_BYTES_MAX;
use cairn_target::control::api::{ChangeKind, ExtentReport, CHANGES_DEFAULT};
use std::collections::VecDeque;
use std::sync::Arc;

/// All extents of a delta.
pub struct Changes {
    source: Arc<dyn SnapshotSource>,
    from: Option<String>,
    to: Option<String>,
    page: VecDeque<ExtentReport>,
    /// Where the next page begins; none behind the last.
    next_offset_bytes: Option<u64>,
    failed: bool,
}

impl Changes {
    /// What `to` has that `from` has not; see [`SnapshotSource::changes`] for the names.
    pub fn new(source: Arc<dyn SnapshotSource>, from: Option<String>, to: Option<String>) -> Changes {
        Changes { source, from, to, page: VecDeque::new(), next_offset_bytes: Some(0), failed: false }
    }
}

impl Iterator for Changes {
    type Item = Result<ExtentReport, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(extent) = self.page.pop_front() {
                return Some(Ok(extent));
            }
            let offset_bytes = self.next_offset_bytes.filter(|_| !self.failed)?;
            match self.source.changes(self.from.as_deref(), self.to.as_deref(), offset_bytes, CHANGES_DEFAULT) {
                Ok(page) => {
                    self.next_offset_bytes = page.next_offset_bytes;
                    self.page.extend(page.extents);
                }
                Err(failure) => {
                    self.failed = true;
                    return Some(Err(failure));
                }
            }
        }
    }
}

/// A part of an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it begins.
    pub offset_bytes: u64,
    /// How long it is; with `Data` at most [`FRAME_BYTES_MAX`].
    pub length_bytes: u64,
    /// What became of it.
    pub kind: ChangeKind,
}

impl Piece {
    /// Where it ends.
    pub fn end_bytes(&self) -> u64 {
        self.offset_bytes + self.length_bytes
    }
}

/// Extents cut into pieces.
pub struct Pieces<I> {
    extents: I,
    rest: Option<ExtentReport>,
}

impl<I: Iterator<Item = Result<ExtentReport, Failure>>> Pieces<I> {
    /// Cuts all of `extents`.
    pub fn new(extents: I) -> Pieces<I> {
        Pieces { extents, rest: None }
    }
}

impl<I: Iterator<Item = Result<ExtentReport, Failure>>> Iterator for Pieces<I> {
    type Item = Result<Piece, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        let extent = match self.rest.take() {
            Some(rest) => rest,
            None => match self.extents.next()? {
                Ok(extent) => extent,
                Err(failure) => return Some(Err(failure)),
            },
        };
        let ExtentReport { offset_bytes, length_bytes, kind } = extent;
        let taken_bytes = match kind {
            ChangeKind::Data => length_bytes.min(FRAME_BYTES_MAX as u64),
            ChangeKind::NotInUse => length_bytes,
        };
        let (rest_offset, rest_length) = (offset_bytes + taken_bytes, length_bytes - taken_bytes);
        self.rest =
            (rest_length > 0).then_some(ExtentReport { offset_bytes: rest_offset, length_bytes: rest_length, kind });
        Some(Ok(Piece { offset_bytes, length_bytes: taken_bytes, kind }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_data_is_cut_and_what_is_not_in_use_is_not() {
        let extent = |offset_bytes, length_bytes, kind| Ok(ExtentReport { offset_bytes, length_bytes, kind });
        let extents =
            [extent(4096, (4 << 20) + 4096, ChangeKind::Data), extent(16 << 20, 1 << 30, ChangeKind::NotInUse)];
        let pieces: Vec<(u64, u64)> = Pieces::new(extents.into_iter())
            .map(|piece| piece.map(|piece| (piece.offset_bytes, piece.length_bytes)).expect("no failure"))
            .collect();
        assert_eq!(pieces, [(4096, 4 << 20), (4096 + (4 << 20), 4096), (16 << 20, 1 << 30)]);
    }
}
