//! A disk on io_uring: the one place where requests to a device are built, whichever ring carries them.
//!
//! Invariants:
//! - A transfer is whole or an error: short ones are continued, interrupted ones repeated.
//! - A durable write is durable by itself: the device's own FUA, or a flush after it.
//! - What a device cannot do (discard, zero) is asked of it once, then done another way.

#![allow(unsafe_code, async_fn_in_trait)]

use crate::device::{self, Device, DeviceKind};
use cairn_engine::disk::{aligned_buffer, flush_since, AlignedBuffer, Disk};
use cairn_engine::error::{Error, ErrorKind, Result};
use io_uring::{opcode, squeue, types};
use std::cell::Cell;
use std::os::fd::RawFd;
use std::sync::Arc;

/// `_IO(0x12, 0)`: discard as an io_uring command on a block device, since Linux 6.12.
const BLOCK_URING_CMD_DISCARD: u32 = 0x1200;
/// Zeroes that have to be written are written in pieces of this size.
const ZERO_PIECE_BYTES: usize = 128 << 10;
/// The most one request asks for; the kernel's own limit is just below 2 GiB.
const TRANSFER_BYTES_MAX: usize = 1 << 30;

/// A thread's io_uring, as far as a disk needs one.
pub trait Ring: 'static {
    /// Submits one request and gives its result: what the kernel put in the completion.
    ///
    /// # Safety
    /// Memory the request points to must stay valid, and unaliased where the kernel writes, until the future has
    /// completed. An implementation never lets the future go away earlier: it would rather end the process.
    // SAFETY: a declaration; who implements it keeps the second sentence above, who calls it the first.
    async unsafe fn submit(&self, request: squeue::Entry) -> i32;

    /// Runs a blocking call on another thread and gives its result.
    async fn run_blocking(&self, call: Box<dyn FnOnce() -> i32 + Send>) -> i32;

    /// The same ring, for requests to another device: those to the first keep nothing from them.
    fn for_another_device(&self) -> Self
    where
        Self: Clone,
    {
        self.clone()
    }

    /// The place of an open file that the ring was told of beforehand.
    fn known_file(&self, _file: RawFd) -> Option<types::Fixed> {
        None
    }

    /// The number of the memory that the ring was told of beforehand and that all of these bytes lie in.
    fn known_memory(&self, _start: *const u8, _length: usize) -> Option<u16> {
        None
    }
}

/// A disk of which requests can be had, for who submits them himself on the ring that the disk was made for. What comes
/// of them is his: a transfer may be short, or have to be repeated.
pub trait Direct: Disk {
    /// The request that reads these bytes. None where only the disk itself can do it.
    fn direct_read(&self, offset_bytes: u64, buffer: &mut [u8]) -> Option<squeue::Entry>;
    /// The request that writes them; not a durable write.
    fn direct_write(&self, offset_bytes: u64, data: &[u8]) -> Option<squeue::Entry>;
    /// The error that such a request failed with; `errno` is positive.
    fn direct_error(&self, operation: &'static str, offset_bytes: u64, errno: i32) -> Error;
}

/// The engine's disk over one device and one thread's ring.
pub struct UringDisk<R> {
    device: Arc<Device>,
    ring: R,
    file: types::Fd,
    file_flags: squeue::Flags,
    discard_by_ring: Cell<bool>,
    zeroes_by_device: Cell<bool>,
    zeroes: AlignedBuffer,
}

impl<R: Ring> UringDisk<R> {
    /// A disk over `device`; everything is submitted on `ring`.
    pub fn new(device: Arc<Device>, ring: R) -> UringDisk<R> {
        // A known file goes by its place, and the request says that it does.
        let (file, file_flags) = match ring.known_file(device.raw_fd()) {
            Some(types::Fixed(place)) => (types::Fd(place as RawFd), squeue::Flags::FIXED_FILE),
            None => (types::Fd(device.raw_fd()), squeue::Flags::empty()),
        };
        // Elsewhere the kernel hands over by itself what would block.
        let hands_over = if device.blocks_submitters() { squeue::Flags::ASYNC } else { squeue::Flags::empty() };
        let file_flags = file_flags | hands_over;
        UringDisk {
            device,
            ring,
            file,
            file_flags,
            discard_by_ring: Cell::new(true),
            zeroes_by_device: Cell::new(true),
            zeroes: aligned_buffer(ZERO_PIECE_BYTES),
        }
    }

    /// The device.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Submits a request that was built for `self.file`.
    ///
    /// # Safety
    /// As [`Ring::submit`].
    // SAFETY: a declaration; who calls it keeps what the ring asks for.
    async unsafe fn submit(&self, request: squeue::Entry) -> i32 {
        // SAFETY: the caller's duty is the same.
        unsafe { self.ring.submit(request.flags(self.file_flags)) }.await
    }

    fn write_request(&self, offset_bytes: u64, data: &[u8], flags: i32) -> squeue::Entry {
        let (start, length) = (data.as_ptr(), data.len() as u32);
        match self.ring.known_memory(start, data.len()) {
            Some(number) => {
                opcode::WriteFixed::new(self.file, start, length, number).offset(offset_bytes).rw_flags(flags).build()
            }
            None => opcode::Write::new(self.file, start, length).offset(offset_bytes).rw_flags(flags).build(),
        }
    }

    fn read_request(&self, offset_bytes: u64, buffer: &mut [u8]) -> squeue::Entry {
        let (start, length) = (buffer.as_mut_ptr(), buffer.len() as u32);
        match self.ring.known_memory(start, buffer.len()) {
            Some(number) => opcode::ReadFixed::new(self.file, start, length, number).offset(offset_bytes).build(),
            None => opcode::Read::new(self.file, start, length).offset(offset_bytes).build(),
        }
    }

    fn check_range(&self, offset_bytes: u64, length_bytes: u64) {
        let sector_bytes = u64::from(self.device.limits().sector_bytes);
        assert!(offset_bytes.is_multiple_of(sector_bytes), "offset {offset_bytes} is not aligned to {sector_bytes}");
        assert!(length_bytes.is_multiple_of(sector_bytes), "length {length_bytes} is not aligned to {sector_bytes}");
    }

    fn failed(&self, operation: &'static str, offset_bytes: u64, errno: i32) -> Error {
        let kind = match errno {
            libc::ENOSPC | libc::EDQUOT => ErrorKind::NoSpace,
            libc::EROFS | libc::EPERM => ErrorKind::ReadOnly,
            libc::EINVAL => ErrorKind::Invalid,
            _ => ErrorKind::Io,
        };
        Error::new(kind, operation, self.device.path().display().to_string())
            .at(offset_bytes)
            .caused_by(std::io::Error::from_raw_os_error(errno))
    }

    async fn write_with_flags(&self, offset_bytes: u64, data: &[u8], flags: i32) -> Result<()> {
        self.check_range(offset_bytes, data.len() as u64);
        let mut done = 0;
        while done < data.len() {
            let rest = &data[done..];
            let offset = offset_bytes + done as u64;
            let length = rest.len().min(TRANSFER_BYTES_MAX);
            let request = self.write_request(offset, &rest[..length], flags);
            // SAFETY: `data` is borrowed until this function returns, which is after the completion.
            match unsafe { self.submit(request) }.await {
                transferred if transferred > 0 => done += transferred as usize,
                0 => return Err(self.failed("write", offset, libc::EIO)),
                errno if again(errno) => {}
                errno => return Err(self.failed("write", offset, -errno)),
            }
        }
        Ok(())
    }

    async fn sync(&self) -> std::result::Result<(), i32> {
        loop {
            let request = opcode::Fsync::new(self.file).flags(types::FsyncFlags::DATASYNC).build();
            // SAFETY: the request points to no memory.
            match unsafe { self.submit(request) }.await {
                0 => return Ok(()),
                errno if again(errno) => {}
                errno => return Err(errno),
            }
        }
    }

    async fn allocate(&self, mode: i32, offset_bytes: u64, length_bytes: u64) -> i32 {
        loop {
            let request = opcode::Fallocate::new(self.file, length_bytes).offset(offset_bytes).mode(mode).build();
            // SAFETY: the request points to no memory.
            let result = unsafe { self.submit(request) }.await;
            if !again(result) {
                return result;
            }
        }
    }

    async fn discard_piece(&self, offset_bytes: u64, length_bytes: u64) -> i32 {
        if self.device.kind() == DeviceKind::File {
            let mode = libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE;
            return self.allocate(mode, offset_bytes, length_bytes).await;
        }
        if self.discard_by_ring.get() {
            // The length travels in the first bytes of the command itself.
            let mut command = [0; 16];
            command[..8].copy_from_slice(&length_bytes.to_ne_bytes());
            let request = opcode::UringCmd16::new(self.file, BLOCK_URING_CMD_DISCARD);
            let request = request.cmd(command).addr(Some(offset_bytes)).build();
            // SAFETY: the request points to no memory; its address field is an offset on the device.
            match unsafe { self.submit(request) }.await {
                errno if again(errno) => {}
                errno if unsupported(errno) => self.discard_by_ring.set(false),
                result => return result,
            }
        }
        let device = self.device.clone();
        let call = move || device::discard_range(device.raw_fd(), offset_bytes, length_bytes);
        self.ring.run_blocking(Box::new(call)).await
    }

    /// Zeroes a piece by the device's or the file system's own means; a negative errno where it has none.
    async fn zero_piece(&self, offset_bytes: u64, length_bytes: u64, may_unmap: bool) -> i32 {
        if may_unmap {
            let mode = libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE;
            let result = self.allocate(mode, offset_bytes, length_bytes).await;
            if !unsupported(result) {
                return result;
            }
        }
        let mode = libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_ZERO_RANGE;
        let result = self.allocate(mode, offset_bytes, length_bytes).await;
        if !unsupported(result) || self.device.kind() == DeviceKind::File {
            return result;
        }
        let device = self.device.clone();
        let call = move || device::zero_range(device.raw_fd(), offset_bytes, length_bytes);
        self.ring.run_blocking(Box::new(call)).await
    }

    async fn write_zeroes_by_hand(&self, offset_bytes: u64, length_bytes: u64) -> Result<()> {
        let mut done = 0;
        while done < length_bytes {
            let piece = (length_bytes - done).min(ZERO_PIECE_BYTES as u64);
            self.write_with_flags(offset_bytes + done, &self.zeroes[..piece as usize], 0).await?;
            done += piece;
        }
        Ok(())
    }
}

impl<R: Ring> Direct for UringDisk<R> {
    fn direct_read(&self, offset_bytes: u64, buffer: &mut [u8]) -> Option<squeue::Entry> {
        self.check_range(offset_bytes, buffer.len() as u64);
        Some(self.read_request(offset_bytes, buffer).flags(self.file_flags))
    }

    fn direct_write(&self, offset_bytes: u64, data: &[u8]) -> Option<squeue::Entry> {
        self.check_range(offset_bytes, data.len() as u64);
        Some(self.write_request(offset_bytes, data, 0).flags(self.file_flags))
    }

    fn direct_error(&self, operation: &'static str, offset_bytes: u64, errno: i32) -> Error {
        self.failed(operation, offset_bytes, errno)
    }
}

impl<R: Ring> Disk for UringDisk<R> {
    fn size_bytes(&self) -> u64 {
        self.device.size_bytes()
    }

    fn sector_bytes(&self) -> u32 {
        self.device.limits().sector_bytes
    }

    fn discard_bytes_max(&self) -> u64 {
        self.device.limits().discard_bytes_max
    }

    async fn read(&self, offset_bytes: u64, buffer: &mut [u8]) -> Result<()> {
        self.check_range(offset_bytes, buffer.len() as u64);
        let mut done = 0;
        while done < buffer.len() {
            let rest = &mut buffer[done..];
            let offset = offset_bytes + done as u64;
            let length = rest.len().min(TRANSFER_BYTES_MAX);
            let request = self.read_request(offset, &mut rest[..length]);
            // SAFETY: `buffer` is borrowed mutably until this function returns, which is after the completion.
            match unsafe { self.submit(request) }.await {
                transferred if transferred > 0 => done += transferred as usize,
                0 => return Err(self.failed("read", offset, libc::EIO).saying("the device ends before this byte")),
                errno if again(errno) => {}
                errno => return Err(self.failed("read", offset, -errno)),
            }
        }
        Ok(())
    }

    async fn write(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.write_with_flags(offset_bytes, data, 0).await
    }

    async fn write_durable(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        let limits = self.device.limits();
        if limits.fua || !limits.volatile_cache {
            return self.write_with_flags(offset_bytes, data, libc::RWF_DSYNC).await;
        }
        let failures_before = self.flush_failures();
        self.write_with_flags(offset_bytes, data, 0).await?;
        flush_since(self, failures_before).await
    }

    async fn write_zeroes(&self, offset_bytes: u64, length_bytes: u64, may_unmap: bool) -> Result<()> {
        self.check_range(offset_bytes, length_bytes);
        let mut done = 0;
        while done < length_bytes {
            let offset = offset_bytes + done;
            let piece = (length_bytes - done).min(TRANSFER_BYTES_MAX as u64);
            let mut result = -libc::EOPNOTSUPP;
            if self.zeroes_by_device.get() {
                result = self.zero_piece(offset, piece, may_unmap).await;
            }
            if unsupported(result) {
                self.zeroes_by_device.set(false);
                self.write_zeroes_by_hand(offset, piece).await?;
            } else if result < 0 {
                return Err(self.failed("write zeroes", offset, -result));
            }
            done += piece;
        }
        Ok(())
    }

    async fn discard(&self, offset_bytes: u64, length_bytes: u64) -> Result<()> {
        self.check_range(offset_bytes, length_bytes);
        let piece_bytes = self.device.limits().discard_bytes_max;
        if piece_bytes == 0 {
            return Ok(());
        }
        let mut done = 0;
        while done < length_bytes {
            let offset = offset_bytes + done;
            let piece = (length_bytes - done).min(piece_bytes);
            let result = self.discard_piece(offset, piece).await;
            // A discard is advice; a device that does not take it after all has still done its duty.
            if result < 0 && !unsupported(result) {
                return Err(self.failed("discard", offset, -result));
            }
            done += piece;
        }
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        self.device.flushes().run(self.sync()).await.map_err(|errno| {
            Error::new(ErrorKind::FlushFailed, "flush", self.device.path().display().to_string())
                .saying("the device could not make its writes durable")
                .caused_by(std::io::Error::from_raw_os_error(-errno))
        })
    }

    fn flush_failures(&self) -> u64 {
        self.device.flushes().failed()
    }
}

/// Whether a request has to be repeated for its result to mean anything.
pub fn again(result: i32) -> bool {
    result == -libc::EAGAIN || result == -libc::EINTR
}

fn unsupported(result: i32) -> bool {
    [libc::EOPNOTSUPP, libc::ENOTTY, libc::ENOSYS].contains(&-result)
}
