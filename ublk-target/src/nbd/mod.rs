//! The NBD frontend: the volume read-write as `VOL`, its snapshots read-only as `VOL@SNAP`.
//!
//! The protocol logic is ours, the sockets are tokio's. Everything runs on one thread: a current-thread runtime with a
//! `LocalSet`, so that all connections share one lane, which is what makes them safe to use side by side (multi-conn).
//! Structured replies and block status belong beside simple replies in `transmission.rs` and `wire.rs`.

mod buffers;
mod export;
mod handshake;
mod server;
mod sessions;
mod transmission;
mod volume_export;
mod wire;

pub use export::{Export, ExportSource};
pub use server::{serve, serve_stream, unix_uri, ListenOptions, Listeners, CONNECTIONS_MAX, HANDSHAKE_TIMEOUT};
pub use sessions::{Reservation, Session, Sessions};
pub use volume_export::{NamedExport, SnapshotExport, VolumeExport, VolumeSource};

/// Largest payload of one read or write; larger ones are refused.
pub const PAYLOAD_BYTES_MAX: u32 = 32 << 20;
