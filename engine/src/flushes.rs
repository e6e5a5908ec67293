//! The flushes of one device: that one failed is known to everybody whom it concerns.
//!
//! A failed flush may have lost what anybody wrote before it, but the device tells only whoever asked for that flush; the
//! next one succeeds. Between the moment the device fails a flush and the moment its thread hears of it, others may be
//! told that theirs went well.
//!
//! Invariants:
//! - When a flush is reported as done, every flush that failed before it was done has been counted.
//! - A flush waits only for flushes that began before it was done itself, never for later ones.

use crate::signal::Signal;
use crate::sync::Mutex;
use std::collections::BTreeSet;
use std::future::Future;

/// Counts the failed flushes of a device, for all threads that use it.
#[derive(Debug, Default)]
pub struct Flushes {
    state: Mutex<State>,
    /// A flush has ended.
    ended: Signal,
}

#[derive(Debug, Default)]
struct State {
    begun: u64,
    under_way: BTreeSet<u64>,
    failed: u64,
}

/// A flush under way. One that is given up counts as failed: nobody knows what became of it.
struct UnderWay<'a> {
    flushes: &'a Flushes,
    number: u64,
    is_done: bool,
}

impl Flushes {
    /// Runs a flush of the device. Done, it waits until those that began before have ended as well, so that
    /// [`Flushes::failed`] then counts all that may have lost what this one was to make durable.
    pub async fn run<E>(&self, flush: impl Future<Output = Result<(), E>>) -> Result<(), E> {
        let mut under_way = self.begin();
        let result = flush.await;
        under_way.is_done = result.is_ok();
        drop(under_way);
        if result.is_ok() {
            let begun = self.locked(|state| state.begun);
            self.wait_for_those_before(begun).await;
        }
        result
    }

    /// How many flushes failed.
    pub fn failed(&self) -> u64 {
        self.locked(|state| state.failed)
    }

    fn begin(&self) -> UnderWay<'_> {
        let number = self.locked(|state| {
            state.begun += 1;
            state.under_way.insert(state.begun);
            state.begun
        });
        UnderWay { flushes: self, number, is_done: false }
    }

    async fn wait_for_those_before(&self, begun: u64) {
        loop {
            let ended = self.ended.listen();
            if self.locked(|state| state.under_way.first().is_none_or(|&oldest| oldest > begun)) {
                return;
            }
            ended.await;
        }
    }

    fn locked<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().expect("no holder of this lock panics"))
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let is_done = self.is_done;
        self.flushes.locked(|state| {
            state.under_way.remove(&self.number);
            state.failed += u64::from(!is_done);
        });
        self.flushes.ended.notify();
    }
}
