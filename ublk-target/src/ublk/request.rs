//! One block request: from the driver's descriptor to the service and back to a result the driver understands.
//!
//! Invariants:
//! - Every request is answered: with its length in bytes, or with a negative errno; a write never with 0, which the
//!   driver would repeat for ever.
//! - The flags are read from the unshifted word, where the driver puts them.

use crate::nbd::Export;
use cairn_engine::error::Result;
use libublk::sys;
use std::fmt;

/// Sectors in the driver's descriptors are of this size, whatever the device's logical sector is.
const DRIVER_SECTOR_SHIFT: u32 = 9;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Read into the buffer.
    Read,
    /// Write from the buffer.
    Write,
    /// Make durable what completed.
    Flush,
    /// Forget the range.
    Discard,
    /// Zero the range.
    WriteZeroes {
        /// The range may be deallocated.
        may_unmap: bool,
    },
    /// Something this frontend never offered.
    Unknown,
}

/// A request, copied out of the driver's memory before anything is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What to do.
    pub operation: Operation,
    /// Where.
    pub offset_bytes: u64,
    /// How much.
    pub length_bytes: u64,
    /// Durable before it completes.
    pub durable: bool,
}

impl Request {
    /// Reads a descriptor.
    pub fn decode(descriptor: &sys::ublksrv_io_desc) -> Request {
        let flags = descriptor.op_flags;
        let operation = match flags & 0xff {
            sys::UBLK_IO_OP_READ => Operation::Read,
            sys::UBLK_IO_OP_WRITE => Operation::Write,
            sys::UBLK_IO_OP_FLUSH => Operation::Flush,
            sys::UBLK_IO_OP_DISCARD => Operation::Discard,
            sys::UBLK_IO_OP_WRITE_ZEROES => Operation::WriteZeroes { may_unmap: flags & sys::UBLK_IO_F_NOUNMAP == 0 },
            _ => Operation::Unknown,
        };
        Request {
            operation,
            offset_bytes: descriptor.start_sector << DRIVER_SECTOR_SHIFT,
            length_bytes: u64::from(descriptor.nr_sectors) << DRIVER_SECTOR_SHIFT,
            durable: flags & sys::UBLK_IO_F_FUA != 0,
        }
    }

    /// Serves the request; `buffer` is the tag's. Gives what the driver is told.
    pub async fn serve(self, service: &impl Export, buffer: &mut [u8]) -> i32 {
        let Request { operation, offset_bytes, length_bytes, durable } = self;
        if i32::try_from(length_bytes).is_err() {
            return -libc::EINVAL;
        }
        let transfers = matches!(operation, Operation::Read | Operation::Write);
        if transfers && (length_bytes == 0 || length_bytes > buffer.len() as u64) {
            return -libc::EINVAL;
        }
        let result = match operation {
            Operation::Read => service.read(offset_bytes, &mut buffer[..length_bytes as usize]).await,
            Operation::Write => service.write(offset_bytes, &buffer[..length_bytes as usize], durable).await,
            Operation::Flush => service.flush().await,
            Operation::Discard => service.discard(offset_bytes, length_bytes).await,
            Operation::WriteZeroes { may_unmap } => {
                service.write_zeroes(offset_bytes, length_bytes, durable, may_unmap).await
            }
            Operation::Unknown => return -libc::EOPNOTSUPP,
        };
        self.answer_of(result)
    }

    /// What the driver is told of how the request went. Its length is one that an answer can say.
    pub fn answer_of(&self, result: Result<()>) -> i32 {
        match result {
            Ok(()) => i32::try_from(self.length_bytes).expect("longer requests are refused"),
            Err(error) => {
                tracing::warn!(%self, %error, "a request failed");
                -error.errno()
            }
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?} of {} bytes at byte {}", self.operation, self.length_bytes, self.offset_bytes)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use cairn_engine::error::{Error, ErrorKind};

    /// Fails to read and to write, whatever else it has.
    pub struct Failing<T>(pub T);

    impl<T> Export for Failing<T> {
        fn size_bytes(&self) -> u64 {
            1 << 20
        }
        fn sector_bytes(&self) -> u32 {
            512
        }
        fn read_only(&self) -> bool {
            false
        }
        fn can_discard(&self) -> bool {
            true
        }
        async fn read(&self, _: u64, _: &mut [u8]) -> Result<()> {
            Err(Error::new(ErrorKind::Io, "read", "origin"))
        }
        async fn write(&self, _: u64, _: &[u8], _: bool) -> Result<()> {
            Err(Error::new(ErrorKind::NoSpace, "write", "store"))
        }
        async fn write_zeroes(&self, _: u64, _: u64, _: bool, _: bool) -> Result<()> {
            Ok(())
        }
        async fn discard(&self, _: u64, _: u64) -> Result<()> {
            Ok(())
        }
        async fn flush(&self) -> Result<()> {
            Ok(())
        }
    }

    fn answer(op_flags: u32, nr_sectors: u32) -> i32 {
        let descriptor = sys::ublksrv_io_desc { op_flags, nr_sectors, start_sector: 8, addr: 0 };
        smol::block_on(Request::decode(&descriptor).serve(&Failing(()), &mut [0; 4096]))
    }

    #[test]
    fn every_request_is_answered_with_its_length_or_an_error_and_a_write_never_with_zero() {
        assert_eq!(answer(sys::UBLK_IO_OP_READ, 8), -libc::EIO);
        assert_eq!(answer(sys::UBLK_IO_OP_WRITE, 8), -libc::ENOSPC);
        assert_eq!(answer(sys::UBLK_IO_OP_WRITE, 0), -libc::EINVAL);
        assert_eq!(answer(sys::UBLK_IO_OP_WRITE, 16), -libc::EINVAL, "longer than the buffer");
        assert_eq!(answer(sys::UBLK_IO_OP_FLUSH, 0), 0);
        assert_eq!(answer(sys::UBLK_IO_OP_DISCARD, 1024), 1024 * 512);
        assert_eq!(answer(0x7f, 8), -libc::EOPNOTSUPP);
    }

    #[test]
    fn flags_are_read_where_the_driver_puts_them() {
        let descriptor = |op_flags| sys::ublksrv_io_desc { op_flags, nr_sectors: 8, start_sector: 8, addr: 0 };
        let fua = Request::decode(&descriptor(sys::UBLK_IO_OP_WRITE | sys::UBLK_IO_F_FUA));
        assert_eq!((fua.operation, fua.durable, fua.offset_bytes), (Operation::Write, true, 4096));
        let kept = Request::decode(&descriptor(sys::UBLK_IO_OP_WRITE_ZEROES | sys::UBLK_IO_F_NOUNMAP));
        assert_eq!(kept.operation, Operation::WriteZeroes { may_unmap: false });
    }
}
