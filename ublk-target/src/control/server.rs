//! The control socket, from its start to a stop that still answers whoever is waiting.
//!
//! Invariants:
//! - Only the owner of the socket can connect.
//! - A stop lets commands that run finish and delivers their answers, for at most [`LAST_ANSWERS_TIMEOUT`]; a command
//!   is run to completion even then.

use super::dispatch::dispatcher;
use super::handler::ControlHandler;
use super::router::router;
use crate::stop::Stop;
use crate::unix_socket::PrivateListener;
use cairn_engine::error::{Error, ErrorKind, Result};
use std::future::IntoFuture;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::UnixListener;

/// How long clients have to take their answers after a stop.
const LAST_ANSWERS_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves the control API on `listener` until `stop` is raised. Runs on the `LocalSet` of a tokio runtime; the handler
/// is used on this thread only.
pub async fn serve<H: ControlHandler + 'static>(handler: Rc<H>, listener: PrivateListener, stop: Stop) -> Result<()> {
    let failed = |error| Error::new(ErrorKind::Io, "serve", "control socket").caused_by(Box::new(error));
    let (listener, _name) = listener.into_parts();
    let listener = UnixListener::from_std(listener).map_err(failed)?;
    let (dispatcher, inbox) = dispatcher();
    let graceful = stop.clone();
    let http = axum::serve(listener, router(dispatcher))
        .with_graceful_shutdown(async move { graceful.raised().await })
        .into_future();
    // In a task of its own, so that running commands go on when the HTTP server is given up.
    let commands = tokio::task::spawn_local(inbox.run(handler, stop.clone()));
    let given_up = async {
        stop.raised().await;
        tokio::time::sleep(LAST_ANSWERS_TIMEOUT).await;
    };
    tokio::select! {
        served = http => served.map_err(failed)?,
        () = given_up => tracing::warn!("a client of the control socket did not take its answer"),
    }
    commands.await.map_err(|error| {
        let failure = Error::new(ErrorKind::Io, "serve", "control socket");
        failure.saying("a command panicked").caused_by(error)
    })
}
