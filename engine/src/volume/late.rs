//! When saves wait too long: the store is given up, so that writes go on without it, and taken back when it works.
//!
//! To give up takes no disk and not the ledger, whose holder may be the one that waits. What the catalog cannot be told
//! stands in the state directory until it can.
//!
//! Invariants:
//! - It is durable in the state directory that the snapshots are broken, and readers of them are refused, before the
//!   first overwrite that nobody saved. Where that cannot be recorded writes go on waiting.
//! - What breaks is every snapshot and bookmark up to the epoch behind the active one: a cut that is under way may have
//!   put that number on the store. No cut that begins before the store is taken back makes a snapshot that is whole.
//! - While a restore is under way nothing breaks: writes wait.
//! - The store is taken back by the background, which has the ledger: the catalog has the broken marks and knows that
//!   the in-use map is not to be believed; then the epoch is switched, so that what is cut afterwards has a younger
//!   one; then the watch is set up anew; only then the mark in the state directory goes. No snapshot is taken before:
//!   the mark does not speak for it, and what the catalog lacks of the watch would speak against it.

use super::ledger::Ledger;
use super::Volume;
use crate::disk::{Disk, Disks};
use crate::error::Result;
use crate::format::item::{Item, VolumeFacts, NO_HOLES};
use crate::lane::Lane;
use crate::lateness::{LatenessReport, OnLate};
use crate::snapshot::{BrokenReason, Snapshot};
use crate::sync::atomic::Ordering;
use crate::units::Epoch;
use crate::waits::Waits;
use std::pin::pin;

impl Volume {
    /// Tells the volume the time, by a clock that never goes back: at least four times in a save deadline, and once a
    /// second. Decides what becomes of writes that have waited for the store until the deadline: they are let go at the
    /// first call after it. May block as [`super::BrokenLog`] may.
    pub fn keep_time(&self, now_ms: u64) {
        self.lateness.advance(now_ms);
        let oldest_ms = self.waits().filter_map(Waits::oldest_ms).min();
        if !self.lateness.judge(oldest_ms) {
            self.give_up_no_more();
        } else if self.lateness.deadline.on_late == OnLate::Break {
            self.give_up_late_store();
        }
    }

    /// How late saves are, and were. Waits for nothing.
    pub fn lateness(&self) -> LatenessReport {
        self.lateness.report()
    }

    /// A snapshot as it is, where the catalog may not say so yet: one that was listed before the store was given up.
    pub fn as_decided(&self, snapshot: Snapshot) -> Snapshot {
        self.lateness.as_decided(snapshot)
    }

    fn waits(&self) -> impl Iterator<Item = &Waits> {
        self.lanes.iter().map(|lane| &lane.waits).chain([&self.lateness.operations])
    }

    /// Breaks every snapshot and bookmark without the store, and lets the writes go that wait for it. The order of its
    /// steps is the one of the head, and of lateness.rs.
    fn give_up_late_store(&self) {
        if !self.may_give_up() {
            return;
        }
        let deadline_ms = self.lateness.deadline.deadline_ms;
        let reason = format!("the store did not answer within {deadline_ms} ms, so before-images could not be kept");
        let (mut decided, active, through) = loop {
            let through = self.active_epoch().number.next();
            let recorded = self.record_late(through, &reason);
            let mut decided = self.lateness.decided();
            if !recorded {
                if decided.recording_failed() {
                    tracing::error!("broken snapshots can be recorded nowhere; writes wait for the store");
                }
                return;
            }
            let active = self.active_epoch();
            // Else a cut came meanwhile, and the mark does not cover it.
            if active.number < through {
                break (decided, active, through);
            }
        };
        if !planted!("late-readers-not-refused") {
            self.raise_horizons(through.next());
        }
        // Whoever finds the store given up finds that nothing is needed.
        active.needed.stop();
        self.lateness.give_up(&mut decided, through, reason.clone());
        decided.has_recorded();
        drop(decided);
        self.decision_is_made();
        tracing::error!("{reason}: all snapshots of the volume are broken, writes go on without the store");
        self.waits().for_each(Waits::wake_all);
        self.retry.notify();
        self.work.notify();
    }

    /// Whether the store is to be given up. Then nobody else decides anything until that is done.
    fn may_give_up(&self) -> bool {
        let mut decided = self.lateness.decided();
        if self.lateness.gave_up() {
            return false;
        }
        if decided.restore_begins() || self.restore.target().is_some() {
            if decided.is_worth_saying() {
                tracing::error!("a restore is under way, so no snapshot breaks for it: writes wait for the store");
            }
            return false;
        }
        decided.may_record()
    }

    /// Nobody waits too long any more. What could not be recorded of giving the store up, or of which nobody could tell,
    /// is not so. May block.
    fn give_up_no_more(&self) {
        if self.lateness.may_retract() {
            let retracted = self.retract_decision();
            self.lateness.has_retracted(retracted);
        }
    }

    /// Records in the state directory that the snapshots are broken up to `through`. May block.
    fn record_late(&self, through: Epoch, reason: &str) -> bool {
        planted!("late-break-recorded-afterwards", return true);
        self.record_decision(through, reason)
    }

    /// No snapshot and no bookmark older than this is readable any more.
    fn raise_horizons(&self, floor: Epoch) {
        self.horizon.fetch_max(floor.0, Ordering::SeqCst);
        self.mark_horizon.fetch_max(floor.0, Ordering::SeqCst);
    }

    /// Appends with the gate closed and drained. Where the store is given up meanwhile the gate is open until the
    /// append is done; then it is closed and drained again. `None`: the store had been given up while the gate was
    /// being drained; nothing was submitted.
    pub(crate) async fn append_behind_gate<D: Disk>(
        &self,
        ledger: &mut Ledger,
        disks: &Disks<D>,
        items: &[Item],
    ) -> Option<Result<()>> {
        // Begun first, looked at second: who gives the store up from here on ends this wait.
        let wait = self.lateness.begin(&self.lateness.operations);
        if self.lateness.is_over(&wait) {
            return None;
        }
        let mut append = pin!(ledger.catalog.append(&disks.store, items));
        if let Some(result) = self.lateness.in_time(&wait, append.as_mut()).await {
            return Some(result);
        }
        drop(wait);
        self.release_writes();
        let result = append.await;
        self.close_gate().await;
        Some(result)
    }

    /// The way back after the store was given up, as far as it goes at once.
    pub(crate) async fn come_back<D: Disk>(&self, lane: &Lane<D>) -> Result<()> {
        self.take_store_back(lane.disks()).await?;
        // At once, because until then no snapshot can be taken. Where it fails nothing else in the background waits.
        if let Err(error) = self.settle_lateness(lane).await {
            tracing::warn!(%error, "the store is used again, but snapshots cannot be taken yet");
        }
        Ok(())
    }

    /// The last step on the way back after the store was given up. True if there was one.
    pub(crate) async fn settle_lateness<D: Disk>(&self, lane: &Lane<D>) -> Result<bool> {
        if !self.lateness.is_marked() || self.lateness.gave_up() {
            return Ok(false);
        }
        let generation = self.lateness.generation();
        self.watch.set_up_anew(lane).await?;
        let mut ledger = self.ledger.lock().await;
        // What a catalog that was full did not take of the in-use map stands in the state directory as well. No cut
        // came since, so there is no map that could be believed.
        let items = [self.facts(&ledger), Item::LiveMap { run: NO_HOLES }];
        self.clear_late_mark(&mut ledger, lane.disks(), generation, &items).await?;
        tracing::info!("new snapshots can be taken");
        Ok(true)
    }

    /// The store has what only the state directory had, and is used again.
    pub(crate) async fn take_store_back<D: Disk>(&self, disks: &Disks<D>) -> Result<()> {
        let mut ledger = self.ledger.lock().await;
        if !self.lateness.gave_up() {
            return Ok(());
        }
        planted!("late-break-recorded-afterwards", {
            let through = self.lateness.through();
            self.record_elsewhere(|elsewhere| elsewhere.through = elsewhere.through.max(through))
        });
        self.record_late_break(&mut ledger, disks).await?;
        let next = self.prepare_epoch(self.size_blocks(), ledger.keeping());
        self.switch_quietly_and(&mut ledger, next, || self.lateness.take_back()).await;
        tracing::info!("the store works again");
        Ok(())
    }

    /// Makes durable in the catalog that the snapshots broke, and that the in-use map was not kept up.
    async fn record_late_break<D: Disk>(&self, ledger: &mut Ledger, disks: &Disks<D>) -> Result<()> {
        let through = self.lateness.through();
        let broken: Vec<Epoch> = ledger.marked().filter(|epoch| *epoch <= through).collect();
        let items: Vec<Item> = broken
            .iter()
            .map(|epoch| {
                let snapshot = Snapshot::from_record(&ledger.catalog.state().snapshots[epoch]);
                let snapshot = self.lateness.as_decided(snapshot);
                assert!(matches!(snapshot.broken, Some((BrokenReason::StoreFailed, _))));
                tracing::error!(snapshot = %snapshot.name, "snapshot broken");
                Item::SnapshotPut(snapshot.to_record())
            })
            .collect();
        for some in items.chunks(64) {
            ledger.catalog.append(&disks.store, some).await?;
        }
        self.stats.snapshots_broken.add(broken.len() as u64);
        self.set_horizons(ledger);
        ledger.may_be_dead = true;
        // A second record, so that losing the last one does not bring a snapshot back.
        let items = [self.facts(ledger), Item::LiveMap { run: NO_HOLES }];
        ledger.catalog.append(&disks.store, &items).await
    }

    /// The volume's facts, with what only the state directory has: a flush that failed, and up to where epochs are used.
    /// A crash may bring back the mark when it is gone: no snapshot of a later attachment may have such an epoch.
    pub(crate) fn facts(&self, ledger: &Ledger) -> Item {
        let facts = ledger.catalog.state().volume;
        let active_epoch = facts.active_epoch.max(self.lateness.through());
        let flush_failed = facts.flush_failed || self.is_flush_failed();
        Item::Volume(VolumeFacts { active_epoch, flush_failed, ..facts })
    }

    /// The mark in the state directory goes, unless the store was given up again since that generation. `items`: what
    /// else only the state directory has.
    pub(crate) async fn clear_late_mark<D: Disk>(
        &self,
        ledger: &mut Ledger,
        disks: &Disks<D>,
        generation: u64,
        items: &[Item],
    ) -> Result<()> {
        ledger.catalog.append(&disks.store, items).await?;
        self.lateness.unmark(generation, || self.clear_elsewhere());
        Ok(())
    }
}
