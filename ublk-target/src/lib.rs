//! Serves one Cairn volume: disks on io_uring, frontends, control API.

pub mod config;
pub mod control;
pub mod paths;
