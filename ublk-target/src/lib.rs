//! Serves one Cairn volume: disks on io_uring, frontends, control API.

pub mod config;
pub mod control;
pub mod device;
pub mod nbd;
pub mod own_ring;
pub mod paths;
pub mod stop;
pub mod ublk;
pub mod unix_socket;
pub mod uring_disk;
