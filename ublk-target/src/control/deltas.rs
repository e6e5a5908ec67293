//! The endpoints that backup tools live on: what changed, the content of a snapshot, and keeping it meanwhile.
//!
//! Invariants:
//! - One answer carries a bounded number of extents or bytes; whoever wants more asks again.
//! - A hold ends with its connection, however that ends.

use super::api::{ChangesPage, HoldReport, CHANGES_DEFAULT, CHANGES_MAX, DATA_BYTES_MAX};
use super::dispatch::Dispatcher;
use super::handler::{ChangesQuery, ControlHandler, OlderPoint};
use super::router::{invalid, json, snapshot_name, Answer, Failure, Name};
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{header, HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use cairn_engine::disk::AlignedBuffer;
use cairn_engine::error::{ErrorKind, Result};
use cairn_engine::snapshot::SnapshotName;
use futures_util::stream::{self, StreamExt};
use serde::Deserialize;
use std::convert::Infallible;
use std::time::Duration;

/// How often a hold gives a sign of life; a client that has gone without a word is noticed by it.
const HOLD_BEAT: Duration = Duration::from_secs(1);
/// What is wrong with a range, in the words of the HTTP layer.
const RANGE_REFUSED: &str = "range-refused";

/// The query of GET /v1/changes, as it stands in the address.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    from: Option<String>,
    to: Option<String>,
    #[serde(default)]
    offset: u64,
    max: Option<usize>,
}

impl Asked {
    fn query(self) -> Result<ChangesQuery> {
        let from = self.from.map(|text| match text.strip_prefix('#') {
            Some(bookmark) => SnapshotName::new(bookmark).map(OlderPoint::Bookmark),
            None => SnapshotName::new(&text).map(OlderPoint::Snapshot),
        });
        let max = self.max.unwrap_or(CHANGES_DEFAULT);
        if !(1..=CHANGES_MAX).contains(&max) {
            return Err(invalid(format!("max is {max}; it may be 1 to {CHANGES_MAX}")));
        }
        let to = self.to.map(|text| SnapshotName::new(&text)).transpose()?;
        Ok(ChangesQuery { from: from.transpose()?, to, offset_bytes: self.offset, max })
    }
}

/// GET /v1/changes
pub(super) async fn changes<H: ControlHandler + 'static>(
    State(target): State<Dispatcher<H>>,
    asked: std::result::Result<Query<Asked>, QueryRejection>,
) -> Answer<ChangesPage> {
    let Query(asked) = asked.map_err(|rejection| invalid(rejection.body_text()))?;
    let query = asked.query()?;
    json(target.read(move |handler| async move { handler.changes(query).await }).await)
}

/// Memory that an answer is sent from without being copied.
struct Content(AlignedBuffer);

impl AsRef<[u8]> for Content {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// GET /v1/snapshots/{name}/data
pub(super) async fn data<H: ControlHandler + 'static>(
    State(target): State<Dispatcher<H>>,
    name: Name,
    headers: HeaderMap,
) -> std::result::Result<Response, Failure> {
    let name = snapshot_name(name)?;
    let (offset_bytes, length_bytes) = range_of(&headers)?;
    let read = target.read(move |handler| async move { handler.data(name, offset_bytes, length_bytes).await });
    let (content, size_bytes) = read.await?;
    let last_byte = offset_bytes + content.len() as u64 - 1;
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_RANGE, format!("bytes {offset_bytes}-{last_byte}/{size_bytes}")),
    ];
    let body = Bytes::from_owner(Content(content));
    Ok((StatusCode::PARTIAL_CONTENT, headers, body).into_response())
}

/// The one range of bytes that is asked for: offset and length.
fn range_of(headers: &HeaderMap) -> std::result::Result<(u64, u64), Failure> {
    let refused = |why: &str| {
        let message = format!("{why}; say `Range: bytes=FIRST-LAST`, at most {DATA_BYTES_MAX} bytes at a time");
        Failure::new(StatusCode::RANGE_NOT_SATISFIABLE, RANGE_REFUSED, message, ErrorKind::Invalid.errno())
    };
    let text = headers.get(header::RANGE).ok_or_else(|| refused("there is no range"))?;
    let bounds = text.to_str().ok().and_then(|text| text.trim().strip_prefix("bytes="));
    let parsed = bounds.and_then(|bounds| bounds.split_once('-')).and_then(|(first, last)| {
        let number = |digits: &str| digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<u64>().ok())?;
        Some((number(first)?, number(last)?))
    });
    let (first, last) = parsed.ok_or_else(|| refused("the range is not understood"))?;
    match last.checked_sub(first).map(|less_one| less_one.saturating_add(1)) {
        None => Err(refused("the range ends before it begins")),
        Some(length_bytes) if length_bytes > DATA_BYTES_MAX => Err(refused("the range is too long")),
        Some(length_bytes) => Ok((first, length_bytes)),
    }
}

/// GET /v1/snapshots/{name}/hold
pub(super) async fn hold<H: ControlHandler + 'static>(
    State(target): State<Dispatcher<H>>,
    name: Name,
) -> std::result::Result<Response, Failure> {
    let name = snapshot_name(name)?;
    let held = name.to_string();
    let hold = target.call(move |handler| async move { handler.hold(name).await }).await?;
    let mut line = serde_json::to_vec(&HoldReport { held }).expect("plain data");
    line.push(b'\n');
    let first = stream::iter([Ok::<_, Infallible>(Bytes::from(line))]);
    let beats = stream::unfold(hold, |hold| async move {
        tokio::time::sleep(HOLD_BEAT).await;
        Some((Ok(Bytes::from_static(b"\n")), hold))
    });
    let headers = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((headers, Body::from_stream(first.chain(beats))).into_response())
}
