//! Transmission: requests of one connection, served concurrently, answered as they complete.
//!
//! Invariants:
//! - At most [`DEPTH`] requests and [`IN_FLIGHT_BYTES_MAX`] of payload are in flight; a client that sends more waits.
//! - A request that was started is run to completion, whatever becomes of its client.
//! - Replies never mix: one is written whole, or the connection is at its end.
//! - A request outside the export, unaligned or not understood is answered with an error; only what makes the stream
//!   itself unreadable ends the connection.

use super::buffers::{BufferPool, PooledBuffer};
use super::export::{wire_errno, Export};
use super::handshake::violation;
use super::wire::{self, command, command_flag, errno, RequestHeader, SimpleReply};
use super::PAYLOAD_BYTES_MAX;
use crate::stop::{stop_switch, Stop, StopSwitch};
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_local;
use zerocopy::{FromZeros, IntoBytes};

/// Requests of one connection in flight.
const DEPTH: u32 = 64;
/// Payload of one connection in flight; one request of the largest size fits.
const IN_FLIGHT_BYTES_MAX: u32 = PAYLOAD_BYTES_MAX;
/// How long a client has to take its last replies once no more requests are read from it.
const LAST_REPLIES_TIMEOUT: Duration = Duration::from_secs(10);

/// What the requests of one connection share.
struct Connection<E, WriteHalf> {
    export: Rc<E>,
    writer: Mutex<WriteHalf>,
    pool: BufferPool,
    depth: Arc<Semaphore>,
    in_flight_bytes: Arc<Semaphore>,
    /// Raised when no more replies can be, or are worth being, delivered.
    abandon: StopSwitch,
    abandoned: Stop,
}

/// One request, with its room in the connection's bounds.
struct Request {
    header: RequestHeader,
    /// The payload of a write, or room for that of a read.
    buffer: PooledBuffer,
    /// The error that a look at the header alone gives.
    refused: Option<u32>,
    _depth: OwnedSemaphorePermit,
    _in_flight_bytes: OwnedSemaphorePermit,
}

/// Serves one client on `export` until it leaves, breaks the protocol, or `stop` is raised; returns when every request
/// that was started is done. An error says why the connection ended where that was not in good order.
pub(super) async fn transmit<E: Export + 'static>(
    export: Rc<E>,
    reader: &mut (impl AsyncRead + Unpin),
    writer: impl AsyncWrite + Unpin + 'static,
    pool: BufferPool,
    stop: &Stop,
) -> io::Result<()> {
    let (abandon, abandoned) = stop_switch();
    let connection = Rc::new(Connection {
        export,
        writer: Mutex::new(writer),
        pool,
        depth: Arc::new(Semaphore::new(DEPTH as usize)),
        in_flight_bytes: Arc::new(Semaphore::new(IN_FLIGHT_BYTES_MAX as usize)),
        abandon,
        abandoned,
    });
    let outcome = connection.clone().serve(reader, stop).await;
    if tokio::time::timeout(LAST_REPLIES_TIMEOUT, connection.drain()).await.is_err() {
        connection.abandon.raise();
        connection.drain().await;
    }
    // Best effort: the client may be gone.
    let _ = connection.writer.lock().await.shutdown().await;
    outcome
}

impl<E: Export + 'static, WriteHalf: AsyncWrite + Unpin + 'static> Connection<E, WriteHalf> {
    async fn serve(self: Rc<Self>, reader: &mut (impl AsyncRead + Unpin), stop: &Stop) -> io::Result<()> {
        loop {
            // A request that has not arrived whole when the stop comes has not been acknowledged either.
            let request = tokio::select! {
                () = stop.raised() => return Ok(()),
                () = self.abandoned.raised() => return Err(violation("the client takes no replies")),
                request = self.next_request(reader) => request?,
            };
            let Some(request) = request else {
                return Ok(());
            };
            spawn_local(self.clone().answer(request));
        }
    }

    /// Waits until nothing is in flight.
    async fn drain(&self) {
        self.depth.acquire_many(DEPTH).await.expect("the semaphore is never closed").forget();
        self.depth.add_permits(DEPTH as usize);
    }

    /// `None`: the client is done, in good order.
    async fn next_request(&self, reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Request>> {
        let mut header = RequestHeader::new_zeroed();
        match reader.read_exact(header.as_mut_bytes()).await {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        if header.magic.get() != wire::REQUEST_MAGIC {
            return Err(violation("a request does not begin with its magic number"));
        }
        let (kind, length_bytes) = (header.command.get(), header.length_bytes.get());
        if kind == command::DISC {
            return Ok(None);
        }
        if kind == command::WRITE && length_bytes > PAYLOAD_BYTES_MAX {
            return Err(violation("the payload of a write is too long"));
        }
        let refused = check(&*self.export, &header).err();
        let payload_bytes = match kind {
            command::WRITE => length_bytes,
            command::READ if refused.is_none() => length_bytes,
            _ => 0,
        };
        let never_closed = "the semaphore is never closed";
        let depth = self.depth.clone().acquire_owned().await.expect(never_closed);
        let in_flight_bytes = self.in_flight_bytes.clone().acquire_many_owned(payload_bytes).await.expect(never_closed);
        let mut buffer = self.pool.take(payload_bytes as usize);
        if kind == command::WRITE {
            reader.read_exact(&mut buffer).await?;
        }
        Ok(Some(Request { header, buffer, refused, _depth: depth, _in_flight_bytes: in_flight_bytes }))
    }

    async fn answer(self: Rc<Self>, mut request: Request) {
        let errno = match request.refused {
            Some(errno) => errno,
            None => self.execute(&mut request).await,
        };
        let is_read = request.header.command.get() == command::READ;
        let payload: &[u8] = if is_read && errno == errno::OK { &request.buffer } else { &[] };
        let reply =
            SimpleReply { magic: wire::SIMPLE_REPLY_MAGIC.into(), errno: errno.into(), cookie: request.header.cookie };
        let delivered = tokio::select! {
            biased;
            () = self.abandoned.raised() => return,
            delivered = self.deliver(reply.as_bytes(), payload) => delivered,
        };
        if delivered.is_err() {
            self.abandon.raise();
        }
    }

    /// The protocol's error number of a request that passed [`check`].
    async fn execute(&self, request: &mut Request) -> u32 {
        let header = &request.header;
        let (offset_bytes, length_bytes) = (header.offset_bytes.get(), u64::from(header.length_bytes.get()));
        let durable = header.flags.get() & command_flag::FUA != 0;
        let result = match header.command.get() {
            command::READ => self.export.read(offset_bytes, &mut request.buffer).await,
            command::WRITE => self.export.write(offset_bytes, &request.buffer, durable).await,
            command::WRITE_ZEROES => {
                let may_unmap = header.flags.get() & command_flag::NO_HOLE == 0;
                self.export.write_zeroes(offset_bytes, length_bytes, durable, may_unmap).await
            }
            command::TRIM => match self.export.discard(offset_bytes, length_bytes).await {
                Ok(()) if durable => self.export.flush().await,
                result => result,
            },
            command::FLUSH => self.export.flush().await,
            _ => unreachable!("check refuses every other command"),
        };
        match result {
            Ok(()) => errno::OK,
            Err(error) => {
                tracing::warn!("an NBD request failed: {error}");
                wire_errno(error.kind())
            }
        }
    }

    /// Writes one reply whole.
    async fn deliver(&self, header: &[u8], payload: &[u8]) -> io::Result<()> {
        let mut writer = self.writer.lock().await;
        let mut slices = [IoSlice::new(header), IoSlice::new(payload)];
        let mut rest = &mut slices[..];
        // Drops empty slices, too: a reply without payload is one slice.
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

/// What can be said of a request before it is tried: the protocol's error number where it must be refused.
fn check(export: &impl Export, header: &RequestHeader) -> Result<(), u32> {
    use command::{FLUSH, READ, TRIM, WRITE, WRITE_ZEROES};
    let kind = header.command.get();
    let allowed_flags = match kind {
        // Durability means nothing to a read or a flush; the protocol lets clients ask for it all the same.
        READ | WRITE | FLUSH | TRIM => command_flag::FUA,
        WRITE_ZEROES => command_flag::FUA | command_flag::NO_HOLE,
        _ => return Err(errno::EINVAL),
    };
    if header.flags.get() & !allowed_flags != 0 {
        return Err(errno::EINVAL);
    }
    let (offset_bytes, length_bytes) = (header.offset_bytes.get(), header.length_bytes.get());
    if kind == FLUSH {
        return if offset_bytes == 0 && length_bytes == 0 { Ok(()) } else { Err(errno::EINVAL) };
    }
    if kind != READ && export.read_only() {
        return Err(errno::EPERM);
    }
    let unit_bytes = u64::from(export.sector_bytes());
    let aligned = offset_bytes.is_multiple_of(unit_bytes) && u64::from(length_bytes).is_multiple_of(unit_bytes);
    let too_long = kind == READ && length_bytes > PAYLOAD_BYTES_MAX;
    if length_bytes == 0 || !aligned || too_long || (kind == TRIM && !export.can_discard()) {
        return Err(errno::EINVAL);
    }
    let inside = offset_bytes.checked_add(u64::from(length_bytes)).is_some_and(|end| end <= export.size_bytes());
    match (inside, kind) {
        (true, _) => Ok(()),
        (false, WRITE | WRITE_ZEROES) => Err(errno::ENOSPC),
        (false, _) => Err(errno::EINVAL),
    }
}
