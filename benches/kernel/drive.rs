//! The host's side of a scene: boots a kernel for it and collects what it left.
//!
//! Invariants:
//! - The kernel runs what was built from this tree, and the peers as they are installed.

use super::play::{CutPauses, TargetCost};
use super::scene::Scene;
use crate::sample::Sample;
use anyhow::{ensure, Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where things are.
pub struct Place {
    /// The source tree.
    pub project: PathBuf,
    /// What was built: `cairn`, `cairn-target`, `kernel-bench`, `libublk-loop`.
    pub binaries: PathBuf,
    /// The kernel.
    pub kernel: PathBuf,
}

/// What a scene gave.
pub struct Played {
    /// All its samples.
    pub samples: Vec<Sample>,
    /// The pauses of its cuts, where it has any.
    pub cuts: Option<CutPauses>,
    /// What requests cost the targets, where that was counted.
    pub costs: Vec<TargetCost>,
}

/// Boots a kernel that plays the scene.
pub fn drive(place: &Place, scene: &Scene) -> Result<Played> {
    let scratch = tempfile::Builder::new().prefix("cairn-bench-").tempdir()?;
    let directory = scratch.path();
    fs::write(directory.join("scene.json"), serde_json::to_vec_pretty(scene)?)?;
    let status = Command::new(place.project.join("tests/kernel/boot"))
        .arg("--kernel")
        .arg(&place.kernel)
        .args(["--series", "7.2", "--memory", &scene.memory, "--seconds", &scene.seconds_max.to_string()])
        .arg("--scratch")
        .arg(directory)
        .arg("--job")
        .arg(place.project.join("benches/kernel/job.sh"))
        .env("CAIRN_TEST_BINARIES", &place.binaries)
        .status()
        .context("tests/kernel/boot cannot be started")?;
    if !status.success() {
        eprintln!("{}", end_of_console(directory));
    }
    ensure!(status.success(), "the kernel that plays {} failed", scene.name);
    let samples = fs::read_to_string(directory.join("samples.jsonl"))?;
    let cuts = directory.join("cuts.json");
    let cuts = cuts.exists().then(|| fs::read(cuts)).transpose()?;
    Ok(Played {
        samples: samples.lines().map(serde_json::from_str).collect::<Result<_, _>>()?,
        cuts: cuts.map(|json| serde_json::from_slice(&json)).transpose()?,
        costs: serde_json::from_slice(&fs::read(directory.join("costs.json"))?)?,
    })
}

fn end_of_console(directory: &Path) -> String {
    let console = fs::read(directory.join("console.log")).unwrap_or_default();
    let text = String::from_utf8_lossy(&console).replace('\r', "");
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
