//! Runs the benchmarks and writes the report: what `scripts/bench` calls when everything is built.

use anyhow::{ensure, Context, Result};
use cairn_benches::engine::cases::Case;
use cairn_benches::engine::count;
use cairn_benches::engine::saved::Saved;
use cairn_benches::kernel::drive::{drive, Place};
use cairn_benches::kernel::scene::scenes;
use cairn_benches::machine;
use cairn_benches::native;
use cairn_benches::report;
use cairn_benches::results::Results;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// Benchmarks of Cairn, side by side with its peers.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Measure, write what was measured as JSON, and report
    Run(Run),
    /// Make the report of a `results.json` anew
    Report {
        /// Where it lies, and where the plots go
        directory: PathBuf,
        /// Where the report goes, beside the directory; else it is report.md in there
        #[arg(long)]
        page: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
struct Run {
    /// The source tree
    #[arg(long)]
    project: PathBuf,
    /// Where the programs are
    #[arg(long)]
    binaries: PathBuf,
    /// The kernel to boot; without one the comparisons on a real kernel are skipped
    #[arg(long)]
    kernel: Option<PathBuf>,
    /// Where the JSON goes
    #[arg(long)]
    out: PathBuf,
    /// Few rounds: enough to see that everything runs, not for figures
    #[arg(long)]
    quick: bool,
    /// The instruction counts of this run become the ones that later ones are held against
    #[arg(long)]
    update_baseline: bool,
    /// Only this scene or part
    #[arg(long)]
    only: Option<String>,
}

fn main() -> Result<()> {
    match Arguments::parse().verb {
        Verb::Run(run) => measure(&run),
        Verb::Report { directory, page } => {
            let results = serde_json::from_slice(&fs::read(directory.join("results.json"))?)?;
            report::write(&results, &directory, &page.unwrap_or_else(|| directory.join("report.md")))
        }
    }
}

fn save(results: &Results, path: &Path) -> Result<()> {
    fs::write(path, serde_json::to_vec(results)?).with_context(|| format!("{} cannot be written", path.display()))
}

fn measure(run: &Run) -> Result<()> {
    fs::create_dir_all(&run.out)?;
    let machine = machine::describe(&run.project, run.kernel.as_deref());
    let mut results = Results { quick: run.quick, machine, ..Results::default() };
    let wanted = |name: &str| run.only.as_ref().is_none_or(|only| name.starts_with(only.as_str()));
    match &run.kernel {
        None => results.skipped.push("the real kernel: there is none to boot".to_owned()),
        Some(kernel) => {
            let (project, binaries) = (run.project.clone(), run.binaries.clone());
            let place = Place { project, binaries, kernel: kernel.clone() };
            for scene in scenes(run.quick).into_iter().filter(|scene| wanted(&scene.name)) {
                let begun = Instant::now();
                let played = drive(&place, &scene)?;
                println!("{}: {} samples in {:.0} s", scene.name, played.samples.len(), begun.elapsed().as_secs_f64());
                results.samples.extend(played.samples);
                results.cuts.extend(played.cuts);
                results.target_costs.extend(played.costs);
                results.scenes.push(scene);
                save(&results, &run.out.join("results.json"))?;
            }
        }
    }
    if wanted("engine") {
        count_engine(run, &mut results)?;
    }
    if wanted("memory") {
        results.memory = native::memory::measure(&run.binaries, run.quick)?;
    }
    let scene = native::scene(run.quick);
    if wanted(&scene.name) {
        native::play(&scene, &run.binaries, &mut results)?;
        results.scenes.push(scene);
    }
    save(&results, &run.out.join("results.json"))?;
    report::write(&results, &run.out, &run.out.join("report.md"))?;
    println!("the report is {}", run.out.join("report.md").display());
    results.regressions.iter().for_each(|sentence| eprintln!("REGRESSION: {sentence}"));
    ensure!(results.regressions.is_empty(), "instruction counts have grown; --update-baseline accepts them");
    Ok(())
}

fn saved(program: &Path, gib: u64) -> Result<Saved> {
    let output = Command::new(program).args(["saved", &gib.to_string()]).output()?;
    ensure!(output.status.success(), "engine-work saved {gib}: {}", String::from_utf8_lossy(&output.stderr));
    let saved: Saved = serde_json::from_slice(&output.stdout)?;
    println!("engine: {} GiB saved: at most {} entries in memory", saved.bytes >> 30, saved.entries_peak);
    Ok(saved)
}

fn count_engine(run: &Run, results: &mut Results) -> Result<()> {
    let (program, baseline) = (run.binaries.join("engine-work"), run.project.join("benches/engine/baseline.json"));
    for case in Case::value_variants() {
        let cost = count::count(&program, *case)?;
        println!(
            "engine: {case:?}: {:.0} instructions, {:.2} allocations, {:.0} ns",
            cost.instructions, cost.allocations, cost.time_ns
        );
        results.costs.push(cost);
    }
    results.saved = Some(saved(&program, if run.quick { 1 } else { 100 })?);
    results.locked = Some(count::locked_instructions(&program, Case::PassThrough)?);
    if run.update_baseline {
        return count::write_baseline(&baseline, &results.costs);
    }
    results.regressions = count::regressions(&results.costs, &count::baseline(&baseline)?);
    Ok(())
}
