//! The disk of a queue thread: requests go on libublk's ring of that thread, beside the block requests themselves.
//!
//! Invariants:
//! - A request's future that is dropped while the kernel still owns its memory ends the process: libublk neither
//!   cancels it nor waits for it.
//! - What the ring was told of beforehand, files and memory, saves the kernel a look-up or the pinning of pages with
//!   every request; what it was not told of works like anywhere.

#![allow(unsafe_code)]

use super::buffers::{Buffers, Places, KNOWN_BYTES};
use crate::uring_disk::{Ring, UringDisk};
use io_uring::{squeue, types};
use libublk::io::with_task_io_ring;
use libublk::uring_async::ublk_submit_sqe_async;
use libublk::UblkUringData;
use std::os::fd::RawFd;
use std::rc::Rc;

/// Place of the first file of ours among the ring's: the driver's character device comes before it.
pub const FIRST_FILE: usize = 1;

/// A disk on the ring of the queue thread that uses it.
pub type QueueDisk = UringDisk<QueueRing>;

/// libublk's ring of the calling thread.
#[derive(Clone, Debug, Default)]
pub struct QueueRing {
    /// In the order in which libublk tells the ring of them.
    files: Rc<[RawFd]>,
    /// The buffers of which the ring knows the fronts, each by its tag's number.
    known: Option<Places>,
}

impl QueueRing {
    /// This thread's ring, which will be told of `files`, and is told of the fronts of these buffers now.
    ///
    /// # Safety
    /// The buffers stay where they are until the thread ends or no request uses them any more.
    // SAFETY: a declaration; who calls it keeps the sentence above.
    pub unsafe fn knowing(files: Vec<RawFd>, buffers: &Buffers) -> QueueRing {
        let length = KNOWN_BYTES.min(buffers.each_bytes());
        let front = |tag| libc::iovec { iov_base: buffers.start(tag).cast(), iov_len: length };
        let fronts: Vec<libc::iovec> = buffers.tags().map(front).collect();
        // SAFETY: the caller keeps the memory.
        let told = with_task_io_ring(|ring| unsafe { ring.submitter().register_buffers(&fronts) });
        if let Err(error) = &told {
            tracing::info!(%error, "buffers stay unknown to the ring: requests cost a little more");
        }
        QueueRing { files: files.into(), known: told.is_ok().then(|| buffers.places()) }
    }
}

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

    fn known_file(&self, file: RawFd) -> Option<types::Fixed> {
        let place = self.files.iter().position(|known| *known == file)?;
        Some(types::Fixed((FIRST_FILE + place) as u32))
    }

    fn known_memory(&self, start: *const u8, length: usize) -> Option<u16> {
        self.known.as_ref()?.known(start as usize, length)
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
