//! An export of an NBD server on a Unix socket: a volume that is served over NBD, or an image behind `qemu-nbd`.
//!
//! Invariants:
//! - One request at a time; its reply is the next thing that comes.

use super::BlockIo;
use crate::exit::{ExitCode, Failure, Outcome};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long the server may take for a request.
const TIMEOUT: Duration = Duration::from_secs(300);
/// The longest read or write in one request.
const REQUEST_BYTES_MAX: usize = 4 << 20;
/// The longest range of zeroes in one request.
const ZEROES_BYTES_MAX: u64 = 1 << 30;

const GREETING: &[u8; 16] = b"NBDMAGICIHAVEOPT";
const FLAG_FIXED_NEWSTYLE: u32 = 1;
const FLAG_NO_ZEROES: u32 = 2;
const OPTION_GO: u32 = 7;
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const REPLY_IS_ERROR: u32 = 1 << 31;
const REPLY_BYTES_MAX: u32 = 64 << 10;
const INFO_EXPORT: u16 = 0;
const FLAG_READ_ONLY: u16 = 2;
const FLAG_SEND_FLUSH: u16 = 4;
const FLAG_SEND_WRITE_ZEROES: u16 = 64;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;
const WRITE_ZEROES: u16 = 6;

/// One connection.
pub struct NbdIo {
    name: String,
    stream: UnixStream,
    size_bytes: u64,
    flags: u16,
    cookie: u64,
}

impl NbdIo {
    /// Connects to `socket` and opens `export` to write it.
    pub fn open(socket: &Path, export: &str) -> Result<NbdIo, Failure> {
        let failed = |error| Failure::io("connect", socket, error);
        let stream = UnixStream::connect(socket).map_err(failed)?;
        stream.set_read_timeout(Some(TIMEOUT)).map_err(failed)?;
        stream.set_write_timeout(Some(TIMEOUT)).map_err(failed)?;
        let name = if export.is_empty() { socket.display().to_string() } else { export.to_owned() };
        let mut io = NbdIo { name, stream, size_bytes: 0, flags: 0, cookie: 0 };
        io.negotiate(export)?;
        if io.flags & FLAG_READ_ONLY != 0 {
            return Err(Failure::new(ExitCode::Refused, format!("{}: the NBD export is read-only", io.name)));
        }
        Ok(io)
    }

    fn negotiate(&mut self, export: &str) -> Outcome {
        if self.take::<16>()? != *GREETING {
            return Err(self.wrong("no NBD server answers there"));
        }
        let offered = u16::from_be_bytes(self.take()?);
        if u32::from(offered) & FLAG_FIXED_NEWSTYLE == 0 {
            return Err(self.wrong("the server is too old"));
        }
        let flags = u32::from(offered) & (FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES);
        let name_bytes = export.len() as u32;
        let data = [&name_bytes.to_be_bytes()[..], export.as_bytes(), &[0, 0]].concat();
        let length = (data.len() as u32).to_be_bytes();
        let option = [&flags.to_be_bytes()[..], b"IHAVEOPT", &OPTION_GO.to_be_bytes(), &length, &data].concat();
        self.send(&option)?;
        loop {
            let magic = u64::from_be_bytes(self.take()?);
            let _option: [u8; 4] = self.take()?;
            let (reply, length) = (u32::from_be_bytes(self.take()?), u32::from_be_bytes(self.take()?));
            if magic != REPLY_MAGIC || length > REPLY_BYTES_MAX {
                return Err(self.wrong("the server's answer is not understood"));
            }
            let mut data = vec![0; length as usize];
            self.fill(&mut data)?;
            match reply {
                REPLY_ACK => return Ok(()),
                REPLY_INFO if data.len() == 12 && data[..2] == INFO_EXPORT.to_be_bytes() => {
                    self.size_bytes = u64::from_be_bytes(data[2..10].try_into().expect("eight bytes"));
                    self.flags = u16::from_be_bytes(data[10..12].try_into().expect("two bytes"));
                }
                reply if reply & REPLY_IS_ERROR != 0 => {
                    let why = String::from_utf8_lossy(&data).into_owned();
                    return Err(Failure::new(
                        ExitCode::Busy,
                        format!("{}: the NBD export is refused: {why}", self.name),
                    ));
                }
                _ => {}
            }
        }
    }

    fn wrong(&self, what: &str) -> Failure {
        Failure::new(ExitCode::Failed, format!("{}: {what}", self.name))
    }

    fn lost(&self, error: &std::io::Error) -> Failure {
        self.wrong(&format!("the NBD server went away ({error})"))
    }

    fn send(&mut self, bytes: &[u8]) -> Outcome {
        self.stream.write_all(bytes).map_err(|error| self.lost(&error))
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Outcome {
        self.stream.read_exact(buffer).map_err(|error| self.lost(&error))
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Failure> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// Sends a request and waits for its reply; what a read gives follows behind it.
    fn request(&mut self, command: u16, offset_bytes: u64, length: u32, payload: &[u8]) -> Outcome {
        self.cookie += 1;
        let header = [
            &REQUEST_MAGIC.to_be_bytes()[..],
            &0u16.to_be_bytes(),
            &command.to_be_bytes(),
            &self.cookie.to_be_bytes(),
            &offset_bytes.to_be_bytes(),
            &length.to_be_bytes(),
        ]
        .concat();
        self.send(&header)?;
        self.send(payload)?;
        let (magic, errno) = (u32::from_be_bytes(self.take()?), u32::from_be_bytes(self.take()?));
        let cookie = u64::from_be_bytes(self.take()?);
        if magic != SIMPLE_REPLY_MAGIC || cookie != self.cookie {
            return Err(self.wrong("the server's reply is not understood"));
        }
        match i32::try_from(errno) {
            Ok(0) => Ok(()),
            errno => {
                let error = std::io::Error::from_raw_os_error(errno.unwrap_or(libc::EIO));
                let code =
                    if error.raw_os_error() == Some(libc::ENOSPC) { ExitCode::StoreFull } else { ExitCode::Failed };
                Err(Failure::new(code, format!("{}: I/O at {offset_bytes}: {error}", self.name)))
            }
        }
    }
}

impl BlockIo for NbdIo {
    fn name(&self) -> &str {
        &self.name
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read(&mut self, offset_bytes: u64, buffer: &mut [u8]) -> Outcome {
        let mut at = offset_bytes;
        for piece in buffer.chunks_mut(REQUEST_BYTES_MAX) {
            self.request(READ, at, piece.len() as u32, &[])?;
            self.fill(piece)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn write(&mut self, offset_bytes: u64, data: &[u8]) -> Outcome {
        let mut at = offset_bytes;
        for piece in data.chunks(REQUEST_BYTES_MAX) {
            self.request(WRITE, at, piece.len() as u32, piece)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn write_zeroes(&mut self, offset_bytes: u64, length_bytes: u64) -> Outcome {
        let end_bytes = offset_bytes + length_bytes;
        let mut at = offset_bytes;
        while at < end_bytes {
            if self.flags & FLAG_SEND_WRITE_ZEROES != 0 {
                let length = (end_bytes - at).min(ZEROES_BYTES_MAX);
                self.request(WRITE_ZEROES, at, length as u32, &[])?;
                at += length;
            } else {
                let zeroes = vec![0; (end_bytes - at).min(REQUEST_BYTES_MAX as u64) as usize];
                self.write(at, &zeroes)?;
                at += zeroes.len() as u64;
            }
        }
        Ok(())
    }

    fn make_durable(&mut self) -> Outcome {
        match self.flags & FLAG_SEND_FLUSH {
            0 => Ok(()),
            _ => self.request(FLUSH, 0, 0, &[]),
        }
    }
}

impl Drop for NbdIo {
    fn drop(&mut self) {
        let header = [&REQUEST_MAGIC.to_be_bytes()[..], &[0, 0], &DISCONNECT.to_be_bytes(), &[0; 20]].concat();
        // A server that is gone needs no goodbye.
        let _ = self.stream.write_all(&header);
    }
}
