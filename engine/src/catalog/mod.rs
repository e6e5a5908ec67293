//! The catalog: what exists on the store, as a log of small records.

pub mod state;
