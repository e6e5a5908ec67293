//! A history of a volume: operations, crashes and faults on simulated disks, held against the reference model.
//!
//! Input: the seed of the world (u16: sizes, lanes, limits, kinds of faults), then steps: what is done (u8), and the
//! seed of all that is left open about it (u16).
//!
//! What must hold is what [`cairn_engine::sim::history`] says.

use crate::bytes::Bytes;
use crate::memory::bounded;
use cairn_engine::sim::history::{run_steered, Kind};

const MEMORY_BYTES_MAX: usize = 128 << 20;
/// Steps of one history.
const STEPS_MAX: usize = 80;

/// Lives through what `data` describes.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let world = u64::from(bytes.u16());
    let script = std::iter::from_fn(|| {
        (!bytes.is_empty()).then(|| (Kind::of_number(usize::from(bytes.u8())), u64::from(bytes.u16())))
    });
    bounded(MEMORY_BYTES_MAX, || drop(run_steered(world, script.take(STEPS_MAX))));
}
