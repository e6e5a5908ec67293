//! The control socket, from its start to a stop that still answers whoever is waiting.
//!
//! Invariants:
//! - Only the owner of the socket can connect.
//! - At most [`CONNECTIONS_MAX`] connections; one more waits until one ends.
//! - A connection on which no whole request head arrives within [`REQUEST_TIMEOUT`] ends, so that nobody keeps others out
//!   by saying nothing.
//! - A stop lets commands that run finish and delivers their answers, for at most [`LAST_ANSWERS_TIMEOUT`]; a command
//!   is run to completion even then.

use super::dispatch::dispatcher;
use super::handler::ControlHandler;
use super::router::router;
use crate::stop::{stop_switch, Stop};
use crate::unix_socket::PrivateListener;
use axum::Router;
use cairn_engine::error::{Error, ErrorKind, Result};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use rustix::net::sockopt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio::sync::Semaphore;

/// Connections at a time.
pub const CONNECTIONS_MAX: usize = 64;
/// How long a client has to send the head of a request, and as long again for its body.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long clients have to take their answers after a stop.
const LAST_ANSWERS_TIMEOUT: Duration = Duration::from_secs(5);
/// What is on its way to a client: a snapshot's content goes through here.
const SEND_BUFFER_BYTES: usize = 1 << 20;
/// How long to wait when the host cannot give another descriptor.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Serves the control API on `listener` until `stop` is raised. Runs on the `LocalSet` of a tokio runtime; the handler
/// is used on this thread only.
pub async fn serve<H: ControlHandler + 'static>(handler: Rc<H>, listener: PrivateListener, stop: Stop) -> Result<()> {
    let failed = |error| Error::new(ErrorKind::Io, "serve", "control socket").caused_by(Box::new(error));
    let (listener, _name) = listener.into_parts();
    let listener = UnixListener::from_std(listener).map_err(failed)?;
    let (dispatcher, inbox) = dispatcher();
    // In a task of its own, so that running commands go on when a client is given up.
    let commands = tokio::task::spawn_local(inbox.run(handler, stop.clone()));
    let connections = GracefulShutdown::new();
    accept(&listener, router(dispatcher), &connections, &stop).await;
    if tokio::time::timeout(LAST_ANSWERS_TIMEOUT, connections.shutdown()).await.is_err() {
        tracing::warn!("a client of the control socket did not take its answer");
    }
    commands.await.map_err(|error| {
        let failure = Error::new(ErrorKind::Io, "serve", "control socket");
        failure.saying("a command panicked").caused_by(error)
    })
}

/// Serves one client that is connected already, over any stream, until it leaves. Runs on a `LocalSet`. An error says
/// what of the client was no HTTP.
pub async fn serve_stream<H: ControlHandler + 'static>(
    handler: Rc<H>,
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
) -> std::result::Result<(), hyper::Error> {
    let (switch, stop) = stop_switch();
    let (dispatcher, inbox) = dispatcher();
    let commands = tokio::task::spawn_local(inbox.run(handler, stop));
    let service = TowerToHyperService::new(router(dispatcher));
    let served = http().serve_connection(TokioIo::new(stream), service).await;
    switch.raise();
    commands.await.expect("a command that panics ends the process");
    served
}

/// What every connection speaks, and how long it may be silent.
fn http() -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(REQUEST_TIMEOUT);
    http
}

async fn accept(listener: &UnixListener, router: Router, connections: &GracefulShutdown, stop: &Stop) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let http = http();
    loop {
        let next = async {
            let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = stop.raised() => return,
            next = next => next,
        };
        match accepted {
            Ok((stream, _)) => {
                // Without the right to it, or with less of it, answers come in smaller pieces.
                let _ = sockopt::set_socket_send_buffer_size_force(&stream, SEND_BUFFER_BYTES);
                let service = TowerToHyperService::new(router.clone());
                let connection = connections.watch(http.serve_connection(TokioIo::new(stream), service));
                tokio::task::spawn_local(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!(%error, "a connection of the control socket ended early");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a client of the control socket could not be accepted");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}
