//! What a receive asks of its target, be it a disk, a file or a volume.
//!
//! Invariants:
//! - Until `commit` has returned, `roll_back` makes the target what it was.

use super::identity::TargetIdentity;
use super::input::Announced;
use super::place::{Place, Progress};
use crate::block_io::BlockIo;
use crate::exit::{ExitCode, Failure, Outcome};
use crate::output::bytes::format_bytes;
use cairn_delta::Fingerprint;

/// How much of a disk or a volume is looked at to see whether it holds anything.
pub const LOOKED_AT_BYTES: u64 = 16 << 20;

/// Refuses a target of `has` bytes that cannot hold what needs `needs`.
pub fn refuse_too_small(name: &str, has: u64, needs: u64) -> Outcome {
    if has >= needs {
        return Ok(());
    }
    let (has_text, needs_text) = (format_bytes(has), format_bytes(needs));
    let message =
        format!("{name}: it is too small: {has_text} ({has} bytes), and the stream needs {needs_text} ({needs} bytes)");
    Err(Failure::new(ExitCode::Refused, message))
}

/// A disk, a file or a volume that is being received into.
pub trait Target {
    /// What people call it.
    fn name(&self) -> &str;
    /// Its blocks.
    fn io(&mut self) -> &mut dyn BlockIo;
    /// What it is a copy of; none where nothing is known.
    fn identity(&self, place: &Place) -> Result<Option<TargetIdentity>, Failure>;
    /// Whether it is untouched since that was recorded; none where only its content can tell.
    fn is_untouched(&mut self, identity: &TargetIdentity) -> Result<Option<bool>, Failure>;
    /// Whether it holds anything that would be lost.
    fn holds_data(&mut self) -> Result<bool, Failure>;
    /// Refuses what will not fit, or would destroy something else.
    fn check(&mut self, announced: &Announced) -> Outcome;
    /// Prepares to be taken back, durably, and makes room. Fills in what `progress` has to know; saves it.
    fn begin(&mut self, place: &Place, progress: &mut Progress, announced: &Announced) -> Outcome;
    /// Goes on with a receive that was begun.
    fn reopen(&mut self, place: &Place, progress: &mut Progress, size_after_bytes: u64) -> Outcome;
    /// Keeps what a range holds before it is overwritten.
    fn save(&mut self, offset_bytes: u64, length_bytes: u64) -> Outcome;
    /// Makes durable what was kept.
    fn make_saved_durable(&mut self) -> Outcome;
    /// What was overwritten added to the fingerprint before, and what it adds now. None where that is not to be had.
    fn difference(
        &mut self,
        progress: &Progress,
        announced: &Announced,
    ) -> Result<Option<(Fingerprint, Fingerprint)>, Failure>;
    /// Records what it is a copy of now.
    fn commit(&mut self, place: &Place, progress: &mut Progress, identity: TargetIdentity) -> Outcome;
    /// Makes it what it was before the receive.
    fn roll_back(self: Box<Self>, place: &Place, progress: &mut Progress) -> Outcome;
    /// Lets go of what the receive before this one left: it cannot be taken back any more.
    fn forget(&mut self, _progress: &Progress) -> Outcome {
        Ok(())
    }
}
