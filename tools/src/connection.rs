//! One connection to the control socket of a target, for one request after the other.
//!
//! Invariants:
//! - Every request has a time limit; none can hang the command.
//! - A connection on which a request failed is not used again.

use crate::exit::{ExitCode, Failure};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

/// An answer is at most this long: a thousand findings or snapshots fit many times over.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// What to ask for.
pub struct Question<'a> {
    /// What to do.
    pub method: Method,
    /// With what.
    pub path: &'a str,
    /// Which bytes of it: first and last.
    pub range: Option<(u64, u64)>,
    /// JSON, where the method takes some.
    pub body: Vec<u8>,
    /// How long the answer may take, in milliseconds.
    pub limit_ms: u64,
}

/// A connection that stands.
pub struct Connection {
    volume: String,
    sender: SendRequest<Full<Bytes>>,
    runtime: Runtime,
}

impl Connection {
    /// Connects to the target that serves `volume` at `socket`.
    pub fn open(volume: &str, socket: &Path) -> Result<Connection, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::new(ExitCode::Failed, format!("no event loop: {error}")))?;
        let sender = runtime.block_on(async {
            let stream = UnixStream::connect(socket).await.map_err(|error| not_connected(volume, socket, &error))?;
            let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
            let (sender, connection) = handshake.map_err(|error| broken(volume, &error))?;
            // Its own errors show in the requests too.
            tokio::spawn(connection);
            Ok::<_, Failure>(sender)
        })?;
        Ok(Connection { volume: volume.to_owned(), sender, runtime })
    }

    /// Asks, and waits for the whole answer.
    pub fn ask(&mut self, question: Question<'_>) -> Result<(StatusCode, Bytes), Failure> {
        let mut body = Vec::new();
        let status = self.ask_into(question, &mut Body::Whole(&mut body))?;
        Ok((status, Bytes::from(body)))
    }

    /// Asks, and puts the answer where the caller wants it.
    pub fn ask_into(&mut self, question: Question<'_>, body: &mut Body<'_, '_>) -> Result<StatusCode, Failure> {
        let limit = Duration::from_millis(question.limit_ms);
        let Connection { volume, sender, runtime } = self;
        let answered =
            runtime.block_on(async { tokio::time::timeout(limit, exchange(volume, sender, question, body)).await });
        answered.map_err(|_| late(volume, limit))?
    }
}

/// Where an answer goes.
pub enum Body<'a, 'room> {
    /// All of it.
    Whole(&'a mut Vec<u8>),
    /// Content, or an answer that is none.
    Content(&'a mut Content<'room>),
}

/// Room for the content that was asked for.
pub struct Content<'a> {
    /// Where it goes.
    pub room: &'a mut [u8],
    /// How much of it has come.
    pub length_bytes: usize,
    /// What the target answered instead.
    pub refusal: Vec<u8>,
}

impl<'a> Content<'a> {
    /// Room that nothing has come to yet.
    pub fn of(room: &'a mut [u8]) -> Content<'a> {
        Content { room, length_bytes: 0, refusal: Vec::new() }
    }

    fn add(&mut self, piece: &[u8]) -> Result<(), &'static str> {
        let end = self.length_bytes + piece.len();
        let place = self.room.get_mut(self.length_bytes..end).ok_or("the answer is longer than what was asked for")?;
        place.copy_from_slice(piece);
        self.length_bytes = end;
        Ok(())
    }
}

impl Body<'_, '_> {
    fn add(&mut self, status: StatusCode, piece: &Bytes) -> Result<(), &'static str> {
        let whole = match self {
            Body::Content(content) if status == StatusCode::PARTIAL_CONTENT => return content.add(piece),
            Body::Content(content) => &mut content.refusal,
            Body::Whole(whole) => &mut **whole,
        };
        if whole.len() + piece.len() > ANSWER_BYTES_MAX {
            return Err("the answer is too long");
        }
        whole.extend_from_slice(piece);
        Ok(())
    }
}

async fn exchange(
    volume: &str,
    sender: &mut SendRequest<Full<Bytes>>,
    question: Question<'_>,
    answer: &mut Body<'_, '_>,
) -> Result<StatusCode, Failure> {
    let Question { method, path, range, body, .. } = question;
    let mut request = Request::builder().method(method).uri(path).header("host", "cairn");
    request = match range {
        Some((first, last)) => request.header("range", format!("bytes={first}-{last}")),
        None => request.header("content-type", "application/json"),
    };
    let request = request.body(Full::new(Bytes::from(body)));
    let request = request.map_err(|error| Failure::new(ExitCode::Failed, format!("{path}: {error}")))?;
    sender.ready().await.map_err(|error| broken(volume, &error))?;
    let mut response = sender.send_request(request).await.map_err(|error| broken(volume, &error))?;
    let status = response.status();
    while let Some(frame) = response.body_mut().frame().await {
        let frame = frame.map_err(|error| broken(volume, &error))?;
        if let Some(piece) = frame.data_ref() {
            answer.add(status, piece).map_err(|why| Failure::new(ExitCode::Failed, format!("{volume}: {why}")))?;
        }
    }
    Ok(status)
}

fn late(volume: &str, limit: Duration) -> Failure {
    let message = format!(
        "{volume}: the target did not answer within {} s; it may still do what was asked. \
         See `cairn show {volume}`, and the target's log.",
        limit.as_secs(),
    );
    Failure::new(ExitCode::TimedOut, message)
}

fn broken(volume: &str, error: &dyn std::error::Error) -> Failure {
    let message = format!(
        "{volume}: the target went away while answering ({error}); it is restarted by itself. \
         See `cairn show {volume}` for what was done."
    );
    Failure::new(ExitCode::Failed, message)
}

/// Why there is no connection.
pub fn not_connected(volume: &str, socket: &Path, error: &std::io::Error) -> Failure {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => Failure::new(
            ExitCode::NotAttached,
            format!("{volume}: the volume is not attached. Attach it: cairn attach {volume}"),
        ),
        ErrorKind::PermissionDenied => {
            Failure::new(ExitCode::Failed, format!("{volume}: no access to {}; run cairn as root", socket.display()))
        }
        _ => Failure::io("connect", &PathBuf::from(socket), std::io::Error::from(error.kind())),
    }
}
