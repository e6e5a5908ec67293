//! Serves one Cairn volume: disks on io_uring, frontends, control API.

pub mod control;
pub mod nbd;
pub mod stats;
pub mod stop;
pub mod unix_socket;
