//! Questions to the target of a volume, over its control API (docs/CONTROL.md).
//!
//! Invariants:
//! - Every question has a time limit, and an answer has a length limit.
//! - A refusal becomes the status that the interface's specification has for it.

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tonic::{Code, Status};

/// How long a target may take for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// The most that is read of an answer: 65,536 extents are a tenth of it.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// The target of one volume.
#[derive(Clone, Debug)]
pub struct Target {
    socket: PathBuf,
}

/// What `GET /v1/snapshots` says of one.
#[derive(Clone, Debug, Deserialize)]
pub struct Snapshot {
    /// Its name.
    pub name: String,
    /// Greater ones are younger.
    pub epoch: u64,
    /// Size of the volume when it was taken.
    pub size_bytes: u64,
}

#[derive(Deserialize)]
struct Snapshots {
    snapshots: Vec<Snapshot>,
}

/// What `GET /v1/changes` says.
#[derive(Debug, Deserialize)]
pub struct Changes {
    /// Ascending.
    pub extents: Vec<Extent>,
    /// Where the next page begins; none on the last one.
    pub next_offset_bytes: Option<u64>,
}

/// A range that is in use or changed.
#[derive(Debug, Deserialize)]
pub struct Extent {
    /// Where it begins.
    pub offset_bytes: u64,
    /// How long it is.
    pub length_bytes: u64,
}

#[derive(Deserialize)]
struct Refusal {
    error: Reason,
}

#[derive(Deserialize)]
struct Reason {
    kind: String,
    message: String,
}

impl Target {
    /// The target that listens at `socket`.
    pub fn new(socket: PathBuf) -> Target {
        Target { socket }
    }

    /// Its snapshots, oldest first.
    pub async fn snapshots(&self) -> Result<Vec<Snapshot>, Status> {
        let answer: Snapshots = self.get("/v1/snapshots").await?;
        Ok(answer.snapshots)
    }

    /// What is in use in `to`, or what changed since `from`, from `offset_bytes` on; at most `extents_max` ranges.
    pub async fn changes(
        &self,
        from: Option<&str>,
        to: &str,
        offset_bytes: u64,
        extents_max: u32,
    ) -> Result<Changes, Status> {
        let from = from.map(|from| format!("from={from}&")).unwrap_or_default();
        self.get(&format!("/v1/changes?{from}to={to}&offset={offset_bytes}&max={extents_max}")).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Status> {
        let (status, body) = timeout(ANSWER_TIMEOUT, self.ask(path))
            .await
            .map_err(|_| Status::unavailable("the volume's target does not answer"))??;
        if status != StatusCode::OK {
            return Err(refusal(status, &body));
        }
        serde_json::from_slice(&body)
            .map_err(|error| Status::internal(format!("the target's answer is not understood: {error}")))
    }

    async fn ask(&self, path: &str) -> Result<(StatusCode, Bytes), Status> {
        let stream = connect(&self.socket).await?;
        let lost = |error: hyper::Error| Status::unavailable(format!("the volume's target went away: {error}"));
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
        let request = Request::get(path).header("host", "cairn").body(Empty::<Bytes>::new());
        let request = request.expect("names need no escaping");
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(lost)?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
            drop(sender);
            let body = body.map_err(|error| Status::unavailable(format!("the answer was cut short: {error}")))?;
            Ok((status, body.to_bytes()))
        };
        // The connection moves the bytes; that it ends is no matter of its own.
        let (answered, _) = tokio::join!(exchange, connection);
        answered
    }
}

async fn connect(socket: &Path) -> Result<UnixStream, Status> {
    UnixStream::connect(socket).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
            Status::unavailable("the volume is not attached; `cairn attach` it")
        }
        _ => Status::unavailable(format!("the volume's target cannot be reached: {error}")),
    })
}

/// `broken` is what the specification means where it speaks of tracking that is not enabled: a full backup is in order.
fn refusal(status: StatusCode, body: &[u8]) -> Status {
    let Ok(Refusal { error }) = serde_json::from_slice::<Refusal>(body) else {
        return Status::internal(format!("the target answered {status}"));
    };
    let code = match error.kind.as_str() {
        "not-found" => Code::NotFound,
        "invalid" => Code::InvalidArgument,
        "broken" => Code::FailedPrecondition,
        "busy" | "closed" | "timed-out" => Code::Unavailable,
        "no-such-endpoint" | "method-not-allowed" => Code::Unimplemented,
        _ => Code::Internal,
    };
    Status::new(code, error.message)
}
