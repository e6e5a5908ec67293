//! Enumerates crash states for as long as told, and goes on where the ledger says that it stopped.
//!
//! Invariants:
//! - A line of the ledger counts workloads that were explored to their end, each once; a slice that fails is written
//!   down too, with its failures, and is not gone on from.
//! - Where the next slice begins follows from the ledger alone.

use cairn_engine::sim::enumerate::{Counts, Enumerator, Settings, Workload, ALPHABET_VERSION};
use serde_json::{json, Value};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant};

const USAGE: &str = "enumerate --length N --seconds N [--ledger FILE] [--threads N] [--kind TEXT] \
                     [--tears N] [--torn N] [--again-one-in N]\nenumerate --sum FILE";
/// Failures after which a slice ends.
const FAILURES_MAX: usize = 10;

struct Arguments {
    length: u32,
    seconds: u64,
    ledger: Option<String>,
    threads: u64,
    kind: String,
    settings: Settings,
    sum: Option<String>,
}

impl Arguments {
    fn read() -> Result<Arguments, String> {
        let mut arguments = Arguments {
            length: 3,
            seconds: 60,
            ledger: None,
            threads: 2,
            kind: "soak".to_owned(),
            settings: Settings::default(),
            sum: None,
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
            let number = || value.parse::<u64>().map_err(|_| format!("{word} needs a number, not '{value}'"));
            match word.as_str() {
                "--length" => arguments.length = number()? as u32,
                "--seconds" => arguments.seconds = number()?,
                "--threads" => arguments.threads = number()?.max(1),
                "--tears" => arguments.settings.tears = number()? as u32,
                "--torn" => arguments.settings.torn = number()? as u32,
                "--again-one-in" => arguments.settings.again_one_in = number()?.max(1),
                "--ledger" => arguments.ledger = Some(value),
                "--kind" => arguments.kind = value,
                "--sum" => arguments.sum = Some(value),
                _ => return Err(format!("{word} is not known")),
            }
        }
        Ok(arguments)
    }

    /// What lines of one series have in common.
    fn series(&self) -> Value {
        let Settings { tears, torn, again_one_in, .. } = self.settings;
        json!({"alphabet": ALPHABET_VERSION, "length": self.length, "tears": tears, "torn": torn,
            "again_one_in": again_one_in})
    }
}

fn lines_of(path: &str) -> Vec<Value> {
    let Ok(file) = File::open(path) else { return Vec::new() };
    let lines = BufReader::new(file).lines().map(|line| line.expect("the ledger can be read"));
    let lines = lines.filter(|line| !line.trim().is_empty());
    lines.map(|line| serde_json::from_str(&line).expect("the ledger holds one JSON object a line")).collect()
}

/// The workload behind the last one that the ledger has of this series.
fn next_workload(arguments: &Arguments) -> u64 {
    let series = arguments.series();
    let is_same = |line: &Value| {
        series.as_object().expect("an object").iter().all(|(key, value)| line.get(key) == Some(value))
            && line["failures"] == 0
    };
    let lines = arguments.ledger.as_deref().map(lines_of).unwrap_or_default();
    let last = lines.iter().filter(|line| is_same(line)).filter_map(|line| line["last_workload"].as_u64()).max();
    last.map_or(0, |last| last + 1)
}

struct Slice {
    counts: Counts,
    /// The workload behind the last.
    end: u64,
    failures: usize,
    took: Duration,
}

/// Explores from `first` on until the time is up. Threads take groups of workloads that have much in common.
fn explore(arguments: &Arguments, first: u64) -> Slice {
    let started = Instant::now();
    let count = Workload::count(arguments.length);
    let (next, sum, failures) = (AtomicU64::new(first), Mutex::new(Counts::default()), Mutex::new(0));
    let is_over = || {
        let failed = *failures.lock().expect("no thread panics with the lock") >= FAILURES_MAX;
        failed || started.elapsed().as_secs() >= arguments.seconds
    };
    let work = || {
        let mut enumerator = Enumerator::new(arguments.length, arguments.settings);
        while !is_over() {
            let from = next.fetch_add(Workload::FAMILY, Ordering::SeqCst);
            for number in from.min(count)..(from + Workload::FAMILY).min(count) {
                if let Err(failure) = enumerator.explore(number) {
                    println!("CAIRN_ENUMERATE='{}'\n  {}", failure.place, failure.message);
                    *failures.lock().expect("no thread panics with the lock") += 1;
                }
            }
            if from >= count {
                break;
            }
        }
        sum.lock().expect("no thread panics with the lock").add(&enumerator.counts());
    };
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads {
            scope.spawn(work);
        }
    });
    let failures = *failures.lock().expect("no thread panics with the lock");
    let counts = *sum.lock().expect("no thread panics with the lock");
    Slice { counts, end: next.load(Ordering::SeqCst).min(count), failures, took: started.elapsed() }
}

fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = std::process::Command::new("git").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned())
}

fn write_down(path: &str, line: &Value) {
    let file = OpenOptions::new().create(true).append(true).open(path);
    let mut file = file.unwrap_or_else(|error| panic!("the ledger {path} cannot be opened: {error}"));
    writeln!(file, "{line}").and_then(|()| file.sync_data()).expect("the ledger takes a line");
}

/// Prints what the lines of a ledger add up to.
fn print_sum(path: &str) {
    let lines = lines_of(path);
    let sum = |key: &str| lines.iter().filter_map(|line| line[key].as_f64()).sum::<f64>();
    println!(
        "{} slices, {} workloads, {} crash states ({} of them after a crash during recovery), {} different images \
         recovered, {} failures, {:.0} s of threads",
        lines.len(),
        sum("workloads"),
        sum("states"),
        sum("again"),
        sum("distinct"),
        sum("failures"),
        lines.iter().filter_map(|line| Some(line["seconds"].as_f64()? * line["threads"].as_f64()?)).sum::<f64>()
    );
}

fn main() {
    let arguments = Arguments::read().unwrap_or_else(|message| {
        eprintln!("{message}\n{USAGE}");
        std::process::exit(2);
    });
    if let Some(path) = &arguments.sum {
        return print_sum(path);
    }
    let first = next_workload(&arguments);
    if first >= Workload::count(arguments.length) {
        println!("every workload of length {} is in the ledger", arguments.length);
        return;
    }
    let Slice { counts, end, failures, took } = explore(&arguments, first);
    let Counts { workloads, states, again, distinct, used } = counts;
    let seconds = took.as_secs_f64();
    let mut line = json!({"commit": commit(), "kind": arguments.kind, "first_workload": first,
        "last_workload": end - 1, "workloads": workloads, "states": states, "again": again, "distinct": distinct,
        "used": used, "failures": failures, "seconds": (seconds * 10.0).round() / 10.0, "threads": arguments.threads});
    let object = line.as_object_mut().expect("an object");
    object.extend(arguments.series().as_object().expect("an object").clone());
    println!("{line}");
    println!(
        "to workload {end} of {}; {:.0} states/s on each of {} threads",
        Workload::count(arguments.length),
        states as f64 / seconds / arguments.threads as f64,
        arguments.threads
    );
    if let Some(path) = &arguments.ledger {
        write_down(path, &line);
    }
    if failures > 0 {
        std::process::exit(1);
    }
}
