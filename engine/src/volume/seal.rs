//! Sealing: what was saved in memory becomes a run on the store (mission A5; figs. 43, 44).
//!
//! Invariants:
//! - Maps are sealed in the order of their epochs, so every run is older than every map.
//! - A map is sealed only when nothing will be published in it any more.
//! - One catalog record installs the run, turns the lanes' finished segments into data segments, and says up to which
//!   record each lane is covered; until then recovery reads the records themselves.

use super::background::Activity;
use super::failure::Room;
use super::ledger::Ledger;
use super::Volume;
use crate::disk::{Disk, Disks};
use crate::entry::Entry;
use crate::epoch::EpochState;
use crate::error::{ErrorKind, Result};
use crate::format::item::{Item, RunRecord, SegmentState};
use crate::lane::ClosedSegment;
use crate::run::{pages_for, Run, RunLayout, RunMeta, RunWriter};
use crate::saved::SavedMap;
use crate::signal::Turns;
use crate::sync::Arc;
use crate::units::{Epoch, SegmentIndex};

/// A map that waits to be written as a run.
#[derive(Clone)]
pub(crate) struct Frozen {
    pub(crate) epoch: Arc<EpochState>,
    pub(crate) map: Arc<SavedMap>,
    /// Last published sequence of each lane when the map was frozen; `None`: the epoch is over, look when quiet.
    pub(crate) published: Option<Vec<u64>>,
}

impl Frozen {
    /// The epoch is over: what it holds is final once no record of it is in flight.
    pub(crate) fn whole_epoch(epoch: Arc<EpochState>) -> Frozen {
        Frozen { map: epoch.saved_now(), epoch, published: None }
    }

    pub(crate) fn is_final(&self) -> bool {
        self.published.is_some() || self.epoch.is_quiet()
    }

    fn published(&self) -> Vec<u64> {
        self.published.clone().unwrap_or_else(|| self.epoch.published())
    }
}

/// What came of asking for segments.
enum Allocated {
    Layout(RunLayout),
    /// Making room sealed or freed something: what was to be written may not be needed any more.
    LookAgain,
    /// Readers hold what is free.
    Coming,
}

impl Volume {
    /// Freezes the active epoch's map when it is large. True if it did.
    pub(crate) fn spill_when_large(&self, ledger: &mut Ledger, entries: usize) -> bool {
        let epoch = self.active_epoch();
        let mut saved = epoch.saved.write().expect("no holder of this lock panics");
        if saved.len() < entries.max(1) {
            return false;
        }
        // Publishers hold the shared lock, so nobody is between looking at the old map and inserting into it.
        let fresh = Arc::new(SavedMap::new(epoch.number));
        let map = std::mem::replace(&mut *saved, fresh.clone());
        self.replace_view(Vec::new(), |view| view.maps.push(fresh));
        let published = planted!("spill-covers-too-much", None, Some(epoch.published()));
        drop(saved);
        ledger.to_seal.push_back(Frozen { epoch, map, published });
        true
    }

    /// Writes the oldest frozen map as a run. True if there was one.
    pub(crate) async fn seal_next<D: Disk>(&self, disks: &Disks<D>) -> Result<bool> {
        self.seal_front(disks, true).await
    }

    /// While other work takes the background long: writes what fills the memory, before saves wait for that. Only where
    /// there is room: to make some, the caller has to end and let go of what it reads.
    pub(crate) async fn seal_meanwhile<D: Disk>(&self, disks: &Disks<D>) -> Result<()> {
        while self.entries_in_memory() >= self.limits.entries_max / 2 {
            {
                let mut ledger = self.ledger.lock().await;
                self.spill_when_large(&mut ledger, self.limits.spill_entries);
            }
            if !self.seal_front(disks, false).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn seal_front<D: Disk>(&self, disks: &Disks<D>, may_make_room: bool) -> Result<bool> {
        let view_left = self.views.left();
        let mut ledger = self.ledger.lock().await;
        let Some(frozen) = ledger.to_seal.front().filter(|frozen| frozen.is_final()).cloned() else {
            return Ok(false);
        };
        if frozen.map.epoch() < ledger.mark_horizon() || frozen.map.is_empty() {
            self.seal_without_run(&mut ledger, disks).await?;
            return Ok(true);
        }
        if !may_make_room && ledger.free_count() < self.segments_for(frozen.map.len() as u64) {
            return Ok(false);
        }
        let entries = frozen.map.sorted();
        let layout = match self.allocate_run(&mut ledger, disks, entries.len() as u64).await? {
            Allocated::Layout(layout) => layout,
            Allocated::LookAgain => return Ok(true),
            Allocated::Coming => {
                drop(ledger);
                view_left.await;
                return Ok(true);
            }
        };
        let run = ledger.next_run();
        drop(ledger);
        self.is_busy_with(Activity::Sealing);
        let written = self.write_run(disks, run, &layout, &entries).await;
        let mut ledger = self.ledger.lock().await;
        let (run, unused) = match written {
            Ok(written) => written,
            Err(error) => {
                ledger.give_back(layout.segments);
                return Err(error);
            }
        };
        ledger.give_back(unused);
        let is_front = ledger.to_seal.front().is_some_and(|front| Arc::ptr_eq(&front.map, &frozen.map));
        if !is_front {
            // Somebody who needed room found the epoch dead and sealed it without a run meanwhile.
            ledger.give_back(run.layout().segments.iter().copied());
            return Ok(true);
        }
        self.install_run(&mut ledger, disks, &frozen, run).await?;
        Ok(true)
    }

    /// Segments for a run of so many entries, making room if need be.
    async fn allocate_run<D: Disk>(&self, ledger: &mut Ledger, disks: &Disks<D>, entries: u64) -> Result<Allocated> {
        let count = self.segments_for(entries);
        if ledger.free_count() >= count {
            return Ok(Allocated::Layout(self.run_layout(ledger.take(count))));
        }
        match self.make_room(ledger, disks, count).await {
            Ok(Room::Coming) => Ok(Allocated::Coming),
            Ok(Room::Made) => Ok(Allocated::LookAgain),
            // The last snapshot had to go: nobody needs the run any more.
            Err(error) if error.kind() == ErrorKind::NoSpace && ledger.mark_horizon() == NO_EPOCH => {
                Ok(Allocated::LookAgain)
            }
            Err(error) => Err(error),
        }
    }

    fn segments_for(&self, entries: u64) -> usize {
        RunLayout::segments_for(pages_for(entries).pages, self.places.segment_bytes) as usize
    }

    pub(crate) fn run_layout(&self, segments: Vec<SegmentIndex>) -> RunLayout {
        let places = &self.places;
        RunLayout { segments, segments_base_bytes: places.base_bytes, segment_bytes: places.segment_bytes }
    }

    pub(crate) async fn write_run<D: Disk>(
        &self,
        disks: &Disks<D>,
        run: u64,
        layout: &RunLayout,
        entries: &[Entry],
    ) -> Result<(Run, Vec<SegmentIndex>)> {
        let first_epoch = entries.iter().map(|entry| entry.epoch).min().expect("a run of something");
        let mut writer = RunWriter::new(run, first_epoch, layout.clone(), entries.len() as u64);
        let mut turns = Turns::default();
        for entry in entries {
            turns.step().await;
            writer.push(&disks.store, *entry).await?;
        }
        let written = writer.finish(&disks.store).await?;
        self.stats.runs_written.add(1);
        Ok((written.run, written.unused))
    }

    async fn install_run<D: Disk>(
        &self,
        ledger: &mut Ledger,
        disks: &Disks<D>,
        frozen: &Frozen,
        run: Run,
    ) -> Result<()> {
        let mut items = run_items(ledger, &run);
        let covered = self.coverage_items(ledger, &frozen.published(), &mut items);
        ledger.catalog.append(&disks.store, &items).await?;
        self.forget_closed(&covered);
        let run = Arc::new(run);
        self.replace_view(Vec::new(), |view| {
            view.maps.retain(|map| !Arc::ptr_eq(map, &frozen.map));
            view.runs.push(run);
        });
        self.pop_sealed(ledger, frozen);
        Ok(())
    }

    /// Nothing of the map is needed, or nothing is in it: only the lanes' segments change.
    pub(crate) async fn seal_without_run<D: Disk>(&self, ledger: &mut Ledger, disks: &Disks<D>) -> Result<()> {
        let frozen = ledger.to_seal.front().cloned().expect("the caller looked");
        assert!(frozen.is_final());
        let mut items = Vec::new();
        let covered = self.coverage_items(ledger, &frozen.published(), &mut items);
        if !items.is_empty() {
            ledger.catalog.append(&disks.store, &items).await?;
        }
        self.forget_closed(&covered);
        ledger.may_be_dead = true;
        self.replace_view(Vec::new(), |view| view.maps.retain(|map| !Arc::ptr_eq(map, &frozen.map)));
        self.pop_sealed(ledger, &frozen);
        Ok(())
    }

    fn pop_sealed(&self, ledger: &mut Ledger, frozen: &Frozen) {
        let popped = ledger.to_seal.pop_front().expect("the front was sealed");
        assert!(Arc::ptr_eq(&popped.map, &frozen.map));
        // Whoever waited because too much was in memory may go on.
        self.retry.notify();
    }

    /// Items that say how far each lane is covered, and that turn its finished segments into data segments; returns
    /// those segments.
    fn coverage_items(&self, ledger: &Ledger, published: &[u64], items: &mut Vec<Item>) -> Vec<SegmentIndex> {
        let mut covered = Vec::new();
        for (lane, &published) in published.iter().enumerate() {
            let before = ledger.catalog.state().lanes_indexed.get(&(lane as u16)).copied().unwrap_or(0);
            let sequence = published.max(before);
            if sequence > before {
                items.push(Item::LaneIndexed { lane: lane as u16, sequence });
            }
            let closed = self.lanes[lane].closed.lock().expect("no holder of this lock panics");
            for ClosedSegment { segment, epoch, last_sequence } in closed.iter().copied() {
                if last_sequence <= sequence {
                    covered.push(segment);
                    items.extend(ledger.segment_items(&[segment], SegmentState::Data { epoch }, 0));
                }
            }
        }
        covered
    }

    fn forget_closed(&self, covered: &[SegmentIndex]) {
        for lane in &self.lanes {
            let mut closed = lane.closed.lock().expect("no holder of this lock panics");
            closed.retain(|closed| !covered.contains(&closed.segment));
        }
    }
}

/// Items that give a run its segments.
pub(crate) fn segment_items_of(ledger: &Ledger, run: &Run) -> Vec<Item> {
    let used = RunLayout::segments_for(run.meta().pages, run.layout().segment_bytes) as usize;
    let state = SegmentState::Run { run: run.meta().run, ordinal: 0 };
    ledger.segment_items(&run.layout().segments[..used], state, 1)
}

/// Items that add a run and give it its segments.
pub(crate) fn run_items(ledger: &Ledger, run: &Run) -> Vec<Item> {
    let RunMeta { run: id, first_epoch, last_epoch, entries, pages, height, first_block, last_block } = *run.meta();
    let mut items = segment_items_of(ledger, run);
    let record = RunRecord { run: id, first_epoch, last_epoch, entries, pages, height, first_block, last_block };
    items.push(Item::RunPut(record));
    items
}

/// What the catalog says of a run, as the run's reader wants it.
pub(crate) fn run_meta(record: &RunRecord) -> RunMeta {
    let RunRecord { run, first_epoch, last_epoch, entries, pages, height, first_block, last_block } = *record;
    RunMeta { run, first_epoch, last_epoch, entries, pages, height, first_block, last_block }
}

/// An epoch number that no snapshot has: no snapshot needs anything.
pub(crate) const NO_EPOCH: Epoch = Epoch(u64::MAX);
