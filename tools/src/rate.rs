//! How fast, and how far: a limit on what is written, and lines on standard error that say where things are.
//!
//! Invariants:
//! - Over any longer stretch no more is written than the limit allows.
//! - Nobody who does not ask gets more than a line a second.

use crate::asked::{whenever_asked, Answering};
use crate::output::bytes::format_bytes;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What may be written in one go without waiting.
const BURST: Duration = Duration::from_millis(100);
/// Between two lines.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// Keeps to a number of bytes a second.
#[derive(Debug)]
pub struct Pace {
    bytes_per_s: Option<u64>,
    /// When everything so far would be done at exactly the limit.
    due: Instant,
}

impl Pace {
    /// `None`: no limit.
    pub fn new(bytes_per_s: Option<u64>) -> Pace {
        Pace { bytes_per_s: bytes_per_s.filter(|rate| *rate > 0), due: Instant::now() }
    }

    /// Counts bytes, and waits as long as they are ahead of the limit.
    pub fn spend(&mut self, bytes: u64) {
        let Some(rate) = self.bytes_per_s else { return };
        let now = Instant::now();
        self.due = self.due.max(now.checked_sub(BURST).unwrap_or(now));
        self.due += Duration::from_secs_f64(bytes as f64 / rate as f64);
        std::thread::sleep(self.due.saturating_duration_since(now));
    }
}

/// Writes at a limited rate.
pub struct Limited<W> {
    output: W,
    pace: Pace,
}

impl<W: Write> Limited<W> {
    /// `None`: no limit.
    pub fn new(output: W, bytes_per_s: Option<u64>) -> Limited<W> {
        Limited { output, pace: Pace::new(bytes_per_s) }
    }
}

impl<W: Write> Write for Limited<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        // In small steps, so that a slow rate is even.
        let piece = match self.pace.bytes_per_s {
            Some(rate) => &bytes[..bytes.len().min((rate / 20).max(4096) as usize)],
            None => bytes,
        };
        let written = self.output.write(piece)?;
        self.pace.spend(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.output.flush()
    }
}

/// Says on standard error how far something is: line by line where that is wanted, and whenever somebody asks.
pub struct Progress {
    shown: bool,
    last: Instant,
    reached: Arc<Reached>,
    _answering: Option<Answering>,
}

/// How far it is.
struct Reached {
    what: String,
    started: Instant,
    done_bytes: AtomicU64,
    total_bytes: Option<u64>,
    /// A terminal's line is written over; a log gets line after line.
    terminal: bool,
}

impl Progress {
    /// Unless `shown` nothing is printed that nobody asks for.
    pub fn new(shown: bool, what: &str) -> Progress {
        Progress::begin(shown, what, None)
    }

    /// The same, of a known total.
    pub fn of(shown: bool, what: &str, total_bytes: u64) -> Progress {
        Progress::begin(shown, what, Some(total_bytes))
    }

    fn begin(shown: bool, what: &str, total_bytes: Option<u64>) -> Progress {
        let (started, terminal) = (Instant::now(), std::io::stderr().is_terminal());
        let done_bytes = AtomicU64::new(0);
        let reached = Arc::new(Reached { what: what.to_owned(), started, done_bytes, total_bytes, terminal });
        let asked = Arc::clone(&reached);
        let _answering = whenever_asked(move || asked.print(true));
        Progress { shown, last: started, reached, _answering }
    }

    /// It is so far now.
    pub fn at(&mut self, done_bytes: u64) {
        self.reached.done_bytes.store(done_bytes, Ordering::Relaxed);
        if self.shown && self.last.elapsed() >= LINE_INTERVAL {
            self.last = Instant::now();
            self.reached.print(false);
        }
    }

    /// It is further by so much.
    pub fn add(&mut self, bytes: u64) {
        self.at(self.reached.done_bytes.load(Ordering::Relaxed) + bytes);
    }

    /// It is done.
    pub fn end(&mut self) {
        if self.shown {
            self.reached.print(true);
        }
    }
}

impl Reached {
    /// `stays`: the line is not written over by the next one.
    fn print(&self, stays: bool) {
        let done_bytes = self.done_bytes.load(Ordering::Relaxed);
        let rate = done_bytes as f64 / self.started.elapsed().as_secs_f64().max(0.001);
        let of = match self.total_bytes {
            Some(total) => format!(" of {}, {} %", format_bytes(total), done_bytes * 100 / total.max(1)),
            None => String::new(),
        };
        let line = format!("{}: {}{of}, {}/s", self.what, format_bytes(done_bytes), format_bytes(rate as u64));
        let end = if stays { "\n" } else { "" };
        // Progress that cannot be shown is not worth failing for.
        let _ = match self.terminal {
            true => write!(std::io::stderr(), "\r\x1b[K{line}{end}"),
            false => writeln!(std::io::stderr(), "cairn: {line}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_kept_to() {
        let started = Instant::now();
        let mut output = Limited::new(Vec::new(), Some(1 << 20));
        output.write_all(&vec![7; 300 << 10]).expect("a vector takes everything");
        assert_eq!(output.output.len(), 300 << 10);
        let took = started.elapsed();
        assert!(took >= Duration::from_millis(190), "300 KiB at 1 MiB/s took {took:?}");
    }
}
