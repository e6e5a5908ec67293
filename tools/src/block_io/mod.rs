//! Something with blocks that a delta is applied to: a disk, a file, or an export of an NBD server.
//!
//! Invariants:
//! - Whatever was written is on the medium when `make_durable` has returned, and is read from there after `forget`.

mod nbd;
mod plain;

pub use nbd::NbdIo;
pub use plain::PlainIo;

use crate::exit::{ExitCode, Failure, Outcome};
use cairn_delta::{Fingerprint, FINGERPRINT_BLOCK_BYTES};

/// Bytes read at once.
pub const STEP_BYTES: u64 = 4 << 20;

/// Blocks that can be read and written.
pub trait BlockIo {
    /// What people call it.
    fn name(&self) -> &str;
    /// Its size.
    fn size_bytes(&self) -> u64;
    /// Fills `buffer` from `offset_bytes`.
    fn read(&mut self, offset_bytes: u64, buffer: &mut [u8]) -> Outcome;
    /// Writes `data` at `offset_bytes`.
    fn write(&mut self, offset_bytes: u64, data: &[u8]) -> Outcome;
    /// Makes a range zeroes.
    fn write_zeroes(&mut self, offset_bytes: u64, length_bytes: u64) -> Outcome;
    /// Makes durable what was written.
    fn make_durable(&mut self) -> Outcome;
    /// Lets go of what is cached, so that the next read asks the medium.
    fn forget(&mut self) {}
    /// Where the next content may lie from `offset_bytes` on; what is before it is zeroes. None: there is none.
    fn next_content(&mut self, offset_bytes: u64) -> Result<Option<u64>, Failure> {
        Ok((offset_bytes < self.size_bytes()).then_some(offset_bytes))
    }
}

/// The parts of a range that may hold content, in steps that begin at multiples of a step.
pub fn steps(
    io: &mut dyn BlockIo,
    offset_bytes: u64,
    end_bytes: u64,
    mut step: impl FnMut(&mut dyn BlockIo, u64, u64) -> Outcome,
) -> Outcome {
    let mut at = offset_bytes;
    while at < end_bytes {
        match io.next_content(at)? {
            None => return Ok(()),
            Some(content) if content >= end_bytes => return Ok(()),
            // Back to the beginning of the block.
            Some(content) => at = at.max(content - content % FINGERPRINT_BLOCK_BYTES as u64),
        }
        let length_bytes = (STEP_BYTES - at % STEP_BYTES).min(end_bytes - at);
        step(io, at, length_bytes)?;
        at += length_bytes;
    }
    Ok(())
}

/// The fingerprint of a range that begins at a block.
pub fn fingerprint(io: &mut dyn BlockIo, offset_bytes: u64, end_bytes: u64) -> Result<Fingerprint, Failure> {
    if end_bytes > io.size_bytes() {
        return Err(Failure::new(ExitCode::Failed, format!("{}: it is shorter than {end_bytes} bytes", io.name())));
    }
    let mut sum = Fingerprint::EMPTY;
    let mut buffer = vec![0; STEP_BYTES as usize];
    steps(io, offset_bytes, end_bytes, |io, at, length_bytes| {
        let content = &mut buffer[..length_bytes as usize];
        io.read(at, content)?;
        sum += Fingerprint::of_content(at, content);
        Ok(())
    })?;
    Ok(sum)
}
