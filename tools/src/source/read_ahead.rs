//! Work on many pieces at once, with the results in the order of the pieces.
//!
//! Invariants:
//! - At most `depth` results wait or are being worked on, whatever the number of pieces.
//! - A failure comes in its place, and ends everything behind it.

use crate::exit::{ExitCode, Failure};
use std::sync::mpsc::{sync_channel, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};

type Answer<T> = Result<T, Failure>;

/// Results in order.
pub struct ReadAhead<T> {
    results: Receiver<Receiver<Answer<T>>>,
    failed: bool,
}

impl<T: Send + 'static> ReadAhead<T> {
    /// Does `work` on every job, on `workers` threads. They end when they are done, or soon after the results are dropped.
    pub fn start<J: Send + 'static>(
        jobs: impl Iterator<Item = Result<J, Failure>> + Send + 'static,
        workers: usize,
        depth: usize,
        work: impl Fn(J) -> Answer<T> + Send + Sync + 'static,
    ) -> ReadAhead<T> {
        assert!(workers > 0 && depth >= workers, "each worker has a place for its result");
        let (queue, results) = sync_channel::<Receiver<Answer<T>>>(depth - 1);
        let (jobs_in, jobs_out) = sync_channel::<(J, SyncSender<Answer<T>>)>(workers);
        let (jobs_out, work) = (Arc::new(Mutex::new(jobs_out)), Arc::new(work));
        for _ in 0..workers {
            let (jobs_out, work) = (jobs_out.clone(), work.clone());
            std::thread::spawn(move || loop {
                let next = jobs_out.lock().unwrap_or_else(PoisonError::into_inner).recv();
                let Ok((job, place)) = next else { return };
                // Nobody may wait for it any more.
                let _ = place.send(work(job));
            });
        }
        std::thread::spawn(move || {
            for job in jobs {
                let (place, result) = sync_channel(1);
                if queue.send(result).is_err() {
                    return;
                }
                match job {
                    Ok(job) => {
                        if jobs_in.send((job, place)).is_err() {
                            return;
                        }
                    }
                    Err(failure) => {
                        let _ = place.send(Err(failure));
                        return;
                    }
                }
            }
        });
        ReadAhead { results, failed: false }
    }
}

impl<T> Iterator for ReadAhead<T> {
    type Item = Answer<T>;

    fn next(&mut self) -> Option<Answer<T>> {
        if self.failed {
            return None;
        }
        let place = self.results.recv().ok()?;
        let answer = place.recv().unwrap_or_else(|_| Err(Failure::new(ExitCode::Failed, "a thread that reads died")));
        self.failed = answer.is_err();
        Some(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn results_come_in_order_whoever_is_faster() {
        let jobs = (0..200u64).map(Ok);
        let results = ReadAhead::start(jobs, 4, 8, |job| {
            std::thread::sleep(Duration::from_micros(job * 7919 % 300));
            Ok(job)
        });
        let found: Vec<u64> = results.map(|result| result.expect("no failure")).collect();
        assert_eq!(found, (0..200).collect::<Vec<_>>());
    }

    #[test]
    fn a_failure_comes_in_its_place_and_is_the_last() {
        let failing = |job: u64| match job {
            5 => Err(Failure::new(ExitCode::Failed, "five")),
            _ => Ok(job),
        };
        let results: Vec<Answer<u64>> = ReadAhead::start((0..100).map(Ok), 3, 6, failing).collect();
        assert_eq!(results.len(), 6);
        assert!(results[..5].iter().all(Result::is_ok) && results[5].is_err());
    }
}
