//! Any bytes as an NBD client.
//!
//! Input: a byte of flags, then what the client sends. Flags: 1 shakes hands first, in order, for `vol`, or with 2 for
//! `vol@snap`; 4 gives requests field by field (command u8, flags u8, offset u32, length u32, magic u8: 0 for the right
//! one), with payloads as long as they say; 8 sends in small pieces; 16 has sectors of 4096 bytes. An orderly handshake
//! agrees on structured replies first with 32, on extended headers with 64, and then sets contexts with 128.
//!
//! What must hold: the server ends when its client does; with orderly requests each is answered at most once and with
//! as many bytes as it asked for, pieces of a read cover it and do not overlap, a status gets on and stays within what
//! was asked, contexts are all answered, and unless the client broke off or broke the protocol each is answered.

use crate::bytes::Bytes;
use crate::common::memory::{Image, MemorySource};
use crate::memory::bounded;
use crate::nbd_judge::{Asked, Judge};
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
const EXTENDED_MAGIC: u32 = 0x21e4_1c71;
const WRITE: u16 = 1;
const DISC: u16 = 2;
const PAYLOAD_LEN: u16 = 1 << 5;
/// What an orderly client sets of the snapshot's contexts.
const CONTEXTS: [&str; 2] = ["base:allocation", "qemu:dirty-bitmap:since-monday"];

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
    /// Agrees on structured replies.
    pub const STRUCTURED: u8 = 32;
    /// Agrees on extended headers.
    pub const EXTENDED: u8 = 64;
    /// Sets contexts.
    pub const CONTEXTS: u8 = 128;
}

/// What a client sends, and what it may expect.
#[derive(Default)]
struct Client {
    sends: Vec<u8>,
    /// What was asked, of each request that is sent whole, by its cookie.
    asked: BTreeMap<u64, Asked>,
    /// Neither the client nor its protocol broke off.
    orderly: bool,
    /// Requests have the long header.
    is_extended: bool,
}

impl Client {
    fn new(bytes: &mut Bytes, flags: u8) -> Client {
        let mut client = Client::default();
        if flags & flag::HANDSHAKE != 0 {
            client.sends.extend(handshake(flags));
            client.is_extended = flags & flag::EXTENDED != 0;
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
            let (offset_bytes, length, damage) = (u64::from(bytes.u32()), bytes.u32(), u32::from(bytes.u8()));
            let has_payload = command == WRITE || (self.is_extended && flags & PAYLOAD_LEN != 0);
            // The top bit of a length stands for one that takes more than 32 of them.
            let is_long = self.is_extended && !has_payload && length >> 31 == 1;
            let length_bytes = u64::from(length) << if is_long { 20 } else { 0 };
            self.sends.extend(match self.is_extended {
                true => extended_request(EXTENDED_MAGIC ^ damage, flags, command, cookie, offset_bytes, length_bytes),
                false => request(REQUEST_MAGIC ^ damage, flags, command, cookie, offset_bytes, length),
            });
            let payload = if has_payload { length as usize } else { 0 };
            if damage != 0 || payload > PAYLOAD_BYTES_MAX {
                self.orderly = false;
                return;
            }
            if command == DISC {
                return;
            }
            self.sends.resize(self.sends.len() + payload, cookie as u8);
            self.asked.insert(cookie, Asked { command, flags, offset_bytes, length_bytes });
        }
    }
}

/// The bytes of an orderly handshake, as the flags say.
pub fn handshake(flags: u8) -> Vec<u8> {
    let name: &[u8] = if flags & flag::SNAPSHOT != 0 { b"vol@snap" } else { b"vol" };
    let string = |text: &[u8]| [&(text.len() as u32).to_be_bytes()[..], text].concat();
    let mut sends = 3u32.to_be_bytes().to_vec();
    if flags & flag::STRUCTURED != 0 {
        sends.extend(option(8, &[]));
    }
    if flags & flag::EXTENDED != 0 {
        sends.extend(option(11, &[]));
    }
    if flags & flag::CONTEXTS != 0 {
        let mut data = [&string(name)[..], &(CONTEXTS.len() as u32).to_be_bytes()].concat();
        CONTEXTS.iter().for_each(|query| data.extend(string(query.as_bytes())));
        sends.extend(option(10, &data));
    }
    sends.extend(option(7, &[&string(name)[..], &[0, 0]].concat()));
    sends
}

/// An option.
pub fn option(option: u32, data: &[u8]) -> Vec<u8> {
    [b"IHAVEOPT", &option.to_be_bytes()[..], &(data.len() as u32).to_be_bytes(), data].concat()
}

/// The header of a request.
pub fn request(magic: u32, flags: u16, command: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let mut header = extended_request(magic, flags, command, cookie, offset, 0);
    header.truncate(24);
    header.extend(length.to_be_bytes());
    header
}

/// The header of a request under extended headers.
pub fn extended_request(magic: u32, flags: u16, command: u16, cookie: u64, offset: u64, length: u64) -> Vec<u8> {
    let mut header = Vec::with_capacity(32);
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
            Judge { asked: client.asked, orderly: client.orderly, flags }.hear(&received);
        }
    });
}

fn converse(client: &Client, flags: u8) -> Vec<u8> {
    let mut image = Image::new(IMAGE_BYTES);
    image.sector_bytes = if flags & flag::SECTORS != 0 { 4096 } else { 512 };
    image.holes = vec![8192..40960, 49152..53248];
    image.changed = vec![("monday".to_owned(), vec![0..4096, 45056..IMAGE_BYTES as u64])];
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
