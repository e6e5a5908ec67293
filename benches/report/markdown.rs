//! The report as Markdown.

use super::goals::{Bound, Row};
use super::plots::Plot;
use super::rows::rows;
use super::series::{paired, per_request, Series};
use crate::kernel::play::{CutPauses, Hot};
use crate::kernel::scene::Scene;
use crate::results::Results;
use crate::sample::{Contender, Sample, Shape, Work};
use crate::statistics::{median, summary, Summary};
use std::fmt::Write;

/// The whole report.
pub fn page(results: &Results, plots: &[Plot]) -> String {
    let mut text = String::new();
    preamble(&mut text, results);
    goals(&mut text, &rows(results));
    for scene in &results.scenes {
        scene_section(&mut text, results, scene, plots);
    }
    engine_section(&mut text, results);
    memory_section(&mut text, results);
    text
}

/// Writing to a string cannot fail.
macro_rules! line {
    ($text:expr, $($argument:tt)*) => { writeln!($text, $($argument)*).expect("a string takes everything") };
}

fn preamble(text: &mut String, results: &Results) {
    let machine = &results.machine;
    line!(text, "# Measured side by side\n");
    line!(text, "Made by `scripts/bench` on {}, commit {}.", machine.date, machine.commit);
    line!(text, "{}; host kernel {}; test kernel {}.", machine.processor, machine.host_kernel, machine.test_kernel);
    line!(text, "Compared: {}. Load average when it began: {:.1}.", machine.programs.join("; "), machine.load_before);
    line!(
        text,
        "\nMedians of rounds in which the contenders took turns. In brackets: the interval that holds the median of"
    );
    line!(
        text,
        "other rounds with 95 %, by bootstrap. Ratios are medians of the ratios of the rounds. I/Os and bytes are"
    );
    line!(text, "those of the devices below, by /proc/diskstats, for each request of the user.");
    if results.quick {
        line!(text, "\n**A quick run: it shows that everything runs, and is too short for figures.**");
    }
    for skipped in &results.skipped {
        line!(text, "\n**SKIPPED: {skipped}**");
    }
}

fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => {
            let digits = format!("{value:.0}");
            let mut grouped = String::new();
            for (index, digit) in digits.chars().enumerate() {
                if index > 0 && (digits.len() - index).is_multiple_of(3) && !grouped.ends_with('-') {
                    grouped.push(',');
                }
                grouped.push(digit);
            }
            grouped
        }
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

fn with_interval(summary: &Summary) -> String {
    if summary.rounds < 2 {
        return number(summary.median);
    }
    format!("{} [{}, {}]", number(summary.median), number(summary.interval_low), number(summary.interval_high))
}

fn goals(text: &mut String, rows: &[Row]) {
    line!(text, "\n## Goals\n");
    line!(text, "| work | measured | must be | is | |");
    line!(text, "|---|---|---|---|---|");
    for row in rows {
        line!(text, "| **{}** | {} | | | {} |", row.work, row.goal, row.verdict());
        for check in &row.checks {
            let value = check.value.as_ref().map_or(String::new(), with_interval);
            line!(text, "| | {} | {} | {value} | {} |", check.what, must_be(check.bound), check.verdict());
        }
    }
}

fn must_be(bound: Bound) -> String {
    match bound {
        Bound::AtLeast(bound) => format!(">= {}", number(bound)),
        Bound::AtMost(bound) => format!("<= {}", number(bound)),
        Bound::Reported => "(reported)".to_owned(),
    }
}

fn engine_section(text: &mut String, results: &Results) {
    if results.costs.is_empty() {
        return;
    }
    line!(text, "\n## engine\n");
    line!(
        text,
        "One request after the other on disks in memory that cost next to nothing. Instructions by callgrind.\n"
    );
    line!(text, "| | instructions | allocations | ns |");
    line!(text, "|---|---|---|---|");
    for cost in &results.costs {
        let (instructions, allocations) = (number(cost.instructions), number(cost.allocations));
        line!(text, "| {:?} | {instructions} | {allocations} | {} |", cost.case, number(cost.time_ns));
    }
    for locked in results.locked.iter().flatten() {
        let from = locked.lines.iter().find(|line| line.starts_with("engine/src/")).map_or("", String::as_str);
        line!(
            text,
            "\nA write that passes through executes {} locked instruction at {from}: {:?}.",
            locked.times,
            locked.purpose
        );
    }
    for regression in &results.regressions {
        line!(text, "\n**REGRESSION: {regression}**");
    }
}

fn memory_section(text: &mut String, results: &Results) {
    if results.memory.is_empty() {
        return;
    }
    line!(text, "\n## memory\n");
    line!(text, "What the process that serves a volume holds, by its VmRSS.\n");
    line!(text, "| | MiB |");
    line!(text, "|---|---|");
    for resident in &results.memory {
        line!(text, "| {} | {} |", resident.what, number(resident.bytes as f64 / f64::from(1 << 20)));
    }
}

/// What a kind of load is called.
pub fn work_name(work: Work, shape: Shape) -> String {
    let what = match work {
        Work::FirstWrite => "first write, random",
        Work::Rewrite => "rewrite, random",
        Work::Read => "read, random",
        Work::SequentialFirstWrite => "first write, sequential",
        Work::SequentialWrite => "rewrite, sequential",
        Work::SequentialRead => "read, sequential",
        Work::Mixed => "70 % reads, 30 % rewrites, random",
        Work::SyncWrite => "rewrite, random, each with fsync",
        Work::ReadOldest => "read of the oldest snapshot, random",
        Work::ReadYoungest => "read of the youngest snapshot, random",
        Work::ColdReadOldest => "read of the oldest snapshot, random, cold",
        Work::ColdReadYoungest => "read of the youngest snapshot, random, cold",
        Work::SequentialReadOldest => "read of the oldest snapshot, sequential",
        Work::SequentialReadYoungest => "read of the youngest snapshot, sequential",
    };
    let jobs = if shape.jobs == 1 { String::new() } else { format!(", {} jobs", shape.jobs) };
    format!("{what}, {} KiB, depth {}{jobs}", shape.block_bytes >> 10, shape.depth)
}

fn scene_section(text: &mut String, results: &Results, scene: &Scene, plots: &[Plot]) {
    line!(text, "\n## {}\n", scene.name);
    line!(text, "Disks: {}. Volumes of {} MiB. {} rounds.", scene.model, scene.volume_mib, scene.rounds);
    let series = Series::of(results);
    for turn in &scene.turns {
        let of_turn = |contender: &Contender| {
            let mut all = series.iter().filter(|(key, _)| key.scene == scene.name && key.contender == *contender);
            all.find(|(key, _)| key.work == turn.work && key.shape == turn.shape).map(|(_, samples)| samples.to_vec())
        };
        let played: Vec<_> =
            scene.contenders.iter().filter_map(|contender| Some((contender, of_turn(contender)?))).collect();
        let Some((first, baseline)) = played.first() else { continue };
        line!(text, "\n### {}\n", work_name(turn.work, turn.shape));
        table(text, &played, first, baseline);
        for plot in plots.iter().filter(|plot| plot.scene == scene.name && plot.turn == (turn.work, turn.shape)) {
            line!(text, "\n![{}]({})", work_name(turn.work, turn.shape), plot.file);
        }
    }
    for cuts in results.cuts.iter().filter(|cuts| cuts.scene == scene.name) {
        cut_lines(text, cuts);
    }
    target_cost_table(text, results, &scene.name);
}

fn cut_lines(text: &mut String, cuts: &CutPauses) {
    let CutPauses { count, p50_us, p99_us, max_us, origin_write, store_write, .. } = cuts;
    line!(text, "\n{count} cuts while random writes went on: p50 {p50_us} us, p99 {p99_us} us, longest {max_us} us.");
    let (p50_us, p99_us) = (cuts.drain_p50_us, cuts.drain_p99_us);
    line!(text, "Of that, until the slowest of the writes in flight was done: p50 {p50_us} us, p99 {p99_us} us.");
    let (origin, store) = (origin_write, store_write);
    line!(text, "Writes of the bare disk under that load: p50 {:.0} us, p99 {:.0} us;", origin.p50_us, origin.p99_us);
    line!(text, "alone: p50 {:.0} us, p99 {:.0} us.", store.p50_us, store.p99_us);
}

fn target_cost_table(text: &mut String, results: &Results, scene: &str) {
    let mut costs = results.target_costs.iter().filter(|cost| cost.scene == scene).peekable();
    if costs.peek().is_none() {
        return;
    }
    line!(text, "\n### What a request of 4 KiB costs the process that serves it\n");
    line!(text, "Of instructions those that most requests execute: ticks of the clock are left out.\n");
    line!(text, "| | while | counted | for each request |");
    line!(text, "|---|---|---|---|");
    for cost in costs {
        let counted = cost.counted;
        let work = work_name(counted.work, Shape { block_bytes: 4096, depth: counted.depth, jobs: 1 });
        line!(text, "| {} | {work} | {:?} | {} |", cost.contender, counted.unit, number(cost.each));
    }
    for cost in results.target_costs.iter().filter(|cost| cost.scene == scene && !cost.functions.is_empty()) {
        let counted = cost.counted;
        let work = work_name(counted.work, Shape { block_bytes: 4096, depth: counted.depth, jobs: 1 });
        line!(text, "\nInstructions of {} for each request ({work}), by function:\n", cost.contender);
        for Hot { function, each } in cost.functions.iter().filter(|hot| hot.each >= 20.0) {
            line!(text, "- {}: `{function}`", number(*each));
        }
    }
}

fn table(text: &mut String, played: &[(&Contender, Vec<&Sample>)], first: &Contender, baseline: &[&Sample]) {
    line!(
        text,
        "| | requests/s | of {first} | p50 us | p99 us | origin reads | origin writes | store writes | flushes | \
        bytes written per byte | CPU us of the target |"
    );
    line!(text, "|---|---|---|---|---|---|---|---|---|---|---|");
    for (contender, samples) in played {
        let middle = |figure: &dyn Fn(&Sample) -> f64| {
            number(median(&samples.iter().map(|sample| figure(sample)).collect::<Vec<_>>()))
        };
        let speeds: Vec<f64> = samples.iter().map(|sample| sample.speed.requests_per_s).collect();
        let speed = summary(&speeds).as_ref().map_or(String::new(), with_interval);
        let ratio = paired(samples, baseline).as_ref().map_or(String::new(), with_interval);
        let cpu = |sample: &Sample| sample.target_cpu_us.unwrap_or_default() as f64 / sample.speed.requests as f64;
        let cpu = if samples[0].target_cpu_us.is_some() { middle(&cpu) } else { String::new() };
        line!(
            text,
            "| {contender} | {speed} | {ratio} | {} | {} | {} | {} | {} | {} | {} | {cpu} |",
            middle(&|sample| sample.speed.latency_p50_us),
            middle(&|sample| sample.speed.latency_p99_us),
            middle(&per_request::origin_reads),
            middle(&per_request::origin_writes),
            middle(&per_request::store_writes),
            middle(&per_request::flushes),
            middle(&per_request::amplification)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_keep_what_matters() {
        assert_eq!(number(1_234_567.8), "1,234,568");
        assert_eq!(number(999.6), "1000");
        assert_eq!(number(12.34), "12.3");
        assert_eq!(number(0.12345), "0.123");
    }
}
