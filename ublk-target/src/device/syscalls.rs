//! The system calls on devices that no library wraps.
//!
//! Invariants:
//! - Every call here takes an open file, passes plain numbers, and hands no memory to the kernel beyond the call.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

/// `_IO(0x12, 119)`: discard a range of a block device.
const BLKDISCARD: libc::c_ulong = 0x1277;
/// `_IO(0x12, 127)`: zero a range of a block device.
const BLKZEROOUT: libc::c_ulong = 0x127f;

/// Locks a whole file for its open file description; fails at once when another description holds it.
pub fn lock_exclusively(file: &File) -> io::Result<()> {
    let lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: the descriptor is open and the kernel only reads the struct during the call.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Discards a range of a block device, waiting for it. Zero, or a negative errno.
pub fn discard_range(descriptor: RawFd, offset_bytes: u64, length_bytes: u64) -> i32 {
    range_ioctl(descriptor, BLKDISCARD, offset_bytes, length_bytes)
}

/// Zeroes a range of a block device, waiting for it. Zero, or a negative errno.
pub fn zero_range(descriptor: RawFd, offset_bytes: u64, length_bytes: u64) -> i32 {
    range_ioctl(descriptor, BLKZEROOUT, offset_bytes, length_bytes)
}

fn range_ioctl(descriptor: RawFd, request: libc::c_ulong, offset_bytes: u64, length_bytes: u64) -> i32 {
    let range = [offset_bytes, length_bytes];
    // SAFETY: both requests read two u64 from the pointer during the call and nothing else.
    let result = unsafe { libc::ioctl(descriptor, request as _, range.as_ptr()) };
    if result < 0 {
        return -io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    }
    0
}
