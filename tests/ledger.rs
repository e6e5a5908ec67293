//! The ledger of long test runs: one JSON line a slice in docs/ledger/, appended by `scripts/soak`, never edited.
//!
//! Invariants:
//! - Totals are computed from the lines; docs/TESTING.md shows what [`table`] gives, and a test holds that it does.
//! - A line that cannot be understood is an error, never left out of the sum.

use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

/// What stands around the totals in docs/TESTING.md.
const BEGIN: &str = "<!-- ledger: begin, written by `cargo run -p cairn-tests --bin ledger` -->";
const END: &str = "<!-- ledger: end -->";

/// Numbers that say where a slice lies and how it was set, not how much it did.
const PLACES: [&str; 9] = ["first", "last", "length", "threads", "alphabet", "seed", "again_one_in", "tears", "torn"];

/// What the slices of one kind add up to.
#[derive(Debug, Default, PartialEq)]
pub struct Total {
    /// Lines.
    pub slices: u64,
    /// Revisions the slices ran on.
    pub commits: BTreeSet<String>,
    /// Failures.
    pub failures: u64,
    /// Time of all slices, in seconds.
    pub seconds: f64,
    /// Everything else that was counted, by name.
    pub counts: BTreeMap<String, u64>,
}

/// Adds up the lines of one file. Kinds are told apart by `kind` and, where there is one, `target` or `length`.
pub fn add_up(lines: &str, totals: &mut BTreeMap<String, Total>) -> Result<(), String> {
    for (number, line) in lines.lines().enumerate() {
        let wrong = |what: &str| format!("line {}: {what}: {line}", number + 1);
        let fields: Map<String, Value> = serde_json::from_str(line).map_err(|error| wrong(&error.to_string()))?;
        let text = |name: &str| fields.get(name).and_then(Value::as_str).map(str::to_owned);
        let mut kind = text("kind").ok_or_else(|| wrong("no kind"))?;
        if let Some(target) = text("target") {
            kind = format!("{kind}: {target}");
        } else if let Some(length) = fields.get("length").and_then(Value::as_u64) {
            kind = format!("{kind}, length {length}");
        }
        let total = totals.entry(kind).or_default();
        total.slices += 1;
        total.commits.insert(text("commit").ok_or_else(|| wrong("no commit"))?);
        total.failures += fields.get("failures").and_then(Value::as_u64).ok_or_else(|| wrong("no failures"))?;
        total.seconds += fields.get("seconds").and_then(Value::as_f64).ok_or_else(|| wrong("no seconds"))?;
        for (name, value) in &fields {
            let is_place = PLACES.iter().any(|place| name.starts_with(place));
            if let Some(count) = value.as_u64().filter(|_| !is_place && name != "failures" && name != "seconds") {
                *total.counts.entry(name.clone()).or_default() += count;
            }
        }
    }
    Ok(())
}

/// The totals of a directory of ledger files.
pub fn read(directory: &Path) -> Result<BTreeMap<String, Total>, String> {
    let mut totals = BTreeMap::new();
    let mut paths: Vec<_> = std::fs::read_dir(directory)
        .map_err(|error| format!("{}: {error}", directory.display()))?
        .map(|entry| entry.map(|entry| entry.path()).map_err(|error| error.to_string()))
        .collect::<Result<_, _>>()?;
    paths.sort();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "jsonl")) {
        let lines = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        add_up(&lines, &mut totals).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(totals)
}

/// The totals as a table in Markdown.
pub fn table(totals: &BTreeMap<String, Total>) -> String {
    let mut text =
        String::from("| what | slices | revisions | counted | failures | hours |\n|---|---|---|---|---|---|\n");
    for (kind, total) in totals {
        let counts: Vec<String> =
            total.counts.iter().map(|(name, count)| format!("{} {name}", grouped(*count))).collect();
        let Total { slices, commits, failures, seconds, .. } = total;
        let (revisions, counts, hours) = (commits.len(), counts.join(", "), seconds / 3600.0);
        writeln!(text, "| {kind} | {slices} | {revisions} | {counts} | {failures} | {hours:.2} |")
            .expect("a string takes everything");
    }
    text
}

/// The page with its totals replaced by `table`.
pub fn replace_totals(page: &str, table: &str) -> Result<String, String> {
    let (before, rest) = page.split_once(BEGIN).ok_or("the page has no mark where the totals begin")?;
    let (_, after) = rest.split_once(END).ok_or("the page has no mark where the totals end")?;
    Ok(format!("{before}{BEGIN}\n{table}{END}{after}"))
}

/// A number with commas between its thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_totals_in_the_page_are_those_of_the_ledger() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let page = std::fs::read_to_string(docs.join("TESTING.md")).expect("the page is there");
        let totals = read(&docs.join("ledger")).expect("the ledger can be read");
        let expected = replace_totals(&page, &table(&totals)).expect("the page has its marks");
        assert!(page == expected, "the page shows other totals: run `cargo run -p cairn-tests --bin ledger`");
    }

    #[test]
    fn lines_add_up_by_kind_and_places_do_not_count() {
        let mut totals = BTreeMap::new();
        let lines = r#"{"kind":"k","length":3,"commit":"a","states":1200,"last_workload":7,"failures":0,"seconds":1.5}
{"kind":"k","length":3,"commit":"b","states":1000000,"last_workload":9,"failures":1,"seconds":2}"#;
        add_up(lines, &mut totals).expect("both lines are whole");
        let expected = "| k, length 3 | 2 | 2 | 1,001,200 states | 1 | 0.00 |\n";
        assert!(table(&totals).ends_with(expected), "{}", table(&totals));
    }

    #[test]
    fn a_damaged_line_is_an_error() {
        for line in ["{", r#"{"kind":"k"}"#, r#"{"commit":"a","failures":0,"seconds":1}"#] {
            add_up(line, &mut BTreeMap::new()).expect_err(line);
        }
    }
}
