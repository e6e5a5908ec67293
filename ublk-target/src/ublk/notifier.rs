//! Wakes a thread that sleeps in its io_uring when another thread wakes one of its tasks.
//!
//! libublk sleeps in `io_uring_enter`; a waker called on another thread only marks the task runnable. So every task of a
//! queue thread is polled with a waker that also raises an event, which the queue's ring has a poll pending on.
//!
//! Invariants:
//! - A wake-up from another thread always makes the ring return; one from the own thread never costs a system call.
//! - A task's waker is made once; polling allocates nothing.
//! - Whatever wakes a task on the own thread is noted, so that the thread looks for runnable tasks only when there may be
//!   some; what another thread wakes is noted when its event is taken, which wakes a task.
//! - A task is runnable before its event is raised. So whoever takes the event and then runs its tasks misses nothing;
//!   the models of the engine (`models/wake.rs`) include this file.

use cairn_engine::sync::atomic::{AtomicBool, Ordering};
use cairn_engine::sync::thread::{current, ThreadId};
use cairn_engine::sync::AtomicWaker;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

/// What a sleeping ring can be made to return by.
pub trait Event {
    /// Makes the ring return, now or when it next sleeps; from any thread.
    fn raise(&self);
    /// Takes what was raised, so that the ring sleeps again.
    fn clear(&self);
}

/// The event of one queue thread.
pub struct Notifier<E> {
    event: Arc<E>,
    owner: ThreadId,
    /// A task may be runnable. Only the owner looks at it or changes it, so it needs no order.
    woken: Arc<AtomicBool>,
}

impl<E> Clone for Notifier<E> {
    fn clone(&self) -> Self {
        Notifier { event: self.event.clone(), owner: self.owner, woken: self.woken.clone() }
    }
}

impl<E: Event + Send + Sync + 'static> Notifier<E> {
    /// A notifier for the calling thread.
    pub fn new(event: Arc<E>) -> Notifier<E> {
        Notifier { event, owner: current().id(), woken: Arc::new(AtomicBool::new(true)) }
    }

    /// The event.
    pub fn event(&self) -> &E {
        &self.event
    }

    /// Takes what was notified, so that the ring sleeps again. Whoever does so runs its tasks afterwards.
    pub fn clear(&self) {
        self.event.clear();
    }

    /// Whether a task may have become runnable since `take_woken` was called last.
    pub fn has_woken(&self) -> bool {
        self.woken.load(Ordering::Relaxed)
    }

    /// The same, and from now on nothing has been woken.
    pub fn take_woken(&self) -> bool {
        let woken = self.has_woken();
        self.woken.store(false, Ordering::Relaxed);
        woken
    }

    /// Says that a task may be runnable.
    pub fn note_woken(&self) {
        self.woken.store(true, Ordering::Relaxed);
    }

    /// `task`, polled with a waker that reaches this thread from any other.
    pub fn wrap<F: Future>(&self, task: F) -> Notified<E, F> {
        let link = Arc::new(Link { task: AtomicWaker::new(), notifier: self.clone() });
        Notified { waker: Waker::from(link.clone()), link, task: Box::pin(task) }
    }
}

struct Link<E> {
    task: AtomicWaker,
    notifier: Notifier<E>,
}

impl<E: Event + Send + Sync + 'static> Wake for Link<E> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.task.wake();
        if current().id() == self.notifier.owner {
            self.notifier.note_woken();
        } else {
            self.notifier.event.raise();
        }
    }
}

/// See [`Notifier::wrap`].
pub struct Notified<E, F> {
    task: Pin<Box<F>>,
    link: Arc<Link<E>>,
    waker: Waker,
}

impl<E, F: Future> Future for Notified<E, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Notified { task, link, waker } = &mut *self;
        link.task.register(context.waker());
        task.as_mut().poll(&mut Context::from_waker(waker))
    }
}
