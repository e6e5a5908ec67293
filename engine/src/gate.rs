//! The gate right before the origin write: open in normal times, closed and drained for a cut.
//!
//! Invariants:
//! - Whoever entered and has not left is counted, in its own lane's counter, before it looks at any map.
//! - After `close` and a successful `drain` nobody is inside and nobody gets in until `open`.
//! - Entering writes one cache line, the lane's own.
//!
//! Memory order: `try_enter` adds to the counter and then reads `closed`; `close` writes `closed` and `drain` then reads
//! the counters. Each must see the other's write or be seen by it, which only sequential consistency gives for
//! store-then-load on two locations. Leaving and draining are the same pair again: subtract, then read `closed`, against
//! write, then read the counters. Leaving also releases what was done inside to the drainer, and `open` what was done
//! while the gate was closed to who enters next. `models/cut.rs` explores it, `models/orders.rs` weakens each access.

use crate::deadline::Deadline;
use crate::signal::Signal;
use crate::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use crossbeam::utils::CachePadded;
use futures_util::future::{select, Either};
use std::pin::pin;

/// Counts origin writes in flight; see the file's head.
pub struct Gate {
    closed: AtomicBool,
    lanes: Box<[CachePadded<AtomicU32>]>,
    opened: Signal,
    left: Signal,
}

/// Being inside the gate; leaving is dropping it.
pub struct Passage<'a> {
    gate: &'a Gate,
    /// The lane's.
    count: &'a AtomicU32,
}

impl Gate {
    /// An open gate for `lanes` lanes.
    pub fn new(lanes: u16) -> Gate {
        Gate {
            closed: AtomicBool::new(false),
            lanes: (0..lanes).map(|_| CachePadded::new(AtomicU32::new(0))).collect(),
            opened: Signal::default(),
            left: Signal::default(),
        }
    }

    /// Enters if the gate is open.
    #[inline]
    pub fn try_enter(&self, lane: u16) -> Option<Passage<'_>> {
        let count = &*self.lanes[lane as usize];
        count.fetch_add(1, Ordering::SeqCst);
        let passage = Passage { gate: self, count };
        // A closed gate: the passage is dropped at once, which takes the count back and tells the drainer.
        (!self.closed.load(Ordering::SeqCst)).then_some(passage)
    }

    /// Enters, waiting while a cut has the gate closed.
    pub async fn enter(&self, lane: u16) -> Passage<'_> {
        loop {
            if let Some(passage) = self.try_enter(lane) {
                return passage;
            }
            let listener = self.opened.listen();
            if !self.closed.load(Ordering::SeqCst) {
                continue;
            }
            listener.await;
        }
    }

    /// Nobody new gets in. Only a holder of the ledger closes the gate: one at a time.
    pub fn close(&self) {
        let was_closed = self.closed.swap(true, Ordering::SeqCst);
        assert!(!was_closed, "one cut at a time");
    }

    /// Lets everybody in again.
    pub fn open(&self) {
        let was_closed = self.closed.swap(false, Ordering::SeqCst);
        assert!(was_closed, "only a closed gate is opened");
        self.opened.notify();
    }

    /// Whether it is closed. Whoever closed it knows; for asserting it.
    pub fn is_closed(&self) -> bool {
        // Relaxed: nothing follows from it.
        self.closed.load(Ordering::Relaxed)
    }

    /// Whether nobody is counted. Of a closed gate true once means that nobody is inside, for as long as it is closed;
    /// later it may be false again for a moment, while somebody tries to enter.
    pub fn is_drained(&self) -> bool {
        self.lanes.iter().all(|count| count.load(Ordering::SeqCst) == 0)
    }

    /// Waits until nobody is inside; false when the deadline came first. The gate stays closed either way.
    pub async fn drain(&self, deadline: &Deadline) -> bool {
        assert!(self.is_closed());
        loop {
            let listener = self.left.listen();
            if self.is_drained() {
                return true;
            }
            if let Either::Right(_) = select(listener, pin!(deadline.wait())).await {
                return self.is_drained();
            }
        }
    }
}

impl Drop for Passage<'_> {
    #[inline]
    fn drop(&mut self) {
        let before = self.count.fetch_sub(1, Ordering::SeqCst);
        assert!(before > 0);
        if before == 1 && self.gate.closed.load(Ordering::SeqCst) {
            self.gate.left.notify();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_gate_lets_nobody_in_and_counts_nobody() {
        let gate = Gate::new(2);
        let inside = gate.try_enter(1).expect("the gate is open");
        gate.close();
        assert!(gate.try_enter(0).is_none());
        assert!(!gate.is_drained());
        drop(inside);
        assert!(gate.is_drained());
        gate.open();
        assert!(gate.try_enter(0).is_some());
    }
}
