//! Serves one Cairn volume: disks on io_uring, frontends, control API.

pub mod control;
