//! When the store is full or fails: production goes on, snapshots break, loudly (laws 3 and 5).
//!
//! Invariants:
//! - A snapshot is recorded as broken, in the store or failing that in the state directory, before the first
//!   overwrite that was not saved.
//! - The oldest break first, snapshots and bookmarks alike: docs/decisions/0011-deltas-and-bookmarks.md.

use super::ledger::Ledger;
use super::Volume;
use crate::disk::{Disk, Disks};
use crate::epoch::Keeping;
use crate::error::{Error, ErrorKind, Result};
use crate::format::item::{Item, RunRecord, SegmentState};
use crate::snapshot::{BrokenReason, Snapshot};
use crate::sync::atomic::Ordering;
use crate::units::{Epoch, SegmentIndex};
use std::collections::BTreeSet;

/// What came of making room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// It is there.
    Made,
    /// Readers hold it. Who needs it waits, without the ledger, for a view to be left.
    Coming,
}

impl Volume {
    /// Makes sure that `segments` are free, by sealing and freeing what is dead, and then by breaking snapshots,
    /// oldest first. Nothing breaks for what readers are about to leave. Fails with `NoSpace` when there is nothing
    /// left to break.
    pub(crate) async fn make_room<D: Disk>(
        &self,
        ledger: &mut Ledger,
        disks: &Disks<D>,
        segments: usize,
    ) -> Result<Room> {
        while ledger.free_count() < segments {
            if self.release_retired(ledger) || self.free_dead(ledger, disks).await? {
                continue;
            }
            if ledger.free_count() + self.views.retired_count() >= segments {
                self.room_wanted.store(true, Ordering::Relaxed);
                return Ok(Room::Coming);
            }
            let oldest = ledger.marked().next();
            if oldest.is_some() && oldest == self.restore.target() {
                let message = "the store is full while a restore is under way; enlarge the store so that it can go on";
                return Err(Error::new(ErrorKind::NoSpace, "save old content", "store").saying(message));
            }
            let Some(oldest) = oldest else {
                let message = "the store is full and there is no snapshot left to give up; enlarge the store";
                return Err(Error::new(ErrorKind::NoSpace, "save old content", "store").saying(message));
            };
            let sentence = "the store was full; the oldest snapshots had to go so that writes could go on";
            self.break_through(ledger, disks, oldest, BrokenReason::StoreFull, sentence).await?;
            if !self.active_epoch().needed.saving() {
                // Nothing needs saving any more: whoever wanted a segment starts again and passes through.
                self.free_dead(ledger, disks).await?;
                let message = "the last snapshot was broken because the store was full";
                return Err(Error::new(ErrorKind::NoSpace, "save old content", "store").saying(message));
            }
        }
        self.room_wanted.store(false, Ordering::Relaxed);
        Ok(Room::Made)
    }

    /// A save failed for good. Breaks every snapshot, so that production can go on without saving. Fails only where
    /// neither the store nor the state directory records it: then the write waits for the next try.
    pub(crate) async fn give_up_saving<D: Disk>(&self, disks: &Disks<D>, epoch: Epoch, cause: Error) -> Result<()> {
        let mut ledger = self.ledger.lock().await;
        if self.active_epoch().number != epoch || !self.active_epoch().needed.saving() {
            return Ok(());
        }
        if self.restore.target().is_some() {
            // Breaking the target would leave the volume half restored: the write fails, and the restore can go on
            // when the store works again.
            return Err(cause);
        }
        let (reason, sentence) = match cause.kind() {
            ErrorKind::NoSpace => (BrokenReason::StoreFull, "the store was full"),
            _ => (BrokenReason::StoreFailed, "the store failed, so before-images could not be kept"),
        };
        tracing::error!(%cause, "{sentence}: all snapshots of the volume are broken");
        let youngest = Epoch(u64::MAX - 1);
        planted!("broken-mark-after-overwrite", self.switch_keeping(&mut ledger, disks, Keeping::Nothing).await);
        if let Err(error) = self.break_through(&mut ledger, disks, youngest, reason, sentence).await {
            tracing::error!(%error, "broken snapshots can be recorded nowhere; first writes wait");
            drop(ledger);
            let listener = self.retry.listen();
            listener.await;
        }
        Ok(())
    }

    /// Marks every whole snapshot and bookmark up to `last` as broken, durably; nothing older than the rest is kept then.
    pub(crate) async fn break_through<D: Disk>(
        &self,
        ledger: &mut Ledger,
        disks: &Disks<D>,
        last: Epoch,
        reason: BrokenReason,
        sentence: &str,
    ) -> Result<()> {
        let broken: Vec<Epoch> = ledger.marked().filter(|epoch| *epoch <= last).collect();
        let items: Vec<Item> = broken
            .iter()
            .map(|epoch| {
                let mut snapshot = Snapshot::from_record(&ledger.catalog.state().snapshots[epoch]);
                tracing::error!(snapshot = %snapshot.name, sentence, "snapshot broken");
                snapshot.broken = Some((reason, sentence.to_string()));
                Item::SnapshotPut(snapshot.to_record())
            })
            .collect();
        for some in items.chunks(64) {
            if let Err(error) = ledger.catalog.append(&disks.store, some).await {
                let through = last.min(self.active_epoch().number);
                let recorded = self.record_elsewhere(|elsewhere| {
                    elsewhere.through = elsewhere.through.max(through);
                    elsewhere.reason = sentence.to_owned();
                });
                if !recorded && !planted!("break-recorded-nowhere") {
                    return Err(error);
                }
                ledger.in_memory(some);
            }
            // Readers of a snapshot that just broke are refused before anything of it is freed.
            self.set_horizons(ledger);
        }
        self.stats.snapshots_broken.add(broken.len() as u64);
        self.set_horizons(ledger);
        ledger.may_be_dead = true;
        self.keep_less(ledger, disks).await;
        self.work.notify();
        Ok(())
    }

    /// Less has to be kept than the active epoch keeps, if so: a new epoch, which keeps no more than that.
    pub(crate) async fn keep_less<D: Disk>(&self, ledger: &mut Ledger, disks: &Disks<D>) {
        let keeping = ledger.keeping();
        if keeping < self.active_epoch().keeping {
            self.switch_keeping(ledger, disks, keeping).await;
        }
    }

    async fn switch_keeping<D: Disk>(&self, ledger: &mut Ledger, disks: &Disks<D>, keeping: Keeping) {
        // A second record confirms the one that says so. Were that lost as the last of the catalog, a snapshot would be
        // back that nothing was saved for any more.
        let facts = ledger.catalog.state().volume;
        if let Err(error) = ledger.catalog.append(&disks.store, &[Item::Volume(facts)]).await {
            tracing::error!(%error, "the catalog's last record could not be confirmed");
        }
        let next = self.prepare_epoch(self.size_blocks(), keeping);
        self.switch_quietly(ledger, next).await;
    }

    /// Frees every segment of epochs whose images no whole snapshot needs, and the runs that no bookmark needs either.
    /// True if anything was freed or sealed.
    pub(crate) async fn free_dead<D: Disk>(&self, ledger: &mut Ledger, disks: &Disks<D>) -> Result<bool> {
        let beyond =
            |horizon: Epoch| planted!("delete-frees-needed-epoch", Epoch(horizon.0.saturating_add(1)), horizon);
        let (horizon, mark_horizon) = (beyond(ledger.horizon()), beyond(ledger.mark_horizon()));
        let mut changed = false;
        while ledger.to_seal.front().is_some_and(|frozen| frozen.map.epoch() < mark_horizon && frozen.is_final()) {
            self.seal_without_run(ledger, disks).await?;
            changed = true;
        }
        let state = ledger.catalog.state();
        let dead_segment = |segment: &SegmentIndex| matches!(state.segments[*segment as usize].state, SegmentState::Data { epoch } if epoch < horizon);
        let data: Vec<SegmentIndex> = (0..state.segments.len() as SegmentIndex).filter(dead_segment).collect();
        let is_dead = |run: &&RunRecord| run.last_epoch < mark_horizon;
        let runs: Vec<u64> = state.runs.values().filter(is_dead).map(|run| run.run).collect();
        let maps: BTreeSet<u64> = state.maps.values().copied().chain(state.live_map).collect();
        let holes: Vec<u64> = state.holes.keys().copied().filter(|run| !maps.contains(run)).collect();
        if data.is_empty() && runs.is_empty() && holes.is_empty() {
            ledger.may_be_dead = false;
            return Ok(changed);
        }
        let mut segments = data;
        segments.extend(holes.iter().flat_map(|run| &ledger.holes_runs[run].layout().segments));
        self.with_view(|view| {
            for run in view.runs.iter().filter(|run| runs.contains(&run.meta().run)) {
                segments.extend(&run.layout().segments);
            }
        });
        segments.sort_unstable();
        let mut items = ledger.segment_items(&segments, SegmentState::Free, 0);
        items.extend(runs.iter().map(|&run| Item::RunDelete { run }));
        items.extend(holes.iter().map(|&run| Item::HolesDelete { run }));
        ledger.catalog.append(&disks.store, &items).await?;
        ledger.holes_runs.retain(|run, _| !holes.contains(run));
        self.replace_view(segments, |view| view.runs.retain(|run| !runs.contains(&run.meta().run)));
        self.release_retired(ledger);
        Ok(true)
    }
}
