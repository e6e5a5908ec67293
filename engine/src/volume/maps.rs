//! The in-use maps on the store: of every snapshot, and of the volume itself (mission A4).
//!
//! Invariants:
//! - A snapshot's map is durable before its cut is reported, and before anything is overwritten that only the map says
//!   nobody needs. Where it cannot be written everything counts as in use in that snapshot.
//! - What a snapshot's map says never changes: where the store did not confirm it, that is settled before anybody looks.
//! - After a crash the volume's own map has at most the holes that it had: what is untrusted counts as in use.

use super::background::Activity;
use super::ledger::Ledger;
use super::seal::{segment_items_of, NO_EPOCH};
use super::Volume;
use crate::disk::{Disk, Disks};
use crate::entry::Entry;
use crate::epoch::EpochState;
use crate::error::{Error, ErrorKind, Result};
use crate::format::item::{Item, RunRecord, NO_HOLES};
use crate::holes::{Holes, HolesBuilder};
use crate::needed::NeededMap;
use crate::run::{pages_for, Run, RunLayout, RunMeta, RunWriter};
use crate::sync::Arc;
use crate::units::{BlockIndex, Epoch, BLOCK_MAX};
use std::collections::VecDeque;
use std::ops::Range;

/// Snapshots whose maps are compared after an attach; with more, holes are saved once more before they are forgone.
const COMPARED_MAX: usize = 256;

/// What is a hole in all snapshots, looked for one map at a time after an attach.
pub(crate) struct CommonHoles {
    epoch: Arc<EpochState>,
    so_far: Option<Holes>,
    left: VecDeque<Epoch>,
}

impl CommonHoles {
    /// Begins with the snapshots and bookmarks that are whole; none where some of them has no map.
    pub(crate) fn begin(ledger: &Ledger, epoch: Arc<EpochState>) -> Option<CommonHoles> {
        let maps = &ledger.catalog.state().maps;
        let left: VecDeque<Epoch> = ledger.marked().collect();
        let is_of_use = !left.is_empty() && left.len() <= COMPARED_MAX && left.iter().all(|one| maps.contains_key(one));
        is_of_use.then_some(CommonHoles { epoch, so_far: None, left })
    }
}

/// The epoch that a cut ended and the one it opened.
pub(crate) struct CutEpochs {
    pub(crate) before: Arc<EpochState>,
    pub(crate) next: Arc<EpochState>,
}

impl Volume {
    /// The blocks that are not in use now. While requests run it is a moment's answer.
    pub fn holes_now(&self) -> Holes {
        self.active_epoch().in_use.holes()
    }

    /// Whether the present content of a block has to be saved before it is overwritten.
    #[cfg(feature = "sim")]
    pub fn needs(&self, block: BlockIndex) -> bool {
        self.active_epoch().needed.is_needed(block)
    }

    /// The blocks that are not in use in the snapshot of an epoch. Fails with `NotFound`, or as reading the store does.
    pub async fn holes_of<D: Disk>(&self, disks: &Disks<D>, epoch: Epoch) -> Result<Arc<Holes>> {
        let (run, view) = {
            let ledger = self.ledger.lock().await;
            if !ledger.catalog.state().snapshots.contains_key(&epoch) {
                let message = format!("there is no snapshot of epoch {epoch}");
                return Err(Error::new(ErrorKind::NotFound, "read an in-use map", "volume").saying(message));
            }
            // Held until the run was read: its segments are not handed out again before.
            let view = self.view_now();
            (ledger.catalog.state().maps.get(&epoch).map(|run| Arc::clone(&ledger.holes_runs[run])), view)
        };
        let Some(run) = run else { return Ok(Arc::default()) };
        let holes = self.read_holes(disks, &run).await;
        drop(view);
        holes
    }

    /// The holes of a run, from memory if they were read lately.
    pub(crate) async fn read_holes<D: Disk>(&self, disks: &Disks<D>, run: &Arc<Run>) -> Result<Arc<Holes>> {
        let id = run.meta().run;
        let kept = self.holes.lock().expect("no holder of this lock panics").get(&id).cloned();
        if let Some(holes) = kept {
            return Ok(holes);
        }
        let holes = Arc::new(scan_holes(&disks.store, run).await?);
        self.holes.lock().expect("no holder of this lock panics").put(id, Arc::clone(&holes));
        Ok(holes)
    }

    /// Before a write puts something where the volume's map on the store may have nothing: records that the map is not
    /// to be trusted there. The caller tests again. Where neither store nor state directory take that, it waits.
    pub(crate) async fn distrust<D: Disk>(&self, disks: &Disks<D>, blocks: Range<BlockIndex>) {
        let mut ledger = self.ledger.lock().await;
        let regions: Vec<u64> = self.trust.guarded_in(blocks).collect();
        ledger.untrusted_since_cut.extend(&regions);
        // The store may have a map that the state does not have: one of a cut that it did not confirm.
        let in_doubt = ledger.catalog.failed();
        let state = ledger.catalog.state();
        // Recorded while the volume was smaller a region may have had fewer blocks.
        let is_new = |region: &&u64| {
            let blocks = self.trust.blocks(**region);
            let known = state.untrusted.get(&blocks.start);
            in_doubt || known.is_none_or(|count| *count < blocks.end - blocks.start)
        };
        let has_map = in_doubt || state.live_map.is_some();
        let items: Vec<Item> = regions.iter().filter(is_new).map(|region| self.untrusted_item(*region)).collect();
        if has_map && !items.is_empty() && !planted!("untrusted-region-not-recorded") {
            if let Err(error) = ledger.catalog.append(&disks.store, &items).await {
                tracing::error!(%error, "the store does not take that its in-use map is out of date");
                if !self.record_elsewhere(|_| {}) {
                    drop(ledger);
                    return self.retry.listen().await;
                }
                if ledger.catalog.admit(&items).is_ok() {
                    ledger.in_memory(&items);
                }
            }
            self.stats.regions_untrusted.add(items.len() as u64);
        }
        regions.into_iter().for_each(|region| self.trust.release(region));
    }

    fn untrusted_item(&self, region: u64) -> Item {
        let blocks = self.trust.blocks(region);
        Item::Untrusted { start_block: blocks.start, count_blocks: blocks.end - blocks.start }
    }

    /// At a cut, with the gate closed and drained: from now on writes are told apart from those of before.
    pub(crate) fn guard_map(&self, ledger: &mut Ledger) {
        let has_holes = self.active_epoch().in_use.may_have_free() || ledger.catalog.state().live_map.is_some();
        self.trust.guard_all(has_holes);
        ledger.untrusted_since_cut.clear();
    }

    /// After a cut, while writes go on: makes the map of the epoch that ended the snapshot's, durably; then what is not
    /// in use is not saved any more. Where that fails everything is in use in the snapshot.
    pub(crate) async fn keep_map_of_cut<D: Disk>(&self, disks: &Disks<D>, cut: &CutEpochs) {
        // From here on no request takes the lock behind which the map of before is.
        cut.next.in_use.inherit();
        let holes = cut.before.in_use.holes();
        let kept = match self.lateness.refuse("keep an in-use map", cut.next.number) {
            Ok(()) => self.store_map(disks, Some(cut.next.number), &holes).await,
            late => late,
        };
        match kept {
            Ok(()) => self.forgo(cut, &holes).await,
            Err(error) => tracing::error!(%error, "in this snapshot everything counts as in use"),
        }
        self.ledger.lock().await.cut_under_way = None;
    }

    async fn forgo(&self, cut: &CutEpochs, holes: &Holes) {
        let (next, before) = (&cut.next.needed, &cut.before.needed);
        planted!("older-snapshots-forgotten", {
            next.forgo_all(holes.ranges(), &NeededMap::new(0, false)).await;
            return;
        });
        self.stats.blocks_forgone.add(next.forgo_all(holes.ranges(), before).await);
    }

    /// At a detach, when nothing is in flight any more: the volume's own map is exact.
    pub(crate) async fn keep_live_map<D: Disk>(&self, disks: &Disks<D>) {
        if let Err(error) = self.store_map(disks, None, &self.holes_now()).await {
            tracing::warn!(%error, "the in-use map could not be written; run fstrim after the next attach");
        }
    }

    /// Makes `holes` the volume's map, and that of the snapshot whose epoch is given.
    async fn store_map<D: Disk>(&self, disks: &Disks<D>, snapshot: Option<Epoch>, holes: &Holes) -> Result<()> {
        let stored = {
            let ledger = self.ledger.lock().await;
            ledger.catalog.state().live_map.map(|run| Arc::clone(&ledger.holes_runs[&run]))
        };
        let same = match &stored {
            // Another number of ranges is another map; only then is it worth reading.
            Some(run) if run.meta().entries == holes.ranges().len() as u64 => {
                self.read_holes(disks, run).await.is_ok_and(|kept| *kept == *holes)
            }
            _ => false,
        };
        if same || holes.is_empty() {
            let run = stored.filter(|_| same).map_or(NO_HOLES, |run| run.meta().run);
            return self.install_map(disks, snapshot, run, Vec::new()).await;
        }
        let run = self.write_holes(disks, holes).await?;
        let id = run.meta().run;
        let items = {
            let mut ledger = self.ledger.lock().await;
            let items = holes_items(&ledger, &run);
            ledger.holes_runs.insert(id, Arc::new(run));
            items
        };
        let installed = self.install_map(disks, snapshot, id, items).await;
        if installed.is_err() {
            // In doubt: the segments stay out of use until the next attach looks again.
            self.ledger.lock().await.holes_runs.remove(&id);
        }
        self.holes.lock().expect("no holder of this lock panics").put(id, Arc::new(holes.clone()));
        installed
    }

    /// Makes the run of holes what the volume, and the snapshot if there is one, have as their map.
    async fn install_map<D: Disk>(
        &self,
        disks: &Disks<D>,
        snapshot: Option<Epoch>,
        run: u64,
        mut items: Vec<Item>,
    ) -> Result<()> {
        let mut ledger = self.ledger.lock().await;
        // Writes that were not recorded as made since the cut.
        self.lateness.refuse("keep an in-use map", snapshot.unwrap_or(NO_EPOCH))?;
        let state = ledger.catalog.state();
        let of_cut = snapshot.filter(|_| run != NO_HOLES);
        // It may have broken meanwhile.
        let map_of = of_cut.filter(|epoch| ledger.whole().any(|whole| whole == *epoch));
        let is_live = state.live_map.unwrap_or(NO_HOLES) == run && state.untrusted.is_empty();
        items.extend(map_of.map(|epoch| Item::MapPut { epoch, run }));
        if !is_live {
            items.push(Item::LiveMap { run });
        }
        // At a detach the map has all that was written.
        if of_cut.is_some() && !planted!("writes-after-the-cut-trusted") {
            items.extend(ledger.untrusted_since_cut.iter().map(|region| self.untrusted_item(*region)));
        }
        if !items.is_empty() {
            let installed = ledger.catalog.append(&disks.store, &items).await;
            ledger.maps_in_doubt.extend(map_of.filter(|_| installed.is_err()));
            installed?;
        }
        if run == NO_HOLES {
            self.trust.guard_all(false);
        }
        ledger.may_be_dead = true;
        Ok(())
    }

    /// Before anybody looks at the snapshot of an epoch: whether it has a map is settled for good. Fails as writing the
    /// catalog does.
    pub(crate) async fn settle_map<D: Disk>(&self, ledger: &mut Ledger, disks: &Disks<D>, epoch: Epoch) -> Result<()> {
        if !ledger.maps_in_doubt.contains(&epoch) {
            return Ok(());
        }
        if ledger.catalog.failed() {
            ledger.catalog.compact(&disks.store).await?;
        }
        ledger.maps_in_doubt.clear();
        Ok(())
    }

    async fn write_holes<D: Disk>(&self, disks: &Disks<D>, holes: &Holes) -> Result<Run> {
        let entries = holes.ranges().len() as u64;
        let (run, layout) = {
            let mut ledger = self.ledger.lock().await;
            let count = RunLayout::segments_for(pages_for(entries).pages, self.places.segment_bytes) as usize;
            if ledger.free_count() < count + ledger.kept_for_runs {
                let message = format!("the store has no room for the {entries} ranges of an in-use map");
                return Err(Error::new(ErrorKind::NoSpace, "write an in-use map", "store").saying(message));
            }
            (ledger.next_run(), self.run_layout(ledger.take(count)))
        };
        self.is_busy_with(Activity::Sealing);
        let epoch = self.active_epoch().number;
        let mut writer = RunWriter::new(run, epoch, layout.clone(), entries);
        for hole in holes.ranges() {
            let entry = Entry { block: hole.start, epoch, address: hole.end - hole.start, checksum: 0 };
            if let Err(error) = writer.push(&disks.store, entry).await {
                self.ledger.lock().await.give_back(layout.segments);
                return Err(error);
            }
        }
        let written = writer.finish(&disks.store).await;
        self.is_busy_with(Activity::Idle);
        let mut ledger = self.ledger.lock().await;
        match written {
            Ok(written) => {
                ledger.give_back(written.unused);
                Ok(written.run)
            }
            Err(error) => {
                ledger.give_back(layout.segments);
                Err(error)
            }
        }
    }

    /// The volume's own map at an attach: what is on the store, without what is untrusted. One that cannot be read is given
    /// up for good: were it read again at the next attach, it would know nothing of what is written from now on.
    pub(crate) async fn load_live_map<D: Disk>(&self, disks: &Disks<D>) -> Result<()> {
        let mut ledger = self.ledger.lock().await;
        let state = ledger.catalog.state();
        let Some(run) = state.live_map.map(|run| Arc::clone(&ledger.holes_runs[&run])) else { return Ok(()) };
        let untrusted = state.untrusted.iter().map(|(&start, &count)| start..start + count);
        let untrusted: Vec<Range<BlockIndex>> = planted!("untrusted-regions-trusted", Vec::new(), untrusted.collect());
        match self.read_holes(disks, &run).await {
            Ok(holes) => {
                let active = self.active_epoch();
                active.in_use.replace(&holes.without(untrusted));
                self.trust.guard_all(true);
            }
            Err(error) => {
                tracing::error!(%error, "the in-use map cannot be read; everything counts as in use");
                ledger.catalog.append(&disks.store, &[Item::LiveMap { run: NO_HOLES }]).await?;
            }
        }
        ledger.common_holes = CommonHoles::begin(&ledger, self.active_epoch());
        Ok(())
    }

    /// After an attach the needed map knows nothing of holes: what is a hole in every snapshot nobody needs. Looks at
    /// one more map; true if there was one.
    pub(crate) async fn compare_next_map<D: Disk>(&self, disks: &Disks<D>) -> Result<bool> {
        let Some(mut common) = self.ledger.lock().await.common_holes.take() else { return Ok(false) };
        if !Arc::ptr_eq(&common.epoch, &self.active_epoch()) {
            // A cut came first; it carries over what the map before it needed.
            return Ok(true);
        }
        let Some(epoch) = common.left.pop_front() else {
            let holes = common.so_far.unwrap_or_default();
            let needs_nothing = NeededMap::new(0, false);
            let forgone = common.epoch.needed.forgo_all(holes.ranges(), &needs_nothing).await;
            self.stats.blocks_forgone.add(forgone);
            return Ok(true);
        };
        let holes = match self.holes_of(disks, epoch).await {
            Ok(holes) => holes,
            // It was deleted meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
            Err(error) => return Err(error),
        };
        let so_far = common.so_far.as_ref().map_or_else(|| (*holes).clone(), |so_far| so_far.intersection(&holes));
        common.so_far = Some(so_far);
        self.ledger.lock().await.common_holes = Some(common);
        Ok(true)
    }
}

/// Items that add a run of holes and give it its segments.
fn holes_items(ledger: &Ledger, run: &Run) -> Vec<Item> {
    let RunMeta { run: id, first_epoch, last_epoch, entries, pages, height, first_block, last_block } = *run.meta();
    let mut items = segment_items_of(ledger, run);
    let record = RunRecord { run: id, first_epoch, last_epoch, entries, pages, height, first_block, last_block };
    items.push(Item::HolesPut(record));
    items
}

/// Reads a run of holes. Fails with `Corrupt` where they make no sense.
pub(crate) async fn scan_holes<D: Disk>(store: &D, run: &Arc<Run>) -> Result<Holes> {
    let (mut holes, mut end) = (HolesBuilder::default(), None);
    let mut cursor = run.scan_all();
    while let Some(entry) = cursor.next(store).await? {
        let is_behind = end.is_none_or(|end| entry.block > end);
        let hole_end = entry.block.checked_add(entry.address).filter(|hole_end| *hole_end <= BLOCK_MAX + 1);
        let Some(hole_end) = hole_end.filter(|_| entry.address > 0 && is_behind) else {
            let message = format!(
                "the in-use map {} has a hole of {} blocks at block {}, which cannot be; run `cairn \
                                   check`",
                run.meta().run,
                entry.address,
                entry.block
            );
            return Err(Error::new(ErrorKind::Corrupt, "read an in-use map", "store").saying(message));
        };
        holes.push(entry.block..hole_end);
        end = Some(hole_end);
    }
    Ok(holes.finish())
}
