//! Runs fio and reads what it says.

use crate::sample::{Shape, Speed, Work};
use anyhow::{bail, ensure, Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::process::Command;

/// How long a job goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Extent {
    /// Every block at most once, until all were visited, so many requests were done or the time is over.
    Once { requests_max: u64, time_max_ms: u64 },
    /// For so long, blocks as often as it happens.
    For { time_ms: u64 },
}

impl Extent {
    /// A third of it, for runs that only show that everything works.
    pub fn shortened(self) -> Extent {
        match self {
            Extent::Once { requests_max, time_max_ms } => {
                Extent::Once { requests_max: requests_max.div_ceil(3), time_max_ms: time_max_ms / 3 }
            }
            Extent::For { time_ms } => Extent::For { time_ms: time_ms / 3 },
        }
    }
}

/// One call of fio.
#[derive(Clone, Debug)]
pub struct Job<'a> {
    /// fio's engine and what names the disk, as `--ioengine=nbd --uri=...`.
    pub target: &'a [String],
    /// What to do.
    pub work: Work,
    /// How much at a time.
    pub shape: Shape,
    /// How long.
    pub extent: Extent,
    /// Where random requests go.
    pub seed: u64,
    /// How much of the disk, from its beginning.
    pub size_bytes: u64,
}

#[derive(Deserialize)]
struct Report {
    jobs: Vec<JobReport>,
}

#[derive(Deserialize)]
struct JobReport {
    error: i64,
    read: Direction,
    write: Direction,
}

#[derive(Deserialize)]
struct Direction {
    total_ios: u64,
    iops: f64,
    bw_bytes: f64,
    lat_ns: Latency,
    clat_ns: Latency,
}

#[derive(Deserialize)]
struct Latency {
    mean: f64,
    #[serde(default)]
    percentile: BTreeMap<String, f64>,
}

impl Direction {
    fn percentile_us(&self, which: &str) -> f64 {
        self.clat_ns.percentile.get(which).copied().unwrap_or_default() / 1e3
    }
}

fn pattern(work: Work) -> &'static str {
    match work {
        Work::FirstWrite | Work::Rewrite | Work::SyncWrite => "randwrite",
        Work::Read | Work::ReadOldest | Work::ReadYoungest | Work::ColdReadOldest | Work::ColdReadYoungest => {
            "randread"
        }
        Work::SequentialFirstWrite | Work::SequentialWrite => "write",
        Work::SequentialRead | Work::SequentialReadOldest | Work::SequentialReadYoungest => "read",
        Work::Mixed => "randrw",
    }
}

fn arguments(job: &Job<'_>) -> Vec<String> {
    let Shape { block_bytes, depth, jobs } = job.shape;
    let share_bytes = job.size_bytes / u64::from(jobs);
    let mut arguments = vec![
        "--name=job".to_owned(),
        "--output-format=json".to_owned(),
        "--direct=1".to_owned(),
        "--thread".to_owned(),
        "--group_reporting".to_owned(),
        "--fallocate=none".to_owned(),
        "--percentile_list=50:99".to_owned(),
        format!("--rw={}", pattern(job.work)),
        format!("--bs={block_bytes}"),
        format!("--iodepth={depth}"),
        format!("--numjobs={jobs}"),
        format!("--size={share_bytes}"),
        format!("--offset_increment={share_bytes}"),
        format!("--randseed={}", job.seed),
    ];
    match job.extent {
        Extent::Once { requests_max, time_max_ms } => {
            arguments.push(format!("--io_size={}", share_bytes.min(requests_max * block_bytes)));
            arguments.push(format!("--runtime={time_max_ms}ms"));
        }
        Extent::For { time_ms } => {
            arguments.extend(["--time_based".to_owned(), "--norandommap".to_owned(), format!("--runtime={time_ms}ms")]);
        }
    }
    match job.work {
        Work::Mixed => arguments.push("--rwmixread=70".to_owned()),
        Work::SyncWrite => arguments.push("--fsync=1".to_owned()),
        _ => {}
    }
    arguments.extend_from_slice(job.target);
    arguments
}

/// Runs the job; says how fast it was.
pub fn run(job: &Job<'_>) -> Result<Speed> {
    let arguments = arguments(job);
    let output = Command::new("fio").args(&arguments).output().context("fio cannot be started")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let Some(json) = text.find('{').filter(|_| output.status.success()) else {
        bail!("fio {}: {text}{}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    };
    // fio 3.33 writes notes in front of its JSON.
    let report: Report = serde_json::Deserializer::from_str(&text[json..])
        .into_iter()
        .next()
        .context("fio reported nothing")?
        .with_context(|| format!("fio {} reported {text}", arguments.join(" ")))?;
    let done = report.jobs.first().context("fio reported no job")?;
    ensure!(done.error == 0, "fio {} met error {}", arguments.join(" "), done.error);
    let (read, write) = (&done.read, &done.write);
    let requests = read.total_ios + write.total_ios;
    ensure!(requests > 0, "fio {} did nothing", arguments.join(" "));
    // Percentiles of a mixed job are those of its larger part.
    let larger = if read.total_ios > write.total_ios { read } else { write };
    let weighted = read.lat_ns.mean * read.total_ios as f64 + write.lat_ns.mean * write.total_ios as f64;
    Ok(Speed {
        requests,
        requests_per_s: read.iops + write.iops,
        bytes_per_s: read.bw_bytes + write.bw_bytes,
        latency_mean_us: weighted / requests as f64 / 1e3,
        latency_p50_us: larger.percentile_us("50.000000"),
        latency_p99_us: larger.percentile_us("99.000000"),
    })
}
