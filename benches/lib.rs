//! What the benchmarks share: `scripts/bench` drives all of it through the program `cairn-bench`.
//!
//! Invariants:
//! - A measurement is written down as it was made (`sample`); medians, ratios and verdicts are computed from what was
//!   written down, never typed.
//! - What is compared was measured in the same run, round by round, the contenders taking turns.
//! - What could not be measured is reported as such, never as a figure.

pub mod engine;
pub mod fio;
pub mod kernel;
pub mod machine;
pub mod native;
pub mod report;
pub mod results;
pub mod sample;
pub mod statistics;
pub mod turns;
