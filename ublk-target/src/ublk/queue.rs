//! A queue thread: its ring, the tags of its queue with a task each, one task that listens for other threads, one that
//! ticks, one for what requests left behind.
//!
//! Invariants:
//! - All queues begin to fetch together: the driver cannot recover a device of which some queues were served and some not.
//! - A task that gives way again and again keeps neither requests nor what has completed from their turn.
//! - The ring is given away only while no task runs: tasks submit on it themselves.
//! - A ring that the kernel takes nothing from any more ends the process: buffers and the right to write are the kernel's
//!   until it says that it is done.
//! - The thread ends only when the driver has taken every tag back, no tick is under way and requests left nothing
//!   behind, so no I/O is.

#![allow(unsafe_code)]

use super::buffers::Buffers;
use super::event_fd::EventFd;
use super::notifier::Notifier;
use super::queue_disk::QueueRing;
use super::service::{Service, ServiceFactory};
use super::tags::{Channel, Dialect, Tags};
use super::transfer::Transfer;
use io_uring::{opcode, squeue, types, IoUring};
use libublk::io::{with_task_io_ring_mut, UblkDev, UblkQueue};
use libublk::uring_async::{ublk_submit_sqe_async, ublk_wake_task};
use libublk::{sys, UblkError, UblkUringData};
use smol::LocalExecutor;
use std::cell::{Cell, RefCell};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Barrier};

/// Entries of the ring for each tag: the block request itself, and the I/O that saving and writing take.
const RING_ENTRIES_PER_TAG: u32 = 4;
const RING_ENTRIES_MAX: u32 = 4096;
/// `IORING_ENTER_GETEVENTS`
const ENTER_GETEVENTS: u32 = 1;
/// So many tasks go on before the ring has its turn.
const TASKS_IN_A_TURN: u32 = 64;
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
    let buffers = Buffers::new(device.dev_info.queue_depth, device.dev_info.max_io_buf_bytes as usize);
    // SAFETY: the buffers go with the tags, which end when the driver has taken all of them back.
    let ring = unsafe { QueueRing::knowing(factory.files(), &buffers) };
    let service = &factory.make(queue, ring)?;
    let ioctl_numbers = device.dev_info.flags & u64::from(sys::UBLK_F_CMD_IOCTL_ENCODE) != 0;
    let (dialect, transfer) = (Dialect { queue, ioctl_numbers }, Transfer::of(device, queue));
    // A process that is killed between here and its first fetch leaves a device that no other can recover, on Linux 6.12:
    // so everything that takes time has been done.
    all_ready.wait();
    let tags = &Tags::new(UblkQueue::new(queue, device)?, service, dialect, transfer, buffers);
    tags.fetch_all();
    with_task_io_ring_mut(|ring: &mut IoUring| submit(ring, &mut tags.commands(), 0));
    device.notify_buffer_registration_complete(false);
    let ticking = &Cell::new(false);
    let executor = LocalExecutor::new();
    for tag in tags.numbers() {
        executor.spawn(notifier.wrap(tags.serve(tag))).detach();
    }
    executor.spawn(notifier.wrap(tick(service, ticking))).detach();
    executor.spawn(notifier.wrap(service.run_errands())).detach();
    executor.spawn(notifier.wrap(listen(notifier.clone()))).detach();
    loop {
        let is_idle = !notifier.take_woken() || run_tasks(|| executor.try_tick());
        if tags.all_ended() && !ticking.get() && !service.has_errands() {
            return Ok(());
        }
        // Requests that need no task keep the thread in here.
        with_task_io_ring_mut(|ring: &mut IoUring| loop {
            submit(ring, &mut tags.commands(), usize::from(is_idle));
            reap(ring, tags);
            if !is_idle || notifier.has_woken() || tags.all_ended() {
                return;
            }
        });
        if !is_idle {
            notifier.note_woken();
        }
    }
}

/// Runs tasks until none can go on, or the ring has had to wait long enough for its turn: one that has much to compute
/// gives way again and again. True in the first case.
fn run_tasks(mut run_one: impl FnMut() -> bool) -> bool {
    (0..TASKS_IN_A_TURN).any(|_| !run_one())
}

/// Puts `entries` on the ring as far as it has room, hands over what is there to the kernel, and waits for so many
/// completions.
fn submit(ring: &mut IoUring, entries: &mut Vec<squeue::Entry>, wait_for: usize) {
    if !entries.is_empty() {
        // SAFETY: they point to the buffers of their tags, which stay until the driver has taken the tags back.
        entries.retain(|entry| unsafe { ring.submission().push(entry) }.is_err());
    }
    let Err(error) = ring.submit_and_wait(if entries.is_empty() { wait_for } else { 0 }) else { return };
    let passes = [libc::EINTR, libc::EAGAIN, libc::EBUSY].map(Some).contains(&error.raw_os_error());
    // The kernel is short of something for the moment: what has completed is taken first, which it does only when asked.
    // SAFETY: nothing is submitted, and there is no argument that could be too short.
    let taken = unsafe { ring.submitter().enter::<libc::sigset_t>(0, 0, ENTER_GETEVENTS, None) };
    if !passes || taken.is_err_and(|error| error.raw_os_error() == Some(libc::EBADR)) {
        eprintln!("a queue's ring failed: {error}; ending the process so that a successor can take over");
        std::process::abort();
    }
}

/// Takes what has completed: tags go on by themselves, tasks are woken.
fn reap<C: Channel, S: Service>(ring: &mut IoUring, tags: &Tags<'_, C, S>) {
    let (_, mut submission, completion) = ring.split();
    let mut put = |entry: squeue::Entry| {
        // SAFETY: it points to the buffer of its tag, which stays until the driver has taken the tag back.
        if unsafe { submission.push(&entry) }.is_err() {
            tags.commands().push(entry);
        }
    };
    for entry in completion {
        if !tags.completed(entry.user_data(), entry.result(), &mut put) {
            ublk_wake_task(entry.user_data(), &entry);
        }
    }
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

async fn tick<S: Service>(service: &S, ticking: &Cell<bool>) {
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
    fn a_task_that_gives_way_for_ever_lets_the_ring_have_its_turn() {
        let executor = LocalExecutor::new();
        executor
            .spawn(async {
                loop {
                    cairn_engine::signal::yield_now().await;
                }
            })
            .detach();
        assert!(!run_tasks(|| executor.try_tick()), "it could go on");
        let executor = LocalExecutor::new();
        executor.spawn(async {}).detach();
        assert!(run_tasks(|| executor.try_tick()), "nothing is left to do");
    }
}
