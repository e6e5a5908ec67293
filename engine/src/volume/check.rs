//! Checking a store: everything that is wrong with it, not the first thing.

use super::{SegmentPlaces, Volume};
use crate::catalog::state::State;
use crate::catalog::Catalog;
use crate::disk::{aligned_buffer, Disk};
use crate::entry::{Entry, UNREADABLE};
use crate::error::Result;
use crate::format::item::{SegmentState, SnapshotRecord};
use crate::run::{pages_for, Run, RunLayout};
use crate::saved::SavedMap;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::Arc;
use crate::units::{Epoch, SegmentIndex, BLOCK_BYTES};
use crate::volume::content::verify;
use crate::volume::maps::scan_holes;
use crate::volume::seal::run_meta;

/// What to check.
#[derive(Clone, Copy, Debug, Default)]
pub struct CheckOptions {
    /// Read every saved block and compare its checksum, too.
    pub data: bool,
}

/// One thing that is wrong, as a sentence that names the place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether snapshots are affected; otherwise it repairs itself.
    pub serious: bool,
    /// What is wrong, and where.
    pub sentence: String,
}

struct Checker<'a, D> {
    store: &'a D,
    state: &'a State,
    places: SegmentPlaces,
    horizon: Epoch,
    options: CheckOptions,
    /// Set while somebody waits for segments that the check keeps from being used again.
    cut_short: &'a AtomicBool,
    findings: Vec<Finding>,
}

/// Checks a store that no volume has open. An error only where its superblock or catalog cannot be read at all.
pub async fn check_store<D: Disk>(store: &D, options: CheckOptions) -> Result<Vec<Finding>> {
    let catalog = Catalog::open(store).await?;
    let geometry = catalog.superblock().geometry;
    let places =
        SegmentPlaces { base_bytes: geometry.segments_base_bytes, segment_bytes: u64::from(geometry.segment_bytes) };
    check_state(store, catalog.state(), catalog.repairs(), &[], places, options, &AtomicBool::new(false)).await
}

async fn check_state<D: Disk>(
    store: &D,
    state: &State,
    repairs: u64,
    maps: &[Arc<SavedMap>],
    places: SegmentPlaces,
    options: CheckOptions,
    cut_short: &AtomicBool,
) -> Result<Vec<Finding>> {
    let whole = |record: &&SnapshotRecord| record.broken.is_none() && !record.is_bookmark();
    let horizon = state.snapshots.values().find(whole).map_or(super::seal::NO_EPOCH, |record| record.epoch);
    let mut checker = Checker { store, state, places, horizon, options, cut_short, findings: Vec::new() };
    if repairs > 0 {
        let sentence = format!("{repairs} damaged copies in the catalog; the other copies were used");
        checker.findings.push(Finding { serious: false, sentence });
    }
    for (run, segments) in state.segments_by_run() {
        checker.check_run(run, segments).await;
    }
    for map in maps {
        checker.check_map(map).await;
    }
    for record in state.snapshots.values().filter(|record| record.broken.is_some()) {
        let kind = if record.is_bookmark() { "bookmark" } else { "snapshot" };
        let sentence = format!("{kind} {} is broken: {}", record.name, record.reason);
        checker.findings.push(Finding { serious: true, sentence });
    }
    if cut_short.load(Ordering::Relaxed) {
        let sentence = "the store became full and the check was cut short; check again later".to_string();
        checker.findings.push(Finding { serious: false, sentence });
    }
    Ok(checker.findings)
}

impl<D: Disk> Checker<'_, D> {
    fn find(&mut self, sentence: String) {
        self.findings.push(Finding { serious: true, sentence });
    }

    async fn check_run(&mut self, id: u64, segments: Result<Vec<SegmentIndex>>) {
        let Some(record) = self.state.runs.get(&id).or_else(|| self.state.holes.get(&id)) else {
            return self.find(format!("run {id} has segments but is not in the catalog"));
        };
        let meta = run_meta(record);
        let segments = match segments {
            Ok(segments) => segments,
            Err(error) => return self.find(format!("run {id}: {error}")),
        };
        let expected = RunLayout::segments_for(pages_for(meta.entries).pages, self.places.segment_bytes);
        if segments.len() as u64 != expected {
            self.find(format!("run {id} has {} segments, but needs {expected}", segments.len()));
        }
        let layout = RunLayout {
            segments,
            segments_base_bytes: self.places.base_bytes,
            segment_bytes: self.places.segment_bytes,
        };
        let run = match Run::open(meta, layout) {
            Ok(run) => Arc::new(run),
            Err(error) => return self.find(format!("run {id}: {error}")),
        };
        if self.state.holes.contains_key(&id) {
            if let Err(error) = scan_holes(self.store, &run).await {
                self.find(format!("in-use map {id}: {error}"));
            }
            return;
        }
        let mut cursor = run.scan_all();
        let mut image = aligned_buffer(BLOCK_BYTES);
        while !self.cut_short.load(Ordering::Relaxed) {
            match cursor.next(self.store).await {
                Ok(Some(entry)) => self.check_entry(&entry, &mut image).await,
                Ok(None) => return,
                Err(error) => return self.find(format!("run {id}: {error}")),
            }
        }
    }

    /// Whether the entry names an image that a snapshot may show. What is older than every snapshot serves bookmarks.
    fn has_image(&self, entry: &Entry) -> bool {
        entry.epoch >= self.horizon && entry.address != UNREADABLE && !entry.is_mark()
    }

    async fn check_entry(&mut self, entry: &Entry, image: &mut [u8]) {
        if !self.has_image(entry) {
            return;
        }
        let segment = self.places.segment_of(entry.address);
        let found = segment.and_then(|segment| self.state.segments.get(segment as usize).zip(Some(segment)));
        let Some((record, segment)) = found else {
            return self.find(format!("block {} of epoch {} lies outside the segments", entry.block, entry.epoch));
        };
        match record.state {
            SegmentState::Data { epoch } if epoch == entry.epoch => {}
            SegmentState::Lane { .. } => {}
            other => {
                let (block, epoch) = (entry.block, entry.epoch);
                return self
                    .find(format!("block {block} of epoch {epoch} lies in segment {segment}, which is {other:?}"));
            }
        }
        self.check_image(entry, image).await;
    }

    /// What no run holds yet. The map may grow meanwhile, into segments that this state does not know.
    async fn check_map(&mut self, map: &SavedMap) {
        let mut image = aligned_buffer(BLOCK_BYTES);
        let mut from = 0;
        while let Some(entry) = map.next_block(from).and_then(|block| map.find(block)) {
            if self.cut_short.load(Ordering::Relaxed) {
                return;
            }
            from = entry.block + 1;
            if self.has_image(&entry) {
                self.check_image(&entry, &mut image).await;
            }
        }
    }

    async fn check_image(&mut self, entry: &Entry, image: &mut [u8]) {
        if !self.options.data {
            return;
        }
        let offset = entry.address * BLOCK_BYTES as u64;
        if let Err(error) = self.store.read(offset, image).await.and_then(|()| verify(entry, image)) {
            self.find(error.to_string());
        }
    }
}

impl Volume {
    /// Checks the store, as it is now, while the volume is in use. Nobody waits for it: should its reading keep
    /// segments from being used again that somebody needs, it is cut short and says so.
    pub async fn check<D: Disk>(&self, store: &D, options: CheckOptions) -> Result<Vec<Finding>> {
        let (state, repairs, view) = {
            let ledger = self.ledger.lock().await;
            (ledger.catalog.state().clone(), ledger.catalog.repairs(), self.view_now())
        };
        check_state(store, &state, repairs, &view.maps, self.places, options, &self.room_wanted).await
    }
}
