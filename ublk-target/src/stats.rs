//! Latency of requests: recorded by each thread for itself, added up when somebody asks.
//!
//! Invariants:
//! - Threads share no cache line on the I/O path: each records under its own lock, which only a report ever contends.
//! - Recording allocates nothing; what a thread holds does not grow. Nor does it call the kernel: the clock is the
//!   processor's own, where that can be trusted.

use crate::control::api::{LatencyReport, Operation, OperationReport};
use cairn_engine::error::Result;
use cairn_engine::volume::CutObserver;
use crossbeam::utils::CachePadded;
use hdrhistogram::Histogram;
use quanta::{Clock, Instant};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Longer durations count as this one: an hour.
const LATENCY_US_MAX: u64 = 3_600_000_000;
/// Digits of a percentile that are right.
const SIGNIFICANT_DIGITS: u8 = 2;

/// What one thread saw of one kind of request.
struct OperationStats {
    latency_us: Histogram<u64>,
    errors: u64,
    bytes: u64,
}

/// What one thread saw.
struct ThreadStats {
    operations: [OperationStats; Operation::ALL.len()],
}

/// One thread's end: records what its requests cost. Clones record to the same place.
#[derive(Clone)]
pub struct Recorder {
    thread: Arc<CachePadded<Mutex<ThreadStats>>>,
    clock: Clock,
}

/// All threads' ends, and the pauses of cuts.
pub struct Stats {
    recorders: Mutex<Vec<Recorder>>,
    cut_pauses_us: Mutex<Histogram<u64>>,
    cut_drains_us: Mutex<Histogram<u64>>,
    cut_since: Mutex<Option<Instant>>,
}

/// Times the pauses that cuts make.
pub struct CutClock(pub Arc<Stats>);

impl CutObserver for CutClock {
    fn writes_held(&self) {
        *lock(&self.0.cut_since) = Some(Instant::now());
    }

    fn writes_drained(&self) {
        if let Some(since) = *lock(&self.0.cut_since) {
            record(&mut lock(&self.0.cut_drains_us), in_us(since.elapsed()));
        }
    }

    fn writes_released(&self) {
        if let Some(since) = lock(&self.0.cut_since).take() {
            self.0.cut_paused(since.elapsed());
        }
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, SIGNIFICANT_DIGITS).expect("the bounds are constants that fit")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Counters are whole after every step, so a panic elsewhere does not spoil them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn record(histogram: &mut Histogram<u64>, duration_us: u64) {
    histogram.saturating_record(duration_us.clamp(1, LATENCY_US_MAX));
}

fn in_us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(LATENCY_US_MAX)
}

fn index_of(operation: Operation) -> usize {
    operation as usize
}

const _: () = {
    let mut index = 0;
    while index < Operation::ALL.len() {
        assert!(Operation::ALL[index] as usize == index, "ALL has the operations in their order");
        index += 1;
    }
};

impl Default for Stats {
    fn default() -> Stats {
        Stats {
            recorders: Mutex::new(Vec::new()),
            cut_pauses_us: Mutex::new(histogram()),
            cut_drains_us: Mutex::new(histogram()),
            cut_since: Mutex::new(None),
        }
    }
}

impl Stats {
    /// A recorder for one more thread. What it recorded stays counted when the thread ends.
    pub fn recorder(&self) -> Recorder {
        let empty = || OperationStats { latency_us: histogram(), errors: 0, bytes: 0 };
        let stats = ThreadStats { operations: Operation::ALL.map(|_| empty()) };
        let recorder = Recorder { thread: Arc::new(CachePadded::new(Mutex::new(stats))), clock: Clock::new() };
        lock(&self.recorders).push(recorder.clone());
        recorder
    }

    /// Counts a cut that held writes back for `pause`.
    pub fn cut_paused(&self, pause: Duration) {
        record(&mut lock(&self.cut_pauses_us), in_us(pause));
    }

    /// What all threads saw, one report for each of [`Operation::ALL`].
    pub fn operations(&self) -> Vec<OperationReport> {
        let recorders = lock(&self.recorders);
        let report = |operation: Operation| {
            let (mut latency_us, mut errors, mut bytes) = (histogram(), 0, 0);
            for recorder in recorders.iter() {
                let stats = &lock(&recorder.thread).operations[index_of(operation)];
                latency_us.add(&stats.latency_us).expect("all histograms have the same bounds");
                errors += stats.errors;
                bytes += stats.bytes;
            }
            OperationReport { operation, errors, bytes, latency: latency_report(&latency_us) }
        };
        Operation::ALL.map(report).into()
    }

    /// For how long cuts held writes back.
    pub fn cut_pauses(&self) -> LatencyReport {
        latency_report(&lock(&self.cut_pauses_us))
    }

    /// For how long of that they waited for the writes in flight, until those were done and durable.
    pub fn cut_drains(&self) -> LatencyReport {
        latency_report(&lock(&self.cut_drains_us))
    }
}

impl Recorder {
    /// A request of `length_bytes` begins.
    pub fn begin(&self, operation: Operation, length_bytes: u64) -> Begun<'_> {
        Begun { recorder: self, operation, length_bytes, started: self.clock.raw() }
    }
}

/// A request that has begun. Nothing is recorded of one that is dropped.
pub struct Begun<'a> {
    recorder: &'a Recorder,
    operation: Operation,
    length_bytes: u64,
    /// In the clock's own unit: it is converted once, when the request has ended.
    started: u64,
}

impl Begun<'_> {
    /// How much it is asked for.
    pub fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    /// Records what the request cost, and gives its result on. It takes that and not the request itself: a write that
    /// is under way is some kilobytes, and would be copied.
    pub fn ended<T>(self, result: Result<T>) -> Result<T> {
        let clock = &self.recorder.clock;
        let latency_us = clock.delta_as_nanos(self.started, clock.raw()) / 1000;
        let stats = &mut lock(&self.recorder.thread).operations[index_of(self.operation)];
        match &result {
            Ok(_) => {
                record(&mut stats.latency_us, latency_us);
                stats.bytes += self.length_bytes;
            }
            Err(_) => stats.errors += 1,
        }
        result
    }
}

fn latency_report(histogram: &Histogram<u64>) -> LatencyReport {
    if histogram.is_empty() {
        return LatencyReport::default();
    }
    LatencyReport {
        count: histogram.len(),
        min_us: histogram.min(),
        mean_us: histogram.mean(),
        p50_us: histogram.value_at_quantile(0.5),
        p90_us: histogram.value_at_quantile(0.9),
        p99_us: histogram.value_at_quantile(0.99),
        p999_us: histogram.value_at_quantile(0.999),
        max_us: histogram.max(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_engine::error::{Error, ErrorKind};

    #[test]
    fn what_threads_recorded_is_added_up_also_after_they_ended() {
        let stats = Stats::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let recorder = stats.recorder();
                    for _ in 0..100 {
                        recorder.begin(Operation::Write, 4096).ended(Ok(())).expect("succeeds");
                    }
                    let error = Error::new(ErrorKind::Io, "flush", "origin");
                    let failed: Result<()> = recorder.begin(Operation::Flush, 0).ended(Err(error));
                    assert!(failed.is_err());
                });
            }
        });
        let reports = stats.operations();
        assert_eq!(reports.iter().map(|report| report.operation).collect::<Vec<_>>(), Operation::ALL);
        let of = |operation| &reports[index_of(operation)];
        assert_eq!((of(Operation::Write).latency.count, of(Operation::Write).bytes), (400, 400 * 4096));
        assert_eq!((of(Operation::Flush).latency.count, of(Operation::Flush).errors), (0, 4));
        assert_eq!(of(Operation::Read).latency, LatencyReport::default());
    }

    #[test]
    fn a_pause_counts_from_when_writes_are_held_until_they_are_released_and_once() {
        let stats = Arc::new(Stats::default());
        let clock = CutClock(stats.clone());
        clock.writes_released();
        clock.writes_held();
        std::thread::sleep(Duration::from_millis(20));
        clock.writes_drained();
        std::thread::sleep(Duration::from_millis(20));
        clock.writes_released();
        clock.writes_released();
        let (pauses, drains) = (stats.cut_pauses(), stats.cut_drains());
        assert_eq!((pauses.count, drains.count), (1, 1));
        assert!(drains.min_us >= 19_000 && pauses.min_us >= drains.min_us + 19_000, "{pauses:?}, {drains:?}");
    }

    #[test]
    fn percentiles_are_right_within_a_hundredth_and_extremes_are_kept() {
        let stats = Stats::default();
        for duration_ms in 1..=1000 {
            stats.cut_paused(Duration::from_millis(duration_ms));
        }
        stats.cut_paused(Duration::MAX);
        stats.cut_paused(Duration::ZERO);
        let report = stats.cut_pauses();
        let close = |found: u64, expected: u64| found.abs_diff(expected) * 100 <= expected * 2;
        assert_eq!(report.count, 1002);
        assert!(close(report.p50_us, 500_000), "{report:?}");
        assert!(close(report.p99_us, 990_000), "{report:?}");
        assert!(close(report.max_us, LATENCY_US_MAX) && report.min_us == 1, "{report:?}");
    }
}
