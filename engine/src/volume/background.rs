//! Background work: one unit at a time, driven by the control thread (and by the simulator).

use super::Volume;
use crate::disk::Disk;
use crate::error::{Error, ErrorKind, Result};
use crate::lane::Lane;
use crate::sync::atomic::Ordering;

/// Failures in a row of background work that concerns the store before saving is given up.
const FAILURES_MAX: u32 = 8;

/// What background work is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activity {
    /// Nothing, or something that takes no time.
    #[default]
    Idle,
    /// It writes what was saved in memory as a run.
    Sealing,
    /// It merges runs.
    Merging,
    /// It moves blocks of a restore.
    Restoring,
}

impl Volume {
    /// What background work is doing now.
    pub fn background_activity(&self) -> Activity {
        *self.activity.lock().expect("no holder of this lock panics")
    }

    pub(crate) fn is_busy_with(&self, activity: Activity) {
        *self.activity.lock().expect("no holder of this lock panics") = activity;
    }

    /// One unit of topping up, sealing, merging, freeing or moving; false when there is nothing to do. `lane` is the
    /// control thread's own. One caller at a time.
    pub async fn background_step<D: Disk>(&self, lane: &Lane<D>) -> Result<bool> {
        if self.refuse_closed("work in the background").is_err() {
            return Ok(false);
        }
        lane.work_in_background();
        let result = self.background_unit(lane).await;
        self.is_busy_with(Activity::Idle);
        match &result {
            Ok(_) => self.background_failures.store(0, Ordering::Relaxed),
            Err(error) => {
                tracing::error!(%error, "background work failed");
                if self.background_failures.fetch_add(1, Ordering::Relaxed) + 1 >= FAILURES_MAX {
                    self.give_up_when_too_much_waits(lane).await?;
                }
            }
        }
        result
    }

    async fn background_unit<D: Disk>(&self, lane: &Lane<D>) -> Result<bool> {
        let disks = lane.disks();
        if self.lateness.gave_up() {
            self.come_back(lane).await?;
            return Ok(true);
        }
        {
            let mut ledger = self.ledger.lock().await;
            if self.record_failed_flush(&mut ledger, disks).await || self.release_retired(&mut ledger) {
                return Ok(true);
            }
            if self.active_epoch().needed.saving() {
                for lane in 0..self.lane_count() {
                    if self.top_up_reserve(&mut ledger, disks, lane, false).await? {
                        return Ok(true);
                    }
                }
            }
            if ledger.may_be_dead && self.free_dead(&mut ledger, disks).await? {
                return Ok(true);
            }
            if self.spill_when_large(&mut ledger, self.limits.spill_entries) {
                return Ok(true);
            }
        }
        if self.seal_next(disks).await? || self.compare_next_map(disks).await? {
            return Ok(true);
        }
        let merged = self.merge_next(disks).await;
        if matches!(merged, Ok(true)) {
            return merged;
        }
        // A run that cannot be read keeps others from being merged, but no restore from ending.
        if self.restore_step(lane).await? || self.settle_lateness(lane).await? {
            return Ok(true);
        }
        merged
    }

    /// The store takes no runs any more and memory is at its bound: snapshots break rather than memory grow.
    async fn give_up_when_too_much_waits<D: Disk>(&self, lane: &Lane<D>) -> Result<()> {
        if self.entries_in_memory() < self.limits.entries_max {
            return Ok(());
        }
        let error = Error::new(ErrorKind::Io, "write the index", "store");
        let epoch = self.active_epoch().number;
        self.give_up_saving(lane.disks(), epoch, error).await
    }

    /// Refuses a save that would wait for memory where the store takes no runs any more and no snapshot may break for
    /// that, because a restore is under way: its write fails then, as where the store does not take the save itself.
    pub(crate) fn refuse_to_wait_for_memory(&self) -> Result<()> {
        if self.background_failures.load(Ordering::Relaxed) < FAILURES_MAX || self.restore.target().is_none() {
            return Ok(());
        }
        let message = "the store takes no index, and a restore is under way; both go on when it works again";
        Err(Error::new(ErrorKind::Io, "save old content", "store").saying(message))
    }

    /// Entries that no run holds yet.
    pub(crate) fn entries_in_memory(&self) -> usize {
        self.with_view(|view| view.maps.iter().map(|map| map.len()).sum())
    }

    /// Resolves when there may be background work. Take it before the step that found nothing.
    pub fn background_listener(&self) -> crate::signal::Listener<'_> {
        self.work.listen()
    }
}
