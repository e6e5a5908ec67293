//! A queue thread: its ring, one task a tag, one that listens for other threads, one that ticks, one for what requests
//! left behind.
//!
//! Invariants:
//! - A tag's buffer belongs to the kernel from fetch to request and from commit to the next request, to its task in
//!   between.
//! - Only a completion that says so is a request: after any other a tag's descriptor is one of an earlier request.
//! - All queues begin to fetch together: the driver cannot recover a device of which some queues were served and some not.
//! - The thread ends only when every tag's task has ended, no tick is under way and requests left nothing behind, so no
//!   I/O is.

#![allow(unsafe_code)]

use super::event_fd::EventFd;
use super::notifier::Notifier;
use super::queue_disk::QueueRing;
use super::request::Request;
use super::service::{Service, ServiceFactory};
use super::transfer::Transfer;
use io_uring::{opcode, squeue, types, IoUring};
use libublk::helpers::IoBuf;
use libublk::io::{UblkDev, UblkQueue};
use libublk::uring_async::{ublk_submit_sqe_async, wait_and_handle_io_events};
use libublk::{UblkError, UblkUringData};
use smol::LocalExecutor;
use std::cell::{Cell, RefCell};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::{Arc, Barrier};

/// Entries of the ring for each tag: the block request itself, and the I/O that saving and writing take.
const RING_ENTRIES_PER_TAG: u32 = 4;
const RING_ENTRIES_MAX: u32 = 4096;
const ARRIVED: i32 = libublk::sys::UBLK_IO_RES_OK as i32;
static TICK: types::Timespec = types::Timespec::new().sec(1);

/// Serves one queue until the device is stopped. It begins when `all_ready` has been reached by every queue.
pub fn run_queue<F: ServiceFactory>(
    queue: u16,
    device: &UblkDev,
    factory: &F,
    all_ready: &Barrier,
) -> Result<(), UblkError> {
    make_ring(u32::from(device.dev_info.queue_depth))?;
    let notifier = Notifier::new(Arc::new(EventFd::new()?));
    let buffer_bytes = device.dev_info.max_io_buf_bytes as usize;
    let buffers: Vec<_> = (0..device.dev_info.queue_depth).map(|_| IoBuf::<u8>::new(buffer_bytes)).collect();
    let memory: Vec<_> = buffers.iter().map(|buffer| (buffer.as_mut_ptr(), buffer.len())).collect();
    // SAFETY: a buffer goes with its tag's task, behind the last request that uses it.
    let ring = unsafe { QueueRing::knowing(factory.files(), &memory) };
    let service = Rc::new(factory.make(queue, ring)?);
    let executor = Rc::new(LocalExecutor::new());
    let mut tags = Vec::new();
    // A process that is killed between here and its first fetch leaves a device that no other can recover, on Linux 6.12:
    // so everything that takes time has been done.
    all_ready.wait();
    let channel = Rc::new(UblkQueue::new(queue, device)?);
    for (tag, buffer) in channel.tags().zip(buffers) {
        let task = serve_tag(channel.clone(), tag, buffer, service.clone());
        tags.push(executor.spawn(notifier.wrap(task)));
    }
    let ticking = Rc::new(Cell::new(false));
    let ticks = executor.spawn(notifier.wrap(tick(service.clone(), ticking.clone())));
    let runner = service.clone();
    let errands = executor.spawn(notifier.wrap(async move { runner.run_errands().await }));
    let wakes = executor.spawn(notifier.wrap(listen(notifier.clone())));
    let driver = executor.clone();
    let result = smol::block_on(executor.run(async move {
        let run_tasks = || while driver.try_tick() {};
        let done = || tags.iter().all(|task| task.is_finished()) && !ticking.get() && !service.has_errands();
        wait_and_handle_io_events(&channel, None, run_tasks, done).await
    }));
    drop((ticks, wakes, errands));
    result
}

/// Installs this thread's ring before libublk would make a smaller one. Completions are delivered only to this thread
/// when it asks; the task-run flag is what makes libublk's polling while stopping see them.
fn make_ring(depth: u32) -> Result<(), UblkError> {
    let entries = (RING_ENTRIES_PER_TAG * depth).next_power_of_two().min(RING_ENTRIES_MAX);
    libublk::ublk_init_task_ring(|cell| {
        assert!(cell.get().is_none(), "a queue thread has one ring");
        let mut builder = IoUring::<squeue::Entry>::builder();
        builder.setup_cqsize(2 * entries).setup_clamp();
        builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
        let ring = builder.build(entries).map_err(UblkError::IOError)?;
        cell.set(RefCell::new(ring)).map_err(|_| UblkError::InvalidVal)
    })
}

async fn serve_tag<S: Service>(channel: Rc<UblkQueue<'_>>, tag: u16, buffer: IoBuf<u8>, service: Rc<S>) {
    let (memory, buffer_bytes) = (buffer.as_mut_ptr(), buffer.len());
    let transfer = Transfer::of(channel.dev, channel.get_qid());
    let known = transfer.by_driver().then_some(&buffer);
    let fetched = channel.submit_io_prep_cmd(tag, transfer.describe(buffer.as_slice()), 0, known).await;
    let mut state = arrival(fetched);
    while state.is_ok() {
        let request = Request::decode(channel.get_iod(tag));
        // SAFETY: the buffer lives until this task ends, and between a request and its commit nobody else uses it.
        let piece = unsafe { std::slice::from_raw_parts_mut(memory, buffer_bytes) };
        let answer = match transfer.take(tag, &request, piece) {
            Ok(()) => request.serve(&*service, piece).await,
            Err(errno) => errno,
        };
        let answer = transfer.give(tag, &request, piece, answer);
        let committed = channel.submit_io_commit_cmd(tag, transfer.describe(piece), answer).await;
        state = arrival(committed);
    }
    if !matches!(state, Err(UblkError::QueueIsDown)) {
        // A tag that nobody serves would hang its next request for ever; a successor can serve it.
        eprintln!("tag {tag} cannot talk to the driver any more: {state:?}; ending the process");
        std::process::abort();
    }
}

/// Whether a completed command to the driver has brought a request.
fn arrival(completed: Result<i32, UblkError>) -> Result<(), UblkError> {
    match completed? {
        ARRIVED => Ok(()),
        refused => Err(UblkError::UringIOError(refused)),
    }
}

/// Lets other threads interrupt this one's sleep.
async fn listen(notifier: Notifier<EventFd>) {
    loop {
        let request = opcode::PollAdd::new(types::Fd(notifier.event().as_raw_fd()), libc::POLLIN as u32).build();
        // The request points to no memory; the descriptor stays open with the notifier.
        let result = ublk_submit_sqe_async(request, UblkUringData::Target as u64).await;
        assert!(result.is_ok_and(|events| events >= 0), "an eventfd can be polled");
        notifier.clear();
    }
}

async fn tick<S: Service>(service: Rc<S>, ticking: Rc<Cell<bool>>) {
    loop {
        let request = opcode::Timeout::new(&TICK).build();
        let result = ublk_submit_sqe_async(request, UblkUringData::Target as u64).await;
        assert!(result.is_ok_and(|result| result == -libc::ETIME), "a timer expires");
        ticking.set(true);
        if let Err(error) = service.tick().await {
            tracing::warn!(%error, "housekeeping of a queue failed");
        }
        ticking.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_command_is_never_taken_for_a_request() {
        assert!(arrival(Ok(0)).is_ok());
        for refused in [-libc::EBUSY, -libc::EINVAL, 1] {
            assert!(matches!(arrival(Ok(refused)), Err(UblkError::UringIOError(errno)) if errno == refused));
        }
        assert!(matches!(arrival(Err(UblkError::QueueIsDown)), Err(UblkError::QueueIsDown)));
    }
}
