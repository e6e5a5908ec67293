//! Holds an image against the model: a snapshot against its cut, a volume against the end of the run or a crash.
//!
//! Invariants:
//! - Every sector is read and judged; the verdict counts all mistakes and names the first few.

use std::collections::HashSet;
use std::ops::Range;

use super::history::{History, Outcome};
use super::stamp::{self, BadStamp};
use super::{Result, SECTOR_BYTES};

/// Mistakes that are described, not only counted.
const DESCRIBED_MAX: usize = 5;
/// Sectors that are read at a time.
const READ_SECTORS: u64 = 2048;

/// Which image is looked at.
#[derive(Clone, Copy, Debug)]
pub enum Image<'a> {
    /// The snapshot with this name.
    Snapshot(&'a str),
    /// The volume after the run, or after the crash that ended it.
    Volume,
}

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Sectors looked at.
    pub sectors: u64,
    /// The newest write that is visible.
    pub newest: u64,
    /// Sectors that show what they must not.
    pub wrong: u64,
    /// The first few of them, for people.
    pub described: Vec<String>,
}

impl Verdict {
    fn wrong(&mut self, sector: u64, what: &str) {
        self.wrong += 1;
        if self.described.len() < DESCRIBED_MAX {
            self.described.push(format!("sector {sector} (byte {}): {what}", sector * SECTOR_BYTES as u64));
        }
    }
}

/// The writes an image must show, and those it may show.
struct Window<'a> {
    settled: Box<dyn Fn(u64) -> bool + 'a>,
    /// No write from here on may be visible.
    end: u64,
    /// Whether the image is one instant: a crash may keep a late unflushed write and lose an earlier one.
    is_instant: bool,
}

fn window<'a>(history: &'a History, image: Image<'_>) -> Result<Window<'a>> {
    let end_max = history.ended.unwrap_or(history.reserved);
    if let Image::Snapshot(name) = image {
        let cut = history.cut(name)?;
        let end = match cut.outcome {
            Outcome::Returned { next } => next,
            Outcome::InDoubt | Outcome::Failed => end_max,
        };
        let settled = |sequence| sequence < cut.called_next && !cut.in_flight.contains(&sequence);
        return Ok(Window { settled: Box::new(settled), end, is_instant: true });
    }
    if let Some(end) = history.ended {
        return Ok(Window { settled: Box::new(move |sequence| sequence < end), end, is_instant: true });
    }
    let durable: HashSet<u64> = history.durable.iter().copied().collect();
    let settled = move |sequence| sequence < history.flushed || durable.contains(&sequence);
    Ok(Window { settled: Box::new(settled), end: end_max, is_instant: false })
}

/// Judges an image. `read` fills a buffer from a byte offset.
pub fn verify(
    history: &History,
    image: Image<'_>,
    mut read: impl FnMut(u64, &mut [u8]) -> Result<()>,
) -> Result<Verdict> {
    let window = window(history, image)?;
    let workload = &history.workload;
    let mut verdict = Verdict { sectors: workload.sectors, ..Verdict::default() };
    let required = latest_writes(history, 1..window.end, &window.settled);
    let zeroed = latest_writes(history, 1..window.end, &|sequence| workload.is_zeroes(sequence));
    let mut visible = vec![None; workload.sectors as usize];
    let mut buffer = cairn_engine::disk::aligned_buffer(READ_SECTORS as usize * SECTOR_BYTES);
    let mut sector = 0;
    while sector < workload.sectors {
        let sectors = READ_SECTORS.min(workload.sectors - sector);
        let bytes = &mut buffer[..sectors as usize * SECTOR_BYTES];
        read(sector * SECTOR_BYTES as u64, bytes)?;
        for content in bytes.chunks_exact(SECTOR_BYTES) {
            let expected = Expected { must_show: required[sector as usize], zeroed: zeroed[sector as usize] };
            match judge(history, &window, sector, &expected, content) {
                Ok(shown) => visible[sector as usize] = Some(shown),
                Err(what) => verdict.wrong(sector, &what),
            }
            sector += 1;
        }
    }
    verdict.newest = visible.iter().flatten().filter_map(|shown| shown.certain()).max().unwrap_or(0);
    if window.is_instant {
        check_causality(history, &visible, &mut verdict);
    }
    Ok(verdict)
}

/// What one sector is held against.
struct Expected {
    /// The latest write that must be visible, unless a later one is.
    must_show: u64,
    /// The latest write of zeroes that may be visible; 0 where there is none.
    zeroed: u64,
}

/// Which write a sector shows.
#[derive(Clone, Copy, Debug)]
enum Shown {
    Stamp(u64),
    /// Zeroes do not say whose they are: this write's or those of an earlier one.
    ZeroesAtMost(u64),
}

impl Shown {
    fn certain(self) -> Option<u64> {
        match self {
            Shown::Stamp(sequence) => Some(sequence),
            Shown::ZeroesAtMost(_) => None,
        }
    }

    fn at_most(self) -> u64 {
        match self {
            Shown::Stamp(sequence) | Shown::ZeroesAtMost(sequence) => sequence,
        }
    }
}

/// The write a sector shows, or what is wrong with it.
fn judge(
    history: &History,
    window: &Window<'_>,
    sector: u64,
    expected: &Expected,
    content: &[u8],
) -> std::result::Result<Shown, String> {
    let must_show = expected.must_show;
    let sequence = match stamp::read(content, history.workload.seed, sector) {
        Ok(sequence) => sequence,
        Err(BadStamp::Zeroes) if expected.zeroed > 0 && expected.zeroed >= must_show => {
            return Ok(Shown::ZeroesAtMost(expected.zeroed));
        }
        Err(bad) => return Err(format!("shows {bad}, must show write {must_show} or later")),
    };
    if sequence < must_show {
        return Err(format!("shows write {sequence}, must show write {must_show} or later"));
    }
    if sequence >= window.end {
        return Err(format!("shows write {sequence}, which started only after this image ended at {}", window.end));
    }
    if !history.workload.write(sequence).contains(&sector) || history.workload.is_zeroes(sequence) {
        return Err(format!("shows write {sequence}, which never wrote this there"));
    }
    Ok(Shown::Stamp(sequence))
}

/// An instant that shows a write shows everything that was acknowledged before that write started.
fn check_causality(history: &History, visible: &[Option<Shown>], verdict: &mut Verdict) {
    // Floors never fall, so the newest write with a known floor decides for all.
    let known = |sequence: &u64| *sequence > 0 && *sequence <= history.floors.len() as u64;
    let Some(newest) = visible.iter().flatten().filter_map(|shown| shown.certain()).filter(known).max() else {
        return;
    };
    let floor = history.floors[newest as usize - 1];
    let required = latest_writes(history, 1..floor, &|_| true);
    for (sector, shown) in visible.iter().enumerate() {
        let must_show = required[sector];
        if shown.is_some_and(|shown| shown.at_most() < must_show) {
            let what =
                format!("shows an older write than {must_show}, which was over when visible write {newest} began");
            verdict.wrong(sector as u64, &what);
        }
    }
}

/// For every sector the latest of these writes that is settled; 0 where there is none.
fn latest_writes(history: &History, sequences: Range<u64>, settled: &dyn Fn(u64) -> bool) -> Vec<u64> {
    let mut latest = vec![0; history.workload.sectors as usize];
    for sequence in sequences.filter(|sequence| settled(*sequence)) {
        let write = history.workload.write(sequence);
        latest[write.start as usize..write.end as usize].fill(sequence);
    }
    latest
}

#[cfg(test)]
mod tests {
    use super::super::workload::Workload;
    use super::*;

    const WORKLOAD: Workload = Workload { seed: 3, sectors: 256, granule_sectors: 1, write_sectors_max: 16 };

    /// What a disk shows after these writes.
    fn image_of(sequences: impl IntoIterator<Item = u64>) -> Vec<u8> {
        let mut image = vec![0; WORKLOAD.sectors as usize * SECTOR_BYTES];
        for sequence in std::iter::once(0).chain(sequences) {
            for sector in WORKLOAD.write(sequence) {
                let content = &mut image[sector as usize * SECTOR_BYTES..][..SECTOR_BYTES];
                if WORKLOAD.is_zeroes(sequence) {
                    content.fill(0);
                } else {
                    stamp::fill(content, WORKLOAD.seed, sequence, sector);
                }
            }
        }
        image
    }

    fn history(log: &str) -> History {
        History::parse(&format!("workload 3 256 1 16\nreserve 1000\n{log}")).expect("log")
    }

    fn verdict(log: &str, image: Image<'_>, content: &[u8]) -> Verdict {
        verify(&history(log), image, |offset_bytes, buffer| {
            buffer.copy_from_slice(&content[offset_bytes as usize..][..buffer.len()]);
            Ok(())
        })
        .expect("verify")
    }

    #[test]
    fn a_cut_shows_what_was_acknowledged_and_may_show_what_was_in_flight() {
        let log = "call s 100 98 99\nreturn s 110\n";
        assert_eq!(verdict(log, Image::Snapshot("s"), &image_of(1..98)).wrong, 0);
        assert_eq!(verdict(log, Image::Snapshot("s"), &image_of(1..110)).wrong, 0);
        assert_eq!(verdict(log, Image::Snapshot("s"), &image_of((1..98).chain([99, 105]))).wrong, 0);
        assert!(verdict(log, Image::Snapshot("s"), &image_of(1..97)).wrong > 0, "an acknowledged write is missing");
        assert!(verdict(log, Image::Snapshot("s"), &image_of(1..111)).wrong > 0, "a later write shows through");
        assert!(verdict(log, Image::Snapshot("s"), &image_of(1..50)).wrong > 0, "a stale snapshot");
    }

    #[test]
    fn a_cut_that_is_no_instant_is_seen() {
        let floors = "0 ".repeat(109);
        let log = format!("call s 50\nfloors {}\nreturn s 110\n", floors.trim_end());
        assert_eq!(verdict(&log, Image::Snapshot("s"), &image_of(1..90)).wrong, 0);
        let torn = verdict(&log, Image::Snapshot("s"), &image_of((1..60).chain([109])));
        assert!(torn.wrong > 0, "writes 60 to 108 were over before write 109 began");
    }

    #[test]
    fn a_volume_shows_all_after_an_end_and_all_flushed_after_a_crash() {
        assert_eq!(verdict("end 100\n", Image::Volume, &image_of(1..100)).wrong, 0);
        assert!(verdict("end 100\n", Image::Volume, &image_of(1..99)).wrong > 0);
        let crashed = "flushed 50\ndurable 60\n";
        assert_eq!(verdict(crashed, Image::Volume, &image_of((1..50).chain([60]))).wrong, 0);
        assert_eq!(verdict(crashed, Image::Volume, &image_of((1..50).chain([60, 400]))).wrong, 0);
        assert!(verdict(crashed, Image::Volume, &image_of(1..50)).wrong > 0, "durable write 60 is lost");
        assert!(verdict(crashed, Image::Volume, &image_of((1..49).chain([60]))).wrong > 0, "flushed write 49 is lost");
    }

    #[test]
    fn zeroes_are_right_only_where_they_were_written() {
        let zeroes = (50..100).rfind(|sequence| WORKLOAD.is_zeroes(*sequence)).expect("a write of zeroes");
        assert_eq!(verdict(&format!("end {}\n", zeroes + 1), Image::Volume, &image_of(1..=zeroes)).wrong, 0);
        let missing = verdict(&format!("end {}\n", zeroes + 1), Image::Volume, &image_of(1..zeroes));
        assert!(missing.wrong > 0, "write {zeroes} of zeroes is missing");
        let mut image = image_of(1..100);
        let stamped = image.chunks_exact(SECTOR_BYTES).rposition(|content| content[0] != 0).expect("a stamp");
        image[stamped * SECTOR_BYTES..][..SECTOR_BYTES].fill(0);
        assert_eq!(verdict("end 100\n", Image::Volume, &image).wrong, 1);
    }

    #[test]
    fn a_single_wrong_byte_is_seen_and_described() {
        let mut image = image_of(1..100);
        let stamped = image.chunks_exact(SECTOR_BYTES).rposition(|content| content[0] != 0).expect("a stamp");
        image[stamped * SECTOR_BYTES + 300] ^= 1;
        let verdict = verdict("end 100\n", Image::Volume, &image);
        assert_eq!(verdict.wrong, 1);
        assert!(verdict.described[0].starts_with(&format!("sector {stamped} (byte ")));
        assert!(verdict.described[0].contains("shows a damaged copy of write "));
    }
}
