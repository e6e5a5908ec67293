//! What the state directory says in the store's stead in this session (law 3).
//!
//! Invariants:
//! - What was recorded goes along with all that is recorded later, until the store has it and it is cleared.
//! - What could not be recorded does not: whoever wanted it decides anew, or the store works again. Only that a flush
//!   failed is so in any case.
//! - Writing and clearing exclude each other.

use super::{BrokenElsewhere, Volume};
use crate::sync::MutexGuard;
use crate::units::Epoch;

/// See the file's head.
#[derive(Default)]
pub(crate) struct Elsewhere {
    content: BrokenElsewhere,
    /// The state directory says just this; else nothing, or nobody knows.
    is_recorded: bool,
    /// What was to stand there before a decision that is not made yet.
    before_decision: Option<BrokenElsewhere>,
}

impl Volume {
    fn elsewhere(&self) -> MutexGuard<'_, Elsewhere> {
        self.elsewhere.lock().expect("no holder of this lock panics")
    }

    /// Records in the state directory what the store does not take. False where that failed, too. May block.
    pub(crate) fn record_elsewhere(&self, change: impl FnOnce(&mut BrokenElsewhere)) -> bool {
        let mut elsewhere = self.elsewhere();
        let mut content = elsewhere.content.clone();
        change(&mut content);
        // Once a flush has failed all do.
        if elsewhere.is_recorded && content == elsewhere.content {
            return true;
        }
        elsewhere.is_recorded = self.broken_log.record(&content);
        if elsewhere.is_recorded {
            elsewhere.content = content;
        } else {
            elsewhere.content.flush_failed |= content.flush_failed;
        }
        elsewhere.is_recorded
    }

    /// Records that snapshots are broken up to `through`, for a decision that is about to be made: then
    /// [`Volume::decision_is_made`], otherwise [`Volume::retract_decision`]. May block.
    pub(crate) fn record_decision(&self, through: Epoch, reason: &str) -> bool {
        {
            let mut elsewhere = self.elsewhere();
            let before = elsewhere.content.clone();
            elsewhere.before_decision.get_or_insert(before);
        }
        self.record_elsewhere(|content| {
            content.through = content.through.max(through);
            reason.clone_into(&mut content.reason);
        })
    }

    /// What was recorded is so.
    pub(crate) fn decision_is_made(&self) {
        self.elsewhere().before_decision = None;
    }

    /// What was recorded is not so: it says again what it said before. False where that cannot be recorded. May block.
    pub(crate) fn retract_decision(&self) -> bool {
        let Some(before) = self.elsewhere().before_decision.clone() else { return true };
        let retracted = self.record_elsewhere(|content| {
            content.through = before.through;
            content.reason = before.reason;
        });
        if retracted {
            self.decision_is_made();
        }
        retracted
    }

    /// The volume is open: whoever opened it removes what stood there before, and may remove what was recorded since.
    pub(super) fn elsewhere_may_be_gone(&self) {
        self.elsewhere().is_recorded = false;
    }

    /// The store has all that was recorded: it goes. May block.
    pub(crate) fn clear_elsewhere(&self) {
        let mut elsewhere = self.elsewhere();
        *elsewhere = Elsewhere::default();
        self.broken_log.clear();
    }
}
