//! A history of a volume: operations, crashes and faults on simulated disks, held against the reference model.
//!
//! Input: the seed of the history (u64).
//!
//! What must hold is what [`cairn_engine::sim::history`] says.

use crate::bytes::Bytes;
use crate::memory::bounded;
use cairn_engine::sim::history;

const MEMORY_BYTES_MAX: usize = 128 << 20;
const STEPS: u64 = 60;

/// Lives through what `data` describes.
pub fn run(data: &[u8]) {
    let seed = Bytes::new(data).u64();
    bounded(MEMORY_BYTES_MAX, || drop(history::run(seed, STEPS)));
}
