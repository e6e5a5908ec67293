//! The seeded scheduler: one thread, tasks polled only when woken, completions in an order the seed picks.
//!
//! Invariants:
//! - A task that nobody woke is never polled, so a lost wake-up shows as a deadlock instead of passing by luck.
//! - The same seed gives the same order of polls and completions.

use super::disk::SimDisk;
use std::cell::RefCell;
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::{pin, Pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

/// Set by a waker, from any thread.
struct WokenFlag(AtomicBool);

impl WokenFlag {
    fn new() -> Arc<WokenFlag> {
        Arc::new(WokenFlag(AtomicBool::new(true)))
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    fn take(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }
}

impl Wake for WokenFlag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

struct Task {
    name: String,
    woken: Arc<WokenFlag>,
    future: Pin<Box<dyn Future<Output = ()>>>,
}

/// The result of a spawned task.
pub struct Handle<T> {
    name: String,
    output: Rc<RefCell<Option<T>>>,
}

impl<T> Handle<T> {
    /// The result, once; none while the task runs.
    pub fn take(&self) -> Option<T> {
        self.output.borrow_mut().take()
    }

    /// Whether the task is finished and the result not yet taken.
    pub fn is_finished(&self) -> bool {
        self.output.borrow().is_some()
    }
}

/// Runs tasks and completes the requests of the disks it drives, one step at a time.
pub struct Scheduler {
    seed: u64,
    random: fastrand::Rng,
    tasks: Vec<Task>,
    disks: Vec<SimDisk>,
    steps: u64,
    events: DefaultHasher,
}

impl Scheduler {
    /// A scheduler whose every choice follows from `seed`.
    pub fn new(seed: u64) -> Scheduler {
        Scheduler {
            seed,
            random: fastrand::Rng::with_seed(seed),
            tasks: Vec::new(),
            disks: Vec::new(),
            steps: 0,
            events: DefaultHasher::new(),
        }
    }

    /// From now on requests to `disk` complete when this scheduler picks them.
    pub fn drive(&mut self, disk: &SimDisk) {
        disk.device().deferred = true;
        self.disks.push(disk.clone());
    }

    /// Adds a task. It starts at some later step.
    pub fn spawn<T: 'static>(
        &mut self,
        name: impl Into<String>,
        future: impl Future<Output = T> + 'static,
    ) -> Handle<T> {
        let name = name.into();
        let output = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&output);
        let future = Box::pin(async move {
            let result = future.await;
            *slot.borrow_mut() = Some(result);
        });
        self.tasks.push(Task { name: name.clone(), woken: WokenFlag::new(), future });
        Handle { name, output }
    }

    /// Steps taken so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Tasks that have not finished.
    pub fn tasks(&self) -> usize {
        self.tasks.len()
    }

    /// A number that depends on every choice made so far and on everything the disks were asked.
    pub fn event_hash(&self) -> u64 {
        let mut hasher = self.events.clone();
        for disk in &self.disks {
            disk.event_hash().hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Polls one woken task or completes one request, as the seed picks. False when there is nothing to do.
    pub fn step(&mut self) -> bool {
        let woken = self.tasks.iter().filter(|task| task.woken.is_set()).count();
        let requests: usize = self.disks.iter().map(|disk| disk.device().in_flight()).sum();
        if woken + requests == 0 {
            return false;
        }
        let choice = self.random.usize(0..woken + requests);
        self.steps += 1;
        (choice, woken).hash(&mut self.events);
        if choice < woken {
            self.poll_woken(choice);
        } else {
            self.complete_request(choice - woken);
        }
        true
    }

    fn poll_woken(&mut self, choice: usize) {
        let mut woken = self.tasks.iter().enumerate().filter(|(_, task)| task.woken.is_set());
        let (index, _) = woken.nth(choice).expect("the choice is among the woken");
        let task = &mut self.tasks[index];
        task.woken.take();
        let waker = Waker::from(Arc::clone(&task.woken));
        if task.future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            self.tasks.remove(index);
        }
    }

    fn complete_request(&mut self, mut choice: usize) {
        for disk in &self.disks {
            let mut device = disk.device();
            if choice < device.in_flight() {
                device.complete(choice);
                return;
            }
            choice -= device.in_flight();
        }
        unreachable!("the choice is among the requests in flight");
    }

    /// Runs until the task of `handle` is finished; the others get on as far as they happen to.
    pub fn run_until<T>(&mut self, handle: &Handle<T>) -> T {
        loop {
            if let Some(output) = handle.take() {
                return output;
            }
            if !self.step() {
                self.report_deadlock(&handle.name);
            }
        }
    }

    /// Runs until every task is finished.
    pub fn run_all(&mut self) {
        while !self.tasks.is_empty() {
            if !self.step() {
                self.report_deadlock("all");
            }
        }
    }

    /// The names of the tasks that have not finished.
    pub fn hanging(&self) -> String {
        self.tasks.iter().map(|task| task.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    fn report_deadlock(&self, awaited: &str) -> ! {
        panic!(
            "seed {}: deadlock at step {} waiting for {awaited}: nobody is woken, no request is under way, \
             and these hang: {}",
            self.seed,
            self.steps,
            self.hanging()
        );
    }

    /// The machine stops here: every task vanishes, requests under way stay under way for ever.
    pub fn kill(self) {
        for disk in &self.disks {
            disk.device().dead = true;
        }
    }
}

/// Runs a future whose disks complete at once; panics if it waits for anything else than itself.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let woken = WokenFlag::new();
    let waker = Waker::from(Arc::clone(&woken));
    let mut future = pin!(future);
    while woken.take() {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
    }
    panic!("the future waits and nobody will wake it");
}

#[cfg(test)]
mod tests {
    use super::super::disk::SimDiskOptions;
    use super::*;
    use crate::disk::{aligned_buffer, Disk};
    use crate::signal::yield_now;

    fn interleaved(seed: u64) -> (Vec<u8>, u64) {
        let disk = SimDisk::new(SimDiskOptions::new("disk", 1 << 20));
        let mut scheduler = Scheduler::new(seed);
        scheduler.drive(&disk);
        for value in 1..=4 {
            let disk = disk.clone();
            scheduler.spawn(format!("writer {value}"), async move {
                let mut page = aligned_buffer(4096);
                page.fill(value);
                yield_now().await;
                disk.write(0, &page).await.unwrap();
            });
        }
        scheduler.run_all();
        (disk.peek(0, 4096), scheduler.event_hash())
    }

    #[test]
    fn the_same_seed_gives_the_same_events_and_seeds_differ() {
        assert_eq!(interleaved(7), interleaved(7));
        let last: std::collections::BTreeSet<u8> = (0..50).map(|seed| interleaved(seed).0[0]).collect();
        assert_eq!(last.len(), 4, "any of the writers may come last");
    }

    #[test]
    #[should_panic(expected = "these hang: sleeper")]
    fn a_lost_wake_up_is_a_deadlock_with_a_name() {
        let mut scheduler = Scheduler::new(1);
        scheduler.spawn("sleeper", std::future::pending::<()>());
        scheduler.run_all();
    }

    #[test]
    #[should_panic(expected = "dropped with a request under way")]
    fn dropping_a_future_with_a_request_under_way_is_caught() {
        let disk = SimDisk::new(SimDiskOptions::new("disk", 1 << 20));
        let mut scheduler = Scheduler::new(1);
        scheduler.drive(&disk);
        let mut flush = Box::pin(disk.flush());
        let waker = Waker::from(WokenFlag::new());
        assert!(flush.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        drop(flush);
    }
}
