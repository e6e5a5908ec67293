//! Merging runs: few runs to ask, no dead entries in them, space back from joined groups.
//!
//! Invariants:
//! - Only neighbouring runs are merged, so that runs stay ordered by epoch.
//! - Inside a group only the oldest entry of a block counts, and only the oldest image of one up to the next whole
//!   snapshot; groups only ever grow together, so what is dead stays so.
//! - A data segment is freed only when every entry of its epoch was looked at and none that lives lies in it.
//! - However long a merge takes, what fills the memory meanwhile is written, as long as there is room.
//! - Runs of epochs that the needed map is rebuilt from at an attach are not merged with older ones: what an attach
//!   reads does not grow with what is saved.

use super::background::Activity;
use super::ledger::{Groups, Ledger};
use super::seal::run_items;
use super::views::ViewGuard;
use super::Volume;
use crate::disk::{Disk, Disks};
use crate::entry::{Entry, MARK};
use crate::error::{Error, ErrorKind, Result};
use crate::format::item::{Item, SegmentState};
use crate::run::{pages_for, Cursor, Merge, Merged, Run, RunLayout, RunWriter};
use crate::signal::Turns;
use crate::sync::atomic::Ordering;
use crate::sync::Arc;
use crate::units::{Epoch, SegmentIndex};
use std::collections::BTreeMap;
use std::ops::Range;

/// Runs that pile up before they are merged.
const FAN_OUT: usize = 4;
/// How often in a row the merge that makes up for joined groups may fail before it waits for the next deletion.
const JOIN_FAILURES_MAX: u32 = 4;

/// What is to be merged, decided under the ledger's lock.
struct Plan<'a> {
    /// Keeps the segments of the sources from being handed out again.
    view: ViewGuard<'a>,
    window: Range<usize>,
    /// It is what makes up for groups that were joined.
    joins: bool,
    groups: Groups,
    /// Epochs all of whose entries are in the sources.
    complete: Range<Epoch>,
    run: u64,
    layout: RunLayout,
}

impl Plan<'_> {
    fn sources(&self) -> &[Arc<Run>] {
        &self.view.runs[self.window.clone()]
    }
}

impl Volume {
    /// Merges runs if that pays. True if it did.
    pub(crate) async fn merge_next<D: Disk>(&self, disks: &Disks<D>) -> Result<bool> {
        let Some(plan) = self.plan_merge().await else { return Ok(false) };
        self.is_busy_with(Activity::Merging);
        let merged = self.write_merged(disks, &plan).await;
        let mut ledger = self.ledger.lock().await;
        let installed = match merged {
            Ok((run, unused, live)) => {
                ledger.give_back(unused);
                self.install_merged(&mut ledger, disks, &plan, run, &live).await
            }
            Err(error) => {
                ledger.give_back(plan.layout.segments.iter().copied());
                // It gave way and is planned anew when there is room.
                if error.kind() == ErrorKind::Busy {
                    Ok(false)
                } else {
                    Err(error)
                }
            }
        };
        self.stats.merges.add(u64::from(matches!(installed, Ok(true))));
        if plan.joins {
            // Planned anew, too, but not for ever: a run that cannot be read keeps the others from being merged.
            ledger.join_failures = if installed.is_err() { ledger.join_failures + 1 } else { 0 };
            ledger.groups_joined |= !matches!(installed, Ok(true)) && ledger.join_failures < JOIN_FAILURES_MAX;
        }
        installed.map(|_| true)
    }

    async fn plan_merge(&self) -> Option<Plan<'_>> {
        let mut ledger = self.ledger.lock().await;
        if self.room_wanted.load(Ordering::Relaxed) {
            return None;
        }
        let view = self.view_now();
        let youngest = ledger.marked().next_back()?;
        // Behind this index lie the runs of the youngest one's epochs.
        let boundary = view.runs.partition_point(|run| run.meta().last_epoch < youngest);
        let all_sealed = ledger.to_seal.front().is_none_or(|frozen| frozen.map.epoch() >= youngest);
        let joins = ledger.groups_joined && all_sealed;
        let window = if joins {
            Some(0..boundary).filter(|window| !window.is_empty())
        } else {
            duplicates(&view.runs[..boundary], &ledger.groups())
                .or_else(|| pile(&view.runs[..boundary], 0))
                .or_else(|| pile(&view.runs[boundary..], boundary))
        };
        let Some(window) = window else {
            ledger.groups_joined &= !joins;
            return None;
        };
        let entries = view.runs[window.clone()].iter().map(|run| run.meta().entries).sum();
        let count = RunLayout::segments_for(pages_for(entries).pages, self.places.segment_bytes) as usize;
        if ledger.free_count() < count {
            return None;
        }
        ledger.groups_joined &= !joins;
        let after_previous = window.start.checked_sub(1).map_or(Epoch(0), |at| view.runs[at].meta().last_epoch.next());
        let next_run = view.runs.get(window.end).map(|run| run.meta().first_epoch);
        let first_map = view.maps.first().expect("the active epoch has a map").epoch();
        let complete = after_previous..next_run.unwrap_or(first_map).min(first_map);
        let (run, layout) = (ledger.next_run(), self.run_layout(ledger.take(count)));
        Some(Plan { groups: ledger.groups(), view, window, joins, complete, run, layout })
    }

    /// Writes what lives of the sources as one run; counts what lives by segment.
    async fn write_merged<D: Disk>(
        &self,
        disks: &Disks<D>,
        plan: &Plan<'_>,
    ) -> Result<(Option<Run>, Vec<SegmentIndex>, BTreeMap<SegmentIndex, u64>)> {
        let first_epoch = plan.sources()[0].meta().first_epoch;
        let entries = plan.sources().iter().map(|run| run.meta().entries).sum();
        let cursors: Vec<Cursor> = plan.sources().iter().map(|run| run.scan_all()).collect();
        let mut merge = Merge::new(cursors);
        let mut writer = RunWriter::new(plan.run, first_epoch, plan.layout.clone(), entries);
        let mut live: BTreeMap<SegmentIndex, u64> = BTreeMap::new();
        let mut kept: Option<Entry> = None;
        let mut keep = |before: Option<&Entry>, entry: &Entry| {
            let group = plan.groups.of(entry.epoch);
            group.is_some() && before.is_none_or(|before| plan.groups.of(before.epoch) != group)
        };
        let mut turns = Turns::default();
        while let Some(merged) = merge.next(&disks.store, &mut keep).await? {
            if turns.step().await {
                self.seal_meanwhile(disks).await?;
                self.is_busy_with(Activity::Merging);
            }
            if self.room_wanted.load(Ordering::Relaxed) {
                return Err(Error::new(ErrorKind::Busy, "merge", "store").saying("somebody needs the room it holds"));
            }
            let Merged::Kept(mut entry) = merged else { continue };
            let group = plan.groups.of_images(entry.epoch);
            let is_older = |before: &Entry| before.block == entry.block && plan.groups.of_images(before.epoch) == group;
            if group.is_none() || kept.as_ref().is_some_and(is_older) {
                planted!("merge-drops-marks", continue);
                // No snapshot shows this image: a bookmark needs no more than to know that there was one.
                (entry.address, entry.checksum) = (MARK, 0);
            }
            kept = Some(entry);
            writer.push(&disks.store, entry).await?;
            if let Some(segment) = self.places.segment_of(entry.address) {
                *live.entry(segment).or_default() += 1;
            }
        }
        if writer.entries() == 0 {
            return Ok((None, plan.layout.segments.clone(), live));
        }
        let written = writer.finish(&disks.store).await?;
        Ok((Some(written.run), written.unused, live))
    }

    /// False where the sources are gone.
    async fn install_merged<D: Disk>(
        &self,
        ledger: &mut Ledger,
        disks: &Disks<D>,
        plan: &Plan<'_>,
        run: Option<Run>,
        live: &BTreeMap<SegmentIndex, u64>,
    ) -> Result<bool> {
        let ids: Vec<u64> = plan.sources().iter().map(|run| run.meta().run).collect();
        if !ids.iter().all(|id| ledger.catalog.state().runs.contains_key(id)) {
            // Somebody who needed room freed a source meanwhile: what was written is of no use any more.
            let written = run.map(|run| run.layout().segments.clone()).unwrap_or_default();
            ledger.give_back(written);
            return Ok(false);
        }
        let segments = &ledger.catalog.state().segments;
        let count_dead = planted!("merge-frees-shared-segment", 8, 0);
        let is_live = |segment: &SegmentIndex| live.get(segment).is_some_and(|count| *count > count_dead);
        let is_dead = |segment: &SegmentIndex| match segments[*segment as usize].state {
            SegmentState::Data { epoch } => plan.complete.contains(&epoch) && !is_live(segment),
            _ => false,
        };
        let mut freed: Vec<SegmentIndex> = (0..segments.len() as SegmentIndex).filter(is_dead).collect();
        freed.extend(plan.sources().iter().flat_map(|run| run.layout().segments.iter().copied()));
        freed.sort_unstable();
        let mut items: Vec<Item> = ids.iter().map(|&run| Item::RunDelete { run }).collect();
        items.extend(ledger.segment_items(&freed, SegmentState::Free, 0));
        if let Some(run) = &run {
            items.extend(run_items(ledger, run));
        }
        ledger.catalog.append(&disks.store, &items).await?;
        self.replace_view(freed, |view| {
            let at = view.runs.iter().position(|run| run.meta().run == ids[0]).expect("the sources are in the view");
            view.runs.retain(|run| !ids.contains(&run.meta().run));
            if let Some(run) = run {
                view.runs.insert(at, Arc::new(run));
            }
        });
        for run in ids {
            self.cache.forget(run);
        }
        Ok(true)
    }
}

/// Neighbours of one group but of different epochs: the younger may hold blocks that the older has.
fn duplicates(runs: &[Arc<Run>], groups: &Groups) -> Option<Range<usize>> {
    let start = runs.windows(2).position(|pair| {
        let (older, younger) = (pair[0].meta().last_epoch, pair[1].meta().first_epoch);
        older != younger && groups.of(older) == groups.of(younger)
    })?;
    Some(start..start + 2)
}

/// The longest tail of these runs whose first is not larger than the rest together, if it is long enough. Merging
/// such tails keeps sizes falling in powers of two: O(log n) runs, and every entry is rewritten O(log n) times.
fn pile(runs: &[Arc<Run>], offset: usize) -> Option<Range<usize>> {
    let mut behind = 0;
    let mut start = None;
    for (index, run) in runs.iter().enumerate().rev() {
        let entries = run.meta().entries;
        if runs.len() - index >= FAN_OUT && entries <= behind {
            start = Some(index);
        }
        behind += entries;
    }
    start.map(|start| offset + start..offset + runs.len())
}
