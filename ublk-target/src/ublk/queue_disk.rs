//! The disk of a queue thread: requests go on libublk's ring of that thread, beside the block requests themselves.
//!
//! Invariants:
//! - A request's future that is dropped while the kernel still owns its memory ends the process: libublk neither
//!   cancels it nor waits for it.
//! - What the ring was told of beforehand, files and memory, saves the kernel a look-up or the pinning of pages with
//!   every request; what it was not told of works like anywhere.

#![allow(unsafe_code)]

use crate::uring_disk::{Ring, UringDisk};
use io_uring::{squeue, types};
use libublk::io::with_task_io_ring;
use libublk::uring_async::ublk_submit_sqe_async;
use libublk::UblkUringData;
use std::os::fd::RawFd;
use std::rc::Rc;

/// Of each tag's buffer so much is told beforehand: it stays in memory for good, so it is not all of it.
pub const KNOWN_BYTES: usize = 64 << 10;
/// Place of the first file of ours among the ring's: the driver's character device comes before it.
pub const FIRST_FILE: usize = 1;

/// A disk on the ring of the queue thread that uses it.
pub type QueueDisk = UringDisk<QueueRing>;

/// libublk's ring of the calling thread.
#[derive(Clone, Debug, Default)]
pub struct QueueRing {
    /// In the order in which libublk tells the ring of them.
    files: Rc<[RawFd]>,
    /// Where the memory begins that the ring knows, ascending, and by which number.
    memory: Rc<[(usize, u16)]>,
}

impl QueueRing {
    /// This thread's ring, which will be told of `files`, and is told of the fronts of these buffers now.
    ///
    /// # Safety
    /// The buffers stay where they are until the thread ends or no request uses them any more.
    // SAFETY: a declaration; who calls it keeps the sentence above.
    pub unsafe fn knowing(files: Vec<RawFd>, buffers: &[(*mut u8, usize)]) -> QueueRing {
        let front = |&(base, length): &(*mut u8, usize)| libc::iovec {
            iov_base: base.cast(),
            iov_len: length.min(KNOWN_BYTES),
        };
        let fronts: Vec<libc::iovec> = buffers.iter().map(front).collect();
        // SAFETY: the caller keeps the memory.
        let told = with_task_io_ring(|ring| unsafe { ring.submitter().register_buffers(&fronts) });
        let mut memory = Vec::new();
        match told {
            Ok(()) => memory.extend((0..).zip(buffers).map(|(number, &(base, _))| (base as usize, number))),
            Err(error) => tracing::info!(%error, "buffers stay unknown to the ring: requests cost a little more"),
        }
        memory.sort_unstable();
        QueueRing { files: files.into(), memory: memory.into() }
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
        number_of(&self.memory, start as usize, length)
    }
}

/// The number of the known front in which all of this memory lies.
fn number_of(memory: &[(usize, u16)], start: usize, length: usize) -> Option<u16> {
    let behind = memory.partition_point(|(base, _)| *base <= start);
    let (base, number) = memory[behind.checked_sub(1)?];
    (start - base + length <= KNOWN_BYTES).then_some(number)
}

/// Dropped only when its request's future is dropped before the completion.
struct InFlight;

impl Drop for InFlight {
    fn drop(&mut self) {
        eprintln!("a queue's future was dropped while the kernel still owned its memory; ending the process");
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_known_only_where_all_of_it_lies_in_one_front() {
        let memory = [(1 << 20, 1), (2 << 20, 0)];
        assert_eq!(number_of(&[], 1 << 20, 1), None);
        assert_eq!(number_of(&memory, (1 << 20) - 1, 1), None);
        assert_eq!(number_of(&memory, 1 << 20, KNOWN_BYTES), Some(1));
        assert_eq!(number_of(&memory, 1 << 20, KNOWN_BYTES + 1), None);
        assert_eq!(number_of(&memory, (1 << 20) + 4096, KNOWN_BYTES - 4096), Some(1));
        assert_eq!(number_of(&memory, (1 << 20) + 4096, KNOWN_BYTES), None);
        assert_eq!(number_of(&memory, (2 << 20) + KNOWN_BYTES - 512, 512), Some(0));
        assert_eq!(number_of(&memory, usize::MAX - 511, 511), None);
    }
}
