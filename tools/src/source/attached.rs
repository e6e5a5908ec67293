//! The snapshots of an attached volume, read through its target.
//!
//! Invariants:
//! - Connections are used again; one on which something failed is not.

use super::{Facts, Hold, SnapshotSource};
use crate::client::{Client, LOOK_TIMEOUT_MS};
use crate::connection::{not_connected, Body, Connection, Content, Question};
use crate::exit::{ExitCode, Failure};
use cairn_target::control::api::{ChangesPage, SnapshotList, VolumeReport, DATA_BYTES_MAX};
use hyper::{Method, StatusCode};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long a look for changes, or a read of a piece, may take.
const READ_TIMEOUT_MS: u64 = 120_000;

/// The snapshots of a volume that a target serves.
pub struct Attached {
    client: Client,
    facts: Facts,
    idle: Mutex<Vec<Connection>>,
}

impl Attached {
    /// Asks the target who it is. Fails with `NotAttached` where there is none.
    pub fn open(client: Client) -> Result<Attached, Failure> {
        let volume: VolumeReport = client.get("/v1/volume")?;
        let SnapshotList { snapshots, bookmarks, .. } = client.get("/v1/snapshots")?;
        let id = |text: &str| {
            text.parse().map_err(|_| Failure::new(ExitCode::Failed, format!("{text}: the target gave this as an id")))
        };
        let facts = Facts {
            volume_id: id(&volume.volume_id)?,
            store_id: id(&volume.store_id)?,
            volume: volume.name,
            snapshots,
            bookmarks,
        };
        Ok(Attached { client, facts, idle: Mutex::default() })
    }

    fn ask(&self, path: &str, range: Option<(u64, u64)>, body: &mut Body<'_, '_>) -> Result<StatusCode, Failure> {
        let spare = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = match spare {
            Some(connection) => connection,
            None => Connection::open(self.client.volume(), self.client.socket())?,
        };
        let question = Question { method: Method::GET, path, range, body: Vec::new(), limit_ms: READ_TIMEOUT_MS };
        let status = connection.ask_into(question, body)?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        Ok(status)
    }
}

impl SnapshotSource for Attached {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn changes(
        &self,
        from: Option<&str>,
        to: Option<&str>,
        offset_bytes: u64,
        max: usize,
    ) -> Result<ChangesPage, Failure> {
        let mut path = format!("/v1/changes?offset={offset_bytes}&max={max}");
        for (key, name) in [("from", from), ("to", to)] {
            if let Some(name) = name {
                path.push_str(&format!("&{key}={}", name.replace('#', "%23")));
            }
        }
        let mut answer = Vec::new();
        let status = self.ask(&path, None, &mut Body::Whole(&mut answer))?;
        self.client.decode(status, &answer)
    }

    fn read(&self, snapshot: &str, offset_bytes: u64, buffer: &mut [u8]) -> Result<(), Failure> {
        let path = format!("/v1/snapshots/{snapshot}/data");
        let mut offset = offset_bytes;
        for piece in buffer.chunks_mut(DATA_BYTES_MAX as usize) {
            let (range, piece_bytes) = ((offset, offset + piece.len() as u64 - 1), piece.len());
            let mut content = Content::of(piece);
            let status = self.ask(&path, Some(range), &mut Body::Content(&mut content))?;
            if status != StatusCode::PARTIAL_CONTENT {
                return Err(self.client.refusal(status, &content.refusal));
            }
            if content.length_bytes != piece_bytes {
                let message = format!("{}@{snapshot}: it is shorter than it said", self.facts.volume);
                return Err(Failure::new(ExitCode::Failed, message));
            }
            offset += piece_bytes as u64;
        }
        Ok(())
    }

    fn hold(&self, snapshot: &str) -> Result<Box<dyn Hold>, Failure> {
        let socket = self.client.socket();
        let stream = UnixStream::connect(socket);
        let mut stream = stream.map_err(|error| not_connected(self.client.volume(), socket, &error))?;
        let failed = |error| Failure::io("hold the snapshot", socket, error);
        stream.set_read_timeout(Some(Duration::from_millis(LOOK_TIMEOUT_MS))).map_err(failed)?;
        let request = format!("GET /v1/snapshots/{snapshot}/hold HTTP/1.1\r\nHost: cairn\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).map_err(failed)?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).map_err(failed)?;
            head.push(byte[0]);
        }
        if head.starts_with(b"HTTP/1.1 200 ") {
            return Ok(Box::new(OpenHold { _stream: stream }));
        }
        let mut body = Vec::new();
        stream.read_to_end(&mut body).map_err(failed)?;
        Err(self.client.refusal(StatusCode::CONFLICT, &body))
    }
}

/// A hold ends with its connection.
struct OpenHold {
    _stream: UnixStream,
}

impl Hold for OpenHold {}
