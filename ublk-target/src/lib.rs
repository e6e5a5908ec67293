//! Serves one Cairn volume: disks on io_uring, frontends, control API.

pub mod audit;
pub mod broken_log;
pub mod config;
pub mod control;
#[cfg(feature = "crash-at")]
pub mod crash_at;
pub mod device;
pub mod memory;
pub mod nbd;
pub mod own_ring;
pub mod paths;
pub mod process;
pub mod readiness;
pub mod run_state;
pub mod scratch;
pub mod serve;
pub mod stats;
pub mod stop;
pub mod supervise;
pub mod ublk;
pub mod unix_socket;
pub mod uring_disk;
