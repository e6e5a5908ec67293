//! Which instructions of a request take a cache line for themselves: those with a lock prefix, and exchanges with
//! memory.
//!
//! Invariants:
//! - An instruction counts only where callgrind saw it executed; who wrote it is what the debug information says of the
//!   innermost line that is not one of the standard library's wrappers of atomics.

use anyhow::{ensure, Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

/// Lines that belong to one lane alone: the counters of the gate, padded to a cache line for each lane.
const OWN_LINES: [&str; 1] = ["engine/src/gate.rs"];
/// Where the standard library's locks are.
const LOCKS: [&str; 3] = ["mutex", "rwlock", "once"];

/// What a locked instruction is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// A lock.
    Lock,
    /// A cache line that several threads write.
    SharedLine,
    /// A cache line that one lane writes.
    OwnLine,
}

/// One locked instruction that a request executes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Locked {
    /// How often a request does.
    pub times: f64,
    /// What it is there for.
    pub purpose: Purpose,
    /// Source lines, innermost first.
    pub lines: Vec<String>,
}

/// How often each address of `program` was executed, by a dump of callgrind.
fn executed(dump: &str, program: &str) -> HashMap<u64, u64> {
    let (mut counts, mut is_program, mut is_call) = (HashMap::new(), false, false);
    for line in dump.lines() {
        if let Some(object) = line.strip_prefix("ob=") {
            is_program = object == program;
        } else if line.starts_with("calls=") {
            // The line that follows is what the callee took.
            is_call = true;
        } else if let Some(cost) = line.strip_prefix("0x") {
            let mut fields = cost.split(' ');
            let address = fields.next().and_then(|digits| u64::from_str_radix(digits, 16).ok());
            let times = fields.nth(1).and_then(|digits| digits.parse::<u64>().ok());
            if let (Some(address), Some(times), true, false) = (address, times, is_program, is_call) {
                *counts.entry(address).or_default() += times;
            }
            is_call = false;
        }
    }
    counts
}

/// Addresses of locked instructions in a disassembly.
fn locked_addresses(disassembly: &str) -> impl Iterator<Item = u64> + '_ {
    disassembly.lines().filter_map(|line| {
        let (address, instruction) = line.split_once(":\t")?;
        let exchanges = instruction.starts_with("xchg") && instruction.contains('(');
        let is_locked = instruction.starts_with("lock ") || exchanges;
        is_locked.then(|| u64::from_str_radix(address.trim(), 16).ok())?
    })
}

fn output_of(program: &str, arguments: &[&str]) -> Result<String> {
    let output =
        Command::new(program).args(arguments).output().with_context(|| format!("{program} cannot be started"))?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A source line without the directories that differ from machine to machine.
fn without_root(line: &str) -> String {
    let roots = ["/engine/src/", "/library/", "/benches/"];
    let from = roots.iter().find_map(|root| line.find(root)).map_or(0, |at| at + 1);
    line[from..].to_owned()
}

fn purpose_of(lines: &[String]) -> Purpose {
    if lines.iter().any(|line| LOCKS.iter().any(|lock| line.contains(&format!("/{lock}")))) {
        return Purpose::Lock;
    }
    let owner = lines.iter().find(|line| !line.contains("library/core/src/sync/atomic.rs"));
    match owner {
        Some(owner) if OWN_LINES.iter().any(|own| owner.contains(own)) => Purpose::OwnLine,
        _ => Purpose::SharedLine,
    }
}

/// What `repetitions` requests executed at least once each, by the dump in `dump`.
pub fn locked(program: &Path, dump: &Path, repetitions: u64) -> Result<Vec<Locked>> {
    let name = std::fs::canonicalize(program)?.display().to_string();
    let dump = std::fs::read(dump).with_context(|| format!("{} cannot be read", dump.display()))?;
    let counts = executed(&String::from_utf8_lossy(&dump), &name);
    ensure!(!counts.is_empty(), "callgrind's dump does not mention {name}");
    let disassembly = output_of("objdump", &["-d", "--no-show-raw-insn", &name])?;
    let mut found = Vec::new();
    for address in locked_addresses(&disassembly) {
        let times = counts.get(&address).copied().unwrap_or_default();
        if times >= repetitions {
            let text = output_of("addr2line", &["-i", "-e", &name, &format!("{address:#x}")])?;
            let lines: Vec<String> = text.lines().map(without_root).collect();
            let purpose = purpose_of(&lines);
            found.push(Locked { times: times as f64 / repetitions as f64, purpose, lines });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_callee_took_is_not_counted_for_the_caller() {
        let dump = "ob=/other\n0x10 0 7\nob=/program\nfl=a.rs\n0x10 5 3\ncalls=2 0x20 0\n0x14 6 900\n0x14 6 2\n";
        assert_eq!(executed(dump, "/program"), HashMap::from([(0x10, 3), (0x14, 2)]));
    }

    #[test]
    fn locked_instructions_are_found_in_a_disassembly() {
        let text = [
            "  53a0f:\tlock incq (%rax)",
            "  53a13:\txchg   %ax,%ax",
            "  53a15:\txchg   %eax,(%rdi)",
            "  53a20:\tmov    %eax,%ebx",
        ];
        assert_eq!(locked_addresses(&text.join("\n")).collect::<Vec<_>>(), [0x53a0f, 0x53a15]);
    }

    #[test]
    fn the_innermost_line_that_is_no_wrapper_says_what_it_is_for() {
        let chain = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        let atomic = "/rustc/x/library/core/src/sync/atomic.rs:1";
        assert_eq!(purpose_of(&chain(&[atomic, "/w/engine/src/gate.rs:48"])), Purpose::OwnLine);
        let counted = [atomic, "/rustc/x/library/alloc/src/sync.rs:2", "/w/engine/src/lane/mod.rs:3"];
        assert_eq!(purpose_of(&chain(&counted)), Purpose::SharedLine);
        let mutex = [atomic, "/rustc/x/library/std/src/sys/sync/mutex/futex.rs:2", "/w/engine/src/gate.rs:48"];
        assert_eq!(purpose_of(&chain(&mutex)), Purpose::Lock);
    }
}
