//! What the fuzz targets do with their bytes; each target is a module, and `fuzz_targets/` only names them.
//!
//! Invariants:
//! - Any bytes are an input, and the same bytes do the same: no clock, no randomness that does not follow from them.
//! - Every run ends within a number of steps and an amount of memory that are asserted, not hoped for.
//! - Damage that no checksum can tell (a block that was sealed again after it was changed) may give other content, but
//!   never a panic; damage that checksums tell never shows wrong content in a snapshot that is said to be whole.

pub mod bytes;
pub mod canary;
pub mod catalog;
#[path = "../../ublk-target/tests/common/mod.rs"]
mod common;
pub mod control;
pub mod damage;
pub mod delta;
pub mod judge;
pub mod machine;
pub mod memory;
pub mod nbd;
mod nbd_judge;
pub mod ops_crash;
pub mod rbd_diff;
pub mod scenario;
pub mod seal;
pub mod seeds;
pub mod segment;
pub mod store_image;
pub mod superblock;

/// Runs a future the way the target's threads do, on a clock that goes on only when everybody waits for it: limits of
/// time are reached, and take none.
fn runs_on_a_stopped_clock<T>(future: impl std::future::Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    tokio::task::LocalSet::new().block_on(&runtime.expect("a runtime"), future)
}
