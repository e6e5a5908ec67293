//! The real system-call path: the engine with its io_uring disks on devices that log every request, or fail some.
//!
//! Below each disk stands `nbdfuse` over a `qemu-storage-daemon` (see `chain`). From the logs the images of a power cut
//! at any instant are built, recovered in this process and held against the reference model: so a system call that is
//! missing, goes to the wrong descriptor or comes too early shows, which no simulated disk can show.
//!
//! `CAIRN_LOG_REPLAY_POINTS` asks for more power cuts than a push does, `CAIRN_LOG_REPLAY_SEED` for other runs.

mod chain;
mod faults;
mod judge;
mod machine;
mod recording;
mod replay;
mod sampled_disk;
mod timeline;
mod watchdog;
mod workload;
mod write_log;

mod durable_writes;
mod failing_devices;
mod power_cuts;

/// The unit of tears.
const SECTOR_BYTES: usize = 512;

/// The revision that is tested, for the lines of the ledger.
fn commit() -> String {
    let output = std::process::Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    let said = output.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    said.map_or("unknown".to_owned(), |said| String::from_utf8_lossy(&said).trim().to_owned())
}
