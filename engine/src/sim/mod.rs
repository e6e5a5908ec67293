//! The simulator: a disk that loses, reorders and tears writes, a seeded scheduler, and a reference model.
//!
//! Invariants:
//! - Everything follows from seeds: the same seed gives the same events, byte for byte.
//! - The simulated disk never does what a real one may not do, and does everything that a real one may.

mod device;
pub mod disk;
pub mod enumerate;
pub mod executor;
pub mod faults;
pub mod history;
mod image;
pub mod oracle;
pub mod picture;
pub mod rig;
pub mod stamp;
mod told;

pub use disk::{Crash, IoCounts, SimDisk, SimDiskOptions, Written};
pub use executor::{block_on, Handle, Scheduler};
pub use faults::{Effect, Fault, FaultTarget, Faults, Strike};
pub use oracle::{Change, Existence, Oracle};
