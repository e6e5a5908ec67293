//! Copy-on-write snapshots for any disk: the storage engine.
//!
//! No threads, no clock, no sockets, no global state: async functions over one small [`disk::Disk`] trait. The
//! simulator drives exactly what production drives. docs/ARCHITECTURE.md says how the parts fit; docs/FORMAT.md has
//! the byte maps.

pub mod disk;
pub mod entry;
pub mod error;
pub mod format;
#[cfg(feature = "sim")]
pub mod sim;
pub mod units;
