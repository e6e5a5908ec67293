//! Requests as they arrive, in either form of header, and what can be said of them before they are tried.
//!
//! Invariants:
//! - A request outside the export, unaligned or not understood is refused with an error; only what makes the stream
//!   itself unreadable is a violation.

use super::export::Export;
use super::handshake::Agreed;
use super::options::violation;
use super::reply::Style;
use super::wire::{self, command, command_flag, errno, ExtendedRequestHeader, RequestHeader};
use super::PAYLOAD_BYTES_MAX;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};
use zerocopy::{FromZeros, IntoBytes};

/// The header of one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub flags: u16,
    pub command: u16,
    /// The client's own name for the request; replies repeat it.
    pub cookie: u64,
    pub offset_bytes: u64,
    pub length_bytes: u64,
    /// What follows the header.
    pub payload_bytes: u32,
}

/// Why a request is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub errno: u32,
    pub sentence: &'static str,
}

fn invalid(sentence: &'static str) -> Result<(), Refusal> {
    Err(Refusal { errno: errno::EINVAL, sentence })
}

impl Request {
    /// The next header. `None`: the client is done, in good order.
    pub async fn read(reader: &mut (impl AsyncRead + Unpin), style: Style) -> io::Result<Option<Request>> {
        let read = match style {
            Style::Extended => Request::read_extended(reader).await,
            Style::Simple | Style::Structured => Request::read_compact(reader).await,
        };
        match read {
            Ok(request) if request.command == command::DISC => Ok(None),
            Ok(request) => Ok(Some(request)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn read_compact(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Request> {
        let mut header = RequestHeader::new_zeroed();
        reader.read_exact(header.as_mut_bytes()).await?;
        if header.magic.get() != wire::REQUEST_MAGIC {
            return Err(violation("a request does not begin with its magic number"));
        }
        let (command, length_bytes) = (header.command.get(), u64::from(header.length_bytes.get()));
        Ok(Request {
            flags: header.flags.get(),
            command,
            cookie: header.cookie.get(),
            offset_bytes: header.offset_bytes.get(),
            length_bytes,
            payload_bytes: bounded_payload(if command == command::WRITE { length_bytes } else { 0 })?,
        })
    }

    /// Any command may bring a payload here. A write that does not say so has one all the same: clients forget the
    /// flag.
    async fn read_extended(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Request> {
        let mut header = ExtendedRequestHeader::new_zeroed();
        reader.read_exact(header.as_mut_bytes()).await?;
        if header.magic.get() != wire::EXTENDED_REQUEST_MAGIC {
            return Err(violation("a request does not begin with its magic number"));
        }
        let (flags, command, length_bytes) = (header.flags.get(), header.command.get(), header.length_bytes.get());
        let has_payload = command == command::WRITE || flags & command_flag::PAYLOAD_LEN != 0;
        Ok(Request {
            flags,
            command,
            cookie: header.cookie.get(),
            offset_bytes: header.offset_bytes.get(),
            length_bytes,
            payload_bytes: bounded_payload(if has_payload { length_bytes } else { 0 })?,
        })
    }

    /// What can be said before it is tried.
    pub fn check(&self, export: &impl Export, agreed: &Agreed) -> Result<(), Refusal> {
        use command::{BLOCK_STATUS, FLUSH, READ, TRIM, WRITE, WRITE_ZEROES};
        self.check_flags(agreed.style)?;
        if self.command == FLUSH {
            let plain = self.offset_bytes == 0 && self.length_bytes == 0;
            return if plain { Ok(()) } else { invalid("a flush has neither offset nor length") };
        }
        if self.command == BLOCK_STATUS && agreed.contexts.is_empty() {
            return invalid("no context was set for this export");
        }
        if !matches!(self.command, READ | BLOCK_STATUS) && export.read_only() {
            return Err(Refusal { errno: errno::EPERM, sentence: "the export is read-only" });
        }
        if self.command == TRIM && !export.can_discard() {
            return invalid("the disk takes no discards");
        }
        let unit_bytes = u64::from(export.sector_bytes());
        if !self.offset_bytes.is_multiple_of(unit_bytes) || !self.length_bytes.is_multiple_of(unit_bytes) {
            return invalid("the request is not aligned to the minimum block size");
        }
        if self.length_bytes == 0 {
            return invalid("the request is empty");
        }
        if self.command == READ && self.length_bytes > u64::from(PAYLOAD_BYTES_MAX) {
            return invalid("the read is longer than the maximum payload");
        }
        let end = self.offset_bytes.checked_add(self.length_bytes);
        if end.is_some_and(|end| end <= export.size_bytes()) {
            return Ok(());
        }
        let errno = if matches!(self.command, WRITE | WRITE_ZEROES) { errno::ENOSPC } else { errno::EINVAL };
        Err(Refusal { errno, sentence: "the request goes beyond the end of the export" })
    }

    fn check_flags(&self, style: Style) -> Result<(), Refusal> {
        use command::{BLOCK_STATUS, FLUSH, READ, TRIM, WRITE, WRITE_ZEROES};
        let special = match self.command {
            READ if style != Style::Simple => command_flag::DF,
            WRITE if style == Style::Extended => command_flag::PAYLOAD_LEN,
            READ | WRITE | FLUSH | TRIM => 0,
            WRITE_ZEROES => command_flag::NO_HOLE,
            BLOCK_STATUS => command_flag::REQ_ONE,
            _ => return invalid("there is no such command"),
        };
        // Durability means nothing to most of them; the protocol lets clients ask for it all the same.
        if self.flags & !(special | command_flag::FUA) != 0 {
            return invalid("the command does not take such a flag");
        }
        Ok(())
    }
}

fn bounded_payload(payload_bytes: u64) -> io::Result<u32> {
    match u32::try_from(payload_bytes) {
        Ok(payload_bytes) if payload_bytes <= PAYLOAD_BYTES_MAX => Ok(payload_bytes),
        _ => Err(violation("the payload of a request is too long")),
    }
}
