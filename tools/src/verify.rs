//! Compares the content of two snapshots with what their delta says.
//!
//! Invariants:
//! - Every byte that no extent covers is compared; a difference there is a delta that lies.

use crate::exit::Failure;
use crate::output::Output;
use crate::source::{Changes, ReadAhead, SnapshotSource, READERS};
use cairn_target::control::api::{ExtentReport, SnapshotReport};
use serde::Serialize;
use std::sync::Arc;

/// Bytes compared at once.
const PIECE_BYTES: u64 = 1 << 20;

/// What a comparison found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Bytes outside of the delta that were compared.
    pub compared_bytes: u64,
    /// Of these, those that differ. Anything but 0 is a fault of Cairn or of a disk.
    pub unreported_bytes: u64,
    /// Where the first of them lies; null where there is none.
    pub first_unreported_bytes: Option<u64>,
}

impl Report {
    /// The same for people.
    pub fn sentence(&self) -> String {
        match self.first_unreported_bytes {
            None => format!("{} bytes outside of the delta are the same in both", self.compared_bytes),
            Some(first) => {
                format!("WRONG: {} bytes differ that no extent covers, the first at {first}", self.unreported_bytes)
            }
        }
    }

    fn add(&mut self, gap: &Gap, differing: Option<(u64, u64)>) {
        self.compared_bytes += gap.length_bytes;
        if let Some((first, bytes)) = differing {
            self.unreported_bytes += bytes;
            self.first_unreported_bytes.get_or_insert(first);
        }
    }
}

/// A range that no extent covers.
#[derive(Clone, Copy, Debug)]
struct Gap {
    offset_bytes: u64,
    length_bytes: u64,
}

/// The ranges between extents, up to `end_bytes`, in pieces.
struct Gaps<I> {
    extents: I,
    at: u64,
    /// Where the gap at `at` ends, and where what follows it does.
    gap: Option<(u64, u64)>,
    end_bytes: u64,
}

impl<I: Iterator<Item = Result<ExtentReport, Failure>>> Iterator for Gaps<I> {
    type Item = Result<Gap, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.at < self.end_bytes {
            let (gap_end, extent_end) = match self.gap {
                Some(gap) => gap,
                None => match self.extents.next() {
                    Some(Ok(extent)) => (extent.offset_bytes, extent.offset_bytes + extent.length_bytes),
                    Some(Err(failure)) => return Some(Err(failure)),
                    None => (self.end_bytes, self.end_bytes),
                },
            };
            let gap_end_within = gap_end.min(self.end_bytes);
            if self.at >= gap_end_within {
                (self.at, self.gap) = (self.at.max(extent_end), None);
                continue;
            }
            self.gap = Some((gap_end, extent_end));
            let gap = Gap { offset_bytes: self.at, length_bytes: PIECE_BYTES.min(gap_end_within - self.at) };
            self.at += gap.length_bytes;
            return Some(Ok(gap));
        }
        None
    }
}

/// Compares everything that the delta of the snapshots `older` and `younger` leaves out.
pub fn compare(
    source: &Arc<dyn SnapshotSource>,
    older: &SnapshotReport,
    younger: &SnapshotReport,
    output: &Output,
) -> Result<Report, Failure> {
    let end_bytes = older.size_bytes.min(younger.size_bytes);
    let (from, to) = (older.name.clone(), younger.name.clone());
    output.progress(&format!("Comparing what {from} and {to} have in common"));
    let extents = Changes::new(source.clone(), Some(from.clone()), Some(to.clone()));
    let gaps = Gaps { extents, at: 0, gap: None, end_bytes };
    let reader = source.clone();
    let compared = ReadAhead::start(gaps, READERS, 2 * READERS, move |gap: Gap| {
        let mut contents = [vec![0; gap.length_bytes as usize], vec![0; gap.length_bytes as usize]];
        reader.read(&from, gap.offset_bytes, &mut contents[0])?;
        reader.read(&to, gap.offset_bytes, &mut contents[1])?;
        let pairs = contents[0].iter().zip(&contents[1]);
        let mut differing = (gap.offset_bytes..).zip(pairs).filter(|(_, (old, new))| old != new).map(|(at, _)| at);
        Ok((gap, differing.next().map(|first| (first, 1 + differing.count() as u64))))
    });
    let mut report = Report::default();
    for result in compared {
        let (gap, differing) = result?;
        report.add(&gap, differing);
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_target::control::api::ChangeKind;

    fn gaps(extents: &[(u64, u64)], end_bytes: u64) -> Vec<(u64, u64)> {
        let kind = ChangeKind::Data;
        let extents: Vec<_> = extents
            .iter()
            .map(|&(offset_bytes, length_bytes)| Ok(ExtentReport { offset_bytes, length_bytes, kind }))
            .collect();
        let gaps = Gaps { extents: extents.into_iter(), at: 0, gap: None, end_bytes };
        gaps.map(|gap| gap.map(|gap| (gap.offset_bytes, gap.length_bytes)).expect("no failure")).collect()
    }

    #[test]
    fn gaps_and_extents_are_the_whole_without_overlap() {
        assert_eq!(gaps(&[], 10), [(0, 10)]);
        assert_eq!(gaps(&[(0, 10)], 10), []);
        assert_eq!(gaps(&[(2, 3), (7, 1)], 10), [(0, 2), (5, 2), (8, 2)]);
        assert_eq!(gaps(&[(2, 3), (12, 3)], 10), [(0, 2), (5, 5)], "the younger one is larger");
        assert_eq!(gaps(&[(0, 1)], PIECE_BYTES + 5), [(1, PIECE_BYTES), (PIECE_BYTES + 1, 4)]);
    }
}
