//! Talks to an attached volume: HTTP with JSON on the Unix socket of its target.
//!
//! Invariants:
//! - Every request has a time limit; none can hang the command.
//! - "The target is not running" is a failure of its own kind, whatever way it shows.

use crate::connection::{Connection, Question};
use crate::exit::{ExitCode, Failure};
use cairn_target::control::api::ErrorReport;
use cairn_target::control::error::kind_of_word;
use hyper::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Time limit of requests that only look.
pub const LOOK_TIMEOUT_MS: u64 = 10_000;
/// Time limit of requests that change something.
pub const CHANGE_TIMEOUT_MS: u64 = 120_000;
/// Time limit of requests that may read a whole store.
pub const CHECK_TIMEOUT_MS: u64 = 24 * 3600 * 1000;

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

    /// The socket its target listens at.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The volume it is of.
    pub fn volume(&self) -> &str {
        &self.volume
    }

    fn request<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        limit_ms: u64,
    ) -> Result<T, Failure> {
        let body = body.unwrap_or_default();
        let mut connection = Connection::open(&self.volume, &self.socket)?;
        let (status, answer) = connection.ask(Question { method, path, range: None, body, limit_ms })?;
        self.decode(status, &answer)
    }

    /// What an answer says, or why there is none.
    pub fn decode<T: DeserializeOwned>(&self, status: StatusCode, answer: &[u8]) -> Result<T, Failure> {
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

    /// The failure that an answer without success stands for.
    pub fn refusal(&self, status: StatusCode, answer: &[u8]) -> Failure {
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
