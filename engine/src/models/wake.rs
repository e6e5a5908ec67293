//! Wake-ups of a queue thread's tasks from other threads: what control and other lanes tell a queue.
//!
//! The notifier is the target's own file. The queue's thread restates `run_queue`: run what can run, if anything was
//! woken; sleep in the ring until the event; wake the task that listens for it, which takes it; run again. Its executor
//! is two tasks, that one and the one that waits, and one flag.

use super::{block_on, explore};
use crate::signal::Signal;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use ::loom::sync::{Condvar, Mutex};
use ::loom::thread;
use notifier::{Event, Notifier};
use std::cell::{Cell, RefCell};
use std::future::{poll_fn, Future};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

#[path = "../../../ublk-target/src/ublk/notifier.rs"]
#[allow(dead_code, reason = "the target uses more of it")]
mod notifier;

/// When the queue takes the event.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Take {
    BeforeItRunsTasks,
    /// The mistake: a wake-up in between is taken without having been heard.
    AfterItRanTasks,
    /// The mistake: the ring returns, and nobody says that tasks can run.
    WithoutWakingATask,
}

/// An eventfd and the ring that sleeps until it is readable.
#[derive(Default)]
struct ModelEvent {
    count: Mutex<u64>,
    raised: Condvar,
}

impl Event for ModelEvent {
    fn raise(&self) {
        *self.count.lock().expect("nobody panics") += 1;
        self.raised.notify_all();
    }

    fn clear(&self) {
        *self.count.lock().expect("nobody panics") = 0;
    }
}

impl ModelEvent {
    fn wait_until_raised(&self) {
        let mut count = self.count.lock().expect("nobody panics");
        while *count == 0 {
            count = self.raised.wait(count).expect("nobody panics");
        }
    }
}

/// The executor's mark that its task can run.
struct Runnable(AtomicBool);

impl Wake for Runnable {
    fn wake(self: Arc<Self>) {
        // As executors do it: read and written in one.
        self.0.swap(true, Ordering::AcqRel);
    }
}

/// Runs `task` as a queue's thread does.
fn run_queue(event: &Arc<ModelEvent>, take: Take, task: impl Future<Output = ()>) {
    let runnable = Arc::new(Runnable(AtomicBool::new(true)));
    let waker = Waker::from(runnable.clone());
    let notifier = Notifier::new(event.clone());
    let mut task = pin!(notifier.wrap(task));
    let (has_returned, listener) = (Cell::new(false), RefCell::new(None));
    let mut listen = pin!(notifier.wrap(poll_fn(|context| {
        if has_returned.take() && take != Take::AfterItRanTasks {
            notifier.clear();
        }
        listener.replace(Some(context.waker().clone()));
        Poll::<()>::Pending
    })));
    loop {
        if notifier.take_woken() {
            while runnable.0.swap(false, Ordering::AcqRel) {
                let mut context = Context::from_waker(&waker);
                assert!(listen.as_mut().poll(&mut context).is_pending(), "it listens for ever");
                if let Poll::Ready(()) = task.as_mut().poll(&mut context) {
                    return;
                }
            }
        }
        if take == Take::AfterItRanTasks {
            event.clear();
        }
        if notifier.has_woken() {
            continue;
        }
        event.wait_until_raised();
        has_returned.set(true);
        if take == Take::WithoutWakingATask {
            event.clear();
            continue;
        }
        let listener: Option<Waker> = listener.borrow().clone();
        listener.expect("it was polled first of all").wake();
    }
}

/// A queue's task waits for two messages, each of them announced.
fn two_messages(take: Take) {
    let shared = Arc::new((AtomicU64::new(0), Signal::default()));
    let control = shared.clone();
    let event = Arc::new(ModelEvent::default());
    let thread = thread::spawn(move || {
        for message in 1..=2 {
            control.0.store(message, Ordering::Release);
            control.1.notify();
        }
    });
    run_queue(&event, take, async {
        loop {
            let told = shared.1.listen();
            if shared.0.load(Ordering::Acquire) == 2 {
                return;
            }
            told.await;
        }
    });
    thread.join().expect("control ends");
}

#[test]
fn a_queue_that_sleeps_in_its_ring_hears_every_message() {
    explore("queue-messages", || two_messages(Take::BeforeItRunsTasks));
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_queue_that_takes_its_event_after_it_ran_its_tasks_is_noticed() {
    explore("queue-planted", || two_messages(Take::AfterItRanTasks));
}

#[test]
fn a_signal_reaches_who_listened_before_it_was_given() {
    explore("signal", || {
        let shared = Arc::new((AtomicU64::new(0), Signal::default()));
        let listeners = [0, 1].map(|_| {
            let shared = shared.clone();
            thread::spawn(move || loop {
                let told = shared.1.listen();
                if shared.0.load(Ordering::Acquire) == 1 {
                    return;
                }
                block_on(told);
            })
        });
        shared.0.store(1, Ordering::Release);
        shared.1.notify();
        for listener in listeners {
            listener.join().expect("a listener ends");
        }
    });
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_queue_that_takes_its_event_and_wakes_no_task_is_noticed() {
    explore("queue-unheard", || two_messages(Take::WithoutWakingATask));
}
