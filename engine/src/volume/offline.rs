//! A store that no volume has open: what changed between its snapshots, and what they held (X12).
//!
//! Invariants:
//! - Nothing is written, neither to the store nor to the origin.
//! - After an unclean end the records that no run covers are read into memory: as many as an attach would write.
//! - The caller holds the devices exclusively: nobody changes them meanwhile.

use super::content::{read_bytes, read_saved, read_unsaved};
use super::maps::scan_holes;
use super::open::{open_runs, overlapping, OpenedRuns};
use super::recovery::{recover, LastRecords};
use super::{BrokenElsewhere, Limits, SegmentPlaces};
use crate::catalog::Catalog;
use crate::delta::{self, BitmapCache, DeltaPoint, End, Ends, Extent, Extents, Index, Question};
use crate::disk::{Disk, Disks};
use crate::entry::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::holes::Holes;
use crate::run::{PageCache, Run};
use crate::saved::SavedMap;
use crate::snapshot::{BrokenReason, Snapshot, SnapshotName, SnapshotPin};
use crate::sync::{Arc, OnceLock};
use crate::units::{blocks_for, BlockIndex, Epoch, BLOCK_BYTES};
use crate::view::View;
use crate::watch;
use std::collections::BTreeMap;
use std::ops::Range;

/// A detached store, opened for reading only.
pub struct OfflineStore {
    catalog: Catalog,
    /// Snapshots and bookmarks by epoch, with what speaks against them.
    snapshots: BTreeMap<Epoch, Snapshot>,
    /// Those that are whole.
    pins: BTreeMap<Epoch, Arc<SnapshotPin>>,
    view: View,
    pages: PageCache,
    bitmaps: BitmapCache,
    /// In-use maps by the identity of their runs.
    holes_runs: BTreeMap<u64, Arc<Run>>,
    /// Something was lost: what the volume's own map says may have been overtaken.
    live_map_doubtful: bool,
    /// Set once the origin was compared with what was recorded of it.
    origin_verified: OnceLock<()>,
}

impl OfflineStore {
    /// Opens a store for reading. `elsewhere`: what the state directory says was broken while the store could not
    /// record it. Fails as reading superblock and catalog does.
    pub async fn open<D: Disk>(store: &D, elsewhere: Option<&BrokenElsewhere>) -> Result<OfflineStore> {
        let catalog = Catalog::open(store).await?;
        let geometry = catalog.superblock().geometry;
        let segment_bytes = u64::from(geometry.segment_bytes);
        let places = SegmentPlaces { base_bytes: geometry.segments_base_bytes, segment_bytes };
        let recovered = recover(store, &catalog, places, LastRecords::LeftAsTheyAre).await?;
        let lost = recovered.lost_through.map(|through| (through, BrokenReason::RecordLost, "a saved record was lost"));
        let failed = elsewhere.map(|one| (one.through, BrokenReason::StoreFailed, one.reason.as_str()));
        let live_map_doubtful = lost.is_some() || failed.is_some();
        let snapshots = judged(&catalog, lost.into_iter().chain(failed));
        let whole = |(epoch, snapshot): (&Epoch, &Snapshot)| snapshot.broken.is_none().then(|| (*epoch, pin(snapshot)));
        let pins: BTreeMap<Epoch, Arc<SnapshotPin>> = snapshots.iter().filter_map(whole).collect();
        let mut maps = Vec::new();
        let oldest = pins.keys().next().copied().unwrap_or(super::seal::NO_EPOCH);
        for (&epoch, entries) in recovered.entries.range(oldest..) {
            let map = SavedMap::new(epoch);
            entries.values().for_each(|entry| map.publish(entry));
            maps.push(Arc::new(map));
        }
        let OpenedRuns { runs, holes_runs } = open_runs(catalog.state(), places)?;
        let view = View { runs, maps };
        if !view.is_ordered() {
            return Err(overlapping("read a detached store"));
        }
        let limits = Limits::default();
        let (pages, bitmaps) = (PageCache::new(limits.cache_pages), BitmapCache::new(limits.bitmap_bytes));
        Ok(OfflineStore {
            catalog,
            snapshots,
            pins,
            view,
            pages,
            bitmaps,
            holes_runs,
            live_map_doubtful,
            origin_verified: OnceLock::new(),
        })
    }

    /// All snapshots, oldest first.
    pub fn snapshots(&self) -> Vec<Snapshot> {
        self.snapshots.values().filter(|snapshot| !snapshot.bookmark).cloned().collect()
    }

    /// All bookmarks, oldest first.
    pub fn bookmarks(&self) -> Vec<Snapshot> {
        self.snapshots.values().filter(|snapshot| snapshot.bookmark).cloned().collect()
    }

    /// Size of the volume in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.catalog.state().volume.size_bytes
    }

    /// A snapshot or bookmark as an end of a delta. Fails with `NotFound` or `Broken`, or where its map cannot be read.
    pub async fn delta_point<D: Disk>(&self, store: &D, name: &SnapshotName) -> Result<DeltaPoint> {
        let Some(snapshot) = self.snapshots.values().find(|snapshot| snapshot.name == *name) else {
            let message = format!("there is no snapshot {name}");
            return Err(Error::new(ErrorKind::NotFound, "find snapshot", "store").saying(message));
        };
        if let Some((_, reason)) = &snapshot.broken {
            let message = format!("snapshot {name} is broken: {reason}");
            return Err(Error::new(ErrorKind::Broken, "open snapshot", "store").saying(message));
        }
        let pin = self.pins[&snapshot.epoch].clone();
        if pin.holes.get().is_none() {
            let run = self.catalog.state().maps.get(&pin.epoch).map(|run| &self.holes_runs[run]);
            let holes = match run {
                Some(run) => Arc::new(scan_holes(store, run).await?),
                None => Arc::default(),
            };
            pin.holes.get_or_init(|| holes);
        }
        Ok(DeltaPoint { pin: Some(pin) })
    }

    /// The blocks that are not in use now, as an attach would find them.
    pub async fn holes_now<D: Disk>(&self, store: &D) -> Holes {
        let state = self.catalog.state();
        let live_map = state.live_map.filter(|_| !self.live_map_doubtful);
        let Some(run) = live_map.map(|run| &self.holes_runs[&run]) else { return Holes::none() };
        let untrusted = state.untrusted.iter().map(|(&start, &count)| start..start + count);
        // Where it cannot be read everything counts as in use.
        scan_holes(store, run).await.map_or_else(|_| Holes::none(), |holes| holes.without(untrusted))
    }

    /// Compares the origin with what was recorded of it when the volume ended, as an attach does: before snapshots are
    /// read, or the volume as it is is compared with one. Fails with `WrongOrigin` or `OriginChanged`.
    pub async fn verify_origin<D: Disk>(&self, origin: &D) -> Result<()> {
        let superblock = self.catalog.superblock();
        if origin.size_bytes() < self.size_bytes() {
            let (actual, expected) = (origin.size_bytes(), self.size_bytes());
            let message = format!("the disk has {actual} bytes, but the store belongs to one of {expected} bytes");
            return Err(Error::new(ErrorKind::WrongOrigin, "read a detached volume", "origin").saying(message));
        }
        watch::verify_origin(origin, &superblock.sample_key, self.catalog.state(), superblock.clean).await?;
        self.origin_verified.get_or_init(|| ());
        Ok(())
    }

    /// As [`super::Volume::changes`]. The volume as it is may be compared once the origin was verified.
    pub async fn changes<D: Disk>(
        &self,
        store: &D,
        older: Option<&DeltaPoint>,
        newer: &DeltaPoint,
        offset_bytes: u64,
        results_max: usize,
    ) -> Result<Vec<Extent>> {
        let question = Question::check(older, newer, self.size_bytes(), offset_bytes, results_max)?;
        [question.older, question.newer].into_iter().flatten().try_for_each(|pin| self.refuse_foreign(pin))?;
        if question.newer.is_none() {
            self.refuse_unverified()?;
        }
        let older_holes = question.older.map(SnapshotPin::holes).cloned().unwrap_or_default();
        let newer_holes = match question.newer {
            Some(newer) => newer.holes().clone(),
            None => Arc::new(self.holes_now(store).await),
        };
        let end_of = |older: &SnapshotPin| End::older(older.size_bytes, question.newer_bytes, &older_holes);
        let older = question.older.map(end_of);
        let ends = Ends { older, newer: End { blocks: blocks_for(question.newer_bytes), holes: &newer_holes } };
        let restoring = self.catalog.state().restore.as_ref().map(|restore| restore.target_epoch);
        let end_epoch = question.newer.map_or(Epoch::LAST, |newer| newer.epoch);
        let epochs = question.first_epoch(restoring).map(|first| first..end_epoch);
        let mut extents = Extents::new(question.offset_bytes..question.newer_bytes, question.results_max);
        let never = || false;
        let (view, pages, bitmaps) = (&self.view, &self.pages, &self.bitmaps);
        let index = Index { view, pages, bitmaps, is_in_the_way: never };
        while let Some(blocks) = extents.next_region() {
            index.add_changes(store, epochs.clone(), blocks, &ends, &mut extents).await?;
        }
        Ok(extents.finish())
    }

    /// Reads a snapshot. The origin was verified. Fails with `NotFound` for a bookmark.
    pub async fn read_snapshot<D: Disk>(
        &self,
        disks: &Disks<D>,
        snapshot: &DeltaPoint,
        offset_bytes: u64,
        buffer: &mut [u8],
    ) -> Result<()> {
        self.refuse_unverified()?;
        let Some(pin) = snapshot.pin.as_deref() else { return self.read_live(disks, offset_bytes, buffer).await };
        self.refuse_foreign(pin)?;
        if self.snapshots[&pin.epoch].bookmark {
            let message = format!("{} is a bookmark: what the snapshot held is gone", pin.name);
            return Err(Error::new(ErrorKind::NotFound, "read snapshot", "store").saying(message));
        }
        let end_bytes = offset_bytes.checked_add(buffer.len() as u64);
        if end_bytes.is_none_or(|end_bytes| end_bytes > pin.size_bytes) {
            let message = format!("{} bytes at {offset_bytes} exceed its {} bytes", buffer.len(), pin.size_bytes);
            return Err(Error::new(ErrorKind::Invalid, "read snapshot", "volume").saying(message));
        }
        let read_blocks =
            async |range: Range<BlockIndex>, content: &mut [u8]| self.read_blocks(disks, pin, range, content).await;
        read_bytes(offset_bytes, buffer, read_blocks).await
    }

    async fn read_live<D: Disk>(&self, disks: &Disks<D>, offset_bytes: u64, buffer: &mut [u8]) -> Result<()> {
        if self.catalog.state().restore.is_some() {
            let message = "a restore is under way and the disk is half of before and half of after; attach the volume";
            return Err(Error::new(ErrorKind::Busy, "read a detached volume", "volume").saying(message));
        }
        disks.origin.read(offset_bytes, buffer).await
    }

    async fn read_blocks<D: Disk>(
        &self,
        disks: &Disks<D>,
        pin: &SnapshotPin,
        range: Range<BlockIndex>,
        content: &mut [u8],
    ) -> Result<()> {
        let count = (range.end - range.start) as usize;
        let mut found: Vec<Option<Entry>> = vec![None; count];
        self.view.find_range(&disks.store, &self.pages, range.clone(), pin.epoch, &mut found).await?;
        let mut read = vec![false; count];
        for hole in pin.holes().within(range.clone()) {
            let slots = (hole.start - range.start) as usize..(hole.end - range.start) as usize;
            content[slots.start * BLOCK_BYTES..slots.end * BLOCK_BYTES].fill(0);
            read[slots].fill(true);
        }
        let missing: Vec<usize> = (0..count).filter(|&slot| found[slot].is_none() && !read[slot]).collect();
        read_saved(&disks.store, &found, &mut read, content).await?;
        read_unsaved(&disks.origin, self.size_bytes(), range.start, &missing, content).await
    }

    fn refuse_foreign(&self, pin: &SnapshotPin) -> Result<()> {
        match self.pins.get(&pin.epoch).is_some_and(|own| std::ptr::eq(&**own, pin)) {
            true => Ok(()),
            false => Err(delta::foreign(&pin.name)),
        }
    }

    fn refuse_unverified(&self) -> Result<()> {
        if self.origin_verified.get().is_some() {
            return Ok(());
        }
        let message = "the disk may have been written while the volume is detached; it has to be compared first";
        Err(Error::new(ErrorKind::OriginChanged, "read a detached volume", "origin").saying(message))
    }
}

/// Snapshots and bookmarks, those up to each of `breaks` marked as broken.
fn judged<'a>(
    catalog: &Catalog,
    breaks: impl Iterator<Item = (Epoch, BrokenReason, &'a str)> + Clone,
) -> BTreeMap<Epoch, Snapshot> {
    let judge = |(&epoch, record): (&Epoch, &_)| {
        let mut snapshot = Snapshot::from_record(record);
        if let Some((_, reason, sentence)) = breaks.clone().find(|(through, ..)| epoch <= *through) {
            snapshot.broken.get_or_insert((reason, sentence.to_owned()));
        }
        (epoch, snapshot)
    };
    catalog.state().snapshots.iter().map(judge).collect()
}

fn pin(snapshot: &Snapshot) -> Arc<SnapshotPin> {
    let Snapshot { epoch, size_bytes, ref name, .. } = *snapshot;
    Arc::new(SnapshotPin { epoch, size_bytes, name: name.clone(), holes: OnceLock::new() })
}
