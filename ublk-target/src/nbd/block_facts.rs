//! What the engine's deltas say about the blocks of one export, as extents of the protocol.
//!
//! Invariants:
//! - An older snapshot or bookmark is known by the number of its epoch, which no other ever gets. Once a client has
//!   asked about it, it stays until the client leaves.
//! - Behind the last change that was found nothing is said, unless there are no more.

use super::context::{status, Context, Extent, Extents, Subject};
use cairn_engine::delta::DeltaPoint;
use cairn_engine::disk::{Disk, Disks};
use cairn_engine::error::{Error, ErrorKind, Result};
use cairn_engine::snapshot::Snapshot;
use cairn_engine::volume::Volume;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

/// What can be found out about a snapshot, or about the volume as it is.
pub(super) struct BlockFacts<D> {
    volume: Arc<Volume>,
    disks: Rc<Disks<D>>,
    point: DeltaPoint,
    /// What was asked about so far, by number; kept from being deleted.
    older: RefCell<BTreeMap<u64, DeltaPoint>>,
}

impl<D: Disk> BlockFacts<D> {
    /// About `point` of `volume`.
    pub fn new(volume: Arc<Volume>, disks: Rc<Disks<D>>, point: DeltaPoint) -> BlockFacts<D> {
        BlockFacts { volume, disks, point, older: RefCell::default() }
    }

    /// Allocation, and of a snapshot its changes since each older one, and each older bookmark, that is whole.
    pub async fn contexts(&self) -> Vec<Context> {
        let mut contexts = vec![Context::allocation()];
        let Some(own_name) = self.point.name() else { return contexts };
        let points = self.points().await;
        let own = points.iter().find(|point| point.name == *own_name);
        let own_epoch = own.expect("a snapshot that is open exists").epoch;
        let is_older = |point: &&Snapshot| point.epoch < own_epoch && point.broken.is_none();
        for older in points.iter().filter(is_older) {
            contexts.extend(Context::changed(older.name.as_str(), older.epoch.0, own_name.as_str()));
        }
        contexts
    }

    /// As [`super::Export::block_status`].
    pub async fn block_status(&self, subject: Subject, within: Range<u64>, extents_max: usize) -> Result<Vec<Extent>> {
        let (older, inside, outside) = match subject {
            Subject::Allocation => (None, 0, self.hole_status()),
            Subject::ChangedSince(number) => (Some(self.older(number).await?), status::DIRTY, 0),
        };
        let asked = self.volume.changes(&self.disks, older.as_ref(), &self.point, within.start, extents_max);
        let changes = asked.await?;
        let ends = |change: &cairn_engine::delta::Extent| change.offset_bytes + change.length_bytes;
        let known_to = match changes.last() {
            Some(last) if changes.len() >= extents_max => ends(last).min(within.end),
            _ => within.end,
        };
        let ranges = changes.iter().map(|change| change.offset_bytes..ends(change));
        Ok(Extents::of_ranges(ranges, inside, outside, within.start..known_to, extents_max).into_vec())
    }

    /// A hole of the volume may hold anything; one of a snapshot reads as zeroes.
    fn hole_status(&self) -> u32 {
        match self.point.name() {
            None => status::HOLE,
            Some(_) => status::HOLE | status::ZERO,
        }
    }

    /// Snapshots and bookmarks, oldest first.
    async fn points(&self) -> Vec<Snapshot> {
        let mut points = self.volume.snapshots().await;
        points.extend(self.volume.bookmarks().await);
        points.sort_by_key(|point| point.epoch);
        // A snapshot may become a bookmark between the two questions.
        points.dedup_by_key(|point| point.epoch);
        points
    }

    async fn older(&self, number: u64) -> Result<DeltaPoint> {
        if let Some(older) = self.older.borrow().get(&number) {
            return Ok(older.clone());
        }
        let numbered = |points: Vec<Snapshot>| points.into_iter().find(|point| point.epoch.0 == number);
        let gone = || {
            let error = Error::new(ErrorKind::NotFound, "compare snapshots", format!("epoch {number}"));
            error.saying("the older snapshot was deleted")
        };
        let name = numbered(self.points().await).ok_or_else(gone)?.name;
        let older = self.volume.delta_point(&self.disks, &name).await?;
        // Only now it cannot be deleted: the name may have come to mean another in between.
        if numbered(self.points().await).is_none_or(|point| point.name != name) {
            return Err(gone());
        }
        self.older.borrow_mut().insert(number, older.clone());
        Ok(older)
    }
}
