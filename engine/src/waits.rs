//! Who waits for the store, since when, and how they are woken.
//!
//! Invariants:
//! - A wait counts from `begin` until it is dropped.
//! - Whoever registers a waker before looking at a condition is woken by a `wake_all` that comes after its change.
//! - One thread's waits are its own but for who looks at the clock: their lock is hardly ever contended, and once there
//!   is room for as many as wait at a time nothing is allocated.

use crate::sync::{Mutex, MutexGuard};
use std::task::Waker;

/// The waits of one lane, or of the operations that hold writes back.
#[derive(Default)]
pub struct Waits {
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    taken: Vec<Option<Slot>>,
    free: Vec<usize>,
}

struct Slot {
    /// `None`: nobody counts how long it lasts.
    begun_ms: Option<u64>,
    waker: Option<Waker>,
}

/// Waiting. Over when it is dropped.
pub struct Wait<'a> {
    waits: &'a Waits,
    slot: usize,
}

impl Waits {
    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().expect("no holder of this lock panics")
    }

    /// A wait that begins now, if that is of interest.
    pub fn begin(&self, begun_ms: Option<u64>) -> Wait<'_> {
        let mut slots = self.slots();
        let slot = Slot { begun_ms, waker: None };
        let index = match slots.free.pop() {
            Some(index) => {
                slots.taken[index] = Some(slot);
                index
            }
            None => {
                slots.taken.push(Some(slot));
                slots.taken.len() - 1
            }
        };
        Wait { waits: self, slot: index }
    }

    /// When the longest wait began of those that are counted.
    pub fn oldest_ms(&self) -> Option<u64> {
        self.slots().taken.iter().flatten().filter_map(|slot| slot.begun_ms).min()
    }

    /// Makes everyone who waits look again.
    pub fn wake_all(&self) {
        let wakers: Vec<Waker> = self.slots().taken.iter_mut().flatten().filter_map(|slot| slot.waker.take()).collect();
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Wait<'_> {
    /// Whom to wake. Before looking at the condition.
    pub fn register(&self, waker: &Waker) {
        let mut slots = self.waits.slots();
        let slot = slots.taken[self.slot].as_mut().expect("a slot is taken as long as its wait lasts");
        if !slot.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            slot.waker = Some(waker.clone());
        }
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let mut slots = self.waits.slots();
        slots.taken[self.slot] = None;
        slots.free.push(self.slot);
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_wait_counts_until_it_is_over() {
        let waits = Waits::default();
        assert_eq!(waits.oldest_ms(), None);
        let first = waits.begin(Some(3));
        let second = waits.begin(Some(5));
        assert_eq!(waits.oldest_ms(), Some(3));
        drop(first);
        assert_eq!(waits.oldest_ms(), Some(5));
        let third = waits.begin(Some(9));
        assert_eq!(waits.slots().taken.len(), 2, "what was given back is used again");
        let uncounted = waits.begin(None);
        drop((second, third));
        assert_eq!(waits.oldest_ms(), None);
        drop(uncounted);
    }
}
