//! Talks to an attached volume: HTTP with JSON on the Unix socket of its target.
//!
//! Invariants:
//! - Every request has a time limit; none can hang the command.
//! - "The target is not running" is a failure of its own kind, whatever way it shows.

use crate::exit::{ExitCode, Failure};
use cairn_target::control::api::ErrorReport;
use cairn_target::control::error::kind_of_word;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde::Serialize;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;

/// Time limit of requests that only look.
pub const LOOK_TIMEOUT_MS: u64 = 10_000;
/// Time limit of requests that change something.
pub const CHANGE_TIMEOUT_MS: u64 = 120_000;
/// Time limit of requests that may read a whole store.
pub const CHECK_TIMEOUT_MS: u64 = 24 * 3600 * 1000;
/// An answer is at most this long: a thousand findings or snapshots fit many times over.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A connection to one volume's target.
pub struct Client {
    volume: String,
    socket: PathBuf,
}

impl Client {
    /// A client of the target that serves `volume` at `socket`; connects with each request.
    pub fn new(volume: &str, socket: &Path) -> Client {
        Client { volume: volume.to_owned(), socket: socket.to_owned() }
    }

    /// GET: asks for what is at `path`.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.request(Method::GET, path, None, LOOK_TIMEOUT_MS)
    }

    /// POST of `body` to `path`, with a time limit.
    pub fn post<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B, limit_ms: u64) -> Result<T, Failure> {
        let body = serde_json::to_vec(body).expect("requests are plain data");
        self.request(Method::POST, path, Some(body), limit_ms)
    }

    /// DELETE of what is at `path`.
    pub fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.request(Method::DELETE, path, None, CHANGE_TIMEOUT_MS)
    }

    /// Whether a target answers at the socket.
    pub fn is_attached(&self) -> bool {
        self.get::<serde_json::Value>("/v1/version").is_ok()
    }

    fn request<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        limit_ms: u64,
    ) -> Result<T, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::new(ExitCode::Failed, format!("no event loop: {error}")))?;
        let limit = Duration::from_millis(limit_ms);
        let exchange = async { tokio::time::timeout(limit, self.exchange(method, path, body)).await };
        let (status, answer) = runtime.block_on(exchange).map_err(|_| {
            Failure::new(
                ExitCode::TimedOut,
                format!(
                    "{}: the target did not answer within {} s; it may still do what was asked. \
                     See `cairn show {}`, and the target's log.",
                    self.volume,
                    limit_ms / 1000,
                    self.volume
                ),
            )
        })??;
        self.decode(status, &answer)
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.not_connected(&error))?;
        let broken = |error: &dyn std::error::Error| {
            Failure::new(
                ExitCode::Failed,
                format!(
                    "{}: the target went away while answering ({error}); it is restarted by itself. \
                     See `cairn show {}` for what was done.",
                    self.volume, self.volume
                ),
            )
        };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "cairn")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|error| Failure::new(ExitCode::Failed, format!("{path}: {error}")))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| broken(error.as_ref()))?;
            Ok((status, body.to_bytes()))
        };
        // The connection is driven beside the exchange; its own errors show in the exchange too.
        let drive = async {
            let _ = connection.await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            answer = exchange => answer,
            () = drive => unreachable!("the driver never ends before the exchange"),
        }
    }

    fn not_connected(&self, error: &std::io::Error) -> Failure {
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => Failure::new(
                ExitCode::NotAttached,
                format!("{}: the volume is not attached. Attach it: cairn attach {}", self.volume, self.volume),
            ),
            ErrorKind::PermissionDenied => Failure::new(
                ExitCode::Failed,
                format!("{}: no access to {}; run cairn as root", self.volume, self.socket.display()),
            ),
            _ => Failure::io("connect", &self.socket, std::io::Error::from(error.kind())),
        }
    }

    fn decode<T: DeserializeOwned>(&self, status: StatusCode, answer: &[u8]) -> Result<T, Failure> {
        if !status.is_success() {
            return Err(self.refusal(status, answer));
        }
        let answer = if answer.is_empty() { b"null" } else { answer };
        serde_json::from_slice(answer).map_err(|error| {
            Failure::new(
                ExitCode::Failed,
                format!(
                    "{}: the target's answer is not understood ({error}); cairn and cairn-target may be of different \
                     versions, see `cairn version`",
                    self.volume
                ),
            )
        })
    }

    fn refusal(&self, status: StatusCode, answer: &[u8]) -> Failure {
        match serde_json::from_slice::<ErrorReport>(answer) {
            Ok(ErrorReport { error }) => Failure {
                code: code_of(&error.kind, status),
                message: format!("{}: {}", self.volume, error.message),
                kind: error.kind,
            },
            Err(_) => Failure::new(ExitCode::Failed, format!("{}: the target answered {status}", self.volume)),
        }
    }
}

/// The exit code for an error of the control API; words of a newer version are judged by the status.
fn code_of(word: &str, status: StatusCode) -> ExitCode {
    match kind_of_word(word) {
        Some(kind) => ExitCode::of_kind(kind),
        None if status == StatusCode::NOT_FOUND => ExitCode::NotFound,
        None if status == StatusCode::CONFLICT => ExitCode::Busy,
        None => ExitCode::Failed,
    }
}
