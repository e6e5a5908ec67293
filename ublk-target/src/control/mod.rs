//! The control API: HTTP/JSON on a Unix socket per volume. docs/CONTROL.md describes every endpoint.

pub mod api;
pub mod error;
pub mod timestamp;
