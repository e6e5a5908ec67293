//! Holds what an NBD server answered against what was asked.
//!
//! Invariants:
//! - Every byte of the answers is looked at: what is out of step is found, not skipped.

use crate::nbd::flag;
use std::collections::BTreeMap;

const SIMPLE_REPLY: u64 = 0x6744_6698;
const STRUCTURED_REPLY: u64 = 0x668e_33ef;
const EXTENDED_REPLY: u64 = 0x6e8a_278c;
const READ: u16 = 0;
const BLOCK_STATUS: u16 = 7;
const REQ_ONE: u16 = 1 << 3;
const EXTENTS_MAX: usize = 4096;

/// What one request asked for.
pub struct Asked {
    /// The command.
    pub command: u16,
    /// Its flags.
    pub flags: u16,
    /// Its offset.
    pub offset_bytes: u64,
    /// Its length.
    pub length_bytes: u64,
}

/// Knows what was asked.
pub struct Judge {
    /// By cookie; taken out when it is answered.
    pub asked: BTreeMap<u64, Asked>,
    /// Everything must be answered.
    pub orderly: bool,
    /// Flags of the input.
    pub flags: u8,
}

/// What the chunks of one reply said so far.
#[derive(Default)]
struct Heard {
    pieces: Vec<(u64, u64)>,
    contexts: Vec<u64>,
    failed: bool,
}

/// Takes bytes off the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at_checked(length).expect("an answer is cut short");
        self.0 = rest;
        taken
    }

    fn number(&mut self, width: usize) -> u64 {
        self.take(width).iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}

impl Judge {
    /// Judges everything that the server sent to an orderly client.
    pub fn hear(mut self, received: &[u8]) {
        let mut reader = Reader(received);
        reader.take(18);
        if !self.hear_options(&mut reader) {
            return;
        }
        let mut heard: BTreeMap<u64, Heard> = BTreeMap::new();
        while !reader.0.is_empty() {
            match self.flags & (flag::STRUCTURED | flag::EXTENDED) {
                0 => self.hear_simple(&mut reader),
                _ => self.hear_chunk(&mut reader, &mut heard),
            }
        }
        assert!(heard.is_empty() || !self.orderly, "replies without an end: {:?}", heard.keys());
        assert!(self.asked.is_empty() || !self.orderly, "requests without an answer: {:?}", self.asked.keys());
    }

    /// The replies to the handshake, whose last option opens the export. False where the server gave up before.
    fn hear_options(&self, reader: &mut Reader) -> bool {
        while !reader.0.is_empty() {
            reader.take(8);
            let (option, reply, length) = (reader.number(4), reader.number(4), reader.number(4));
            reader.take(length as usize);
            assert!(
                reply >> 31 == 0 || option == 10,
                "option {option} of an orderly handshake was refused: {reply:#x}"
            );
            if (option, reply) == (7, 1) {
                return true;
            }
        }
        assert!(!self.orderly, "an orderly handshake did not come to its end");
        false
    }

    fn hear_simple(&mut self, reader: &mut Reader) {
        assert_eq!(reader.number(4), SIMPLE_REPLY, "the replies are out of step");
        let (errno, cookie) = (reader.number(4), reader.number(8));
        let asked = self.asked.remove(&cookie).expect("a request is answered once");
        if errno == 0 && asked.command == READ {
            reader.take(asked.length_bytes as usize);
        }
    }

    fn hear_chunk(&mut self, reader: &mut Reader, heard: &mut BTreeMap<u64, Heard>) {
        let is_extended = self.flags & flag::EXTENDED != 0;
        let magic = if is_extended { EXTENDED_REPLY } else { STRUCTURED_REPLY };
        assert_eq!(reader.number(4), magic, "the replies are out of step");
        let (flags, kind, cookie) = (reader.number(2), reader.number(2), reader.number(8));
        let asked = self.asked.get(&cookie).expect("a request is answered once");
        if is_extended {
            assert_eq!(reader.number(8), asked.offset_bytes);
        }
        let length = reader.number(if is_extended { 8 } else { 4 });
        let mut payload = Reader(reader.take(length as usize));
        let reply = heard.entry(cookie).or_default();
        match kind {
            0 => assert_eq!((length, flags), (0, 1)),
            1 | 2 => {
                assert_eq!(asked.command, READ);
                let offset = payload.number(8);
                let length = if kind == 1 { length - 8 } else { payload.number(4) };
                reply.pieces.push((offset, length));
            }
            5 | 6 => {
                assert_eq!((asked.command, kind == 6), (BLOCK_STATUS, is_extended));
                reply.contexts.push(asked.hear_status(&mut payload, is_extended));
            }
            _ => {
                assert!(kind >> 15 == 1, "a chunk of type {kind}");
                assert_ne!(payload.number(4), 0);
                let length = payload.number(2) as usize;
                payload.take(length);
                reply.failed = true;
            }
        }
        if flags & 1 != 0 {
            let asked = self.asked.remove(&cookie).expect("it was found before");
            let reply = heard.remove(&cookie).expect("it was found before");
            asked.judge(reply, self.flags);
        }
    }
}

impl Asked {
    /// The context of a status.
    fn hear_status(&self, payload: &mut Reader, is_extended: bool) -> u64 {
        let width = if is_extended { 8 } else { 4 };
        let (context, mut told_bytes, mut extents) = (payload.number(4), 0, 0);
        let count = is_extended.then(|| payload.number(4));
        while !payload.0.is_empty() {
            let (length, status) = (payload.number(width), payload.number(width));
            assert!(length > 0 && status <= 3);
            told_bytes += length;
            extents += 1;
        }
        assert!(extents > 0 && extents <= if self.flags & REQ_ONE != 0 { 1 } else { EXTENTS_MAX });
        assert!(count.is_none_or(|count| count == extents as u64) && told_bytes <= self.length_bytes);
        context
    }

    fn judge(&self, mut reply: Heard, flags: u8) {
        if reply.failed {
            return;
        }
        if self.command == READ {
            reply.pieces.sort_unstable();
            let mut at = self.offset_bytes;
            for (offset, length) in reply.pieces {
                assert!(offset == at && length > 0, "the pieces of a read neither overlap nor leave gaps");
                at += length;
            }
            assert_eq!(at, self.offset_bytes + self.length_bytes);
        }
        if self.command == BLOCK_STATUS {
            let contexts = if flags & flag::SNAPSHOT != 0 { 2 } else { 1 };
            assert_eq!(reply.contexts.len(), contexts, "one chunk a context");
        }
    }
}
