//! Copy-on-write snapshots for any disk: the storage engine.
//!
//! No threads, no clock, no sockets, no global state: async functions over one small [`disk::Disk`] trait. The
//! simulator drives exactly what production drives. docs/ARCHITECTURE.md says how the parts fit; docs/FORMAT.md has
//! the byte maps.

#[macro_use]
pub mod planted;

pub mod catalog;
pub mod deadline;
pub mod delta;
pub mod disk;
pub mod entry;
pub mod epoch;
pub mod error;
pub mod flushes;
pub mod format;
pub mod gate;
pub mod holes;
pub mod in_use;
pub mod lane;
pub mod lateness;
#[cfg(all(test, loom))]
mod models;
pub mod needed;
mod partitions;
pub mod run;
pub mod saved;
pub mod signal;
#[cfg(feature = "sim")]
pub mod sim;
pub mod snapshot;
pub mod stats;
pub mod sync;
pub mod units;
pub mod view;
pub mod volume;
pub mod waits;
pub mod watch;
mod words;
