//! What the plain client knows of structured replies, extended headers and contexts.

use super::client::{Client, READ};
use std::io::Result;

pub const BLOCK_STATUS: u16 = 7;
pub const DF: u16 = 1 << 2;
pub const REQ_ONE: u16 = 1 << 3;
pub const PAYLOAD_LEN: u16 = 1 << 5;

pub const STRUCTURED_REPLY: u32 = 8;
pub const LIST_META_CONTEXT: u32 = 9;
pub const SET_META_CONTEXT: u32 = 10;
pub const EXTENDED_HEADERS: u32 = 11;

const ACK: u32 = 1;
const META_CONTEXT: u32 = 4;
const DONE: u16 = 1;

/// Types of a chunk.
pub mod kind {
    pub const NONE: u16 = 0;
    pub const OFFSET_DATA: u16 = 1;
    pub const OFFSET_HOLE: u16 = 2;
    pub const STATUS: u16 = 5;
    pub const STATUS_EXT: u16 = 6;
    pub const ERROR: u16 = (1 << 15) | 1;
    pub const ERROR_OFFSET: u16 = (1 << 15) | 2;
}

/// One chunk of a reply.
#[derive(Debug, PartialEq)]
pub struct Chunk {
    pub kind: u16,
    pub payload: Vec<u8>,
}

/// What a read gave: pieces of data, and holes, by their offset and length.
#[derive(Debug, Default, PartialEq)]
pub struct Pieces {
    pub data: Vec<(u64, Vec<u8>)>,
    pub holes: Vec<(u64, u32)>,
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

impl Chunk {
    /// Errno, message and offset of an error.
    pub fn error(&self) -> (u32, String, Option<u64>) {
        assert!(matches!(self.kind, kind::ERROR | kind::ERROR_OFFSET), "{self:?} is no error");
        let length = number(&self.payload[4..6]) as usize;
        let message = String::from_utf8(self.payload[6..6 + length].to_vec()).expect("text");
        let rest = &self.payload[6 + length..];
        assert_eq!(rest.len(), if self.kind == kind::ERROR_OFFSET { 8 } else { 0 });
        (number(&self.payload[..4]) as u32, message, (!rest.is_empty()).then(|| number(rest)))
    }

    /// The context and the extents of a status.
    pub fn extents(&self) -> (u32, Vec<(u64, u64)>) {
        let (head, width) = match self.kind {
            kind::STATUS => (4, 4),
            kind::STATUS_EXT => (8, 8),
            _ => panic!("{self:?} is no status"),
        };
        let extents: Vec<_> = self.payload[head..]
            .chunks(2 * width)
            .map(|pair| (number(&pair[..width]), number(&pair[width..])))
            .collect();
        assert!(head == 4 || number(&self.payload[4..8]) == extents.len() as u64);
        (number(&self.payload[..4]) as u32, extents)
    }
}

impl Client {
    /// Sends an option without data that the server must accept.
    pub fn agree(&mut self, option: u32) {
        assert_eq!(self.refusal(option, &[]), None);
    }

    /// Sends an option that is answered by one reply; that reply where it is no acknowledgement.
    pub fn refusal(&mut self, option: u32, data: &[u8]) -> Option<u32> {
        self.option(option, data).expect("sent");
        let reply = self.option_reply().expect("a reply").reply;
        (reply != ACK).then_some(reply)
    }

    /// Lists or sets contexts: their numbers and names, or the refusal.
    pub fn contexts(
        &mut self,
        option: u32,
        export: &str,
        queries: &[&str],
    ) -> std::result::Result<Vec<(u32, String)>, u32> {
        let string = |text: &str| [&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat();
        let mut data = string(export);
        data.extend((queries.len() as u32).to_be_bytes());
        queries.iter().for_each(|query| data.extend(string(query)));
        self.option(option, &data).expect("sent");
        let mut contexts = Vec::new();
        loop {
            let reply = self.option_reply().expect("a reply");
            match reply.reply {
                ACK => return Ok(contexts),
                META_CONTEXT => {
                    let name = String::from_utf8(reply.data[4..].to_vec()).expect("text");
                    contexts.push((number(&reply.data[..4]) as u32, name));
                }
                refusal => return Err(refusal),
            }
        }
    }

    /// Connects, agrees on `option` and contexts of `export`, and opens it.
    pub fn open_with(socket: &std::path::Path, option: u32, export: &str, queries: &[&str]) -> Client {
        let mut client = Client::negotiate(socket);
        client.agree(option);
        if !queries.is_empty() {
            let set = client.contexts(SET_META_CONTEXT, export, queries).expect("set");
            assert_eq!(set.len(), queries.len(), "{set:?}");
        }
        client.go(export);
        client
    }

    /// The next chunk, of whatever reply: its cookie, whether it is the last, and itself.
    pub fn chunk(&mut self) -> Result<(u64, bool, Chunk)> {
        let start = self.take(16)?;
        let (magic, flags, kind, cookie) =
            (number(&start[..4]), number(&start[4..6]) as u16, number(&start[6..8]) as u16, number(&start[8..]));
        let length = match magic {
            0x668e_33ef => number(&self.take(4)?),
            0x6e8a_278c => number(&self.take(16)?[8..]),
            _ => panic!("{magic:#x} begins no chunk"),
        };
        assert_eq!(flags & !DONE, 0);
        Ok((cookie, flags & DONE != 0, Chunk { kind, payload: self.take(length as usize)? }))
    }

    /// All chunks of the only reply that is on its way.
    pub fn chunks(&mut self) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        loop {
            let (cookie, last, chunk) = self.chunk().expect("a chunk");
            assert_eq!(cookie, self.cookie);
            chunks.push(chunk);
            if last {
                return chunks;
            }
        }
    }

    /// Sends a request and takes its chunks.
    pub fn ask(&mut self, command: u16, flags: u16, offset: u64, length: u32, payload: &[u8]) -> Vec<Chunk> {
        self.request(command, flags, offset, length, payload).expect("sent");
        self.chunks()
    }

    /// As [`Client::ask`], under extended headers.
    pub fn ask_extended(&mut self, command: u16, flags: u16, offset: u64, length: u64, payload: &[u8]) -> Vec<Chunk> {
        self.cookie += 1;
        let header = extended_header(command, flags, self.cookie, offset, length);
        self.send(&[&header[..], payload].concat()).expect("sent");
        self.chunks()
    }

    /// What a read over structured replies gives.
    pub fn pieces(&mut self, flags: u16, offset: u64, length: u32) -> Pieces {
        pieces(&self.ask(READ, flags, offset, length, &[]))
    }

    /// The extents that each context tells.
    pub fn status(&mut self, flags: u16, offset: u64, length: u32) -> Vec<(u32, Vec<(u64, u64)>)> {
        self.ask(BLOCK_STATUS, flags, offset, length, &[]).iter().map(Chunk::extents).collect()
    }
}

/// What the chunks of a read say.
pub fn pieces(chunks: &[Chunk]) -> Pieces {
    let mut pieces = Pieces::default();
    for chunk in chunks {
        let (offset, rest) = (number(&chunk.payload[..8]), &chunk.payload[8..]);
        match chunk.kind {
            kind::OFFSET_DATA => pieces.data.push((offset, rest.to_vec())),
            kind::OFFSET_HOLE => pieces.holes.push((offset, number(rest) as u32)),
            _ => panic!("{chunk:?} is no content"),
        }
    }
    pieces
}

/// A request under extended headers as it travels.
pub fn extended_header(command: u16, flags: u16, cookie: u64, offset: u64, length: u64) -> Vec<u8> {
    [
        &0x21e4_1c71u32.to_be_bytes()[..],
        &flags.to_be_bytes(),
        &command.to_be_bytes(),
        &cookie.to_be_bytes(),
        &offset.to_be_bytes(),
        &length.to_be_bytes(),
    ]
    .concat()
}
