//! The log of a run: what may have started, what was acknowledged, flushed and cut, one line an event.
//!
//! Invariants:
//! - A reservation is durable before the first write it covers starts: below it writes may exist, above it none do.
//! - Everything else is logged after the fact, so that a lost tail only makes the model more lenient.
//! - A line that was cut off by a crash is ignored.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use super::workload::Workload;
use super::Result;

/// How a snapshot call ended, as far as the log knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The log ends before the call returned: the snapshot may exist, and then it is exact.
    InDoubt,
    /// It was reported as failed; it may still exist, and then it is exact.
    Failed,
    /// It was reported as taken.
    Returned {
        /// The first write that had not started when the call had returned.
        next: u64,
    },
}

/// One snapshot call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The snapshot's name.
    pub name: String,
    /// The first write that had not started at the call.
    pub called_next: u64,
    /// The writes below it that were not acknowledged at the call.
    pub in_flight: Vec<u64>,
    /// How it ended.
    pub outcome: Outcome,
}

/// A whole run, read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// Its writes.
    pub workload: Workload,
    /// Writes below this sequence may have started.
    pub reserved: u64,
    /// Writes below this sequence were acknowledged before a flush that succeeded.
    pub flushed: u64,
    /// Single writes that were acknowledged as durable.
    pub durable: Vec<u64>,
    /// For write n at index n - 1: every write below this was acknowledged when write n started.
    pub floors: Vec<u64>,
    /// The first write that never started, when the run ended in order and everything was acknowledged.
    pub ended: Option<u64>,
    /// The snapshot calls, in order.
    pub cuts: Vec<Cut>,
}

impl History {
    /// Reads a log.
    pub fn load(path: &Path) -> Result<History> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        History::parse(&text).map_err(|error| format!("{}: {error}", path.display()).into())
    }

    /// Reads the text of a log.
    pub fn parse(text: &str) -> Result<History> {
        let whole = &text[..text.rfind('\n').map_or(0, |last| last + 1)];
        let mut lines = whole.lines();
        let workload = parse_workload(lines.next().ok_or("the log is empty")?)?;
        let mut history = History {
            workload,
            reserved: 1,
            flushed: 1,
            durable: Vec::new(),
            floors: Vec::new(),
            ended: None,
            cuts: Vec::new(),
        };
        for line in lines {
            history.apply(line).ok_or_else(|| format!("bad line in the log: {line}"))?;
        }
        Ok(history)
    }

    /// The snapshot call with this name.
    pub fn cut(&self, name: &str) -> Result<&Cut> {
        self.cuts.iter().find(|cut| cut.name == name).ok_or_else(|| format!("the log has no snapshot {name}").into())
    }

    fn apply(&mut self, line: &str) -> Option<()> {
        let words: Vec<&str> = line.split(' ').collect();
        let numbers = |words: &[&str]| words.iter().map(|word| word.parse().ok()).collect::<Option<Vec<u64>>>();
        match *words.first()? {
            "reserve" => self.reserved = *numbers(&words[1..])?.first()?,
            "flushed" => self.flushed = *numbers(&words[1..])?.first()?,
            "end" => self.ended = Some(*numbers(&words[1..])?.first()?),
            "durable" => self.durable.extend(numbers(&words[1..])?),
            "floors" => {
                for distance in numbers(&words[1..])? {
                    self.floors.push((self.floors.len() as u64 + 1).checked_sub(distance)?);
                }
            }
            "call" => self.cuts.push(Cut {
                name: (*words.get(1)?).to_owned(),
                called_next: words.get(2)?.parse().ok()?,
                in_flight: numbers(&words[3..])?,
                outcome: Outcome::InDoubt,
            }),
            "return" => self.last_cut(words.get(1)?)?.outcome = Outcome::Returned { next: words.get(2)?.parse().ok()? },
            "failed" => self.last_cut(words.get(1)?)?.outcome = Outcome::Failed,
            _ => return None,
        }
        Some(())
    }

    fn last_cut(&mut self, name: &str) -> Option<&mut Cut> {
        self.cuts.last_mut().filter(|cut| cut.name == name)
    }
}

fn parse_workload(line: &str) -> Result<Workload> {
    let numbers: Vec<u64> = line
        .strip_prefix("workload ")
        .ok_or("the log does not begin with a workload")?
        .split(' ')
        .map(str::parse)
        .collect::<std::result::Result<_, _>>()?;
    let [seed, sectors, granule_sectors, write_sectors_max] = numbers[..] else {
        return Err("the workload has not four numbers".into());
    };
    Ok(Workload { seed, sectors, granule_sectors, write_sectors_max })
}

/// Writes a log; every line is durable on return.
pub struct Log {
    file: File,
}

impl Log {
    /// Starts a log; there must be none yet.
    pub fn create(path: &Path, workload: &Workload) -> Result<Log> {
        let file = File::create_new(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut log = Log { file };
        let Workload { seed, sectors, granule_sectors, write_sectors_max } = workload;
        log.line(&format!("workload {seed} {sectors} {granule_sectors} {write_sectors_max}"))?;
        Ok(log)
    }

    /// Writes below `next` may start from now on.
    pub fn reserve(&mut self, next: u64) -> Result<()> {
        self.line(&format!("reserve {next}"))
    }

    /// A flush succeeded that was submitted when everything below `floor` was acknowledged.
    pub fn flushed(&mut self, floor: u64) -> Result<()> {
        self.line(&format!("flushed {floor}"))
    }

    /// These writes were acknowledged as durable.
    pub fn durable(&mut self, sequences: &[u64]) -> Result<()> {
        self.numbers("durable".to_owned(), sequences)
    }

    /// The distances of the next writes from their floors.
    pub fn floors(&mut self, distances: &[u64]) -> Result<()> {
        self.numbers("floors".to_owned(), distances)
    }

    /// A snapshot is about to be called.
    pub fn call(&mut self, name: &str, next: u64, in_flight: &[u64]) -> Result<()> {
        self.numbers(format!("call {name} {next}"), in_flight)
    }

    /// The snapshot call has ended.
    pub fn ended_call(&mut self, name: &str, next: u64, success: bool) -> Result<()> {
        self.line(&if success { format!("return {name} {next}") } else { format!("failed {name}") })
    }

    /// The run is over and everything below `next` is acknowledged.
    pub fn end(&mut self, next: u64) -> Result<()> {
        self.line(&format!("end {next}"))
    }

    fn numbers(&mut self, mut line: String, numbers: &[u64]) -> Result<()> {
        for number in numbers {
            line.push(' ');
            line.push_str(&number.to_string());
        }
        self.line(&line)
    }

    fn line(&mut self, line: &str) -> Result<()> {
        // One write for the whole line: a crash leaves it whole or without its newline.
        self.file.write_all(format!("{line}\n").as_bytes())?;
        self.file.sync_data()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_reads_back_as_it_was_written() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("log");
        let workload = Workload { seed: 9, sectors: 64, granule_sectors: 8, write_sectors_max: 16 };
        let mut log = Log::create(&path, &workload).expect("create");
        log.reserve(100).expect("reserve");
        log.floors(&[0, 1, 2]).expect("floors");
        log.durable(&[2]).expect("durable");
        log.call("s1", 4, &[2, 3]).expect("call");
        log.ended_call("s1", 6, true).expect("return");
        log.flushed(3).expect("flushed");
        log.call("s2", 9, &[]).expect("call");
        log.ended_call("s2", 9, false).expect("failed");
        log.call("s3", 10, &[]).expect("call");
        log.end(12).expect("end");
        let history = History::load(&path).expect("load");
        assert_eq!(history.workload, workload);
        assert_eq!((history.reserved, history.flushed, history.ended), (100, 3, Some(12)));
        assert_eq!(history.durable, [2]);
        assert_eq!(history.floors, [1, 1, 1]);
        assert_eq!(history.cut("s1").expect("s1").in_flight, [2, 3]);
        assert_eq!(history.cut("s1").expect("s1").outcome, Outcome::Returned { next: 6 });
        assert_eq!(history.cut("s2").expect("s2").outcome, Outcome::Failed);
        assert_eq!(history.cut("s3").expect("s3").outcome, Outcome::InDoubt);
        assert!(Log::create(&path, &workload).is_err(), "a log is never overwritten");
    }

    #[test]
    fn a_line_cut_off_by_a_crash_is_ignored_and_nonsense_is_not() {
        let history = History::parse("workload 1 8 1 8\nreserve 10\nflushed 1").expect("parse");
        assert_eq!((history.reserved, history.flushed), (10, 1));
        assert!(History::parse("workload 1 8 1 8\nreserve x\n").is_err());
        assert!(History::parse("workload 1 8\n").is_err());
        assert!(History::parse("workload 1 8 1 8\nreturn s1 4\n").is_err());
    }
}
