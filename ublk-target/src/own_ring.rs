//! Our own io_uring, one a thread, driven by that thread's tokio runtime: for the control thread, NBD, and tools.
//!
//! Invariants:
//! - At most [`IN_FLIGHT_MAX`] requests to a device are in flight; the completion queue has room for those of two.
//! - What waits for one device keeps nothing from the other: a store that hangs has no place that the disk needs.
//! - Requests made in one turn of the runtime are submitted together, at its end.
//! - A request's future that is dropped while the kernel still owns its memory ends the process.

#![allow(unsafe_code)]

use crate::uring_disk::{Ring, UringDisk};
use io_uring::{squeue, IoUring};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use tokio::io::unix::AsyncFd;
use tokio::io::Interest;
use tokio::sync::{Notify, Semaphore};
use tokio::task::LocalSet;

/// The most requests in flight to one device; more wait their turn.
pub const IN_FLIGHT_MAX: u32 = 256;

/// A disk on this thread's own ring.
pub type RingDisk = UringDisk<OwnRing>;

/// A handle on this thread's own ring; clones are the same ring, and share its places.
#[derive(Clone)]
pub struct OwnRing {
    state: Rc<State>,
    places: Rc<Semaphore>,
}

struct State {
    ring: RefCell<IoUring>,
    requests: RefCell<BTreeMap<u64, Request>>,
    next: Cell<u64>,
    submit_wanted: Notify,
}

/// One request, from its submission until its future has taken the result.
#[derive(Default)]
struct Request {
    result: Option<i32>,
    waker: Option<Waker>,
}

impl OwnRing {
    /// Makes a ring for this thread and starts driving it; to be called inside a `LocalSet`.
    pub fn new() -> io::Result<OwnRing> {
        let ring = IoUring::builder().setup_clamp().setup_cqsize(2 * IN_FLIGHT_MAX).build(IN_FLIGHT_MAX)?;
        let state = Rc::new(State {
            ring: RefCell::new(ring),
            requests: RefCell::new(BTreeMap::new()),
            next: Cell::new(0),
            submit_wanted: Notify::new(),
        });
        // SAFETY: the ring is open; the borrow ends with the duplication.
        let descriptor = unsafe { BorrowedFd::borrow_raw(state.ring.borrow().as_raw_fd()) }.try_clone_to_owned()?;
        // SAFETY: the duplicate is owned by the `AsyncFd` and stays open as long as it is registered.
        let completions = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?;
        tokio::task::spawn_local(drive(state.clone(), completions));
        Ok(OwnRing { state, places: places() })
    }
}

fn places() -> Rc<Semaphore> {
    Rc::new(Semaphore::new(IN_FLIGHT_MAX as usize))
}

/// Runs `work` to its end on this thread, with a ring of its own under a tokio runtime of its own.
pub fn run<T, F, W>(work: W) -> io::Result<T>
where
    F: Future<Output = T>,
    W: FnOnce(OwnRing) -> F,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async { Ok(work(OwnRing::new()?).await) })
}

impl Ring for OwnRing {
    // SAFETY: the memory stays the caller's duty, as the trait says; a future dropped early ends the process.
    async unsafe fn submit(&self, request: squeue::Entry) -> i32 {
        let state = &self.state;
        let place = self.places.acquire().await.expect("the semaphore is never closed");
        let number = state.next.get();
        state.next.set(number + 1);
        state.requests.borrow_mut().insert(number, Request::default());
        let request = request.user_data(number);
        loop {
            // SAFETY: the caller keeps the memory until this future completes, and dropping it ends the process.
            let pushed = unsafe { state.ring.borrow_mut().submission().push(&request) };
            match pushed {
                Ok(()) => break,
                Err(_) => state.submit_queued(),
            }
        }
        state.submit_wanted.notify_one();
        let result = Completion { state, number }.await;
        drop(place);
        result
    }

    async fn run_blocking(&self, call: Box<dyn FnOnce() -> i32 + Send>) -> i32 {
        tokio::task::spawn_blocking(call).await.unwrap_or(-libc::EIO)
    }

    fn for_another_device(&self) -> OwnRing {
        OwnRing { state: self.state.clone(), places: places() }
    }
}

impl State {
    fn submit_queued(&self) {
        let mut ring = self.ring.borrow_mut();
        // The driver also comes here when something completed: no call for nothing then.
        while !ring.submission().is_empty() {
            match ring.submit() {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                // Resources of the kernel that come back by themselves; the requests stay queued meanwhile.
                Err(error) if [Some(libc::EAGAIN), Some(libc::EBUSY)].contains(&error.raw_os_error()) => {
                    std::thread::yield_now();
                }
                Err(error) => panic!("io_uring takes no more requests: {error}"),
            }
        }
    }

    fn reap(&self) {
        let mut ring = self.ring.borrow_mut();
        let mut requests = self.requests.borrow_mut();
        for completion in ring.completion() {
            let request = requests.get_mut(&completion.user_data()).expect("a completion belongs to a request");
            assert!(request.result.is_none(), "a request completes once");
            request.result = Some(completion.result());
            if let Some(waker) = request.waker.take() {
                waker.wake();
            }
        }
    }
}

/// Submits what was queued, gathers what completed, sleeps until there is more of either.
async fn drive(state: Rc<State>, completions: AsyncFd<OwnedFd>) {
    loop {
        state.submit_queued();
        state.reap();
        tokio::select! {
            biased;
            () = state.submit_wanted.notified() => {}
            ready = completions.readable() => ready.expect("the ring outlives its driver").clear_ready(),
        }
    }
}

struct Completion<'a> {
    state: &'a State,
    number: u64,
}

impl Future for Completion<'_> {
    type Output = i32;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<i32> {
        let mut requests = self.state.requests.borrow_mut();
        let request = requests.get_mut(&self.number).expect("a request is known until its result is taken");
        match request.result {
            Some(result) => {
                requests.remove(&self.number);
                Poll::Ready(result)
            }
            None => {
                request.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Completion<'_> {
    fn drop(&mut self) {
        let in_flight = self.state.requests.borrow().get(&self.number).is_some_and(|request| request.result.is_none());
        if in_flight {
            eprintln!("a future was dropped while the kernel still owned its memory; ending the process");
            std::process::abort();
        }
        self.state.requests.borrow_mut().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Access, Device};
    use cairn_engine::disk::{aligned_buffer, Disk};
    use io_uring::{opcode, types};
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::path::Path;
    use std::sync::Arc;
    use std::time::Duration;

    fn image(directory: &Path, size_bytes: u64) -> Arc<Device> {
        let path = directory.join("disk");
        std::fs::File::create(&path).and_then(|file| file.set_len(size_bytes)).expect("an image file");
        Device::open(&path, Access::Exclusive { wait_ms: 0 }).expect("opens")
    }

    #[test]
    fn what_was_written_is_read_and_what_was_zeroed_is_zero() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let device = image(directory.path(), 4 << 20);
        run(async |ring: OwnRing| {
            let disk = RingDisk::new(device, ring);
            let mut data = aligned_buffer(1 << 20);
            data.iter_mut().enumerate().for_each(|(index, byte)| *byte = (index / 4096 % 251) as u8 + 1);
            disk.write(1 << 20, &data).await.expect("writes");
            disk.write_durable(2 << 20, &data).await.expect("writes durably");
            disk.flush().await.expect("flushes");
            disk.write_zeroes(1 << 20, 64 << 10, true).await.expect("zeroes and unmaps");
            disk.write_zeroes((1 << 20) + (64 << 10), 64 << 10, false).await.expect("zeroes");
            disk.discard(3 << 20, 1 << 20).await.expect("discards");
            let mut found = aligned_buffer(2 << 20);
            disk.read(1 << 20, &mut found).await.expect("reads");
            assert!(found[..128 << 10].iter().all(|byte| *byte == 0));
            assert!(found[128 << 10..1 << 20] == data[128 << 10..]);
            assert!(found[1 << 20..] == data[..]);
        })
        .expect("a ring");
    }

    #[test]
    fn a_thousand_requests_at_once_all_complete() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let device = image(directory.path(), 4 << 20);
        run(async |ring: OwnRing| {
            let disk = Rc::new(RingDisk::new(device, ring));
            let tasks: Vec<_> = (0..1000u64)
                .map(|index| {
                    let disk = disk.clone();
                    tokio::task::spawn_local(async move {
                        let mut buffer = aligned_buffer(4096);
                        buffer.fill(index as u8);
                        disk.write(index * 4096, &buffer).await.expect("writes");
                        disk.read(index * 4096, &mut buffer).await.expect("reads");
                        assert!(buffer.iter().all(|byte| *byte == index as u8));
                    })
                })
                .collect();
            for task in tasks {
                task.await.expect("completes");
            }
        })
        .expect("a ring");
    }

    #[test]
    fn what_waits_for_one_device_keeps_no_place_from_the_requests_to_the_other() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let device = image(directory.path(), 1 << 20);
        run(async |ring: OwnRing| {
            let (silent, mut speaker) = UnixStream::pair().expect("sockets");
            let fd = types::Fd(silent.as_raw_fd());
            let hung: Vec<_> = (0..2 * IN_FLIGHT_MAX)
                .map(|_| {
                    let ring = ring.clone();
                    let request = opcode::PollAdd::new(fd, libc::POLLIN as u32).build();
                    // SAFETY: the request points to no memory.
                    tokio::task::spawn_local(async move { unsafe { ring.submit(request) }.await })
                })
                .collect();
            while ring.places.available_permits() > 0 {
                tokio::task::yield_now().await;
            }
            let disk = RingDisk::new(device, ring.for_another_device());
            let mut buffer = aligned_buffer(4096);
            let read = tokio::time::timeout(Duration::from_secs(10), disk.read(0, &mut buffer)).await;
            speaker.write_all(b"all").expect("writes");
            for task in hung {
                assert!(task.await.expect("completes") >= 0);
            }
            read.expect("nothing keeps it").expect("reads");
        })
        .expect("a ring");
    }

    #[test]
    fn reading_past_the_end_is_an_error_that_names_the_byte() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let device = image(directory.path(), 1 << 20);
        run(async |ring: OwnRing| {
            let disk = RingDisk::new(device, ring);
            let error = disk.read(1 << 20, &mut aligned_buffer(4096)).await.expect_err("past the end");
            assert!(error.to_string().contains("1048576"), "{error}");
        })
        .expect("a ring");
    }
}
