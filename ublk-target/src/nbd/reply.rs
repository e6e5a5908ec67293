//! Replies to requests: simple, in chunks, or in chunks under extended headers, as client and server agreed.
//!
//! Invariants:
//! - Replies never mix: a simple reply or a chunk is written whole, or the connection is at its end.
//! - Every reply has one last chunk, and nothing follows it.
//! - Nobody waits for a client that takes no replies once the connection is abandoned.

use super::handshake::Agreed;
use super::request::Request;
use super::wire::{self, chunk, errno, STRING_BYTES_MAX};
use crate::stop::{stop_switch, Stop, StopSwitch};
use std::io::{self, IoSlice};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Mutex;
use zerocopy::IntoBytes;

/// How replies are made up; each style can say more than those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Style {
    /// One errno, then what was read.
    #[default]
    Simple,
    /// Chunks.
    Structured,
    /// Chunks, with lengths of 64 bits in requests, too.
    Extended,
}

/// The client takes no more replies.
pub(super) struct Gone;

/// Where a reply stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// More chunks follow.
    Middle,
    /// The last, or the only one.
    Last,
}

/// Where all replies of one connection go.
pub(super) struct Replies<WriteHalf> {
    writer: Mutex<WriteHalf>,
    style: Style,
    /// Raised when no more replies can be, or are worth being, delivered.
    abandon: StopSwitch,
    abandoned: Stop,
}

impl<WriteHalf: AsyncWrite + Unpin> Replies<WriteHalf> {
    pub fn new(writer: WriteHalf, agreed: &Agreed) -> Replies<WriteHalf> {
        let (abandon, abandoned) = stop_switch();
        Replies { writer: Mutex::new(writer), style: agreed.style, abandon, abandoned }
    }

    /// Nothing more is delivered.
    pub fn abandon(&self) {
        self.abandon.raise();
    }

    /// Returns once nothing more is delivered.
    pub async fn abandoned(&self) {
        self.abandoned.raised().await;
    }

    /// Closes the stream in good order, where the client still takes part.
    pub async fn close(&self) {
        // Best effort: the client may be gone.
        let _ = self.writer.lock().await.shutdown().await;
    }

    /// `request` that asked for no payload succeeded.
    pub async fn done(&self, request: &Request) -> Result<(), Gone> {
        match self.style {
            Style::Simple => self.simple(request, errno::OK, &[]).await,
            Style::Structured | Style::Extended => self.chunk(request, chunk::NONE, Place::Last, &[], &[]).await,
        }
    }

    /// What `request` read at `offset_bytes`; in the simple style all of it.
    pub async fn data(&self, request: &Request, place: Place, offset_bytes: u64, data: &[u8]) -> Result<(), Gone> {
        match self.style {
            Style::Simple => self.simple(request, errno::OK, data).await,
            Style::Structured | Style::Extended => {
                self.chunk(request, chunk::OFFSET_DATA, place, &offset_bytes.to_be_bytes(), data).await
            }
        }
    }

    /// What `request` reads there are zeroes. Not in the simple style.
    pub async fn hole(
        &self,
        request: &Request,
        place: Place,
        offset_bytes: u64,
        length_bytes: u32,
    ) -> Result<(), Gone> {
        let hole = wire::HoleChunk { offset_bytes: offset_bytes.into(), length_bytes: length_bytes.into() };
        self.chunk(request, chunk::OFFSET_HOLE, place, hole.as_bytes(), &[]).await
    }

    /// `request` failed, at `offset_bytes` where that is known; the last of its reply.
    pub async fn error(
        &self,
        request: &Request,
        errno: u32,
        message: &str,
        offset_bytes: Option<u64>,
    ) -> Result<(), Gone> {
        if self.style == Style::Simple {
            return self.simple(request, errno, &[]).await;
        }
        let message = &message[..message.floor_char_boundary(STRING_BYTES_MAX)];
        let message_bytes = u16::try_from(message.len()).expect("it was cut to what a string may have");
        let head = wire::ErrorChunk { errno: errno.into(), message_bytes: message_bytes.into() };
        let mut payload = message.as_bytes().to_vec();
        payload.extend(offset_bytes.iter().flat_map(|offset_bytes| offset_bytes.to_be_bytes()));
        let kind = if offset_bytes.is_some() { chunk::ERROR_OFFSET } else { chunk::ERROR };
        self.chunk(request, kind, Place::Last, head.as_bytes(), &payload).await
    }

    /// One chunk, whose payload begins with `head` and goes on with `payload`. Not in the simple style.
    pub async fn chunk(
        &self,
        request: &Request,
        kind: u16,
        place: Place,
        head: &[u8],
        payload: &[u8],
    ) -> Result<(), Gone> {
        let flags = if place == Place::Last { wire::REPLY_FLAG_DONE } else { 0 };
        let length_bytes = head.len() + payload.len();
        if self.style == Style::Extended {
            let header = wire::ExtendedReply {
                magic: wire::EXTENDED_REPLY_MAGIC.into(),
                flags: flags.into(),
                chunk: kind.into(),
                cookie: request.cookie.into(),
                offset_bytes: request.offset_bytes.into(),
                length_bytes: (length_bytes as u64).into(),
            };
            return self.deliver([header.as_bytes(), head, payload]).await;
        }
        assert!(self.style == Style::Structured, "simple replies have no chunks");
        let header = wire::StructuredReply {
            magic: wire::STRUCTURED_REPLY_MAGIC.into(),
            flags: flags.into(),
            chunk: kind.into(),
            cookie: request.cookie.into(),
            length_bytes: u32::try_from(length_bytes).expect("a payload is bounded").into(),
        };
        self.deliver([header.as_bytes(), head, payload]).await
    }

    async fn simple(&self, request: &Request, errno: u32, payload: &[u8]) -> Result<(), Gone> {
        let reply = wire::SimpleReply {
            magic: wire::SIMPLE_REPLY_MAGIC.into(),
            errno: errno.into(),
            cookie: request.cookie.into(),
        };
        self.deliver([reply.as_bytes(), payload, &[]]).await
    }

    /// Writes all of it, whole, unless the connection is abandoned.
    async fn deliver(&self, pieces: [&[u8]; 3]) -> Result<(), Gone> {
        let delivered = tokio::select! {
            biased;
            () = self.abandoned.raised() => return Err(Gone),
            delivered = self.write_whole(pieces) => delivered,
        };
        delivered.map_err(|_| {
            self.abandon.raise();
            Gone
        })
    }

    async fn write_whole(&self, pieces: [&[u8]; 3]) -> io::Result<()> {
        let mut writer = self.writer.lock().await;
        let mut slices = pieces.map(IoSlice::new);
        let mut rest = &mut slices[..];
        // Drops empty slices, too: what is empty is not written.
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let written = writer.write_vectored(rest).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            IoSlice::advance_slices(&mut rest, written);
        }
        writer.flush().await
    }
}
