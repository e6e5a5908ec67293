//! The disk of a queue thread: requests go on libublk's ring of that thread, beside the block requests themselves.
//!
//! Invariants:
//! - A request's future that is dropped while the kernel still owns its memory ends the process: libublk neither
//!   cancels it nor waits for it.

#![allow(unsafe_code)]

use crate::uring_disk::{Ring, UringDisk};
use io_uring::squeue;
use libublk::uring_async::ublk_submit_sqe_async;
use libublk::UblkUringData;

/// A disk on the ring of the queue thread that uses it.
pub type QueueDisk = UringDisk<QueueRing>;

/// libublk's ring of the calling thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct QueueRing;

impl Ring for QueueRing {
    // SAFETY: the memory stays the caller's duty, as the trait says; the guard ends the process if the future goes early.
    async unsafe fn submit(&self, request: squeue::Entry) -> i32 {
        let guard = InFlight;
        let result = ublk_submit_sqe_async(request, UblkUringData::Target as u64).await;
        std::mem::forget(guard);
        result.unwrap_or(-libc::EIO)
    }

    async fn run_blocking(&self, call: Box<dyn FnOnce() -> i32 + Send>) -> i32 {
        smol::unblock(call).await
    }
}

/// Dropped only when its request's future is dropped before the completion.
struct InFlight;

impl Drop for InFlight {
    fn drop(&mut self) {
        eprintln!("a queue's future was dropped while the kernel still owned its memory; ending the process");
        std::process::abort();
    }
}
