//! How a request's data gets from the driver into a tag's buffer, and back.
//!
//! Invariants:
//! - No way of copying makes an I/O error out of the death of this process: what it did not hand over is repeated by its
//!   successor.
//! - A device keeps the way it was created with, whoever serves it.
//!
//! The driver can copy by itself: into the buffer before it shows a request, out of it when a read is committed. Before
//! Linux 7.0 it pins the buffer's pages for that, which fails in a process that is being killed, and then it ends the
//! read with an I/O error. There the copies are made here, by a system call each, before the commit (docs/decisions/0004).

#![allow(unsafe_code)]

use super::features::{driver_has, Rung};
use super::request::{Operation, Request};
use libublk::io::{UblkDev, UblkIOCtx};
use libublk::sys;
use rustix::fd::BorrowedFd;
use rustix::io::Errno;

/// The flag of a device whose data is copied here.
pub const COPIED_HERE: u64 = sys::UBLK_F_USER_COPY as u64;

/// What a new device asks of the driver on this kernel.
pub fn flags() -> u64 {
    if driver_has(Rung::DriverCopy) {
        0
    } else {
        COPIED_HERE
    }
}

/// The way of one queue of a device.
pub struct Transfer<'a> {
    /// The driver's character device, where data is copied here.
    requests: Option<BorrowedFd<'a>>,
    queue: u16,
}

impl<'a> Transfer<'a> {
    /// The way that the device was created with.
    pub fn of(device: &'a UblkDev, queue: u16) -> Transfer<'a> {
        let copied_here = device.dev_info.flags & COPIED_HERE != 0;
        // SAFETY: libublk keeps the driver's character device open, as its first descriptor, as long as `device` lives.
        let requests = copied_here.then(|| unsafe { BorrowedFd::borrow_raw(device.tgt.fds[0]) });
        Transfer { requests, queue }
    }

    /// The way of a device whose driver copies by itself.
    #[cfg(test)]
    pub fn made_by_driver(queue: u16) -> Transfer<'a> {
        Transfer { requests: None, queue }
    }

    /// Whether the driver copies from and to the buffers that it is told of.
    pub fn by_driver(&self) -> bool {
        self.requests.is_none()
    }

    /// What the driver is told of where a tag's buffer is.
    pub fn address(&self, buffer: *const u8) -> u64 {
        if self.by_driver() {
            buffer as u64
        } else {
            0
        }
    }

    /// Copies a write's data into the tag's buffer. A negative errno where it cannot be had.
    pub fn take(&self, tag: u16, request: &Request, buffer: &mut [u8]) -> Result<(), i32> {
        let (Some(requests), Operation::Write) = (self.requests, request.operation) else { return Ok(()) };
        let length = usize::try_from(request.length_bytes).unwrap_or(usize::MAX);
        let Some(wanted) = buffer.get_mut(..length) else { return Err(-libc::EINVAL) };
        let mut done = 0;
        while done < length {
            done += transferred(rustix::io::pread(requests, &mut wanted[done..], self.position(tag, done)))?;
        }
        Ok(())
    }

    /// Copies a read's data out of the tag's buffer, where `answer` says that it is there; gives what the driver is
    /// told.
    pub fn give(&self, tag: u16, request: &Request, buffer: &[u8], answer: i32) -> i32 {
        let (Some(requests), Operation::Read) = (self.requests, request.operation) else { return answer };
        let Ok(length) = usize::try_from(answer) else { return answer };
        let mut done = 0;
        while done < length {
            match transferred(rustix::io::pwrite(requests, &buffer[done..length], self.position(tag, done))) {
                Ok(more) => done += more,
                Err(errno) => return errno,
            }
        }
        answer
    }

    fn position(&self, tag: u16, done: usize) -> u64 {
        let offset = u32::try_from(done).expect("a request is no longer than a tag's buffer");
        UblkIOCtx::ublk_user_copy_pos(self.queue, tag, offset)
    }
}

/// How much one call has copied; a negative errno when nothing can be copied.
fn transferred(result: rustix::io::Result<usize>) -> Result<usize, i32> {
    match result {
        Ok(0) => Err(-libc::EIO),
        Ok(length) => Ok(length),
        Err(Errno::INTR) => Ok(0),
        Err(errno) => Err(-errno.raw_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_moves_nothing_is_an_error_and_an_interrupted_one_is_tried_again() {
        assert_eq!(transferred(Ok(0)), Err(-libc::EIO));
        assert_eq!(transferred(Ok(512)), Ok(512));
        assert_eq!(transferred(Err(Errno::INTR)), Ok(0));
        assert_eq!(transferred(Err(Errno::FAULT)), Err(-libc::EFAULT));
    }

    #[test]
    fn where_the_driver_copies_nothing_is_copied_here() {
        let transfer = Transfer { requests: None, queue: 0 };
        let descriptor =
            sys::ublksrv_io_desc { op_flags: sys::UBLK_IO_OP_WRITE, nr_sectors: 8, start_sector: 0, addr: 0 };
        let request = Request::decode(&descriptor);
        let mut buffer = [7; 4096];
        assert_eq!(transfer.take(0, &request, &mut buffer), Ok(()));
        assert_eq!(transfer.give(0, &request, &buffer, 4096), 4096);
        assert_eq!(buffer, [7; 4096]);
    }
}
