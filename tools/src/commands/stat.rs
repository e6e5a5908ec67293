//! `cairn stat`: what requests cost, what was saved, how long cuts held writes back.

use crate::arguments::Stat;
use crate::auditing;
use crate::context::Context;
use crate::exit::Outcome;
use crate::output::bytes::format_bytes;
use crate::output::table::{fields, table};
use cairn_target::control::api::{LatencyReport, Operation, StatsReport};

pub fn run(context: &Context, arguments: &Stat) -> Outcome {
    let report: StatsReport = context.client(&arguments.volume)?.get("/v1/stats")?;
    context.output.answer(&report, text)
}

fn text(report: &StatsReport) -> String {
    let latency = |latency: &LatencyReport| {
        [latency.p50_us, latency.p90_us, latency.p99_us, latency.p999_us, latency.max_us].map(|us| us.to_string())
    };
    let mut rows: Vec<[String; 9]> = Vec::new();
    for operation in &report.operations {
        let [p50, p90, p99, p999, max] = latency(&operation.latency);
        rows.push([
            operation_word(operation.operation).to_owned(),
            operation.latency.count.to_string(),
            operation.errors.to_string(),
            format_bytes(operation.bytes),
            p50,
            p90,
            p99,
            p999,
            max,
        ]);
    }
    for (what, report) in [("cut pause", &report.cut_pauses), ("cut drain", &report.cut_drains)] {
        let [p50, p90, p99, p999, max] = latency(report);
        rows.push([what.to_owned(), report.count.to_string(), String::new(), String::new(), p50, p90, p99, p999, max]);
    }
    let head = ["OPERATION", "COUNT", "ERRORS", "BYTES", "P50 US", "P90 US", "P99 US", "P99.9 US", "MAX US"];
    let done = &report.engine;
    let engine = fields(&[
        ("since", report.since.to_string()),
        ("saved", format!("{} blocks, {}, in {} saves", done.saved_blocks, format_bytes(done.saved_bytes), done.saves)),
        (
            "not in use",
            format!("{} now; {} blocks never saved for that", format_bytes(done.not_in_use_bytes), done.forgone_blocks),
        ),
        ("store", format!("late {} times, longest wait {} ms", done.times_late, done.longest_save_wait_ms)),
        ("log records", done.records.to_string()),
        (
            "snapshots",
            format!("{} taken, {} timed out, {} broken", done.cuts, done.cuts_timed_out, done.snapshots_broken),
        ),
        ("index", format!("{} runs written, {} merges", done.runs_written, done.merges)),
        ("segments freed", done.segments_freed.to_string()),
        ("blocks restored", done.restored_blocks.to_string()),
        ("audit", report.audit.as_ref().map_or("none yet".to_owned(), auditing::sentence)),
    ]);
    format!("{}\n{engine}", table(head, &rows))
}

fn operation_word(operation: Operation) -> &'static str {
    match operation {
        Operation::Read => "read",
        Operation::Write => "write",
        Operation::WriteZeroes => "write zeroes",
        Operation::Discard => "discard",
        Operation::Flush => "flush",
        Operation::SnapshotRead => "snapshot read",
    }
}
