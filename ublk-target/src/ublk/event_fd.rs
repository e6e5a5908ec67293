//! The kernel's counter that a ring can wait for: what makes a queue thread's ring return.

use super::notifier::Event;
use rustix::event::{eventfd, EventfdFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// An eventfd.
pub struct EventFd(OwnedFd);

impl EventFd {
    /// A new one, not raised.
    pub fn new() -> std::io::Result<EventFd> {
        Ok(EventFd(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Event for EventFd {
    fn raise(&self) {
        match rustix::io::write(&self.0, &1u64.to_ne_bytes()) {
            // The counter is full: it is readable already.
            Ok(_) | Err(Errno::AGAIN) => {}
            Err(errno) => panic!("an eventfd cannot be written: {errno}"),
        }
    }

    fn clear(&self) {
        let mut count = [0; 8];
        match rustix::io::read(&self.0, &mut count) {
            Ok(_) | Err(Errno::AGAIN) => {}
            Err(errno) => panic!("an eventfd cannot be read: {errno}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::notifier::Notifier;
    use super::*;
    use std::future::Future;
    use std::pin::Pin;
    use std::sync::Arc;
    use std::task::{Context, Poll, Waker};
    use std::time::{Duration, Instant};

    fn readable(notifier: &Notifier<EventFd>) -> bool {
        let mut polled = [rustix::event::PollFd::new(notifier.event(), rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut polled, Some(&rustix::event::Timespec::default())).expect("polls") == 1
    }

    #[test]
    fn a_wake_from_another_thread_reaches_the_ring_and_one_from_the_own_does_not() {
        let notifier = Notifier::new(Arc::new(EventFd::new().expect("an eventfd")));
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
