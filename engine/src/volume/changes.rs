//! What changed between two snapshots, or since one (mission B1, B2).
//!
//! Invariants:
//! - No view is held between two regions of the volume, nor while somebody needs what only it keeps.
//! - An answer counts only if both ends are whole after it was found.

use super::Volume;
use crate::delta::{self, Bits, DeltaPoint, End, Ends, Extent, Extents, Index, Question};
use crate::disk::{Disk, Disks};
use crate::error::{ErrorKind, Result};
use crate::snapshot::{SnapshotName, SnapshotPin};
use crate::sync::Arc;
use crate::units::blocks_for;

impl Volume {
    /// What differs between `older` and `newer` from `offset_bytes` on, in ascending order, at most `results_max`
    /// extents; where there may be more, the next question begins at the end of the last. Without `older`: everything
    /// in use in `newer`. The live volume as the newer one holds everything acknowledged before the call. Fails with
    /// `Invalid` (not an older and a newer one of this volume, or nothing is asked for) or `Broken`.
    pub async fn changes<D: Disk>(
        &self,
        disks: &Disks<D>,
        older: Option<&DeltaPoint>,
        newer: &DeltaPoint,
        offset_bytes: u64,
        results_max: usize,
    ) -> Result<Vec<Extent>> {
        self.refuse_closed("compare snapshots")?;
        let question = Question::check(older, newer, self.size_bytes(), offset_bytes, results_max)?;
        let ends = [question.older, question.newer];
        ends.into_iter().flatten().try_for_each(|pin| self.refuse_useless(pin))?;
        let older_holes = question.older.map(SnapshotPin::holes).cloned().unwrap_or_default();
        let newer_holes = question.newer.map(SnapshotPin::holes).cloned();
        let newer_holes = newer_holes.unwrap_or_else(|| Arc::new(self.holes_now()));
        let end_of = |older: &SnapshotPin| End::older(older.size_bytes, question.newer_bytes, &older_holes);
        let older = question.older.map(end_of);
        let newer = End { blocks: blocks_for(question.newer_bytes), holes: &newer_holes };
        let found = self.find_changes(disks, &question, &Ends { older, newer }).await?;
        ends.into_iter().flatten().try_for_each(|pin| self.refuse_useless(pin))?;
        Ok(found)
    }

    async fn find_changes<D: Disk>(
        &self,
        disks: &Disks<D>,
        question: &Question<'_>,
        ends: &Ends<'_>,
    ) -> Result<Vec<Extent>> {
        let first_epoch = question.first_epoch(self.restore.target());
        let mut extents = Extents::new(question.offset_bytes..question.newer_bytes, question.results_max);
        while let Some(blocks) = extents.next_region() {
            let view = self.view_now();
            // Of the live volume, everything up to the epoch that is active now.
            let end_of_maps = || view.maps.last().expect("the active epoch has a map").epoch().next();
            let end_epoch = question.newer.map_or_else(end_of_maps, |newer| newer.epoch);
            let epochs = first_epoch.map(|first| first..end_epoch);
            let is_in_the_way = || self.is_in_the_way(&view);
            let index = Index { view: &view, pages: &self.cache, bitmaps: &self.bitmaps, is_in_the_way };
            match index.add_changes(&disks.store, epochs, blocks, ends, &mut extents).await {
                Err(error) if error.kind() == ErrorKind::Busy => continue,
                result => result?,
            }
        }
        Ok(extents.finish())
    }

    /// Refuses a point of another volume, and one that broke.
    fn refuse_useless(&self, pin: &SnapshotPin) -> Result<()> {
        let pins = self.pins.lock().expect("no holder of this lock panics");
        let own = pins.get(&pin.epoch).and_then(|pin| pin.upgrade());
        if !own.is_some_and(|own| std::ptr::eq(&*own, pin)) {
            return Err(delta::foreign(&pin.name));
        }
        if pin.epoch < self.mark_horizon() {
            return Err(delta::broken(&pin.name));
        }
        Ok(())
    }

    /// The bitmaps that are in memory: those that deltas were made of lately. For measurements.
    pub fn bitmaps_in_memory(&self) -> Vec<Arc<Bits>> {
        self.bitmaps.bitmaps()
    }

    /// A snapshot or bookmark as an end of a delta; it cannot be deleted while anybody has it. Fails as
    /// [`Volume::snapshot_handle`] does.
    pub async fn delta_point<D: Disk>(&self, disks: &Disks<D>, name: &SnapshotName) -> Result<DeltaPoint> {
        Ok(DeltaPoint { pin: Some(self.pinned(disks, name).await?) })
    }
}
