//! Where a stream stopped, so that another can go on there: what a receiver keeps, and what it tells the sender.
//!
//! Invariants:
//! - A continuation is accepted only where stream, address, sequence, totals and chain are exactly those kept.
//! - The printed token holds all of it and its own checksum; a token with a wrong character is refused.

use crate::chain::{Chain, CHAIN_BYTES};
use crate::error::ErrorKind;
use crate::extent::Totals;
use crate::header::{StreamHeader, StreamId};
use crate::record::{number_u32, number_u64};
use std::fmt;
use std::str::FromStr;

/// Where a stream stopped: everything before is in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resume {
    /// Which stream.
    pub stream_id: StreamId,
    /// The end of the last extent. The continuation has what begins there or later.
    pub next_offset_bytes: u64,
    /// The sequence number of the next record.
    pub sequence: u64,
    /// The chain over all records so far.
    pub chain: [u8; CHAIN_BYTES],
    /// What came so far.
    pub totals: Totals,
}

/// A token that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResumeError;

impl fmt::Display for ResumeError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "this is not a resume token, or a character of it is wrong: copy all of what receive printed")
    }
}

impl std::error::Error for ResumeError {}

/// Tokens begin with this: the version of their own format.
const PREFIX: &str = "1-";
const TOKEN_BYTES: usize = 16 + Resume::FIELD_BYTES + 4;

impl Resume {
    /// Bytes that it takes in a header; the stream's id has its own field there.
    pub(crate) const FIELD_BYTES: usize = 16 + CHAIN_BYTES + Totals::BYTES;

    /// Before the first record.
    pub(crate) fn start(stream_id: StreamId) -> Resume {
        Resume { stream_id, next_offset_bytes: 0, sequence: 0, chain: Chain::default(), totals: Totals::default() }
    }

    pub(crate) fn to_field(self) -> [u8; Resume::FIELD_BYTES] {
        let mut bytes = [0; Resume::FIELD_BYTES];
        bytes[0..8].copy_from_slice(&self.next_offset_bytes.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[16..48].copy_from_slice(&self.chain);
        bytes[48..].copy_from_slice(&self.totals.to_bytes());
        bytes
    }

    pub(crate) fn from_field(stream_id: StreamId, bytes: &[u8; Resume::FIELD_BYTES]) -> Resume {
        Resume {
            stream_id,
            next_offset_bytes: number_u64(bytes),
            sequence: number_u64(&bytes[8..]),
            chain: bytes[16..48].try_into().expect("32 bytes are 32 bytes"),
            totals: Totals::from_bytes(bytes[48..].try_into().expect("48 bytes are 48 bytes")),
        }
    }

    /// What must hold of a place in the stream with this header.
    pub(crate) fn check(&self, header: &StreamHeader) -> Result<(), ErrorKind> {
        if self.sequence == 0 || self.sequence > u64::MAX / 2 {
            return Err(ErrorKind::Malformed("a continuation begins at a record that no stream has"));
        }
        if self.next_offset_bytes > header.size_after_bytes || self.totals.covered_bytes() > self.next_offset_bytes {
            return Err(ErrorKind::Malformed("a continuation begins beyond the volume, or says that more came before"));
        }
        Ok(())
    }
}

impl fmt::Display for Resume {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [&self.stream_id.0[..], &self.to_field()].concat();
        let checksum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        formatter.write_str(PREFIX)?;
        bytes.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl FromStr for Resume {
    type Err = ResumeError;

    fn from_str(token: &str) -> Result<Resume, ResumeError> {
        let digits = token.trim().strip_prefix(PREFIX).ok_or(ResumeError)?.as_bytes();
        if digits.len() != 2 * TOKEN_BYTES {
            return Err(ResumeError);
        }
        let mut bytes = [0; TOKEN_BYTES];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        let (content, checksum) = bytes.split_at(TOKEN_BYTES - 4);
        if number_u32(checksum) != crc32c::crc32c(content) {
            return Err(ResumeError);
        }
        let stream_id = StreamId(content[..16].try_into().expect("16 bytes are 16 bytes"));
        Ok(Resume::from_field(stream_id, content[16..].try_into().expect("what is left is the field")))
    }
}

fn nibble(digit: u8) -> Result<u8, ResumeError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(ResumeError),
    }
}
