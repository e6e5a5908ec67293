//! The control API: HTTP/JSON on a Unix socket per volume. docs/CONTROL.md describes every endpoint.

pub mod api;
mod deltas;
mod dispatch;
pub mod error;
mod handler;
mod router;
mod server;
pub mod timestamp;

pub use handler::{ChangesQuery, ControlHandler, OlderPoint};
pub use server::{serve, serve_stream, CONNECTIONS_MAX, REQUEST_TIMEOUT};
