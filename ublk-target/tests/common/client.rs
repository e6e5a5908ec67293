//! A plain NBD client, written from the protocol and not from the server, that can also misbehave.

use std::io::{Read, Result, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

pub const READ: u16 = 0;
pub const WRITE: u16 = 1;
pub const DISC: u16 = 2;
pub const FLUSH: u16 = 3;
pub const TRIM: u16 = 4;
pub const WRITE_ZEROES: u16 = 6;
pub const FUA: u16 = 1;
pub const NO_HOLE: u16 = 2;

pub const OPTION_GO: u32 = 7;

/// One connection.
pub struct Client {
    pub stream: UnixStream,
    /// Of the last request.
    pub cookie: u64,
}

/// A reply to an option.
#[derive(Debug, PartialEq)]
pub struct OptionReply {
    pub reply: u32,
    pub data: Vec<u8>,
}

impl Client {
    /// Connects and reads the greeting.
    pub fn connect(socket: &Path) -> Client {
        let stream = UnixStream::connect(socket).expect("connects");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        let mut client = Client { stream, cookie: 0 };
        let greeting = client.take(18).expect("a greeting");
        assert_eq!(&greeting, b"NBDMAGICIHAVEOPT\x00\x03");
        client
    }

    /// Connects and begins to negotiate.
    pub fn negotiate(socket: &Path) -> Client {
        let mut client = Client::connect(socket);
        client.send(&3u32.to_be_bytes()).expect("sent");
        client
    }

    /// Connects and opens `export`.
    pub fn open(socket: &Path, export: &str) -> Client {
        let mut client = Client::negotiate(socket);
        client.go(export);
        client
    }

    /// Chooses `export`; panics where the server refuses.
    pub fn go(&mut self, export: &str) {
        let data = [&(export.len() as u32).to_be_bytes()[..], export.as_bytes(), &[0, 0]].concat();
        self.option(OPTION_GO, &data).expect("sent");
        while self.option_reply().expect("a reply").reply != 1 {}
    }

    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes)
    }

    pub fn take(&mut self, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    pub fn option(&mut self, option: u32, data: &[u8]) -> Result<()> {
        let length = (data.len() as u32).to_be_bytes();
        self.send(&[b"IHAVEOPT", &option.to_be_bytes()[..], &length, data].concat())
    }

    pub fn option_reply(&mut self) -> Result<OptionReply> {
        let header = self.take(20)?;
        assert_eq!(header[..8], 0x0003_e889_0455_65a9u64.to_be_bytes());
        let reply = u32::from_be_bytes(header[12..16].try_into().expect("4 bytes"));
        let length = u32::from_be_bytes(header[16..20].try_into().expect("4 bytes"));
        Ok(OptionReply { reply, data: self.take(length as usize)? })
    }

    /// Sends a request without waiting; the cookie to look for.
    pub fn request(&mut self, command: u16, flags: u16, offset: u64, length: u32, payload: &[u8]) -> Result<u64> {
        self.cookie += 1;
        let header = request_header(command, flags, self.cookie, offset, length);
        self.send(&[&header[..], payload].concat())?;
        Ok(self.cookie)
    }

    /// Errno and cookie of the next reply; the payload of a read is not taken.
    pub fn reply(&mut self) -> Result<(u32, u64)> {
        let header = self.take(16)?;
        assert_eq!(header[..4], 0x6744_6698u32.to_be_bytes());
        let errno = u32::from_be_bytes(header[4..8].try_into().expect("4 bytes"));
        Ok((errno, u64::from_be_bytes(header[8..].try_into().expect("8 bytes"))))
    }

    /// Sends a request that is no read and waits for its errno.
    pub fn call(&mut self, command: u16, flags: u16, offset: u64, length: u32, payload: &[u8]) -> u32 {
        let cookie = self.request(command, flags, offset, length, payload).expect("sent");
        let (errno, answered) = self.reply().expect("a reply");
        assert_eq!(answered, cookie);
        errno
    }

    pub fn read(&mut self, offset: u64, length: u32) -> std::result::Result<Vec<u8>, u32> {
        match self.call(READ, 0, offset, length, &[]) {
            0 => Ok(self.take(length as usize).expect("the payload")),
            errno => Err(errno),
        }
    }

    pub fn write(&mut self, flags: u16, offset: u64, data: &[u8]) -> u32 {
        self.call(WRITE, flags, offset, data.len() as u32, data)
    }

    pub fn flush(&mut self) -> u32 {
        self.call(FLUSH, 0, 0, 0, &[])
    }

    /// Whether the server has closed the connection; takes what was still on its way.
    pub fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

/// A request as it travels.
pub fn request_header(command: u16, flags: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    [
        &0x2560_9513u32.to_be_bytes()[..],
        &flags.to_be_bytes(),
        &command.to_be_bytes(),
        &cookie.to_be_bytes(),
        &offset.to_be_bytes(),
        &length.to_be_bytes(),
    ]
    .concat()
}
