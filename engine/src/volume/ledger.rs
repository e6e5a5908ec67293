//! The ledger: the catalog, and which segments are free. One async lock guards both.
//!
//! Invariants:
//! - A segment is in `free` only when the catalog on the store says so and no reader may read it.
//! - A segment taken for a run or for moved images stays "free" on the store until the record that installs what was
//!   written there: after a crash nothing refers to it.
//! - Broken snapshots and bookmarks are always the oldest ones, whichever of the two they are.

use super::failure::Room;
use super::maps::CommonHoles;
use super::seal::Frozen;
use super::Volume;
use crate::catalog::Catalog;
use crate::disk::{Disk, Disks};
use crate::epoch::Keeping;
use crate::error::{Error, ErrorKind, Result};
use crate::format::item::{Item, SegmentState, SnapshotRecord};
use crate::lane::Handed;
use crate::run::Run;
use crate::snapshot::{Snapshot, SnapshotName};
use crate::sync::Arc;
use crate::units::{Epoch, SegmentIndex};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What the ledger's lock guards.
pub(crate) struct Ledger {
    pub(crate) catalog: Catalog,
    free: BTreeSet<SegmentIndex>,
    /// Where the search for the next free segment goes on.
    cursor: SegmentIndex,
    /// Maps whose entries no run holds yet and that change no more, oldest first.
    pub(crate) to_seal: VecDeque<Frozen>,
    /// Two groups were joined: younger duplicates may be dropped.
    pub(crate) groups_joined: bool,
    /// How often in a row that failed.
    pub(crate) join_failures: u32,
    /// The horizon has risen: segments and runs of older epochs can be freed.
    pub(crate) may_be_dead: bool,
    next_run: u64,
    /// Runs of holes, those of the catalog.
    pub(crate) holes_runs: BTreeMap<u64, Arc<Run>>,
    /// Regions in which something was written since the last cut that its map may lack.
    pub(crate) untrusted_since_cut: BTreeSet<u64>,
    /// The epoch of a snapshot whose cut has not written its map yet.
    pub(crate) cut_under_way: Option<Epoch>,
    /// Snapshots whose maps the store may have, and the state has not.
    pub(crate) maps_in_doubt: BTreeSet<Epoch>,
    /// What is still to be found out after an attach.
    pub(crate) common_holes: Option<CommonHoles>,
    /// Segments that lanes leave for runs, so that sealing can go on when the store is full.
    pub(crate) kept_for_runs: usize,
}

impl Ledger {
    /// A ledger over a catalog none of whose free segments anybody reads. `kept_for_runs`: see the field.
    pub(crate) fn new(catalog: Catalog, kept_for_runs: usize) -> Ledger {
        let state = catalog.state();
        let free = (0..state.segments.len() as SegmentIndex)
            .filter(|&segment| matches!(state.segments[segment as usize].state, SegmentState::Free))
            .collect();
        // A session's run ids are its own, so that not even a recovery that crashed and was repeated uses one twice.
        let next_run = catalog.superblock().session << 32;
        Ledger {
            catalog,
            free,
            cursor: 0,
            to_seal: VecDeque::new(),
            groups_joined: false,
            join_failures: 0,
            may_be_dead: true,
            next_run,
            holes_runs: BTreeMap::new(),
            untrusted_since_cut: BTreeSet::new(),
            cut_under_way: None,
            maps_in_doubt: BTreeSet::new(),
            common_holes: None,
            kept_for_runs,
        }
    }

    pub(crate) fn free_count(&self) -> usize {
        self.free.len()
    }

    /// Takes up to `count` free segments, ascending, going round the store so that wear spreads.
    pub(crate) fn take(&mut self, count: usize) -> Vec<SegmentIndex> {
        let ahead = self.free.range(self.cursor..).chain(self.free.range(..self.cursor));
        let taken: Vec<SegmentIndex> = ahead.take(count).copied().collect();
        for segment in &taken {
            self.free.remove(segment);
        }
        if let Some(last) = taken.last() {
            self.cursor = last + 1;
        }
        taken
    }

    pub(crate) fn give_back(&mut self, segments: impl IntoIterator<Item = SegmentIndex>) {
        for segment in segments {
            let new = self.free.insert(segment);
            assert!(new, "segment {segment} was free already");
        }
    }

    /// A run id never used before.
    pub(crate) fn next_run(&mut self) -> u64 {
        self.next_run += 1;
        self.next_run - 1
    }

    pub(crate) fn incarnation(&self, segment: SegmentIndex) -> u32 {
        self.catalog.state().segments[segment as usize].incarnation
    }

    /// Applies items whose durability is in doubt. The next append writes them.
    pub(crate) fn in_memory(&mut self, items: &[Item]) {
        self.catalog.apply_in_memory(items).expect("the items were made from this state");
    }

    pub(crate) fn record(&self, name: &SnapshotName) -> Result<&SnapshotRecord> {
        self.catalog.state().snapshot_named(name.as_str()).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "find snapshot", "volume").saying(format!("there is no snapshot {name}"))
        })
    }

    pub(crate) fn snapshot(&self, name: &SnapshotName) -> Result<Snapshot> {
        self.record(name).map(Snapshot::from_record)
    }

    /// Epochs of the whole snapshots, ascending: those whose content somebody may read.
    pub(crate) fn whole(&self) -> impl DoubleEndedIterator<Item = Epoch> + '_ {
        let snapshots = self.catalog.state().snapshots.iter();
        snapshots.filter(|(_, record)| record.broken.is_none() && !record.is_bookmark()).map(|(&epoch, _)| epoch)
    }

    /// Epochs of the whole snapshots and of the whole bookmarks, ascending: those that a delta may begin at.
    pub(crate) fn marked(&self) -> impl DoubleEndedIterator<Item = Epoch> + '_ {
        let snapshots = self.catalog.state().snapshots.iter();
        snapshots.filter(|(_, record)| record.broken.is_none()).map(|(&epoch, _)| epoch)
    }

    /// The oldest whole snapshot or bookmark; `u64::MAX` where there is none.
    pub(crate) fn mark_horizon(&self) -> Epoch {
        self.marked().next().unwrap_or(Epoch(u64::MAX))
    }

    /// What an epoch has to keep for those that there are.
    pub(crate) fn keeping(&self) -> Keeping {
        match (self.whole().next(), self.marked().next()) {
            (Some(_), _) => Keeping::Images,
            (None, Some(_)) => planted!("bookmarks-keep-nothing", Keeping::Nothing, Keeping::Marks),
            (None, None) => Keeping::Nothing,
        }
    }

    /// The oldest whole snapshot; `u64::MAX` where there is none.
    pub(crate) fn horizon(&self) -> Epoch {
        self.whole().next().unwrap_or(Epoch(u64::MAX))
    }

    /// The groups an epoch belongs to: from each whole snapshot or bookmark, or from each whole snapshot, to the next.
    pub(crate) fn groups(&self) -> Groups {
        Groups { starts: self.marked().collect(), image_starts: self.whole().collect() }
    }

    /// Items that set the state of segments, one a run of neighbours with the same incarnation.
    pub(crate) fn segment_items(&self, segments: &[SegmentIndex], state: SegmentState, bump: u32) -> Vec<Item> {
        let mut items: Vec<Item> = Vec::new();
        for (ordinal, &segment) in segments.iter().enumerate() {
            let incarnation = self.incarnation(segment) + bump;
            let state = match state {
                SegmentState::Run { run, ordinal: first } => SegmentState::Run { run, ordinal: first + ordinal as u32 },
                other => other,
            };
            if let Some(Item::Segments { first, count, incarnation: last, .. }) = items.last_mut() {
                if *first + *count == segment && *last == incarnation {
                    *count += 1;
                    continue;
                }
            }
            items.push(Item::Segments { first: segment, count: 1, state, incarnation });
        }
        items
    }
}

/// Epochs grouped by the whole snapshots and bookmarks: inside a group only the oldest entry of a block counts. Grouped
/// by the whole snapshots alone: there only the oldest entry's image counts.
pub(crate) struct Groups {
    starts: Vec<Epoch>,
    image_starts: Vec<Epoch>,
}

impl Groups {
    /// Which group; `None` for epochs before the oldest whole snapshot or bookmark, which are dead.
    pub(crate) fn of(&self, epoch: Epoch) -> Option<usize> {
        planted!("merge-forgets-bookmarks", return group_of(&self.image_starts, epoch));
        group_of(&self.starts, epoch)
    }

    /// Which group of images; `None` for epochs before the oldest whole snapshot, whose images nobody reads.
    pub(crate) fn of_images(&self, epoch: Epoch) -> Option<usize> {
        group_of(&self.image_starts, epoch)
    }
}

fn group_of(starts: &[Epoch], epoch: Epoch) -> Option<usize> {
    let is_reached = |start: &Epoch| planted!("merge-drops-the-cut", *start < epoch, *start <= epoch);
    starts.partition_point(is_reached).checked_sub(1)
}

impl Volume {
    /// A segment for the lane: from its reserve, which is topped up ahead of need; in the steady state without
    /// waiting for the catalog.
    /// Fails where it is not wanted any more when it is the caller's turn.
    pub(crate) async fn take_segment<D: Disk>(
        &self,
        disks: &Disks<D>,
        lane: u16,
        is_wanted: impl Fn() -> bool,
    ) -> Result<Handed> {
        loop {
            let view_left = self.views.left();
            {
                let reserve = &self.lanes[lane as usize].reserve;
                let mut reserve = reserve.lock().expect("no holder of this lock panics");
                if let Some(handed) = reserve.pop_front() {
                    if reserve.len() <= self.limits.reserve_segments / 2 {
                        self.work.notify();
                    }
                    return Ok(handed);
                }
            }
            let mut ledger = self.ledger.lock().await;
            if !is_wanted() {
                let message = "nothing is to be saved in this epoch any more";
                return Err(Error::new(ErrorKind::Closed, "save old content", "store").saying(message));
            }
            let topped_up = self.top_up_reserve(&mut ledger, disks, lane, true).await?;
            drop(ledger);
            let is_empty = self.lanes[lane as usize].reserve.lock().expect("no holder of this lock panics").is_empty();
            if !topped_up && is_empty {
                view_left.await;
            }
        }
    }

    /// Tops the lane's reserve up. `must`: at least one segment, breaking the oldest snapshots for it if the store is
    /// full; otherwise only from what is free. True if it did something; with `must` false only where readers hold what
    /// is free.
    pub(crate) async fn top_up_reserve<D: Disk>(
        &self,
        ledger: &mut Ledger,
        disks: &Disks<D>,
        lane: u16,
        must: bool,
    ) -> Result<bool> {
        let held = self.lanes[lane as usize].reserve.lock().expect("no holder of this lock panics").len();
        if held > self.limits.reserve_segments / 2 {
            return Ok(false);
        }
        if must && held == 0 {
            let needed = 1 + ledger.kept_for_runs;
            if self.make_room(ledger, disks, needed).await? == Room::Coming {
                return Ok(false);
            }
        }
        // Never more than an eighth of what is free goes to one lane: small stores are shared fairly.
        let spare = ledger.free_count().saturating_sub(ledger.kept_for_runs);
        let wanted = (self.limits.reserve_segments - held).min((spare / 8).max(usize::from(held == 0)));
        let segments = ledger.take(wanted.min(spare));
        if segments.is_empty() {
            return Ok(false);
        }
        let items = ledger.segment_items(&segments, SegmentState::Lane { lane }, 1);
        if let Err(error) = ledger.catalog.append(&disks.store, &items).await {
            // In doubt, but nobody has written there: whatever a crash shows of it, nothing will be found in them. A
            // store that fails for long must not run out of segments by it.
            planted!("doubtful-hand-out-lost", (), ledger.give_back(segments));
            return Err(error);
        }
        let handed = segments.iter().map(|&segment| Handed { segment, incarnation: ledger.incarnation(segment) });
        let handed: Vec<Handed> = handed.collect();
        self.lanes[lane as usize].reserve.lock().expect("no holder of this lock panics").extend(handed);
        Ok(true)
    }
}
