//! The cut: taking a snapshot (mission A1, A6).
//!
//! Flush while writes still run; close the gate; drain; flush again, now short; append the snapshot record durably;
//! switch the epoch; open. The flushes keep deltas exact across power loss: all of the snapshot is durable at the cut.
//!
//! Invariants:
//! - Before the snapshot record was submitted the deadline aborts the cut and nothing has changed. So does giving up a
//!   store that is late.
//! - Once it was submitted the epoch switches, whatever the result: a snapshot reported as failed may reappear, exact.
//! - The gate is never left closed.
//! - What is in use in the snapshot is durable before the cut is reported (`maps.rs`); writes do not wait for that.

use super::maps::CutEpochs;
use super::Volume;
use crate::catalog::SNAPSHOTS_MAX;
use crate::deadline::Deadline;
use crate::disk::{Disk, Disks};
use crate::epoch::Keeping;
use crate::error::{Error, ErrorKind, Result};
use crate::format::item::{Item, VolumeFacts};
use crate::lateness::Lateness;
use crate::snapshot::{Snapshot, SnapshotName, SnapshotOptions};
use crate::sync::Arc;
use futures_util::future::{select, Either};
use std::pin::pin;

/// Told of the pauses that cuts make: the engine has no clock, whoever listens may.
pub trait CutObserver: Send + Sync {
    /// Writes are held back from now on.
    fn writes_held(&self);
    /// The writes that were in flight are done and durable; the store's record of the cut comes next.
    fn writes_drained(&self);
    /// Writes go on. May come again without a hold in between.
    fn writes_released(&self);
}

impl Volume {
    /// Tells `observer` of every pause from now on. The first observer stays.
    pub fn observe_cuts(&self, observer: Box<dyn CutObserver>) {
        // A second one is dropped, as promised.
        let _ = self.cut_observer.set(observer);
    }

    fn hold_writes(&self) {
        self.gate.close();
        self.cut_observer.get().inspect(|observer| observer.writes_held());
    }

    pub(crate) fn release_writes(&self) {
        self.gate.open();
        self.cut_observer.get().inspect(|observer| observer.writes_released());
    }

    /// Takes a snapshot of what completed before the call; writes that run meanwhile may be in it or not. O(1) in
    /// volume size and number of snapshots. Fails with `Exists`, `Busy` (a restore is under way), `TimedOut`
    /// (nothing changed), `NoSpace` (too many snapshots) or the disk's error.
    pub async fn snapshot<D: Disk>(
        &self,
        disks: &Disks<D>,
        name: &SnapshotName,
        options: SnapshotOptions,
        deadline: &Deadline,
    ) -> Result<Snapshot> {
        let _operation = deadline.bound(self.operations.lock()).await.ok_or_else(timed_out)?;
        self.refuse_closed("snapshot")?;
        self.restore.refuse("snapshot")?;
        self.cut(disks, name, options, false, deadline).await
    }

    /// The cut itself. The caller holds `operations`.
    pub(crate) async fn cut<D: Disk>(
        &self,
        disks: &Disks<D>,
        name: &SnapshotName,
        options: SnapshotOptions,
        automatic: bool,
        deadline: &Deadline,
    ) -> Result<Snapshot> {
        self.flush_origin(disks).await?;
        let mut ledger = deadline.bound(self.ledger.lock()).await.ok_or_else(timed_out)?;
        self.lateness.refuse_cut()?;
        refuse_duplicate(&ledger, name)?;
        let next = self.prepare_epoch(self.size_blocks(), Keeping::Images);
        let snapshot = Snapshot {
            name: name.clone(),
            epoch: next.number,
            created_unix_ms: options.now_unix_ms,
            size_bytes: self.size_bytes(),
            consistency: options.consistency,
            automatic,
            bookmark: false,
            broken: None,
        };
        let items = [
            Item::Volume(VolumeFacts { active_epoch: next.number, ..ledger.catalog.state().volume }),
            Item::SnapshotPut(snapshot.to_record()),
        ];
        // The first writes after the cut find their segments handed out.
        for lane in 0..self.lane_count() {
            self.top_up_reserve(&mut ledger, disks, lane, false).await?;
        }
        // What the catalog would refuse it refuses now, and makes its room now, while writes go on.
        ledger.catalog.prepare_append(&disks.store, &items).await?;
        self.lateness.refuse("snapshot", snapshot.epoch)?;
        self.hold_writes();
        if let Err(error) = self.lateness.for_disk(self.drain_and_flush(disks, deadline)).await {
            planted!("gate-left-closed", return Err(error));
            self.release_writes();
            self.record_failed_flush(&mut ledger, disks).await;
            self.stats.cuts_timed_out.add(u64::from(error.kind() == ErrorKind::TimedOut));
            return Err(error);
        }
        self.cut_observer.get().inspect(|observer| observer.writes_drained());
        let Some(result) = self.append_behind_gate(&mut ledger, disks, &items).await else {
            self.release_writes();
            return Err(Lateness::refusal("snapshot"));
        };
        let result = planted!("doubtful-cut-not-switched", Ok(result.inspect_err(|_| self.gate.open())?), result);
        if result.is_err() {
            // In doubt. The epoch switches, so that the snapshot is exact should it reappear.
            ledger.in_memory(&items);
        }
        let cut = CutEpochs { before: self.active_epoch(), next: Arc::clone(&next) };
        self.switch_epoch(&mut ledger, next);
        self.guard_map(&mut ledger);
        ledger.cut_under_way = Some(snapshot.epoch);
        self.set_horizons(&ledger);
        self.release_writes();
        drop(ledger);
        self.keep_map_of_cut(disks, &cut).await;
        result?;
        self.refuse_late_cut(&snapshot)?;
        self.stats.cuts.add(1);
        Ok(snapshot)
    }

    /// The store may have been given up while the cut waited for it: then writes went on that the snapshot has to lack.
    fn refuse_late_cut(&self, snapshot: &Snapshot) -> Result<()> {
        match self.lateness.as_decided(snapshot.clone()).broken {
            None => Ok(()),
            Some((_, reason)) => {
                let message = format!("snapshot {} broke while it was being taken: {reason}", snapshot.name);
                Err(Error::new(ErrorKind::Broken, "snapshot", "store").saying(message))
            }
        }
    }

    /// With the gate closed: waits for origin writes in flight, then makes them durable, within the deadline.
    async fn drain_and_flush<D: Disk>(&self, disks: &Disks<D>, deadline: &Deadline) -> Result<()> {
        let drained = planted!("epoch-switched-before-drain") || self.gate.drain(deadline).await;
        if !drained || deadline.expired() {
            return Err(timed_out());
        }
        planted!("cut-without-flush", return Ok(()));
        match select(pin!(self.flush_origin_unrecorded(disks)), pin!(deadline.wait())).await {
            Either::Left((result, _)) => result,
            Either::Right((_, flush)) => {
                // The flush cannot be taken back, but writes need not wait for it.
                self.release_writes();
                let result = flush.await;
                self.gate.close();
                result.and(Err(timed_out()))
            }
        }
    }
}

fn timed_out() -> Error {
    let message = "the deadline passed before the writes in flight were done; no snapshot was taken, try again";
    Error::new(ErrorKind::TimedOut, "snapshot", "origin").saying(message)
}

fn refuse_duplicate(ledger: &super::ledger::Ledger, name: &SnapshotName) -> Result<()> {
    if ledger.record(name).is_ok() {
        let message = format!("snapshot {name} exists already; choose another name or delete it");
        return Err(Error::new(ErrorKind::Exists, "snapshot", "volume").saying(message));
    }
    let count = ledger.catalog.state().snapshots.len();
    if count >= SNAPSHOTS_MAX {
        let message = format!("the volume has {count} snapshots, the most there can be; delete some");
        return Err(Error::new(ErrorKind::NoSpace, "snapshot", "volume").saying(message));
    }
    Ok(())
}
