//! Any bytes as an NBD client.
//!
//! Input: a byte of flags, then what the client sends. Flags: 1 shakes hands first, in order, for `vol`, or with 2 for
//! `vol@snap`; 4 gives requests field by field (command u8, flags u8, offset u32, length u32, magic u8: 0 for the right
//! one), with payloads as long as they say; 8 sends in small pieces; 16 has sectors of 4096 bytes.
//!
//! What must hold: the server ends when its client does; with orderly requests each is answered at most once and with
//! as many bytes as it asked for, and unless the client broke off or broke the protocol each is answered.

use crate::bytes::Bytes;
use crate::common::memory::{Image, MemorySource};
use crate::memory::bounded;
use cairn_target::nbd::{serve_stream, Sessions};
use cairn_target::stop::stop_switch;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// One payload of the largest size, the pool of buffers, and what the client itself keeps.
const MEMORY_BYTES_MAX: usize = 96 << 20;
const IMAGE_BYTES: usize = 64 << 10;
const REQUESTS_MAX: usize = 64;
/// Payload that an orderly client sends at most; it breaks off in a longer one.
const PAYLOAD_BYTES_MAX: usize = 2 * IMAGE_BYTES;
const PIPE_BYTES: usize = 16 << 10;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
const READ: u16 = 0;
const WRITE: u16 = 1;
const DISC: u16 = 2;

/// Flags of an input.
pub mod flag {
    /// Shakes hands first, in order.
    pub const HANDSHAKE: u8 = 1;
    /// Chooses the snapshot.
    pub const SNAPSHOT: u8 = 2;
    /// Gives requests field by field.
    pub const REQUESTS: u8 = 4;
    /// Sends in small pieces.
    pub const PIECES: u8 = 8;
    /// The disk has large sectors.
    pub const SECTORS: u8 = 16;
}

/// What a client sends, and what it may expect.
#[derive(Default)]
struct Client {
    sends: Vec<u8>,
    /// Length of what each request that is sent whole asks for, by its cookie.
    asked: BTreeMap<u64, usize>,
    /// Neither the client nor its protocol broke off.
    orderly: bool,
}

impl Client {
    fn new(bytes: &mut Bytes, flags: u8) -> Client {
        let mut client = Client::default();
        if flags & flag::HANDSHAKE != 0 {
            let name: &[u8] = if flags & flag::SNAPSHOT != 0 { b"vol@snap" } else { b"vol" };
            client.sends.extend(handshake(name));
        }
        match flags & flag::REQUESTS {
            0 => client.sends.extend(bytes.rest()),
            _ => client.add_requests(bytes),
        }
        client
    }

    fn add_requests(&mut self, bytes: &mut Bytes) {
        self.orderly = true;
        for cookie in 0..REQUESTS_MAX as u64 {
            if bytes.is_empty() {
                return;
            }
            let (command, flags) = (u16::from(bytes.u8()), u16::from(bytes.u8()));
            let (offset, length, magic) = (bytes.u32(), bytes.u32(), REQUEST_MAGIC ^ u32::from(bytes.u8()));
            self.sends.extend(request(magic, flags, command, cookie, u64::from(offset), length));
            let payload = if command == WRITE { length as usize } else { 0 };
            if magic != REQUEST_MAGIC || payload > PAYLOAD_BYTES_MAX {
                self.orderly = false;
                return;
            }
            if command == DISC {
                return;
            }
            self.sends.resize(self.sends.len() + payload, cookie as u8);
            self.asked.insert(cookie, if command == READ { length as usize } else { 0 });
        }
    }
}

/// The bytes of an orderly handshake that chooses `name`.
pub fn handshake(name: &[u8]) -> Vec<u8> {
    let data = [&(name.len() as u32).to_be_bytes()[..], name, &[0, 0]].concat();
    let option = [b"IHAVEOPT", &7u32.to_be_bytes()[..], &(data.len() as u32).to_be_bytes()].concat();
    [&3u32.to_be_bytes()[..], &option, &data].concat()
}

/// The header of a request.
pub fn request(magic: u32, flags: u16, command: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let mut header = Vec::with_capacity(28);
    header.extend(magic.to_be_bytes());
    header.extend(flags.to_be_bytes());
    header.extend(command.to_be_bytes());
    header.extend(cookie.to_be_bytes());
    header.extend(offset.to_be_bytes());
    header.extend(length.to_be_bytes());
    header
}

/// Serves the client that `data` describes.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let flags = bytes.u8();
    bounded(MEMORY_BYTES_MAX, || {
        let client = Client::new(&mut bytes, flags);
        let received = converse(&client, flags);
        if flags & flag::HANDSHAKE != 0 && flags & flag::REQUESTS != 0 {
            client.judge(&received);
        }
    });
}

fn converse(client: &Client, flags: u8) -> Vec<u8> {
    let mut image = Image::new(IMAGE_BYTES);
    image.sector_bytes = if flags & flag::SECTORS != 0 { 4096 } else { 512 };
    let source = Rc::new(MemorySource { image: Arc::new(Mutex::new(image)) });
    let piece_bytes = if flags & flag::PIECES != 0 { 7 } else { PIPE_BYTES };
    crate::runs_on_a_stopped_clock(async {
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let (_switch, stop) = stop_switch();
        let sessions = Sessions::default();
        let served = serve_stream(source, theirs, sessions.clone(), stop);
        let (_, received) = tokio::join!(served, speak(&client.sends, piece_bytes, ours));
        assert_eq!(sessions.total(), 0, "a client that has gone is still counted");
        received
    })
}

/// Sends all of it, and takes whatever comes until the other end closes.
async fn speak(sends: &[u8], piece_bytes: usize, stream: DuplexStream) -> Vec<u8> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut received = Vec::new();
    let send = async {
        for piece in sends.chunks(piece_bytes) {
            if writer.write_all(piece).await.is_err() {
                return;
            }
        }
        // The other end may have gone already.
        let _ = writer.shutdown().await;
    };
    let (_, taken) = tokio::join!(send, reader.read_to_end(&mut received));
    taken.expect("a pipe gives what was written");
    received
}

impl Client {
    /// Holds the replies against what was asked.
    fn judge(&self, received: &[u8]) {
        let mut rest = &received[18..];
        // The replies to the one option of the handshake: some information, then the acknowledgement.
        loop {
            let reply = u32::from_be_bytes(rest[12..16].try_into().expect("four bytes"));
            let length = u32::from_be_bytes(rest[16..20].try_into().expect("four bytes"));
            rest = &rest[20 + length as usize..];
            if reply == 1 {
                break;
            }
        }
        let mut asked = self.asked.clone();
        while !rest.is_empty() {
            let number = |at: usize| u32::from_be_bytes(rest[at..at + 4].try_into().expect("four bytes"));
            assert_eq!(number(0), REPLY_MAGIC, "the replies are out of step");
            let cookie = u64::from_be_bytes(rest[8..16].try_into().expect("eight bytes"));
            let length = asked.remove(&cookie).expect("a request is answered once");
            rest = &rest[16 + if number(4) == 0 { length } else { 0 }..];
        }
        assert!(asked.is_empty() || !self.orderly, "requests without an answer: {:?}", asked.keys());
    }
}
