//! Opening a volume: whose store is this, was the origin written meanwhile, and what was saved.
//!
//! Invariants:
//! - Nothing is written before every reason to refuse was looked at, but the superblock that says "in use".
//! - One catalog record (or checkpoint) installs all that recovery found; before it a crash means starting again.
//! - What is read does not grow with what is saved, but with what the active epoch saved.

use super::ledger::Ledger;
use super::recovery::{recover, Recovered};
use super::restore::RestoreState;
use super::seal::{run_meta, NO_EPOCH};
use super::{Accept, OpenOptions, SegmentPlaces, Volume};
use crate::catalog::Catalog;
use crate::disk::{Disk, Disks};
use crate::entry::Entry;
use crate::epoch::EpochState;
use crate::error::{Error, ErrorKind, Result};
use crate::format::item::{Item, RunRecord, SegmentState, VolumeFacts};
use crate::gate::Gate;
use crate::run::{pages_for, PageCache, Run, RunLayout, RunWriter};
use crate::snapshot::{BrokenReason, Snapshot};
use crate::units::{blocks_for, Epoch, SegmentIndex};
use crate::view::View;
use crate::watch::{self, Watch};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, RwLock};

impl Volume {
    /// Opens the volume: checks that store and origin belong together and are what Cairn left, recovers, and marks the
    /// store as in use by this host. The caller holds both devices exclusively. Fails with `NotAStore`, `TooNew`,
    /// `Corrupt`, `WrongOrigin`, `OriginChanged`, `OtherHost` or `FlushFailed`; then nothing was changed.
    pub async fn open<D: Disk>(disks: &Disks<D>, options: OpenOptions) -> Result<Arc<Volume>> {
        assert!(options.lanes > 0);
        let mut catalog = Catalog::open(&disks.store).await?;
        refuse_read_only(&catalog)?;
        refuse_wrong_origin(disks, &catalog)?;
        let breaks = reasons_to_break(disks, &catalog, &options).await?;
        // A record may be readable and still volatile: flush first, then trust what is read.
        disks.store.flush().await?;
        catalog
            .superblock_update(&disks.store, |superblock| {
                superblock.clean = false;
                superblock.session += 1;
                superblock.host_id = options.host_id;
                superblock.boot_id = options.boot_id;
                superblock.last_activity_unix_ms = options.now_unix_ms;
            })
            .await?;
        let geometry = catalog.superblock().geometry;
        let segment_bytes = u64::from(geometry.segment_bytes);
        let places = SegmentPlaces { base_bytes: geometry.segments_base_bytes, segment_bytes };
        let recovered = recover(&disks.store, catalog.state(), places).await?;
        let kept = segments_kept_for_runs(&catalog, &options, places);
        let mut ledger = Ledger::new(catalog, kept);
        let logged = install(disks, &mut ledger, places, recovered, breaks).await?;
        let volume = assemble(ledger, places, logged, options)?;
        volume.load_needed(disks).await?;
        Ok(Arc::new(volume))
    }

    /// Blocks saved since the youngest whole snapshot need not be saved again.
    async fn load_needed<D: Disk>(&self, disks: &Disks<D>) -> Result<()> {
        let Some(youngest) = self.ledger.lock().await.whole().next_back() else { return Ok(()) };
        let (active, view) = (self.active_epoch(), self.view_now());
        for run in view.runs.iter().filter(|run| run.meta().last_epoch >= youngest) {
            let mut cursor = run.scan_all();
            while let Some(entry) = cursor.next(&disks.store).await? {
                if entry.epoch >= youngest {
                    active.needed.settle_unclaimed(entry.block);
                }
            }
        }
        Ok(())
    }
}

fn refuse_read_only(catalog: &Catalog) -> Result<()> {
    if !catalog.read_only() {
        return Ok(());
    }
    let message = "the store uses features that this version can read but not write; use a newer version";
    Err(Error::new(ErrorKind::TooNew, "attach", "store").saying(message))
}

fn refuse_wrong_origin<D: Disk>(disks: &Disks<D>, catalog: &Catalog) -> Result<()> {
    let wrong = |message: String| Err(Error::new(ErrorKind::WrongOrigin, "attach", "origin").saying(message));
    let (expected, actual) = (catalog.state().volume.size_bytes, disks.origin.size_bytes());
    if actual < expected {
        return wrong(format!(
            "the disk has {actual} bytes, but the store belongs to one of {expected} bytes; name the right disk"
        ));
    }
    let (expected, actual) = (catalog.superblock().origin.sector_bytes, disks.origin.sector_bytes());
    if actual > expected {
        return wrong(format!("the disk has sectors of {actual} bytes, but the store's had {expected}"));
    }
    Ok(())
}

/// What speaks against the snapshots that the store has; an error where the owner has to accept it first.
async fn reasons_to_break<D: Disk>(
    disks: &Disks<D>,
    catalog: &Catalog,
    options: &OpenOptions,
) -> Result<Vec<(BrokenReason, String)>> {
    let (superblock, state) = (catalog.superblock(), catalog.state());
    let Accept { changed_origin, other_host, failed_flush } = options.accept;
    let mut breaks = Vec::new();
    if let Some(reason) = &options.broken_elsewhere {
        breaks.push((BrokenReason::StoreFailed, reason.clone()));
    }
    if !superblock.clean && superblock.host_id != options.host_id {
        let message = "the store was last used on another host and not detached there; detach it there, or attach \
                       with --accept-other-host: the snapshots taken so far are then marked broken";
        if !other_host {
            return Err(Error::new(ErrorKind::OtherHost, "attach", "store").saying(message));
        }
        breaks.push((BrokenReason::OtherHost, "the store moved to another host without being detached".to_string()));
    }
    if let Err(error) = watch::verify_origin(&disks.origin, &superblock.sample_key, state, superblock.clean).await {
        if error.kind() != ErrorKind::OriginChanged || !changed_origin {
            return Err(error);
        }
        breaks.push((BrokenReason::OriginChanged, "the disk was written while Cairn was away".to_string()));
    }
    if state.volume.flush_failed && !failed_flush {
        let message = "a flush of this disk failed earlier, so data that was reported as flushed may be lost; check \
                       the disk, then attach with --clear-failed-flush";
        return Err(Error::new(ErrorKind::FlushFailed, "attach", "origin").saying(message));
    }
    Ok(breaks)
}

/// Segments that lanes leave for runs: enough to write everything that may be in memory, at most a quarter.
fn segments_kept_for_runs(catalog: &Catalog, options: &OpenOptions, places: SegmentPlaces) -> usize {
    let segments = catalog.state().segments.len();
    let blocks = segments as u64 * u64::from(places.segment_blocks());
    let entries = (options.limits.entries_max as u64).min(blocks);
    let runs = RunLayout::segments_for(pages_for(entries).pages, places.segment_bytes) as usize;
    (2 * runs + 2).min(segments / 4)
}

/// Writes what was recovered as runs, and installs it with everything else that opening changes, atomically.
async fn install<D: Disk>(
    disks: &Disks<D>,
    ledger: &mut Ledger,
    places: SegmentPlaces,
    recovered: Recovered,
    mut breaks: Vec<(BrokenReason, String)>,
) -> Result<Watch> {
    let mut broken_through = Epoch(0);
    if let Some(lost) = recovered.lost_through {
        broken_through = lost;
        breaks.push((BrokenReason::RecordLost, "a saved record was lost or damaged".to_string()));
    }
    if breaks.iter().any(|(reason, _)| *reason != BrokenReason::RecordLost) {
        broken_through = NO_EPOCH;
    }
    let mut items = Vec::new();
    let mut runs = write_recovered(disks, ledger, places, &recovered, broken_through).await;
    if let Err(error) = &runs {
        tracing::error!(%error, "what was saved last cannot be indexed; all snapshots are broken");
        breaks.push((BrokenReason::StoreFull, "the store had no room for the index".to_string()));
        broken_through = NO_EPOCH;
        runs = Ok(Vec::new());
    }
    for run in runs.iter().flatten() {
        items.extend(super::seal::run_items(ledger, run));
    }
    if let Some((reason, sentence)) = breaks.first() {
        items.extend(break_items(ledger, broken_through, *reason, sentence));
    }
    for (&segment, &epoch) in &recovered.used {
        items.extend(ledger.segment_items(&[segment], SegmentState::Data { epoch }, 0));
    }
    items.extend(ledger.segment_items(&recovered.unused, SegmentState::Free, 0));
    items.extend(ledger.catalog.state().lanes_indexed.keys().map(|&lane| Item::LaneIndexed { lane, sequence: 0 }));
    let facts = ledger.catalog.state().volume;
    let youngest = recovered.entries.keys().next_back().copied().unwrap_or_default();
    let active_epoch = facts.active_epoch.max(youngest);
    items.push(Item::Volume(VolumeFacts { active_epoch, flush_failed: false, ..facts }));
    let key = ledger.catalog.superblock().sample_key;
    let logged = watch::read_watched(&disks.origin, &key, facts.size_bytes).await?;
    items.extend([Item::WatchReset, Item::SampleReset]);
    items.extend(watch::watch_items(&logged));
    ledger.catalog.append(&disks.store, &items).await?;
    ledger.give_back(recovered.unused);
    Ok(Watch::new(key, facts.size_bytes, logged))
}

fn break_items(ledger: &Ledger, through: Epoch, reason: BrokenReason, sentence: &str) -> Vec<Item> {
    let broken: Vec<Epoch> = ledger.whole().filter(|epoch| *epoch <= through).collect();
    let item = |epoch| {
        let mut snapshot = Snapshot::from_record(&ledger.catalog.state().snapshots[epoch]);
        tracing::error!(snapshot = %snapshot.name, sentence, "snapshot broken");
        snapshot.broken = Some((reason, sentence.to_string()));
        Item::SnapshotPut(snapshot.to_record())
    };
    broken.iter().map(item).collect()
}

/// One run for each epoch that some whole snapshot still needs.
async fn write_recovered<D: Disk>(
    disks: &Disks<D>,
    ledger: &mut Ledger,
    places: SegmentPlaces,
    recovered: &Recovered,
    broken_through: Epoch,
) -> Result<Vec<Run>> {
    let horizon = ledger.whole().find(|epoch| *epoch > broken_through).unwrap_or(NO_EPOCH);
    let mut runs = Vec::new();
    for (&epoch, entries) in recovered.entries.range(horizon..).filter(|(_, entries)| !entries.is_empty()) {
        let entries: Vec<Entry> = entries.values().copied().collect();
        let count = RunLayout::segments_for(pages_for(entries.len() as u64).pages, places.segment_bytes) as usize;
        let segments: Vec<SegmentIndex> = ledger.take(count);
        if segments.len() < count {
            ledger.give_back(segments);
            return Err(Error::new(ErrorKind::NoSpace, "write the index", "store"));
        }
        let layout =
            RunLayout { segments, segments_base_bytes: places.base_bytes, segment_bytes: places.segment_bytes };
        let mut writer = RunWriter::new(ledger.next_run(), epoch, layout, entries.len() as u64);
        for entry in entries {
            writer.push(&disks.store, entry).await?;
        }
        let written = writer.finish(&disks.store).await?;
        ledger.give_back(written.unused);
        runs.push(written.run);
    }
    Ok(runs)
}

/// The volume in memory, from what the catalog now says.
fn assemble(mut ledger: Ledger, places: SegmentPlaces, watch: Watch, options: OpenOptions) -> Result<Volume> {
    let state = ledger.catalog.state();
    let mut segments = state.segments_by_run();
    let mut runs: Vec<Arc<Run>> = Vec::new();
    let mut records: Vec<&RunRecord> = state.runs.values().collect();
    records.sort_by_key(|record| (record.first_epoch, record.last_epoch, record.run));
    for record in records {
        let layout = RunLayout {
            segments: segments.remove(&record.run).expect("every run is there")?,
            segments_base_bytes: places.base_bytes,
            segment_bytes: places.segment_bytes,
        };
        runs.push(Arc::new(Run::open(run_meta(record), layout)?));
    }
    let horizon = ledger.horizon();
    let (facts, restore) = (state.volume, state.restore.clone());
    let blocks = blocks_for(facts.size_bytes);
    let active = EpochState::new(facts.active_epoch, blocks, horizon != NO_EPOCH, options.lanes);
    let view = View { runs, maps: vec![active.saved_now()] };
    view.check_order();
    // More epochs than snapshots: some group has several, so it may hold duplicates.
    let epochs = facts.active_epoch.0.saturating_sub(horizon.0.saturating_sub(1));
    ledger.groups_joined = horizon != NO_EPOCH && epochs > ledger.whole().count() as u64;
    ledger.may_be_dead = true;
    Ok(Volume {
        volume_id: ledger.catalog.superblock().volume_id,
        session: ledger.catalog.superblock().session,
        places,
        limits: options.limits,
        gate: Gate::new(options.lanes),
        active_number: AtomicU64::new(facts.active_epoch.0),
        active: RwLock::new(Arc::new(active)),
        view: RwLock::new(Arc::new(view)),
        lanes: (0..options.lanes).map(|_| Default::default()).collect(),
        operations: Default::default(),
        retired: Mutex::default(),
        pins: Mutex::default(),
        cache: PageCache::new(options.limits.cache_pages),
        watch,
        restore: RestoreState::new(restore),
        stats: Default::default(),
        work: Default::default(),
        retry: Default::default(),
        broken_log: options.broken_log,
        size_bytes: AtomicU64::new(facts.size_bytes),
        horizon: AtomicU64::new(horizon.0),
        background_failures: Default::default(),
        flush_failed: AtomicBool::new(false),
        closed: AtomicBool::new(false),
        ledger: futures_util::lock::Mutex::new(ledger),
    })
}
