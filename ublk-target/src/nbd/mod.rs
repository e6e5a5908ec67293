//! The NBD frontend: the volume read-write as `VOL`, its snapshots read-only as `VOL@SNAP`.
//!
//! The protocol logic is ours, the sockets are tokio's. Everything runs on one thread: a current-thread runtime with a
//! `LocalSet`, so that all connections share one lane, which is what makes them safe to use side by side (multi-conn).
//! A connection is greeted (`options.rs`), secured where it must be (`tls.rs`), negotiates (`handshake.rs`), and then
//! sends requests (`request.rs`, `transmission.rs`) that are answered in the style agreed on (`reply.rs`).

mod block_facts;
mod buffers;
mod context;
mod export;
mod handshake;
mod options;
mod reply;
mod request;
mod server;
mod sessions;
mod tls;
mod transmission;
mod volume_export;
mod wire;

pub use context::{status, Context, Extent, Extents, Subject};
pub use export::{Export, ExportSource};
pub use server::{serve, serve_stream, unix_uri, ListenOptions, Listeners, CONNECTIONS_MAX, HANDSHAKE_TIMEOUT};
pub use sessions::{Reservation, Session, Sessions};
pub use tls::TlsCredentials;
pub use volume_export::{NamedExport, SnapshotExport, VolumeExport, VolumeSource};

/// Largest payload of one read or write; larger ones are refused.
pub const PAYLOAD_BYTES_MAX: u32 = 32 << 20;
