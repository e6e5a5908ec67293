//! The tags of a queue: where each of its requests is, from the driver and back to it.
//!
//! Most requests have nothing in their way: they are passed to the disk as they are, by one request on the thread's ring,
//! and answered when that completes. Every other one is handed to the tag's task.
//!
//! Invariants:
//! - A tag is in one place at a time, and its buffer is used only there.
//! - Only a completion that says so is a request: after any other a tag's descriptor is one of an earlier request.
//! - A durable write is never passed to the disk as it is: it is more than one request where there is no FUA.
//! - A request leaves the gate before the driver hears of it; what the disk did not do whole is done again by the task.

#![allow(unsafe_code)]

use super::buffers::Buffers;
use super::request::{Operation, Request};
use super::service::{Passing, Service};
use super::transfer::Transfer;
use crate::uring_disk::again;
use io_uring::{opcode, squeue, types};
use libublk::{sys, UblkUringData};
use std::cell::{Cell, RefCell, RefMut};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Marks completions that are ours among those of libublk, which numbers its own from below and marks them above.
const OURS: u64 = 1 << 61;
/// Of ours: those of the disk. The others are the driver's.
const OF_DISK: u64 = 1 << 60;
const ARRIVED: i32 = sys::UBLK_IO_RES_OK as i32;

const _: () = assert!((OURS | OF_DISK) & (UblkUringData::Target as u64 | UblkUringData::NonAsync as u64) == 0);
const _: () = assert!(size_of::<sys::ublksrv_io_cmd>() == 16);

/// Where the driver describes requests.
pub trait Channel {
    /// The request that a tag has brought.
    fn request(&self, tag: u16) -> Request;
}

impl Channel for libublk::io::UblkQueue<'_> {
    fn request(&self, tag: u16) -> Request {
        Request::decode(self.get_iod(tag))
    }
}

/// Where a tag's request is.
enum Place<'a> {
    /// The driver has the tag, and will bring a request.
    Driver,
    /// The disk has the request.
    Disk(Passing<'a>),
    /// The tag's task has it.
    Task,
    /// The device is stopped.
    Ended,
}

/// One tag.
struct Tag<'a> {
    place: RefCell<Place<'a>>,
    handed: Cell<Option<Request>>,
    waiting: Cell<Option<Waker>>,
}

/// How the driver is spoken to.
#[derive(Clone, Copy)]
pub struct Dialect {
    /// Number of the queue.
    pub queue: u16,
    /// The driver takes commands as ioctls are numbered.
    pub ioctl_numbers: bool,
}

/// All tags of a queue.
pub struct Tags<'a, C, S> {
    channel: C,
    service: &'a S,
    dialect: Dialect,
    transfer: Transfer<'a>,
    buffers: Buffers,
    tags: Vec<Tag<'a>>,
    commands: RefCell<Vec<squeue::Entry>>,
    ended: Cell<usize>,
}

impl<'a, C: Channel, S: Service> Tags<'a, C, S> {
    /// A tag for each buffer; none has been fetched yet.
    pub fn new(
        channel: C,
        service: &'a S,
        dialect: Dialect,
        transfer: Transfer<'a>,
        buffers: Buffers,
    ) -> Tags<'a, C, S> {
        let tag = || Tag { place: RefCell::new(Place::Driver), handed: Cell::new(None), waiting: Cell::new(None) };
        let tags: Vec<Tag<'a>> = buffers.tags().map(|_| tag()).collect();
        let commands = RefCell::new(Vec::with_capacity(tags.len()));
        Tags { channel, service, dialect, transfer, buffers, tags, commands, ended: Cell::new(0) }
    }

    /// The numbers of the tags.
    pub fn numbers(&self) -> std::ops::Range<u16> {
        self.buffers.tags()
    }

    /// Whether the driver has taken all tags back.
    pub fn all_ended(&self) -> bool {
        self.ended.get() == self.tags.len()
    }

    /// Asks for the first request of every tag.
    pub fn fetch_all(&self) {
        self.commands().extend(self.numbers().map(|tag| self.command(sys::UBLK_U_IO_FETCH_REQ, tag, -1)));
    }

    /// Commands that wait until the thread puts them on its ring.
    pub fn commands(&self) -> RefMut<'_, Vec<squeue::Entry>> {
        self.commands.borrow_mut()
    }

    /// Takes note of a completion, if it is one of a tag; false where it is somebody else's. What has to be submitted
    /// because of it is given to `submit`.
    #[inline]
    pub fn completed(&self, user_data: u64, result: i32, submit: &mut impl FnMut(squeue::Entry)) -> bool {
        if user_data & OURS == 0 {
            return false;
        }
        let tag = user_data as u16;
        if user_data & OF_DISK == 0 {
            self.arrived(tag, result, submit);
        } else {
            self.passed(tag, result, submit);
        }
        true
    }

    /// The driver's answer to a command.
    fn arrived(&self, tag: u16, result: i32, submit: &mut impl FnMut(squeue::Entry)) {
        let this = &self.tags[tag as usize];
        let mut place = this.place.borrow_mut();
        assert!(matches!(*place, Place::Driver), "a command was answered that nobody gave");
        match arrival(result) {
            Ok(true) => {}
            Ok(false) => {
                *place = Place::Ended;
                return self.ended.set(self.ended.get() + 1);
            }
            Err(refused) => {
                // A tag that nobody serves would hang its next request for ever; a successor can serve it.
                eprintln!("tag {tag} cannot talk to the driver any more: {refused}; ending the process");
                std::process::abort();
            }
        }
        let request = self.channel.request(tag);
        match self.pass(tag, &request) {
            Some((entry, passing)) => {
                *place = Place::Disk(passing);
                submit(entry.user_data(OURS | OF_DISK | u64::from(tag)));
            }
            None => this.hand_over(&mut place, request),
        }
    }

    /// The request to the disk that this one comes to, if that is all.
    fn pass(&self, tag: u16, request: &Request) -> Option<(squeue::Entry, Passing<'a>)> {
        let fits = request.length_bytes > 0 && request.length_bytes <= self.buffers.each_bytes() as u64;
        let transfers = matches!(request.operation, Operation::Read | Operation::Write);
        if !fits || !transfers || request.durable || !self.transfer.by_driver() {
            return None;
        }
        // SAFETY: the driver has filled the buffer, and the tag is at no other place that uses it.
        self.service.pass(request, unsafe { self.buffers.of(tag) })
    }

    /// The disk's answer to a request that was passed to it.
    fn passed(&self, tag: u16, result: i32, submit: &mut impl FnMut(squeue::Entry)) {
        let this = &self.tags[tag as usize];
        let mut place = this.place.borrow_mut();
        let Place::Disk(Passing { way, begun }) = std::mem::replace(&mut *place, Place::Driver) else {
            panic!("the disk answered a request that it was not given");
        };
        drop(way);
        if i64::from(result) == begun.length_bytes() as i64 {
            begun.ended(Ok(())).expect("it went well");
            return submit(self.answer(tag, result));
        }
        // The driver changes a descriptor only when its request has been answered.
        let request = self.channel.request(tag);
        if result < 0 && !again(result) {
            let failed = begun.ended(Err(self.service.pass_error(&request, -result)));
            return submit(self.answer(tag, request.answer_of(failed)));
        }
        this.hand_over(&mut place, request);
    }

    /// Serves what is handed to a tag's task, for ever.
    pub async fn serve(&self, tag: u16) {
        let this = &self.tags[tag as usize];
        loop {
            let request = this.next_handed().await;
            // SAFETY: the tag is this task's until the answer below, so nobody else uses its buffer.
            let buffer = unsafe { self.buffers.of(tag) };
            let answer = match self.transfer.take(tag, &request, buffer) {
                Ok(()) => request.serve(self.service, buffer).await,
                Err(errno) => errno,
            };
            let answer = self.transfer.give(tag, &request, buffer, answer);
            let place = this.place.replace(Place::Driver);
            assert!(matches!(place, Place::Task), "a task answers what was handed to it");
            self.commands().push(self.answer(tag, answer));
        }
    }

    /// The command that answers a tag's request and asks for its next one.
    fn answer(&self, tag: u16, answer: i32) -> squeue::Entry {
        self.command(sys::UBLK_U_IO_COMMIT_AND_FETCH_REQ, tag, answer)
    }

    fn command(&self, operation: u32, tag: u16, result: i32) -> squeue::Entry {
        let operation = if self.dialect.ioctl_numbers { operation } else { operation & 0xff };
        let buffer = self.transfer.address(self.buffers.start(tag));
        // The fields of `ublksrv_io_cmd`, in their order.
        let mut command = [0; 16];
        command[..2].copy_from_slice(&self.dialect.queue.to_ne_bytes());
        command[2..4].copy_from_slice(&tag.to_ne_bytes());
        command[4..8].copy_from_slice(&result.to_ne_bytes());
        command[8..].copy_from_slice(&buffer.to_ne_bytes());
        // libublk registers the driver's character device as the ring's first file.
        let entry = opcode::UringCmd16::new(types::Fixed(0), operation).cmd(command).build();
        entry.user_data(OURS | u64::from(tag))
    }
}

/// Whether an answered command has brought a request, or the device is stopped; the errno where it was refused.
fn arrival(result: i32) -> Result<bool, i32> {
    match result {
        ARRIVED => Ok(true),
        sys::UBLK_IO_RES_ABORT => Ok(false),
        refused => Err(refused),
    }
}

impl Tag<'_> {
    /// Gives a request to the tag's task.
    fn hand_over(&self, place: &mut Place<'_>, request: Request) {
        *place = Place::Task;
        let before = self.handed.replace(Some(request));
        assert!(before.is_none(), "a tag has one request at a time");
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }

    async fn next_handed(&self) -> Request {
        poll_fn(|context| match self.handed.take() {
            Some(request) => Poll::Ready(request),
            None => {
                self.waiting.set(Some(context.waker().clone()));
                Poll::Pending
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests;
