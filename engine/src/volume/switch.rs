//! Switching the active epoch.
//!
//! Invariants:
//! - Only while the gate is closed and drained, by a holder of the ledger.
//! - The new epoch's map is in the view before its number is announced: no entry is ever published out of sight.
//! - While the store is given up for lateness, no epoch that becomes active needs anything.

use super::ledger::Ledger;
use super::seal::Frozen;
use super::Volume;
use crate::deadline::Deadline;
use crate::epoch::{EpochState, Keeping};
use crate::in_use::InUseMap;
use crate::sync::Arc;

impl Volume {
    /// A new epoch that follows the active one, for a volume of `blocks` blocks. Made before the gate is closed.
    pub(crate) fn prepare_epoch(&self, blocks: u64, keeping: Keeping) -> Arc<EpochState> {
        let before = self.active_epoch();
        let in_use = InUseMap::following(&before.in_use, blocks);
        Arc::new(EpochState::new(before.number.next(), blocks, keeping, self.lane_count(), in_use))
    }

    /// Closes the gate and waits for origin writes in flight, however long they take. The caller holds the ledger.
    pub(crate) async fn close_gate(&self) {
        self.gate.close();
        let drained = self.lateness.for_disk(self.gate.drain(&Deadline::new())).await;
        assert!(drained, "a deadline that nobody expires does not come");
    }

    /// Makes `next` the active epoch. The gate is closed and drained.
    pub(crate) fn switch_epoch(&self, ledger: &mut Ledger, next: Arc<EpochState>) {
        // That it is drained cannot be asserted: who tries to enter is counted until they see that it is closed.
        assert!(self.gate.is_closed());
        next.in_use.begin();
        let saved = next.saved_now();
        self.replace_view(Vec::new(), |view| view.maps.push(saved));
        let before = {
            let _decided = self.lateness.decided();
            if self.lateness.gave_up() {
                next.needed.stop();
            }
            self.active.switch(next)
        };
        ledger.to_seal.push_back(Frozen::whole_epoch(before));
        self.work.notify();
        self.retry.notify();
    }

    /// Switches to a new epoch without a snapshot: the volume has another size, or nothing is to be saved any more.
    /// No deadline: origin writes in flight finish.
    pub(crate) async fn switch_quietly(&self, ledger: &mut Ledger, next: Arc<EpochState>) {
        self.switch_quietly_and(ledger, next, || ()).await;
    }

    /// The same; `first` is done when the gate is closed and drained, before the switch.
    pub(crate) async fn switch_quietly_and(&self, ledger: &mut Ledger, next: Arc<EpochState>, first: impl FnOnce()) {
        self.close_gate().await;
        first();
        self.switch_epoch(ledger, next);
        self.gate.open();
        self.active_epoch().in_use.inherit();
    }
}
