//! The rows of the table of goals: which figures of a run are held against which bounds.
//!
//! Invariants:
//! - Bounds are those of the goals; a figure comes from the results and from nowhere else.

use super::goals::{Bound, Check, Row};
use super::series::{per_request, Place, Series, Who};
use crate::engine::cases::Case;
use crate::engine::count::Cost;
use crate::engine::locked::Purpose;
use crate::kernel::play::CutPauses;
use crate::kernel::steps::Unit;
use crate::native::memory::Held;
use crate::results::Results;
use crate::sample::{Shape, Work};
use crate::statistics::{median, Summary};

const ONE: Shape = Shape { block_bytes: 4096, depth: 1, jobs: 1 };
const DEEP: Shape = Shape { block_bytes: 4096, depth: 32, jobs: 1 };
/// What the index, confirmations and the catalog may add.
const INDEX: f64 = 1.01;
const RAW: Who<'_> = ("raw", 0);

fn check(what: impl Into<String>, bound: Bound, value: Option<Summary>) -> Check {
    Check { what: what.into(), bound, value }
}

/// How many snapshots the contender with the most has: a thousand, or fewer in a quick run.
fn many(results: &Results) -> u32 {
    results.samples.iter().map(|sample| sample.contender.snapshots).max().unwrap_or(1000)
}

/// All rows, in the order of the table of goals.
pub fn rows(results: &Results) -> Vec<Row> {
    let series = Series::of(results);
    let many = many(results);
    vec![
        first_write_counts(&series, many),
        batched_counts(&series),
        first_on_latency(&series, many),
        first_on_latency_deep(&series, many),
        first_on_bandwidth(&series, many),
        first_on_ram(&series),
        pass_on_ram(&series, results),
        pass_on_latency(&series),
        native(&series),
        engine_costs(results),
        snapshot_reads(&series, many),
        cut_pause(results),
        memory(results),
        scaling(results),
    ]
}

fn first_write_counts(series: &Series<'_>, many: u32) -> Row {
    let place = Place { scene: "latency-first", work: Work::FirstWrite, shape: ONE };
    let mut checks = Vec::new();
    for snapshots in [1, many] {
        let figure = |figure: fn(&crate::sample::Sample) -> f64| series.figure(place, ("cairn", snapshots), figure);
        let requests = figure(per_request::requests);
        checks.push(check(format!("I/Os, {snapshots} snapshots"), Bound::AtMost(3.0 * INDEX), requests));
        let written = figure(per_request::written_bytes);
        checks.push(check(format!("bytes written, {snapshots} snapshots"), Bound::AtMost(12288.0 * INDEX), written));
        checks.push(check(format!("flushes, {snapshots} snapshots"), Bound::AtMost(1.0), figure(per_request::flushes)));
    }
    let goal = "3 I/Os (+1 flush where there is no FUA), at most 12 KiB, index overhead at most 1 % of both, the same \
                for 1 and 1,000 snapshots";
    Row { work: "first 4 KiB write, depth 1: I/Os, bytes written", goal, checks }
}

fn batched_counts(series: &Series<'_>) -> Row {
    let place = Place { scene: "latency-first", work: Work::FirstWrite, shape: DEEP };
    let figure = |figure: fn(&crate::sample::Sample) -> f64| series.figure(place, ("cairn one queue", 1), figure);
    let checks = vec![
        check("bytes written per byte", Bound::AtMost(2.15), figure(per_request::amplification)),
        check("store writes per write", Bound::AtMost(0.13), figure(per_request::store_writes)),
    ];
    let goal = "at most 2.15 bytes written per byte, at most 0.13 store writes per user write";
    Row { work: "first 4 KiB write, depth 32, one lane", goal, checks }
}

fn flatness(series: &Series<'_>, place: Place<'_>, many: u32) -> Check {
    let ratio = series.ratio(place, ("cairn", many), ("cairn", 1));
    check(format!("{many} snapshots against 1"), Bound::AtLeast(0.97), ratio)
}

fn first_on_latency(series: &Series<'_>, many: u32) -> Row {
    let place = Place { scene: "latency-first", work: Work::FirstWrite, shape: ONE };
    let ratio = |other| series.ratio(place, ("cairn", 1), other);
    let checks = vec![
        check("of raw", Bound::AtLeast(0.31), ratio(RAW)),
        flatness(series, place, many),
        check("against dm-snapshot, 1", Bound::AtLeast(1.7), ratio(("dm-snapshot", 1))),
    ];
    let goal = "at least 31 % of raw, flat (within 3 %) from 1 to 1,000 snapshots; at least 1.7x dm-snapshot with 1";
    Row { work: "latency, first write, depth 1", goal, checks }
}

fn first_on_latency_deep(series: &Series<'_>, many: u32) -> Row {
    let place = Place { scene: "latency-first", work: Work::FirstWrite, shape: DEEP };
    let ratio = |other| series.ratio(place, ("cairn", 1), other);
    let checks = vec![
        check("of raw", Bound::AtLeast(0.28), ratio(RAW)),
        flatness(series, place, many),
        check("against dm-snapshot, 1", Bound::Reported, ratio(("dm-snapshot", 1))),
        check("against dm-thin, 1", Bound::Reported, ratio(("dm-thin", 1))),
    ];
    let goal = "at least 28 % of raw, flat from 1 to 1,000; ratio to dm-snapshot and dm-thin reported";
    Row { work: "latency, first write, depth 32", goal, checks }
}

fn first_on_bandwidth(series: &Series<'_>, many: u32) -> Row {
    let place = Place { scene: "bandwidth-first", work: Work::FirstWrite, shape: DEEP };
    let ratio = |snapshots, other| series.ratio(place, ("cairn", snapshots), other);
    let checks = vec![
        check("of raw", Bound::AtLeast(0.46), ratio(1, RAW)),
        flatness(series, place, many),
        check("against dm-snapshot, 1", Bound::AtLeast(0.95), ratio(1, ("dm-snapshot", 1))),
        check("with 16 against dm-snapshot, 4", Bound::AtLeast(2.0), ratio(16, ("dm-snapshot", 4))),
        check("against dm-snapshot, 16", Bound::AtLeast(7.0), ratio(16, ("dm-snapshot", 16))),
        check("against dm-thin, 1", Bound::AtLeast(4.0), ratio(1, ("dm-thin", 1))),
    ];
    let goal = "at least 46 % of raw, flat; at least 0.95x dm-snapshot with 1, 2x with 4, 7x with 16; 4x dm-thin";
    Row { work: "bandwidth, first write, depth 32", goal, checks }
}

fn first_on_ram(series: &Series<'_>) -> Row {
    let place = Place { scene: "ram-first", work: Work::FirstWrite, shape: DEEP };
    let ratio = |snapshots, other| series.ratio(place, ("cairn", snapshots), other);
    let checks = vec![
        check("with 16 against dm-snapshot, 4", Bound::AtLeast(1.0), ratio(16, ("dm-snapshot", 4))),
        check("against dm-snapshot, 16", Bound::AtLeast(3.0), ratio(16, ("dm-snapshot", 16))),
        check("against dm-snapshot, 1", Bound::Reported, ratio(1, ("dm-snapshot", 1))),
    ];
    let goal = "at least dm-snapshot's with 4 snapshots, 3x with 16; reported with 1";
    Row { work: "RAM, first write, depth 32", goal, checks }
}

/// Rewrites and reads, alone and many at a time.
fn pass_through_checks(series: &Series<'_>, scene: &str, other: Who<'_>, bound: Bound) -> Vec<Check> {
    let mut checks = Vec::new();
    for (work, name) in [(Work::Rewrite, "rewrite"), (Work::Read, "read")] {
        for shape in [ONE, DEEP] {
            for snapshots in [0, 1] {
                let ratio = series.ratio(Place { scene, work, shape }, ("cairn", snapshots), other);
                let what = format!("{name}, depth {}, {snapshots} snapshots, of {}", shape.depth, other.0);
                checks.push(check(what, bound, ratio));
            }
        }
    }
    checks
}

/// What a request costs the whole target, of what it costs the loop target.
fn target_costs(results: &Results) -> Vec<Check> {
    let mut checks = Vec::new();
    for (unit, unit_name, depths) in
        [(Unit::Instructions, "instructions", &[1][..]), (Unit::SystemCalls, "system calls", &[1, 32][..])]
    {
        for (work, name) in [(Work::Rewrite, "rewrite"), (Work::Read, "read")] {
            for depth in depths {
                let each = |contender: &str| {
                    let of_turn = results.target_costs.iter().filter(|cost| {
                        let counted = cost.counted;
                        let who = cost.contender.name == contender && cost.contender.snapshots == 0;
                        who && counted.unit == unit && counted.work == work && counted.depth == *depth
                    });
                    let each: Vec<f64> = of_turn.map(|cost| cost.each).collect();
                    (!each.is_empty()).then(|| median(&each))
                };
                let ratio = each("cairn").zip(each("loop")).and_then(|(cairn, other)| exactly(cairn / other));
                checks.push(check(format!("{unit_name}, {name}, depth {depth}, of loop"), Bound::AtMost(1.1), ratio));
            }
        }
    }
    checks
}

fn pass_on_ram(series: &Series<'_>, results: &Results) -> Row {
    let mut checks = target_costs(results);
    checks.extend(pass_through_checks(series, "ram-pass", ("loop", 0), Bound::AtLeast(0.95)));
    let goal =
        "instructions and system calls per I/O of the whole target at most 1.1x the loop target's; wall clock at \
                least 95 % of it";
    Row { work: "RAM, rewrite, read, no snapshot", goal, checks }
}

fn pass_on_latency(series: &Series<'_>) -> Row {
    let checks = pass_through_checks(series, "latency-pass", RAW, Bound::AtLeast(0.98));
    Row { work: "latency 10 ms, rewrite, read, no snapshot", goal: "at least 98 % of raw", checks }
}

fn native(series: &Series<'_>) -> Row {
    let mut checks = Vec::new();
    for (work, name) in [(Work::Rewrite, "rewrite"), (Work::FirstWrite, "first write")] {
        for shape in [ONE, DEEP] {
            let ratio =
                series.ratio(Place { scene: "native", work, shape }, ("cairn", 1), ("qemu copy-before-write", 1));
            checks.push(check(format!("{name}, depth {}", shape.depth), Bound::AtLeast(1.5), ratio));
        }
    }
    let goal = "at least 1.5x qemu-storage-daemon with copy-before-write";
    Row { work: "native NBD, rewrite and first write", goal, checks }
}

/// A count without spread.
fn exactly(value: f64) -> Option<Summary> {
    crate::statistics::summary(&[value])
}

fn cost(results: &Results, case: Case) -> Option<&Cost> {
    results.costs.iter().find(|cost| cost.case == case)
}

fn engine_costs(results: &Results) -> Row {
    let mut checks = Vec::new();
    let bare = cost(results, Case::Bare);
    for (case, name) in
        [(Case::PassThrough, "write without snapshots"), (Case::Rewrite, "rewrite"), (Case::Read, "read")]
    {
        let cost = cost(results, case);
        let instructions = cost.zip(bare).and_then(|(cost, bare)| exactly(cost.instructions - bare.instructions));
        let allocations = cost.and_then(|cost| exactly(cost.allocations));
        checks.push(check(
            format!("{name}: instructions more than on the disk alone"),
            Bound::AtMost(400.0),
            instructions,
        ));
        checks.push(check(format!("{name}: allocations"), Bound::AtMost(0.0), allocations));
    }
    let locked = |purpose| {
        let of_purpose = results.locked.as_ref()?.iter().filter(|one| one.purpose == purpose);
        exactly(of_purpose.map(|one| one.times).sum())
    };
    checks.push(check("locks", Bound::AtMost(0.0), locked(Purpose::Lock)));
    checks.push(check("writes of shared cache lines", Bound::AtMost(0.0), locked(Purpose::SharedLine)));
    let goal = "at most 400 instructions per 4 KiB request, 0 allocations, 0 locks, 0 shared cache lines written";
    Row { work: "pass-through cost in the engine", goal, checks }
}

fn scaling(results: &Results) -> Row {
    let growth = |case, of| {
        let (case, of) = (cost(results, case)?, cost(results, of)?);
        exactly(case.instructions / of.instructions)
    };
    let saved = results.saved.as_ref().and_then(|saved| {
        let times: Vec<f64> = saved.rounds_ns.iter().map(|[little, much]| much / little).collect();
        crate::statistics::summary(&times)
    });
    let gib = results.saved.as_ref().map_or(0, |saved| saved.bytes >> 30);
    let checks = vec![
        check(format!("first write, {gib} GiB saved against next to nothing, time"), Bound::AtMost(1.05), saved),
        check("write, 16 TiB against 1 GiB", Bound::AtMost(1.05), growth(Case::PassThroughLarge, Case::PassThrough)),
        check(
            "first write, 16 TiB against 1 GiB",
            Bound::AtMost(1.05),
            growth(Case::FirstWriteLarge, Case::FirstWrite),
        ),
        check("first write, much saved", Bound::AtMost(1.05), growth(Case::FirstWriteSaved, Case::FirstWrite)),
        check("first write, 100 snapshots", Bound::AtMost(1.05), growth(Case::FirstWriteSnapshots, Case::FirstWrite)),
    ];
    let goal = "cost per write flat (within 5 %) for volumes of 1 GiB to 16 TiB and stores of 0 to 100 GiB saved";
    Row { work: "scaling (instructions, where nothing else is said)", goal, checks }
}

fn snapshot_reads(series: &Series<'_>, many: u32) -> Row {
    let mut checks = Vec::new();
    for depth in [1, 16] {
        let shape = Shape { block_bytes: 4096, depth, jobs: 1 };
        let rounds = |work| series.rounds(Place { scene: "ram-snapshot-reads", work, shape }, ("cairn", many));
        let slower = super::series::paired(rounds(Work::ReadYoungest), rounds(Work::ReadOldest));
        checks.push(check(format!("warm, depth {depth}: times the youngest takes"), Bound::AtMost(1.2), slower));
    }
    let place = |work| Place { scene: "ram-snapshot-reads", work, shape: ONE };
    let reads = |work| series.figure(place(work), ("cairn", many), per_request::reads);
    let (oldest, youngest) = (reads(Work::ColdReadOldest), reads(Work::ColdReadYoungest));
    let more = oldest.zip(youngest).and_then(|(oldest, youngest)| exactly(oldest.median - youngest.median));
    checks.push(check("cold: more I/Os for a read than of the youngest", Bound::AtMost(1.0), more));
    let goal = "warm at most 1.2x; cold at most 1 index I/O more";
    Row { work: "read of the oldest of 1,000 snapshots against the youngest", goal, checks }
}

fn cut_pause(results: &Results) -> Row {
    let pauses = results.cuts.iter().find(|cuts| cuts.scene == "latency-first");
    let ratio = |of: fn(&CutPauses) -> (u64, f64)| {
        let (pause_us, limit_us) = of(pauses?);
        exactly(pause_us as f64 / limit_us)
    };
    let p99 = ratio(|cuts| (cuts.p99_us, cuts.origin_write.p99_us + cuts.store_write.p99_us));
    let p50 = ratio(|cuts| (cuts.p50_us, cuts.origin_write.p50_us + cuts.store_write.p50_us));
    let checks = vec![
        check(
            "p99 of the pauses, of the p99 of an origin write under this load and of a lone write",
            Bound::AtMost(1.2),
            p99,
        ),
        check("the same with medians", Bound::Reported, p50),
    ];
    let goal = "p99 at most 1.2x of origin write + origin flush + durable store write (these disks need no flush)";
    Row { work: "cut pause under load", goal, checks }
}

fn memory(results: &Results) -> Row {
    let mib = |what: Held| {
        let held = results.memory.iter().find(|resident| resident.what == what)?;
        exactly(held.bytes as f64 / f64::from(1 << 20))
    };
    let checks = vec![
        check("MiB, 16 TiB attached with a snapshot", Bound::AtMost(256.0), mib(Held::Sparse)),
        check("MiB more per TiB, every page of the maps touched", Bound::AtMost(96.0), mib(Held::WorstPerTib)),
        check(
            "most entries of the active block map while 100 GiB were saved, of their cap",
            Bound::AtMost(1.0),
            results.saved.as_ref().and_then(|saved| exactly(saved.entries_peak as f64 / saved.entries_max as f64)),
        ),
    ];
    let goal =
        "sparse: a 16 TiB volume attaches in under 256 MiB; worst case 96 MiB per TiB; the active block map stays \
                under a fixed cap with 100 GiB saved";
    Row { work: "memory", goal, checks }
}

#[cfg(test)]
mod tests {
    use super::super::goals::Verdict;
    use super::*;

    #[test]
    fn nothing_is_met_where_nothing_was_measured() {
        assert!(rows(&Results::default()).iter().all(|row| row.verdict() == Verdict::NotMeasured));
    }
}
