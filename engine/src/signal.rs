//! Turns of tasks: a wake-up that cannot be lost (listen first, look at the condition, then wait), and giving way.
//!
//! Invariants:
//! - A listener taken before `notify` resolves, however late it is polled.
//! - Wakers may be woken on any thread; nothing is held while they run.

use crate::sync::{Mutex, MutexGuard};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// Steps that a loop does in one go: some ten microseconds. Whoever drives a thread may give it several turns in a row.
const STEPS_IN_A_TURN: u32 = 64;

/// Tells any number of waiting tasks, on any thread, to look again.
#[derive(Debug, Default)]
pub struct Signal {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    generation: u64,
    wakers: Vec<Waker>,
}

/// Resolves at the first `notify` after it was taken.
pub struct Listener<'a> {
    signal: &'a Signal,
    generation: u64,
}

impl Signal {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    /// A listener for the next notification. Take it before looking at the condition.
    pub fn listen(&self) -> Listener<'_> {
        Listener { signal: self, generation: self.state().generation }
    }

    /// Wakes everyone who listens.
    pub fn notify(&self) {
        let wakers = {
            let mut state = self.state();
            state.generation += 1;
            std::mem::take(&mut state.wakers)
        };
        for waker in wakers {
            waker.wake();
        }
    }
}

/// Lets other tasks run first.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Lets other tasks of the thread run every so often, in a loop that computes more than it waits.
#[derive(Default)]
pub struct Turns {
    steps: u32,
}

impl Turns {
    /// One step of the loop, some hundred nanoseconds of work. True where others had their turn.
    pub async fn step(&mut self) -> bool {
        self.steps += 1;
        if self.steps < STEPS_IN_A_TURN {
            return false;
        }
        self.steps = 0;
        yield_now().await;
        true
    }
}

impl Future for Listener<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.signal.state();
        if state.generation != self.generation {
            return Poll::Ready(());
        }
        if !state.wakers.iter().any(|waker| waker.will_wake(context.waker())) {
            state.wakers.push(context.waker().clone());
        }
        Poll::Pending
    }
}
