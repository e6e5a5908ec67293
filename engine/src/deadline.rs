//! A deadline without a clock: the caller owns the timer and expires the deadline.

use crate::signal::Signal;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::Arc;
use futures_util::future::{select, Either};
use std::future::Future;
use std::pin::pin;

/// Shared between whoever waits and whoever keeps the time. Clones expire together.
#[derive(Clone, Default)]
pub struct Deadline {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    expired: AtomicBool,
    signal: Signal,
}

impl Deadline {
    /// A deadline that never comes unless somebody expires it.
    pub fn new() -> Deadline {
        Deadline::default()
    }

    /// The time is over: whoever waits gives up.
    pub fn expire(&self) {
        // Release pairs with the acquire in `expired`: what the timer knew is known to who gives up.
        self.shared.expired.store(true, Ordering::Release);
        self.shared.signal.notify();
    }

    /// Whether the time is over.
    pub fn expired(&self) -> bool {
        self.shared.expired.load(Ordering::Acquire)
    }

    /// What `future` gives, if it gives it in time. The future must be one that may be dropped, such as a lock's.
    pub async fn bound<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        match select(pin!(future), pin!(self.wait())).await {
            Either::Left((output, _)) => Some(output),
            Either::Right(_) => None,
        }
    }

    /// Resolves when the time is over.
    pub async fn wait(&self) {
        loop {
            let listener = self.shared.signal.listen();
            if self.expired() {
                return;
            }
            listener.await;
        }
    }
}
