//! Transmission: requests of one connection, served concurrently, answered as they complete.
//!
//! Invariants:
//! - At most [`DEPTH`] requests and [`IN_FLIGHT_BYTES_MAX`] of payload are in flight; a client that sends more waits.
//! - A request that was started is run to completion, whatever becomes of its client.
//! - What an answer takes of memory is bounded whatever is asked: payloads by their length, extents by their number.

use super::buffers::{BufferPool, PooledBuffer};
use super::context::{status, Context, Extent, Subject, CONTEXTS_MAX};
use super::export::{wire_errno, Export};
use super::handshake::Agreed;
use super::options::violation;
use super::reply::{Gone, Place, Replies, Style};
use super::request::{Refusal, Request};
use super::wire::{chunk, command, command_flag, LongDescriptor, ShortDescriptor};
use super::PAYLOAD_BYTES_MAX;
use crate::stop::Stop;
use cairn_engine::error::Error;
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_local;
use zerocopy::IntoBytes;

/// Requests of one connection in flight.
const DEPTH: u32 = 64;
/// Payload of one connection in flight; one request of the largest size fits.
const IN_FLIGHT_BYTES_MAX: u32 = PAYLOAD_BYTES_MAX;
/// How long a client has to take its last replies once no more requests are read from it.
const LAST_REPLIES_TIMEOUT: Duration = Duration::from_secs(10);
/// Extents of one context in one answer. An answer may cover less than was asked for; the client asks again.
const EXTENTS_MAX: usize = 4096;
/// What one status request takes of the payload in flight: the extents of one context, here and on the wire.
const STATUS_BYTES: u32 = (EXTENTS_MAX * (size_of::<Extent>() + size_of::<LongDescriptor>())) as u32;
/// Holes shorter than this are sent as the zeroes they are: a chunk costs more.
const HOLE_BYTES_MIN: u64 = 16 << 10;
const _: () = assert!(CONTEXTS_MAX > 0 && STATUS_BYTES < IN_FLIGHT_BYTES_MAX);

/// What the requests of one connection share.
struct Connection<E, WriteHalf> {
    export: Rc<E>,
    agreed: Agreed,
    replies: Replies<WriteHalf>,
    pool: BufferPool,
    depth: Arc<Semaphore>,
    in_flight_bytes: Arc<Semaphore>,
}

/// One request, with its room in the connection's bounds.
struct Started {
    request: Request,
    /// The payload of a write, or room for that of a read.
    buffer: PooledBuffer,
    /// What a look at the header alone says against it.
    refused: Option<Refusal>,
    _depth: OwnedSemaphorePermit,
    _in_flight_bytes: OwnedSemaphorePermit,
}

/// Serves one client on `export` until it leaves, breaks the protocol, or `stop` is raised; returns when every request
/// that was started is done. An error says why the connection ended where that was not in good order.
pub(super) async fn transmit<E: Export + 'static>(
    export: Rc<E>,
    agreed: Agreed,
    reader: &mut (impl AsyncRead + Unpin),
    writer: impl AsyncWrite + Unpin + 'static,
    pool: BufferPool,
    stop: &Stop,
) -> io::Result<()> {
    let connection = Rc::new(Connection {
        export,
        replies: Replies::new(writer, &agreed),
        agreed,
        pool,
        depth: Arc::new(Semaphore::new(DEPTH as usize)),
        in_flight_bytes: Arc::new(Semaphore::new(IN_FLIGHT_BYTES_MAX as usize)),
    });
    let outcome = connection.clone().serve(reader, stop).await;
    if tokio::time::timeout(LAST_REPLIES_TIMEOUT, connection.drain()).await.is_err() {
        connection.replies.abandon();
        connection.drain().await;
    }
    connection.replies.close().await;
    outcome
}

impl<E: Export + 'static, WriteHalf: AsyncWrite + Unpin + 'static> Connection<E, WriteHalf> {
    async fn serve(self: Rc<Self>, reader: &mut (impl AsyncRead + Unpin), stop: &Stop) -> io::Result<()> {
        loop {
            // A request that has not arrived whole when the stop comes has not been acknowledged either.
            let started = tokio::select! {
                () = stop.raised() => return Ok(()),
                () = self.replies.abandoned() => return Err(violation("the client takes no replies")),
                started = self.next_request(reader) => started?,
            };
            let Some(started) = started else {
                return Ok(());
            };
            spawn_local(self.clone().answer(started));
        }
    }

    /// Waits until nothing is in flight.
    async fn drain(&self) {
        self.depth.acquire_many(DEPTH).await.expect("the semaphore is never closed").forget();
        self.depth.add_permits(DEPTH as usize);
    }

    /// `None`: the client is done, in good order.
    async fn next_request(&self, reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Started>> {
        let Some(request) = Request::read(reader, self.agreed.style).await? else {
            return Ok(None);
        };
        let refused = request.check(&*self.export, &self.agreed).err();
        let buffer_bytes = match request.command {
            command::READ if refused.is_none() => {
                u32::try_from(request.length_bytes).expect("a read that is not refused has a bounded length")
            }
            _ => request.payload_bytes,
        };
        let charged_bytes = match request.command {
            command::BLOCK_STATUS if refused.is_none() => STATUS_BYTES,
            _ => buffer_bytes,
        };
        let never_closed = "the semaphore is never closed";
        let depth = self.depth.clone().acquire_owned().await.expect(never_closed);
        let in_flight_bytes = self.in_flight_bytes.clone().acquire_many_owned(charged_bytes).await.expect(never_closed);
        let mut buffer = self.pool.take(buffer_bytes as usize);
        if request.payload_bytes > 0 {
            reader.read_exact(&mut buffer).await?;
        }
        Ok(Some(Started { request, buffer, refused, _depth: depth, _in_flight_bytes: in_flight_bytes }))
    }

    async fn answer(self: Rc<Self>, mut started: Started) {
        let request = started.request;
        let answered = match (&started.refused, request.command) {
            (Some(refusal), _) => self.replies.error(&request, refusal.errno, refusal.sentence, None).await,
            (None, command::READ) => self.read(&request, &mut started.buffer).await,
            (None, command::BLOCK_STATUS) => self.block_status(&request).await,
            (None, _) => match self.change(&request, &started.buffer).await {
                Ok(()) => self.replies.done(&request).await,
                Err(error) => self.failed(&request, &error, None).await,
            },
        };
        // The request itself is done; that its client does not hear of it ends the connection elsewhere.
        let (Ok(()) | Err(Gone)) = answered;
    }

    async fn failed(&self, request: &Request, error: &Error, offset_bytes: Option<u64>) -> Result<(), Gone> {
        tracing::warn!("an NBD request failed: {error}");
        self.replies.error(request, wire_errno(error.kind()), &error.to_string(), offset_bytes).await
    }

    /// Everything that answers without a payload.
    async fn change(&self, request: &Request, payload: &[u8]) -> Result<(), Error> {
        let (offset_bytes, length_bytes) = (request.offset_bytes, request.length_bytes);
        let durable = request.flags & command_flag::FUA != 0;
        match request.command {
            command::WRITE => self.export.write(offset_bytes, payload, durable).await,
            command::WRITE_ZEROES => {
                let may_unmap = request.flags & command_flag::NO_HOLE == 0;
                self.export.write_zeroes(offset_bytes, length_bytes, durable, may_unmap).await
            }
            command::TRIM => match self.export.discard(offset_bytes, length_bytes).await {
                Ok(()) if durable => self.export.flush().await,
                result => result,
            },
            command::FLUSH => self.export.flush().await,
            _ => unreachable!("the check refuses every other command"),
        }
    }

    /// Reads piece by piece: holes are told, not sent.
    async fn read(&self, request: &Request, buffer: &mut [u8]) -> Result<(), Gone> {
        let pieces = self.pieces(request).await;
        let last = pieces.len() - 1;
        for (index, (range, is_hole)) in pieces.into_iter().enumerate() {
            let place = if index == last { Place::Last } else { Place::Middle };
            let offset_bytes = request.offset_bytes + range.start as u64;
            if is_hole {
                let length_bytes = u32::try_from(range.len()).expect("a read has a bounded length");
                self.replies.hole(request, place, offset_bytes, length_bytes).await?;
                continue;
            }
            // Every piece from the start of the buffer, which alone is sure to be aligned for direct I/O.
            let data = &mut buffer[..range.len()];
            if let Err(error) = self.export.read(offset_bytes, data).await {
                return self.failed(request, &error, Some(offset_bytes)).await;
            }
            self.replies.data(request, place, offset_bytes, data).await?;
        }
        Ok(())
    }

    /// The pieces of a read, as ranges of what was asked for, and whether each is a hole; all of it, in order.
    async fn pieces(&self, request: &Request) -> Vec<(Range<usize>, bool)> {
        let length = usize::try_from(request.length_bytes).expect("a read has a bounded length");
        let whole = vec![(0..length, false)];
        // What can be written meanwhile is not told from a map.
        if self.agreed.style == Style::Simple || !self.export.read_only() {
            return whole;
        }
        let (offset_bytes, length_bytes) = (request.offset_bytes, request.length_bytes);
        // What lies behind the last of them is sent as data: as many fit as there can be holes that are worth a chunk.
        let extents_max = 2 * length / HOLE_BYTES_MIN as usize + 2;
        let asked = self.export.block_status(Subject::Allocation, offset_bytes, length_bytes, extents_max).await;
        // Where the map cannot be read the data still can, or says best itself why not.
        let Ok(extents) = asked else { return whole };
        let pieces = pieces_of(&extents, length);
        let fragmented = pieces.len() > 1 && request.flags & command_flag::DF != 0;
        if fragmented {
            whole
        } else {
            pieces
        }
    }

    /// One chunk a context.
    async fn block_status(&self, request: &Request) -> Result<(), Gone> {
        let extents_max = if request.flags & command_flag::REQ_ONE != 0 { 1 } else { EXTENTS_MAX };
        let last = self.agreed.contexts.len() - 1;
        for (index, (id, context)) in self.agreed.contexts.iter().enumerate() {
            let place = if index == last { Place::Last } else { Place::Middle };
            match self.extents(request, context, extents_max).await {
                Ok(extents) => self.tell_extents(request, place, *id, &extents).await?,
                Err(error) => return self.failed(request, &error, None).await,
            }
        }
        Ok(())
    }

    async fn extents(&self, request: &Request, context: &Context, extents_max: usize) -> Result<Vec<Extent>, Error> {
        let (offset_bytes, length_bytes) = (request.offset_bytes, request.length_bytes);
        let extents = self.export.block_status(context.subject, offset_bytes, length_bytes, extents_max).await?;
        let told_bytes: u64 = extents.iter().map(|extent| extent.length_bytes).sum();
        assert!(!extents.is_empty() && extents.len() <= extents_max, "a client gets on with every answer");
        assert!(extents.iter().all(|extent| extent.length_bytes > 0) && told_bytes <= length_bytes, "extents add up");
        Ok(extents)
    }

    async fn tell_extents(&self, request: &Request, place: Place, id: u32, extents: &[Extent]) -> Result<(), Gone> {
        let mut payload = Vec::with_capacity(size_of_val(extents));
        if self.agreed.style == Style::Extended {
            let count = u32::try_from(extents.len()).expect("extents are bounded");
            for extent in extents {
                let status = u64::from(extent.status).into();
                let descriptor = LongDescriptor { length_bytes: extent.length_bytes.into(), status };
                payload.extend(descriptor.as_bytes());
            }
            let head = [id.to_be_bytes(), count.to_be_bytes()].concat();
            return self.replies.chunk(request, chunk::BLOCK_STATUS_EXT, place, &head, &payload).await;
        }
        for extent in extents {
            let length_bytes = u32::try_from(extent.length_bytes).expect("no longer than the request").into();
            payload.extend(ShortDescriptor { length_bytes, status: extent.status.into() }.as_bytes());
        }
        self.replies.chunk(request, chunk::BLOCK_STATUS, place, &id.to_be_bytes(), &payload).await
    }
}

/// Holes long enough to be told, and what lies between and behind them, as ranges of a read of `length`.
fn pieces_of(extents: &[Extent], length: usize) -> Vec<(Range<usize>, bool)> {
    let mut pieces = Vec::new();
    let (mut at, mut data_from) = (0, 0);
    for extent in extents {
        let end = at + usize::try_from(extent.length_bytes).expect("no longer than the read");
        if extent.status & status::ZERO != 0 && extent.length_bytes >= HOLE_BYTES_MIN {
            if data_from < at {
                pieces.push((data_from..at, false));
            }
            pieces.push((at..end, true));
            data_from = end;
        }
        at = end;
    }
    if data_from < length {
        pieces.push((data_from..length, false));
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_is_told_in_pieces_that_cover_it_and_short_holes_are_data() {
        const HOLE: usize = HOLE_BYTES_MIN as usize;
        let extent = |length: usize, status| Extent { length_bytes: length as u64, status };
        let zero = status::HOLE | status::ZERO;
        assert_eq!(pieces_of(&[extent(HOLE, zero)], HOLE), [(0..HOLE, true)]);
        assert_eq!(pieces_of(&[extent(HOLE, status::HOLE)], HOLE), [(0..HOLE, false)], "a hole may hold anything");
        assert_eq!(pieces_of(&[], 5), [(0..5, false)]);
        let extents = [extent(512, 0), extent(HOLE - 512, zero), extent(512, 0), extent(2 * HOLE, zero)];
        let (from, to) = (HOLE + 512, 3 * HOLE + 512);
        let expected = [(0..from, false), (from..to, true), (to..to + 7, false)];
        assert_eq!(pieces_of(&extents, to + 7), expected, "what was not told is data");
    }
}
