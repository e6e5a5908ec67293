//! The engine alone: instructions, allocations and time of what it does most.
//!
//! Invariants:
//! - Instructions are counted by valgrind's callgrind: they do not depend on what else the machine does.
//! - A count is the difference between a run with twice the repetitions and one with the repetitions, divided by these:
//!   what comes before and after is in both.

pub mod cases;
pub mod count;
pub mod locked;
pub mod memory_disk;
pub mod saved;
