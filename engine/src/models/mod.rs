//! Loom models: every interleaving of a few threads on the engine's own types, and every value that the memory orders
//! allow them to read.
//!
//! Invariants:
//! - Models use the production types; what stands between them (a disk, the loop around a step) is restated in a few
//!   lines beside the place it restates.
//! - Memory of a disk orders like a release when a write is submitted and like an acquire when a read completes; a
//!   place that must never be read and written at the same time is a [`Place`], where loom notices it.
//! - Each model is exhaustive up to three preemptions, and `orders.rs` and the `should_panic` tests show that it can
//!   fail.
//!
//! docs/decisions/0007-concurrency-models.md says what loom cannot see.

mod claims;
mod cut;
mod flush;
mod forgo;
mod handout;
mod late;
mod orders;
mod snapshot;
mod views;
mod wake;
mod watch;

use ::loom::cell::UnsafeCell;
use ::loom::model::Builder;
use ::loom::sync::atomic::AtomicU64;
use ::loom::thread;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

/// Thread switches that are not due to waiting, in one interleaving.
const PREEMPTIONS: usize = 3;
/// Steps of one interleaving; more is taken for an endless loop.
const STEPS_MAX: usize = 20_000;

/// Explores every interleaving of `model`; prints how many there are.
fn explore(name: &str, model: impl Fn() + Sync + Send + 'static) {
    let started = Instant::now();
    let executions = check(model);
    let seconds = started.elapsed().as_secs_f64();
    println!("{{\"kind\":\"loom\",\"model\":\"{name}\",\"executions\":{executions},\"seconds\":{seconds:.2}}}");
}

/// Explores every interleaving of `model`; gives their number.
fn check(model: impl Fn() + Sync + Send + 'static) -> usize {
    let executions = Arc::new(AtomicUsize::new(0));
    let count = executions.clone();
    let mut builder = Builder::new();
    // LOOM_MAX_PREEMPTIONS wins, for longer runs.
    builder.preemption_bound = builder.preemption_bound.or(Some(PREEMPTIONS));
    builder.max_branches = STEPS_MAX;
    builder.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        model();
    });
    executions.load(Ordering::Relaxed)
}

struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future on this thread; a wake-up that is lost is a deadlock, which loom reports.
fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        thread::park();
    }
}

/// A place on a disk that must not be written while anybody reads or writes it, as far as the engine sees to that.
struct Place {
    access: UnsafeCell<()>,
    content: AtomicU64,
}

impl Place {
    fn new(content: u64) -> Place {
        Place { access: UnsafeCell::new(()), content: AtomicU64::new(content) }
    }

    fn read(&self) -> u64 {
        self.access.with(|_| self.content.load(Ordering::Relaxed))
    }

    fn write(&self, content: u64) {
        self.access.with_mut(|_| self.content.store(content, Ordering::Relaxed));
    }
}
