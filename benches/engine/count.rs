//! Counts instructions and allocations, and holds them against those that were committed.

use super::cases::Case;
use super::locked::{self, Locked};
use anyhow::{ensure, Context, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// A count may grow by this much.
pub const GROWTH_MAX: f64 = 1.05;

/// Callgrind counts each byte of a `rep movsb` as an instruction; without them a copy costs what its vectors do.
const VECTORS_ONLY: &str = "glibc.cpu.x86_rep_movsb_threshold=1073741824:glibc.cpu.x86_rep_stosb_threshold=1073741824";

/// What one repetition of a case costs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// The case.
    pub case: Case,
    /// Instructions.
    pub instructions: f64,
    /// Allocations of memory.
    pub allocations: f64,
    /// Time, in the fastest of several runs without callgrind.
    pub time_ns: f64,
}

/// What `engine-work` says of a run.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Run {
    /// Allocations of the whole run.
    pub allocations: u64,
    /// Time of the repetitions.
    pub time_ns: u64,
}

fn name_of(case: Case) -> String {
    case.to_possible_value().expect("no case is hidden").get_name().to_owned()
}

fn plain_run(program: &Path, case: Case, count: u64) -> Result<Run> {
    let output = Command::new(program).args([name_of(case), count.to_string()]).output()?;
    ensure!(output.status.success(), "{case:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Locked instructions that each repetition of the case executes.
pub fn locked_instructions(program: &Path, case: Case) -> Result<Vec<Locked>> {
    let dump = tempfile::NamedTempFile::new()?;
    // Twice what the set-up may do as often.
    let repetitions = 2 * case.count();
    instructions(program, case, repetitions, Some(dump.path()))?;
    locked::locked(program, dump.path(), repetitions)
}

/// Runs a case under callgrind; `dump` gets how often each instruction was executed.
fn instructions(program: &Path, case: Case, count: u64, dump: Option<&Path>) -> Result<u64> {
    let mut command = Command::new("valgrind");
    command.arg("--tool=callgrind").env("GLIBC_TUNABLES", VECTORS_ONLY);
    match dump {
        None => command.arg("--callgrind-out-file=/dev/null"),
        Some(path) => command
            .args(["--dump-instr=yes", "--dump-line=yes", "--compress-pos=no", "--compress-strings=no"])
            .arg(format!("--callgrind-out-file={}", path.display())),
    };
    let output = command
        .arg(std::fs::canonicalize(program)?)
        .args([name_of(case), count.to_string()])
        .output()
        .context("valgrind cannot be started")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{case:?} under callgrind: {said}");
    let collected =
        said.lines().find_map(|line| line.split_once("Collected :")).context("callgrind counted nothing")?;
    Ok(collected.1.trim().parse()?)
}

/// Counts one case.
pub fn count(program: &Path, case: Case) -> Result<Cost> {
    const TIMED_RUNS: usize = 5;
    let repetitions = case.count();
    let each = |twice: u64, once: u64| (twice as f64 - once as f64) / repetitions as f64;
    let [twice, once] = [2 * repetitions, repetitions].map(|count| instructions(program, case, count, None));
    let counted = each(twice?, once?);
    let mut runs = (0..TIMED_RUNS).map(|_| plain_run(program, case, 2 * repetitions)).collect::<Result<Vec<_>>>()?;
    runs.sort_by_key(|run| run.time_ns);
    let once = plain_run(program, case, repetitions)?;
    Ok(Cost {
        case,
        instructions: counted,
        allocations: each(runs[0].allocations, once.allocations),
        time_ns: runs[0].time_ns as f64 / (2 * repetitions) as f64,
    })
}

/// The committed instruction counts.
pub type Baseline = BTreeMap<Case, f64>;

/// Reads the committed counts.
pub fn baseline(path: &Path) -> Result<Baseline> {
    let text = std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    Ok(serde_json::from_slice(&text)?)
}

/// Makes these counts the ones that later runs are held against.
pub fn write_baseline(path: &Path, costs: &[Cost]) -> Result<()> {
    let counts: Baseline = costs.iter().map(|cost| (cost.case, cost.instructions.round())).collect();
    Ok(std::fs::write(path, serde_json::to_string_pretty(&counts)? + "\n")?)
}

/// What has grown too much, or is not in the baseline; a sentence each.
pub fn regressions(costs: &[Cost], baseline: &Baseline) -> Vec<String> {
    let sentence = |cost: &Cost| {
        let (name, now) = (name_of(cost.case), cost.instructions);
        match baseline.get(&cost.case) {
            None => Some(format!("{name} is not in the baseline")),
            Some(before) if now > before * GROWTH_MAX => Some(format!(
                "{name} takes {now:.0} instructions, {:.1} % more than {before:.0}",
                (now / before - 1.0) * 100.0
            )),
            Some(_) => None,
        }
    };
    costs.iter().filter_map(sentence).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(case: Case, instructions: f64) -> Cost {
        Cost { case, instructions, allocations: 0.0, time_ns: 1.0 }
    }

    #[test]
    fn growth_of_more_than_five_per_cent_is_a_regression() {
        let baseline = Baseline::from([(Case::PassThrough, 100.0), (Case::Read, 100.0)]);
        let costs = [cost(Case::PassThrough, 104.0), cost(Case::Read, 106.0), cost(Case::Cut, 1.0)];
        let found = regressions(&costs, &baseline);
        assert_eq!(found, ["read takes 106 instructions, 6.0 % more than 100", "cut is not in the baseline"]);
    }
}
