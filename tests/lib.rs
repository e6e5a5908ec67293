//! What the tests that cross crates share.

pub mod ledger;
pub mod log_writes;
pub mod model;
