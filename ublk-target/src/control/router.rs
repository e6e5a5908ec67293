//! Endpoints: what may be asked, and what a well-formed request is.
//!
//! Invariants:
//! - Every answer is JSON, errors included.
//! - Nothing reaches the handler that does not parse, has unknown keys, an illegal name or a value out of range.

use super::api::{
    CheckRequest, DeleteReport, ErrorDetail, ErrorReport, ExposeRequest, GrowRequest, RestoreRequest, SnapshotRequest,
    UnexposeReport, VersionReport, API_VERSION, BODY_BYTES_MAX, FREEZE_TIMEOUT_MS_MAX,
};
use super::deltas;
use super::dispatch::Dispatcher;
use super::error::status;
use super::handler::ControlHandler;
use super::server::REQUEST_TIMEOUT;
use axum::body::Bytes;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, FromRequest, Path, Query, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use cairn_engine::error::{Error, ErrorKind, Result};
use cairn_engine::snapshot::SnapshotName;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What is wrong with the request, in the words of the HTTP layer.
const NO_SUCH_ENDPOINT: &str = "no-such-endpoint";
const METHOD_NOT_ALLOWED: &str = "method-not-allowed";
const BODY_REFUSED: &str = "body-refused";

/// What an endpoint answers.
pub(super) type Answer<T> = std::result::Result<Json<T>, Failure>;
/// A body as it arrived, or why it did not.
struct Body(std::result::Result<Bytes, Failure>);
/// A name out of the path, or why there is none.
pub(super) type Name = std::result::Result<Path<String>, PathRejection>;

/// What a snapshot leaves that is deleted.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keep {
    keep: Option<String>,
}

/// Anything but a success.
pub(super) struct Failure {
    status: StatusCode,
    report: ErrorReport,
}

impl Failure {
    pub(super) fn new(status: StatusCode, kind: &str, message: impl Into<String>, errno: i32) -> Failure {
        let error = ErrorDetail { kind: kind.to_owned(), message: message.into(), errno };
        Failure { status, report: ErrorReport { error } }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure { status: status(error.kind()), report: ErrorReport::from(&error) }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status, Json(self.report)).into_response()
    }
}

/// All endpoints, answered by the handler behind `dispatcher`.
pub(super) fn router<H: ControlHandler + 'static>(dispatcher: Dispatcher<H>) -> Router {
    Router::new()
        .route("/v1/version", get(version))
        .route("/v1/volume", get(volume::<H>))
        .route("/v1/snapshots", get(snapshots::<H>).post(snapshot::<H>))
        .route("/v1/snapshots/{name}", delete(delete_snapshot::<H>))
        .route("/v1/changes", get(deltas::changes::<H>))
        .route("/v1/snapshots/{name}/data", get(deltas::data::<H>))
        .route("/v1/snapshots/{name}/hold", get(deltas::hold::<H>))
        .route("/v1/snapshots/{name}/expose", post(expose::<H>).delete(unexpose::<H>))
        .route("/v1/restore", post(restore::<H>))
        .route("/v1/grow", post(grow::<H>))
        .route("/v1/stats", get(stats::<H>))
        .route("/v1/check", post(check::<H>))
        .route("/v1/detach", post(detach::<H>))
        .fallback(no_such_endpoint)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(dispatcher)
}

async fn no_such_endpoint() -> Failure {
    let message = format!("there is no such endpoint in version {API_VERSION} of the control API");
    Failure::new(StatusCode::NOT_FOUND, NO_SUCH_ENDPOINT, message, ErrorKind::NotFound.errno())
}

async fn method_not_allowed() -> Failure {
    let message = "the endpoint does not take this method; docs/CONTROL.md lists those it takes";
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, METHOD_NOT_ALLOWED, message, ErrorKind::Invalid.errno())
}

pub(super) fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, "control", "request").saying(message)
}

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = std::convert::Infallible;

    async fn from_request(request: Request, state: &S) -> std::result::Result<Body, Self::Rejection> {
        let refused = |status: StatusCode, why: &str| {
            let message = format!("the body was refused: {why}; it may have {BODY_BYTES_MAX} bytes");
            Failure::new(status, BODY_REFUSED, message, ErrorKind::Invalid.errno())
        };
        Ok(Body(match tokio::time::timeout(REQUEST_TIMEOUT, Bytes::from_request(request, state)).await {
            Ok(read) => read.map_err(|rejection| refused(rejection.status(), &rejection.body_text())),
            Err(_) => Err(refused(StatusCode::REQUEST_TIMEOUT, "it did not arrive in time")),
        }))
    }
}

fn parse<T: DeserializeOwned>(body: Body) -> std::result::Result<T, Failure> {
    let parsed = serde_json::from_slice(&body.0?);
    Ok(parsed.map_err(|error| invalid(format!("the body is not what this endpoint takes: {error}")))?)
}

/// As [`parse`]; an empty body stands for the default.
fn parse_or_default<T: DeserializeOwned + Default>(body: Body) -> std::result::Result<T, Failure> {
    let bytes = body.0?;
    if bytes.is_empty() {
        return Ok(T::default());
    }
    parse(Body(Ok(bytes)))
}

pub(super) fn snapshot_name(name: Name) -> Result<SnapshotName> {
    let Path(name) = name.map_err(|rejection| invalid(rejection.body_text()))?;
    SnapshotName::new(&name)
}

pub(super) fn json<T: Serialize>(result: Result<T>) -> Answer<T> {
    Ok(Json(result?))
}

async fn version() -> Json<VersionReport> {
    Json(VersionReport {
        api: API_VERSION,
        program: env!("CARGO_PKG_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

async fn volume<H: ControlHandler + 'static>(State(target): State<Dispatcher<H>>) -> Response {
    json(target.call(|handler| async move { handler.volume().await }).await).into_response()
}

async fn snapshots<H: ControlHandler + 'static>(State(target): State<Dispatcher<H>>) -> Response {
    json(target.call(|handler| async move { handler.snapshots().await }).await).into_response()
}

async fn snapshot<H: ControlHandler + 'static>(
    State(target): State<Dispatcher<H>>,
    body: Body,
) -> std::result::Result<Response, Failure> {
    let request: SnapshotRequest = parse(body)?;
    let name = SnapshotName::new(&request.name)?;
    let limit = match request.freeze_timeout_ms {
        Some(timeout_ms) if !(1..=FREEZE_TIMEOUT_MS_MAX).contains(&timeout_ms) => {
            let message = format!("freeze_timeout_ms is {timeout_ms}; it may be 1 to {FREEZE_TIMEOUT_MS_MAX}");
            return Err(invalid(message).into());
        }
        timeout_ms => timeout_ms.map(Duration::from_millis),
    };
    let consistency = request.consistency;
    let taken = target.call(move |handler| async move { handler.snapshot(name, consistency, limit).await }).await?;
    Ok(Json(taken).into_response())
}

async fn delete_snapshot<H: ControlHandler + 'static>(
    State(target): State<Dispatcher<H>>,
    name: Name,
    keep: std::result::Result<Query<Keep>, QueryRejection>,
) -> Answer<DeleteReport> {
    let name = snapshot_name(name)?;
    let deleted = name.to_string();
    let Query(Keep { keep }) = keep.map_err(|rejection| invalid(rejection.body_text()))?;
    let bookmark = match keep.as_deref() {
        None => false,
        Some("bookmark") => true,
        Some(_) => return Err(invalid("keep may be `bookmark`").into()),
    };
    target.call(move |handler| async move { handler.delete(name, bookmark).await }).await?;
    Ok(Json(DeleteReport { deleted, bookmark }))
}

async fn expose<H: ControlHandler + 'static>(
    State(target): State<Dispatcher<H>>,
    name: Name,
    body: Body,
) -> std::result::Result<Response, Failure> {
    let name = snapshot_name(name)?;
    let ExposeRequest { scratch } = parse_or_default(body)?;
    let exposed = target.call(move |handler| async move { handler.expose(name, scratch).await }).await?;
    Ok(Json(exposed).into_response())
}

async fn unexpose<H: ControlHandler + 'static>(
    State(target): State<Dispatcher<H>>,
    name: Name,
) -> Answer<UnexposeReport> {
    let name = snapshot_name(name)?;
    let unexposed = name.to_string();
    target.call(move |handler| async move { handler.unexpose(name).await }).await?;
    Ok(Json(UnexposeReport { unexposed }))
}

async fn restore<H: ControlHandler + 'static>(
    State(target): State<Dispatcher<H>>,
    body: Body,
) -> std::result::Result<Response, Failure> {
    let request: RestoreRequest = parse(body)?;
    let snapshot = SnapshotName::new(&request.snapshot)?;
    let before = request.before.as_deref().map(SnapshotName::new).transpose()?;
    let restored = target.call(move |handler| async move { handler.restore(snapshot, before).await }).await?;
    Ok(Json(restored).into_response())
}

async fn grow<H: ControlHandler + 'static>(
    State(target): State<Dispatcher<H>>,
    body: Body,
) -> std::result::Result<Response, Failure> {
    let request: GrowRequest = parse(body)?;
    if !request.volume && request.store_bytes.is_none() {
        return Err(invalid("nothing to grow: set volume to true, or store_bytes, or both").into());
    }
    let grown = target.call(move |handler| async move { handler.grow(request).await }).await?;
    Ok(Json(grown).into_response())
}

async fn stats<H: ControlHandler + 'static>(State(target): State<Dispatcher<H>>) -> Response {
    json(target.call(|handler| async move { handler.stats().await }).await).into_response()
}

async fn check<H: ControlHandler + 'static>(
    State(target): State<Dispatcher<H>>,
    body: Body,
) -> std::result::Result<Response, Failure> {
    let CheckRequest { data } = parse_or_default(body)?;
    let checked = target.call(move |handler| async move { handler.check(data).await }).await?;
    Ok(Json(checked).into_response())
}

async fn detach<H: ControlHandler + 'static>(State(target): State<Dispatcher<H>>) -> Response {
    json(target.call(|handler| async move { handler.detach().await }).await).into_response()
}
