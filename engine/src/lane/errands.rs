//! Errands: what a request began on the store and may leave behind when it must not wait any longer.
//!
//! Invariants:
//! - An errand owns everything that it uses, and is polled to its end, whoever has left it: requests to a disk are
//!   never dropped.
//! - What was left is polled by one task of the lane's thread, [`Lane::run_errands`], and so is woken by what it waits
//!   for.

use super::Lane;
use crate::disk::Disk;
use crate::lateness::Waiting;
use crate::volume::Volume;
use std::cell::RefCell;
use std::convert::Infallible;
use std::future::{poll_fn, Future};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// The errands of one lane that nobody waits for any more.
#[derive(Default)]
pub(super) struct Errands {
    left: RefCell<Vec<Pin<Box<dyn Future<Output = ()>>>>>,
    runner: RefCell<Option<Waker>>,
}

impl Errands {
    /// Runs an errand. `None`: the store was given up first; the errand goes on without this caller.
    pub(super) async fn run<T: 'static>(
        &self,
        volume: &Volume,
        wait: &Waiting<'_>,
        errand: impl Future<Output = T> + 'static,
    ) -> Option<T> {
        let mut errand = Box::pin(errand);
        let done = volume.lateness.in_time(wait, errand.as_mut()).await;
        if done.is_none() {
            self.leave(Box::pin(async move { drop(errand.await) }));
        }
        done
    }

    fn leave(&self, errand: Pin<Box<dyn Future<Output = ()>>>) {
        self.left.borrow_mut().push(errand);
        if let Some(runner) = self.runner.borrow_mut().take() {
            runner.wake();
        }
    }

    /// Polls what was left; the task of this context is woken when there is more to do.
    fn poll(&self, context: &mut Context<'_>) {
        *self.runner.borrow_mut() = Some(context.waker().clone());
        let mut errands = self.left.take();
        errands.retain_mut(|errand| errand.as_mut().poll(context).is_pending());
        // What was left meanwhile comes behind; whoever left it has woken this task.
        let mut left = self.left.borrow_mut();
        errands.append(&mut left);
        *left = errands;
    }

    fn is_empty(&self) -> bool {
        self.left.borrow().is_empty()
    }
}

impl<D: Disk> Lane<D> {
    /// Goes on with what requests have left behind, for ever. To be run as one task of the lane's thread, wherever the
    /// volume may give up a store that is late.
    pub async fn run_errands(&self) -> Infallible {
        poll_fn(|context| {
            self.errands.poll(context);
            Poll::Pending
        })
        .await
    }

    /// The same, until nothing is left behind. Before the lane is dropped; not beside [`Lane::run_errands`].
    pub async fn finish_errands(&self) {
        poll_fn(|context| {
            self.errands.poll(context);
            if self.errands.is_empty() {
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await
    }

    /// Whether requests have left something behind that is not done.
    pub fn has_errands(&self) -> bool {
        !self.errands.is_empty()
    }

    /// Runs what a write does on the store beside its save. `None`: the store was given up first; what was begun goes
    /// on alone.
    pub(crate) async fn errand<T: 'static>(&self, errand: impl Future<Output = T> + 'static) -> Option<T> {
        // Begun first, looked at second: who gives the store up from here on ends this wait.
        let wait = self.begin_wait();
        if self.volume.lateness.is_over(&wait) {
            return None;
        }
        self.errands.run(&self.volume, &wait, errand).await
    }

    /// What `future` gives, a wait for somebody whose own waits are counted; `None`: the store was given up first.
    pub(crate) async fn unless_given_up<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let lateness = &self.volume.lateness;
        let wait = lateness.begin_uncounted(&self.volume.lanes[self.index as usize].waits);
        if lateness.is_over(&wait) {
            return None;
        }
        lateness.in_time(&wait, future).await
    }

    /// What `future`, which may be dropped, gives; `None`: the store was given up first.
    pub(crate) async fn in_time<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let wait = self.begin_wait();
        if self.volume.lateness.is_over(&wait) {
            return None;
        }
        self.volume.lateness.in_time(&wait, future).await
    }

    pub(super) fn begin_wait(&self) -> Waiting<'_> {
        self.volume.lateness.begin(&self.volume.lanes[self.index as usize].waits)
    }
}
