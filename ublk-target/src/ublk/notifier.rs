//! Wakes a thread that sleeps in its io_uring when another thread wakes one of its tasks.
//!
//! libublk sleeps in `io_uring_enter`; a waker called on another thread only marks the task runnable. So every task of a
//! queue thread is polled with a waker that also writes an eventfd, which the queue's ring has a poll pending on.
//!
//! Invariants:
//! - A wake-up from another thread always makes the ring return; one from the own thread never costs a system call.
//! - A task's waker is made once; polling allocates nothing.

use futures_util::task::AtomicWaker;
use rustix::event::{eventfd, EventfdFlags};
use rustix::io::Errno;
use std::future::Future;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::ThreadId;

/// The eventfd of one queue thread.
#[derive(Clone)]
pub struct Notifier {
    event: Arc<OwnedFd>,
    owner: ThreadId,
}

impl Notifier {
    /// A notifier for the calling thread.
    pub fn new() -> std::io::Result<Notifier> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Notifier { event: Arc::new(event), owner: std::thread::current().id() })
    }

    /// The descriptor to poll for input.
    pub fn raw_fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    /// Makes the owner's ring return, from any thread.
    pub fn notify(&self) {
        match rustix::io::write(&self.event, &1u64.to_ne_bytes()) {
            // The counter is full: it is readable already.
            Ok(_) | Err(Errno::AGAIN) => {}
            Err(errno) => panic!("an eventfd cannot be written: {errno}"),
        }
    }

    /// Takes what was notified, so that the next poll waits again.
    pub fn clear(&self) {
        let mut count = [0; 8];
        match rustix::io::read(&self.event, &mut count) {
            Ok(_) | Err(Errno::AGAIN) => {}
            Err(errno) => panic!("an eventfd cannot be read: {errno}"),
        }
    }

    /// `task`, polled with a waker that reaches this thread from any other.
    pub fn wrap<F: Future>(&self, task: F) -> Notified<F> {
        let link = Arc::new(Link { task: AtomicWaker::new(), notifier: self.clone() });
        Notified { waker: Waker::from(link.clone()), link, task: Box::pin(task) }
    }
}

struct Link {
    task: AtomicWaker,
    notifier: Notifier,
}

impl Wake for Link {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.task.wake();
        if std::thread::current().id() != self.notifier.owner {
            self.notifier.notify();
        }
    }
}

/// See [`Notifier::wrap`].
pub struct Notified<F> {
    task: Pin<Box<F>>,
    link: Arc<Link>,
    waker: Waker,
}

impl<F: Future> Future for Notified<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        self.link.task.register(context.waker());
        let waker = self.waker.clone();
        self.task.as_mut().poll(&mut Context::from_waker(&waker))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn readable(notifier: &Notifier) -> bool {
        let mut polled = [rustix::event::PollFd::new(&*notifier.event, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut polled, Some(&rustix::event::Timespec::default())).expect("polls") == 1
    }

    #[test]
    fn a_wake_from_another_thread_reaches_the_ring_and_one_from_the_own_does_not() {
        let notifier = Notifier::new().expect("an eventfd");
        let (sender, receiver) = std::sync::mpsc::channel::<Waker>();
        let mut task = notifier.wrap(std::future::poll_fn(move |context| {
            sender.send(context.waker().clone()).expect("the test listens");
            Poll::<()>::Pending
        }));
        let mut context = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut task).poll(&mut context).is_pending());
        let waker = receiver.recv_timeout(Duration::from_secs(1)).expect("polled");
        waker.wake_by_ref();
        assert!(!readable(&notifier), "the own thread needs no system call");
        let started = Instant::now();
        std::thread::spawn(move || waker.wake()).join().expect("wakes");
        assert!(readable(&notifier), "another thread does");
        assert!(started.elapsed() < Duration::from_secs(1));
        notifier.clear();
        assert!(!readable(&notifier));
    }
}
