//! The SnapshotMetadata service of the Container Storage Interface (CSI), for volumes of Cairn that are attached here.
//!
//! A gRPC server on a Unix socket, made to sit beside the community's external-snapshot-metadata sidecar. A snapshot's
//! identifier is `VOL@SNAP`; as the base of a delta `VOL#NAME`, a bookmark, serves, too. Everything it says comes from
//! the control API of the volume's target (docs/CONTROL.md), so it holds no state and may be killed at any time.
//!
//! - `messages.rs`: the messages of the interface, by the numbers of its published definition
//! - `routes.rs`: which call goes where
//! - `service.rs`: the two calls, and the specification's errors
//! - `control.rs`: questions to a target

pub mod control;
pub mod messages;
pub mod routes;
pub mod service;
pub mod snapshot_id;
