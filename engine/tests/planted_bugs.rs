//! Every planted bug is killed by the push tier's own tests within a minute, or this fails.
//!
//!     cargo test -p cairn-engine --features planted --test planted_bugs [-- [--record] [BUG...]]
//!
//! Builds the suites once with the planted bugs in them (see `engine/src/planted.rs`) and runs them for one bug after
//! the other, until a test fails: first the test that killed it last time, as docs/PLANTED.md tells, then everything.
//! `--record` writes that page anew.
//!
//! Invariants:
//! - With no bug active everything passes, and the canary is killed by its own test: else no verdict means anything.
//! - Only a test that fails kills. A suite that does not end in time does not: a hang must be reported by a test.

use cairn_engine::planted::{Bug, BUGS, CANARY};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

/// The suites of the push tier that judge the engine, those first that see most bugs soonest.
const SUITES: [&str; 24] = [
    "first_steps",
    "in_use_map",
    "review_in_use",
    "cut_is_exact",
    "read_meets_cut",
    "damaged_records",
    "flush_failures",
    "silent_damage",
    "review_hangs_and_losses",
    "random_histories",
    "enumeration",
    "review_flush_and_watch",
    "review_silently_wrong",
    "review_restore_and_attach",
    "watch_partitions",
    "review_faults_under_load",
    "lib",
    "store_faults",
    "review_crash_everywhere",
    "catalog_append_cost",
    "write_cost",
    "bookmarks",
    "random_deltas",
    "late_store",
];
/// A bug that lives longer than this is not killed.
const BUG_SECONDS_MAX: u64 = 60;
/// All suites without a bug.
const BASELINE_SECONDS_MAX: u64 = 600;
const CANARY_TEST: &str = "planted::tests::the_canary_is_silent";
/// Of what a failing test says, the page shows so much.
const SAID_CHARS_MAX: usize = 160;
/// What a panic says may come after the verdict: it goes through another pipe.
const PANIC_MS_MAX: u64 = 300;

/// How the suites judged.
enum Verdict {
    Passed { tests: u64 },
    Killed { suite: &'static str, test: String, panic: String },
    TimedOut { suite: &'static str },
}

enum Line {
    Out(String),
    Error(String),
}

fn main() -> ExitCode {
    let began = Instant::now();
    let (record, wanted) = arguments();
    let killers = killers_last_time();
    let suites = build();
    println!("\nrunning {} planted bugs", wanted.len());
    let mut failures = 0;
    let mut rows = Vec::new();
    failures += u32::from(!baseline_is_green(&suites));
    failures += u32::from(!canary_is_killed(&suites));
    for bug in &wanted {
        let (row, killed) = judge(&suites, bug, killers.get(bug.name));
        println!("{row}");
        rows.push(row);
        failures += u32::from(!killed);
    }
    if record {
        std::fs::write(page_path(), page(&rows)).expect("the page can be written");
    }
    let verdict = if failures == 0 { "ok" } else { "FAILED" };
    let passed = wanted.len() as u32 + 2 - failures;
    let seconds = began.elapsed().as_secs_f64();
    println!("test result: {verdict}. {passed} passed; {failures} failed; 0 ignored; finished in {seconds:.2}s");
    ExitCode::from(u8::from(failures > 0))
}

/// Whether the page is to be written, and the bugs that were named: all but the canary where none was.
fn arguments() -> (bool, Vec<Bug>) {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (options, names): (Vec<&String>, Vec<&String>) = arguments.iter().partition(|name| *name == "--record");
    let known = |name: &&String| *BUGS.iter().find(|bug| bug.name == **name).unwrap_or_else(|| panic!("no bug {name}"));
    let mut wanted: Vec<Bug> = names.iter().map(known).collect();
    if wanted.is_empty() {
        wanted.extend(BUGS.iter().filter(|bug| bug.name != CANARY.name));
    }
    (!options.is_empty(), wanted)
}

fn page_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/PLANTED.md")
}

/// What killed each bug when the page was written: suite and test.
fn killers_last_time() -> BTreeMap<String, (String, String)> {
    let page = std::fs::read_to_string(page_path()).unwrap_or_default();
    let killer = |line: &str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let (suite, test) = cells.get(5)?.split_once(": ")?;
        Some((cells[1].to_owned(), (suite.to_owned(), test.to_owned())))
    };
    page.lines().filter_map(killer).collect()
}

/// Builds all suites with the bugs in them; gives their programs.
fn build() -> BTreeMap<String, PathBuf> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut command = Command::new(cargo);
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command.args(["test", "--locked", "--no-run", "--features", "planted", "--lib"]);
    for suite in SUITES.iter().filter(|suite| **suite != "lib") {
        command.args(["--test", suite]);
    }
    let output = command.output().expect("cargo can be run");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the suites do not build:\n{text}");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the engine lies in the project");
    let mut programs = BTreeMap::new();
    for line in text.lines().filter_map(|line| line.trim().strip_prefix("Executable ")) {
        let (source, program) = line.trim_end_matches(')').rsplit_once(" (").expect("cargo names source and program");
        let source = Path::new(source.trim_start_matches("unittests "));
        // A suite of several files lies in a directory of its name.
        let source = if source.ends_with("main.rs") { source.parent().expect("it lies somewhere") } else { source };
        let suite = source.file_stem().expect("a source has a name");
        programs.insert(suite.to_string_lossy().into_owned(), root.join(program));
    }
    let missing: Vec<&&str> = SUITES.iter().filter(|suite| !programs.contains_key(**suite)).collect();
    assert!(missing.is_empty(), "cargo built no {missing:?}:\n{text}");
    programs
}

fn baseline_is_green(suites: &BTreeMap<String, PathBuf>) -> bool {
    let began = Instant::now();
    let verdict = run(suites, None, began + Duration::from_secs(BASELINE_SECONDS_MAX));
    let seconds = began.elapsed().as_secs_f64();
    match &verdict {
        Verdict::Passed { tests } => println!("no bug: {tests} tests pass in {seconds:.1} s"),
        Verdict::Killed { suite, test, panic } => println!("FAILED: with no bug {suite} {test} fails: {panic}"),
        Verdict::TimedOut { suite } => println!("FAILED: with no bug {suite} does not end"),
    }
    matches!(verdict, Verdict::Passed { .. })
}

fn canary_is_killed(suites: &BTreeMap<String, PathBuf>) -> bool {
    let deadline = Instant::now() + Duration::from_secs(BUG_SECONDS_MAX);
    let verdict = run_suite("lib", &suites["lib"], Some(CANARY.name), None, deadline);
    let killed = matches!(verdict, Verdict::Killed { test, .. } if test == CANARY_TEST);
    println!("{}", if killed { "the canary is killed by its own test" } else { "FAILED: the canary lives" });
    killed
}

/// Runs the suites against a bug; gives its row of the table, and whether it was killed.
fn judge(suites: &BTreeMap<String, PathBuf>, bug: &Bug, killer: Option<&(String, String)>) -> (String, bool) {
    let began = Instant::now();
    let deadline = began + Duration::from_secs(BUG_SECONDS_MAX);
    let first = killer.and_then(|(suite, test)| {
        let suite = SUITES.iter().find(|known| **known == suite)?;
        Some(run_suite(suite, &suites[*suite], Some(bug.name), Some(test), deadline))
    });
    let verdict = match first {
        Some(killed @ Verdict::Killed { .. }) => killed,
        _ => run(suites, Some(bug.name), deadline),
    };
    let seconds = began.elapsed().as_secs_f64();
    let (killer, said) = match &verdict {
        Verdict::Killed { suite, test, panic } => {
            (format!("{suite}: {test}"), panic.replace('|', "/").chars().take(SAID_CHARS_MAX).collect::<String>())
        }
        Verdict::Passed { .. } => ("SURVIVED: every test passes".to_owned(), String::new()),
        Verdict::TimedOut { suite } => (format!("SURVIVED: {suite} does not end"), String::new()),
    };
    let Bug { name, law, mistake } = bug;
    let row = format!("| {name} | {} | {law} | {mistake} | {killer} | {seconds:.1} | {said} |", sites(name).join(", "));
    (row, matches!(verdict, Verdict::Killed { .. }))
}

/// The files of the engine in which a bug is planted: at least one.
fn sites(name: &str) -> Vec<String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    // However the line is broken.
    let call = format!("planted!(\"{name}\"");
    let is_there = |text: String| text.split_whitespace().collect::<String>().contains(&call);
    let (mut found, mut folders) = (Vec::new(), vec![source.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the source can be listed") {
            let path = entry.expect("the source can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if is_there(std::fs::read_to_string(&path).expect("source is text")) {
                found.push(path.strip_prefix(&source).expect("it lies there").display().to_string());
            }
        }
    }
    assert!(!found.is_empty(), "{name} is planted nowhere");
    found.sort();
    found
}

/// Runs suite after suite, until a test fails or the time is over.
fn run(suites: &BTreeMap<String, PathBuf>, bug: Option<&str>, deadline: Instant) -> Verdict {
    let mut passed = 0;
    for suite in SUITES {
        match run_suite(suite, &suites[suite], bug, None, deadline) {
            Verdict::Passed { tests } => passed += tests,
            verdict => return verdict,
        }
    }
    Verdict::Passed { tests: passed }
}

/// Runs one suite, or one test of it; stops it at its first failure.
fn run_suite(suite: &'static str, program: &Path, bug: Option<&str>, only: Option<&str>, deadline: Instant) -> Verdict {
    let mut command = Command::new(program);
    // Two threads: with a single one panics do not name their test.
    command.args(["--nocapture", "--test-threads=2"]).env("RUST_BACKTRACE", "0").env_remove("CAIRN_PLANTED");
    command.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(test) = only {
        command.args(["--exact", test]);
    }
    if let Some(bug) = bug {
        command.env("CAIRN_PLANTED", bug);
    }
    let mut child = command.spawn().expect("a suite that was just built can be run");
    let (sender, lines) = channel();
    forward(child.stdout.take().expect("it is a pipe"), sender.clone(), Line::Out);
    forward(child.stderr.take().expect("it is a pipe"), sender, Line::Error);
    let mut heard = Heard::default();
    let failed = heard.listen(&lines, deadline);
    // It may have ended by itself; then there is nobody to kill.
    let _ = child.kill();
    let status = child.wait().expect("a child can be waited for");
    match failed {
        Some(test) => Verdict::Killed { suite, panic: heard.panics.remove(&test).unwrap_or_default(), test },
        None if !heard.ended => Verdict::TimedOut { suite },
        None if status.success() => Verdict::Passed { tests: heard.passed },
        None => {
            let panic = heard.panics.pop_last().map(|(_, panic)| panic).unwrap_or_default();
            Verdict::Killed { suite, test: format!("the suite ended with {status}"), panic }
        }
    }
}

/// Sends the lines of a pipe until it is closed.
fn forward(pipe: impl Read + Send + 'static, sender: Sender<Line>, kind: fn(String) -> Line) {
    thread::spawn(move || {
        let lines = BufReader::new(pipe).split(b'\n').map_while(std::result::Result::ok);
        for line in lines {
            // Nobody listens any more once the verdict is known.
            let _ = sender.send(kind(String::from_utf8_lossy(&line).into_owned()));
        }
    });
}

/// What a suite said so far.
#[derive(Default)]
struct Heard {
    passed: u64,
    /// Both pipes are closed.
    ended: bool,
    /// What the first panic of each thread, which is of each test, said.
    panics: BTreeMap<String, String>,
    /// Where the panic lies whose words are on the next line.
    panicking: Option<(String, String)>,
}

impl Heard {
    /// Listens until a test fails, which it names, until the suite ends or the time is over.
    fn listen(&mut self, lines: &Receiver<Line>, deadline: Instant) -> Option<String> {
        let mut failed = None;
        let mut until = deadline;
        loop {
            match lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Line::Error(line)) => self.hear_error(&line),
                Ok(Line::Out(line)) if failed.is_none() => {
                    failed = self.hear_result(&line);
                    if failed.is_some() {
                        until = deadline.min(Instant::now() + Duration::from_millis(PANIC_MS_MAX));
                    }
                }
                Ok(Line::Out(_)) => {}
                Err(RecvTimeoutError::Timeout) => return failed,
                Err(RecvTimeoutError::Disconnected) => {
                    self.ended = true;
                    return failed;
                }
            }
            if failed.as_ref().is_some_and(|test| self.panics.contains_key(test)) {
                return failed;
            }
        }
    }

    fn hear_result(&mut self, line: &str) -> Option<String> {
        if let Some(counts) = line.strip_prefix("test result: ok. ") {
            let passed = counts.split(' ').next().and_then(|count| count.parse::<u64>().ok());
            self.passed += passed.expect("the harness counts what passed");
        }
        let test = line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?;
        Some(test.split(' ').next().unwrap_or(test).to_owned())
    }

    fn hear_error(&mut self, line: &str) {
        if let Some((test, place)) = self.panicking.take() {
            let file = place.rsplit('/').next().unwrap_or(&place);
            self.panics.entry(test).or_insert_with(|| format!("{}: {line}", file.trim_end_matches(':')));
        }
        if let Some((name, place)) = line.strip_prefix("thread '").and_then(|line| line.split_once(" panicked at ")) {
            let test = name.split('\'').next().unwrap_or(name);
            self.panicking = Some((test.to_owned(), place.to_owned()));
        }
    }
}

/// The table as a page.
fn page(rows: &[String]) -> String {
    let head = "# Planted bugs\n\nWritten by `engine/tests/planted_bugs.rs`; docs/TESTING.md says what it is.\n\n\
                | bug | in engine/src | law | mistake | killed by | seconds | what the test said |\n\
                |---|---|---|---|---|---|---|\n";
    format!("{head}{}\n", rows.join("\n"))
}
