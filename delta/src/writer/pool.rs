//! Threads that seal frames, and give them back in the order in which they came.
//!
//! Invariants:
//! - Frame `n` goes to worker `n mod workers` and is taken from it: order needs no sorting and no lock.
//! - No worker ever holds more than [`FRAMES_EACH`] frames, so no channel is ever full and nobody waits but for work.

use super::seal::{Job, Sealed, Sealer};
use std::io;
use std::sync::mpsc::{sync_channel, Receiver, SyncSender};
use std::thread::JoinHandle;

/// One that is worked on, and one that waits for it.
const FRAMES_EACH: usize = 2;

struct Worker {
    jobs: Option<SyncSender<Job>>,
    results: Receiver<Sealed>,
    thread: Option<JoinHandle<()>>,
}

/// Some workers.
pub(super) struct Pool {
    workers: Vec<Worker>,
    submitted: usize,
    taken: usize,
}

impl Pool {
    pub(super) fn new(workers: usize, zstd_level: Option<i32>) -> io::Result<Pool> {
        let workers = (0..workers).map(|_| Worker::new(zstd_level)).collect::<io::Result<_>>()?;
        Ok(Pool { workers, submitted: 0, taken: 0 })
    }

    /// The most frames that may be under way.
    pub(super) fn frames_max(&self) -> usize {
        self.workers.len() * FRAMES_EACH
    }

    /// Hands a frame to the worker whose turn it is.
    pub(super) fn submit(&mut self, job: Job) {
        assert!(self.submitted - self.taken < self.frames_max(), "more frames than a pool has room for");
        let worker = &self.workers[self.submitted % self.workers.len()];
        let jobs = worker.jobs.as_ref().expect("workers get jobs until the pool is dropped");
        jobs.send(job).expect("a worker ends when the pool is dropped, not before");
        self.submitted += 1;
    }

    /// The frame that was submitted first of those not taken yet. Waits for it.
    pub(super) fn next(&mut self) -> Sealed {
        assert!(self.taken < self.submitted, "nothing is under way");
        let worker = &self.workers[self.taken % self.workers.len()];
        self.taken += 1;
        worker.results.recv().expect("a worker ends when the pool is dropped, not before")
    }
}

impl Worker {
    fn new(zstd_level: Option<i32>) -> io::Result<Worker> {
        let mut sealer = Sealer::new(zstd_level)?;
        let (jobs, to_do) = sync_channel::<Job>(FRAMES_EACH);
        let (done, results) = sync_channel(FRAMES_EACH);
        let thread = std::thread::Builder::new().name("delta-seal".to_owned()).spawn(move || {
            for job in to_do {
                // Nobody takes results any more when the writer was dropped.
                if done.send(sealer.seal(job)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Worker { jobs: Some(jobs), results, thread: Some(thread) })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // It has no result; a panic was reported where it happened.
            let _ = thread.join();
        }
    }
}
