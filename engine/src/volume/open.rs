//! Opening a volume: whose store is this, was the origin written meanwhile, and what was saved.
//!
//! Invariants:
//! - Nothing is written before every reason to refuse was looked at.
//! - One catalog record (or checkpoint) installs all that recovery found; before it a crash means starting again. What
//!   the superblock says of the last end changes after it, and no request is served before that.
//! - What is read does not grow with what is saved, but with what the active epoch saved.

use super::ledger::Ledger;
use super::recovery::{recover, LastRecords, Recovered};
use super::restore::RestoreState;
use super::seal::{run_meta, NO_EPOCH};
use super::trust::Trust;
use super::views::Views;
use super::{Accept, BrokenElsewhere, OpenOptions, SegmentPlaces, Volume};
use crate::catalog::state::State;
use crate::catalog::Catalog;
use crate::delta::BitmapCache;
use crate::disk::{Disk, Disks};
use crate::entry::Entry;
use crate::epoch::{ActiveEpoch, EpochState};
use crate::error::{Error, ErrorKind, Result};
use crate::format::item::{Item, RunRecord, SegmentState, SnapshotRecord, VolumeFacts, NO_HOLES};
use crate::gate::Gate;
use crate::in_use::InUseMap;
use crate::lateness::Lateness;
use crate::run::{pages_for, PageCache, Run, RunLayout, RunWriter};
use crate::snapshot::{BrokenReason, Snapshot};
use crate::sync::atomic::{AtomicBool, AtomicU64};
use crate::sync::{Arc, Mutex};
use crate::units::{blocks_for, Epoch, SegmentIndex};
use crate::view::View;
use crate::watch::{self, Watch, WatchLog};
use std::collections::BTreeMap;
use std::num::NonZeroUsize;

/// In-use maps kept in memory.
const HOLES_KEPT: NonZeroUsize = NonZeroUsize::new(8).expect("not zero");

impl Volume {
    /// Opens the volume: checks that store and origin belong together and are what Cairn left, recovers, and marks the
    /// store as in use by this host. The caller holds both devices exclusively. Fails with `NotAStore`, `TooNew`,
    /// `Corrupt`, `WrongOrigin`, `OriginChanged`, `OtherHost`, or `Broken` (an unfinished restore); then nothing was
    /// changed. A flush that failed earlier does not keep from attaching, but fails all flushes until it is accepted.
    pub async fn open<D: Disk>(disks: &Disks<D>, options: OpenOptions) -> Result<Arc<Volume>> {
        assert!(options.lanes > 0);
        let mut catalog = Catalog::open(&disks.store).await?;
        refuse_read_only(&catalog)?;
        refuse_wrong_origin(disks, &catalog)?;
        let breaks = reasons_to_break(disks, &catalog, &options).await?;
        // A record may be readable and still volatile: flush first, then trust what is read.
        planted!("attach-trusts-volatile", Ok(()), disks.store.flush().await)?;
        // A new session begins. Whose the store was and how it ended stays until what follows from it is durable.
        catalog.superblock_update(&disks.store, |_| {}).await?;
        planted!("host-recorded-too-early", mistakes::record_host(&mut catalog, disks, options.host_id).await?);
        let geometry = catalog.superblock().geometry;
        let segment_bytes = u64::from(geometry.segment_bytes);
        let places = SegmentPlaces { base_bytes: geometry.segments_base_bytes, segment_bytes };
        let recovered = recover(&disks.store, &catalog, places, LastRecords::Settled).await?;
        let (gaps, torn) = (recovered.gaps, recovered.torn);
        let kept = segments_kept_for_runs(&catalog, &options, places);
        let mut ledger = Ledger::new(catalog, kept);
        let elsewhere = options.broken_elsewhere.as_ref();
        let watch = install(disks, &mut ledger, places, recovered, breaks, elsewhere, options.accept).await?;
        ledger
            .catalog
            .superblock_update(&disks.store, |superblock| {
                superblock.clean = false;
                superblock.host_id = options.host_id;
                superblock.boot_id = options.boot_id;
                superblock.last_activity_unix_ms = options.now_unix_ms;
            })
            .await?;
        let accept = options.accept;
        let mut volume = assemble(ledger, places, watch, options)?;
        volume.origin_flush_failures = disks.origin.flush_failures();
        volume.stats.records_lost.add(gaps);
        volume.stats.records_torn.add(torn);
        volume.load_needed(disks, accept).await?;
        volume.load_live_map(disks).await?;
        volume.elsewhere_may_be_gone();
        Ok(Arc::new(volume))
    }

    /// Blocks saved since the youngest whole snapshot or bookmark need not be saved again. A run that is damaged or
    /// cannot be read does not keep the volume from being used: what depends on it is broken.
    async fn load_needed<D: Disk>(&self, disks: &Disks<D>, accept: Accept) -> Result<()> {
        while let Err((last_epoch, error)) = self.load_needed_once(disks).await {
            if !matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Io) {
                return Err(error);
            }
            tracing::error!(%error, "the index is damaged");
            let mut ledger = self.ledger.lock().await;
            if self.restore.target().is_some_and(|target| target <= last_epoch) {
                if !accept.abandoned_restore {
                    return Err(half_restored(&error.to_string()));
                }
                // The map is the target's, but what was not moved is not.
                let items = [Item::RestoreEnd, Item::LiveMap { run: NO_HOLES }];
                ledger.catalog.append(&disks.store, &items).await?;
                self.restore.abandon();
            }
            let sentence = "a part of the index is damaged";
            self.break_through(&mut ledger, disks, last_epoch, BrokenReason::RecordLost, sentence).await?;
            while self.free_dead(&mut ledger, disks).await? {}
        }
        Ok(())
    }

    async fn load_needed_once<D: Disk>(&self, disks: &Disks<D>) -> std::result::Result<(), (Epoch, Error)> {
        let Some(youngest) = self.ledger.lock().await.marked().next_back() else { return Ok(()) };
        planted!("second-save-wins", return Ok(()));
        let (active, view) = (self.active_epoch(), self.view_now());
        for run in view.runs.iter().filter(|run| run.meta().last_epoch >= youngest) {
            let mut cursor = run.scan_all();
            loop {
                let mut next = cursor.next(&disks.store).await;
                if next.as_ref().is_err_and(|error| error.kind() == ErrorKind::Io) {
                    // A sector that is lost fails again.
                    next = cursor.next(&disks.store).await;
                }
                let Some(entry) = next.map_err(|error| (run.meta().last_epoch, error))? else { break };
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

/// Why snapshots are broken at an attach.
struct Break {
    /// The youngest that is.
    through: Epoch,
    reason: BrokenReason,
    sentence: String,
}

impl Break {
    fn all(reason: BrokenReason, sentence: &str) -> Break {
        Break { through: NO_EPOCH, reason, sentence: sentence.to_owned() }
    }
}

/// What speaks against the snapshots that the store has; an error where the owner has to accept it first.
async fn reasons_to_break<D: Disk>(disks: &Disks<D>, catalog: &Catalog, options: &OpenOptions) -> Result<Vec<Break>> {
    let (superblock, state) = (catalog.superblock(), catalog.state());
    let Accept { changed_origin, other_host, .. } = options.accept;
    let mut breaks = Vec::new();
    let mut broken_through = Epoch(0);
    if let Some(BrokenElsewhere { through, reason, .. }) = &options.broken_elsewhere {
        broken_through = *through;
        breaks.push(Break { through: *through, reason: BrokenReason::StoreFailed, sentence: reason.clone() });
    }
    if !superblock.clean && superblock.host_id != options.host_id {
        let message = "the store was last used on another host and not detached there; detach it there, or attach \
                       with --accept-other-host: the snapshots taken so far are then marked broken";
        if !other_host {
            return Err(Error::new(ErrorKind::OtherHost, "attach", "store").saying(message));
        }
        breaks.push(Break::all(BrokenReason::OtherHost, "the store moved to another host without being detached"));
    }
    if let Err(error) = watch::verify_origin(&disks.origin, &superblock.sample_key, state, superblock.clean).await {
        let protects = |(epoch, record): (&Epoch, &SnapshotRecord)| record.broken.is_none() && *epoch > broken_through;
        // A failing store did not take the log either. Where no snapshot is left to go wrong, that is no reason to
        // refuse.
        let store_failed = options.broken_elsewhere.is_some();
        let harmless = store_failed && !superblock.clean && !state.snapshots.iter().any(protects);
        if !changed_origin && !harmless {
            return Err(error);
        }
        tracing::warn!(%error, "attached all the same");
        breaks.push(Break::all(BrokenReason::OriginChanged, "the disk was written while Cairn was away"));
    }
    Ok(breaks)
}

/// A mark outside of the store that is farther ahead of it does not name an epoch, but all there are.
const EPOCHS_AHEAD_MAX: u64 = 1 << 20;

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
    mut breaks: Vec<Break>,
    elsewhere: Option<&BrokenElsewhere>,
    accept: Accept,
) -> Result<Watch> {
    if let Some(through) = recovered.lost_through {
        let sentence = "a saved record was lost or damaged".to_owned();
        breaks.push(Break { through, reason: BrokenReason::RecordLost, sentence });
    }
    let runs = write_recovered(disks, ledger, places, &recovered, &mut breaks).await?;
    let mut items = Vec::new();
    for run in &runs {
        items.extend(super::seal::run_items(ledger, run));
    }
    items.extend(refuse_half_restored(ledger, &breaks, accept)?);
    items.extend(break_items(ledger, &breaks));
    for (&segment, &epoch) in &recovered.used {
        items.extend(ledger.segment_items(&[segment], SegmentState::Data { epoch }, 0));
    }
    items.extend(ledger.segment_items(&recovered.unused, SegmentState::Free, 0));
    items.extend(ledger.catalog.state().lanes_indexed.keys().map(|&lane| Item::LaneIndexed { lane, sequence: 0 }));
    let facts = ledger.catalog.state().volume;
    let in_runs = ledger.catalog.state().runs.values().map(|run| run.last_epoch).max();
    let youngest = recovered.entries.keys().next_back().copied().max(in_runs).unwrap_or_default();
    let marked = elsewhere.map(|elsewhere| elsewhere.through).unwrap_or_default();
    // Epochs up to the marked one may have been used without the store knowing. What is cut now is younger.
    let is_known = marked.0.saturating_sub(facts.active_epoch.0) < EPOCHS_AHEAD_MAX;
    let active_epoch = facts.active_epoch.max(youngest).max(if is_known { marked } else { youngest });
    let latched_elsewhere = elsewhere.is_some_and(|elsewhere| elsewhere.flush_failed);
    let latched = (facts.flush_failed || latched_elsewhere) && !accept.failed_flush;
    let latched = latched && !planted!("flush-latch-reset-at-attach");
    let flushed = planted!("origin-not-flushed-at-attach", Ok(()), disks.origin.flush().await);
    if let Err(error) = &flushed {
        tracing::error!(%error, "the origin cannot be flushed");
    }
    let flush_failed = latched || flushed.is_err();
    items.push(Item::Volume(VolumeFacts { active_epoch, flush_failed, ..facts }));
    if !breaks.is_empty() || elsewhere.is_some() {
        // Who wrote without Cairn, or what could not be recorded, may have put something where the map has nothing.
        items.push(Item::LiveMap { run: NO_HOLES });
    }
    let key = ledger.catalog.superblock().sample_key;
    let so_far = &ledger.catalog.state().watch;
    let log = match flush_failed {
        // Older contents may come back: they stay legal.
        true => WatchLog::kept(&disks.origin, &key, so_far, facts.size_bytes).await,
        false => WatchLog::read(&disks.origin, &key, facts.size_bytes, so_far.keys().copied()).await,
    };
    items.push(Item::SampleReset);
    items.extend(log.items());
    planted!("recovery-in-two-steps", ledger.catalog.append(&disks.store, &items.split_off(items.len() / 2)).await?);
    ledger.catalog.append(&disks.store, &items).await?;
    ledger.give_back(recovered.unused);
    Ok(Watch::new(key, log))
}

fn break_items(ledger: &Ledger, breaks: &[Break]) -> Vec<Item> {
    let mut items = Vec::new();
    for epoch in ledger.marked() {
        let Some(Break { reason, sentence, .. }) = breaks.iter().find(|one| epoch <= one.through) else { continue };
        let mut snapshot = Snapshot::from_record(&ledger.catalog.state().snapshots[&epoch]);
        tracing::error!(snapshot = %snapshot.name, sentence, "snapshot broken");
        snapshot.broken = Some((*reason, sentence.clone()));
        items.push(Item::SnapshotPut(snapshot.to_record()));
    }
    items
}

/// A snapshot that a restore still needs breaks: unmoved blocks would show what came after it. Only the owner decides
/// to go on with such a mixture.
fn refuse_half_restored(ledger: &Ledger, breaks: &[Break], accept: Accept) -> Result<Option<Item>> {
    let Some(restore) = &ledger.catalog.state().restore else { return Ok(None) };
    let Some(cause) = breaks.iter().find(|one| restore.target_epoch <= one.through) else { return Ok(None) };
    if accept.abandoned_restore {
        return Ok(Some(Item::RestoreEnd));
    }
    Err(half_restored(&cause.sentence))
}

fn half_restored(cause: &str) -> Error {
    let message = format!(
        "a restore is under way and the snapshot it needs would break ({cause}): the disk holds blocks of before and \
         after the restore. Put right what is wrong and attach again; or attach with --abandon-restore, and the volume \
         is that mixture, to be repaired from a backup"
    );
    Error::new(ErrorKind::Broken, "attach", "volume").saying(message)
}

/// Runs of the epochs that some whole snapshot still needs. Where the store has no room for them the oldest
/// snapshots break, as few as possible.
async fn write_recovered<D: Disk>(
    disks: &Disks<D>,
    ledger: &mut Ledger,
    places: SegmentPlaces,
    recovered: &Recovered,
    breaks: &mut Vec<Break>,
) -> Result<Vec<Run>> {
    loop {
        let broken_through = breaks.iter().map(|one| one.through).max().unwrap_or_default();
        let Some(horizon) = ledger.marked().find(|epoch| *epoch > broken_through) else { return Ok(Vec::new()) };
        if let Some(runs) = write_runs_from(disks, ledger, places, recovered, horizon).await? {
            return Ok(runs);
        }
        let sentence = "the store had no room for the index".to_owned();
        breaks.push(Break { through: horizon, reason: BrokenReason::StoreFull, sentence });
    }
}

/// Entries of the epochs from `horizon` on, by run and with the run's first epoch: as few runs as can be. What the needed
/// map is rebuilt from, that is from `youngest` on, is apart; and so are epochs that one run cannot tell apart.
fn entries_by_run(recovered: &Recovered, horizon: Epoch, youngest: Epoch) -> Vec<(Epoch, Vec<Entry>)> {
    let mut by_run: Vec<(Epoch, Vec<Entry>)> = Vec::new();
    for (&epoch, entries) in recovered.entries.range(horizon..).filter(|(_, entries)| !entries.is_empty()) {
        let fits = |first: Epoch| (first < youngest) == (epoch < youngest) && epoch.0 - first.0 <= u64::from(u32::MAX);
        match by_run.last_mut().filter(|(first, _)| fits(*first)) {
            Some((_, run)) => run.extend(entries.values()),
            None => by_run.push((epoch, entries.values().copied().collect())),
        }
    }
    by_run.iter_mut().for_each(|(_, entries)| entries.sort_unstable());
    by_run
}

/// The runs of the epochs from `horizon` on; `None` where there is no room for them.
async fn write_runs_from<D: Disk>(
    disks: &Disks<D>,
    ledger: &mut Ledger,
    places: SegmentPlaces,
    recovered: &Recovered,
    horizon: Epoch,
) -> Result<Option<Vec<Run>>> {
    let youngest = ledger.marked().next_back().expect("the horizon is a whole one's");
    let mut runs: Vec<Run> = Vec::new();
    for (first_epoch, entries) in entries_by_run(recovered, horizon, youngest) {
        let count = RunLayout::segments_for(pages_for(entries.len() as u64).pages, places.segment_bytes) as usize;
        let segments: Vec<SegmentIndex> = ledger.take(count);
        if segments.len() < count {
            ledger.give_back(segments);
            for run in runs {
                ledger.give_back(run.layout().segments.iter().copied());
            }
            return Ok(None);
        }
        let layout =
            RunLayout { segments, segments_base_bytes: places.base_bytes, segment_bytes: places.segment_bytes };
        let mut writer = RunWriter::new(ledger.next_run(), first_epoch, layout, entries.len() as u64);
        for entry in entries {
            writer.push(&disks.store, entry).await?;
        }
        let written = writer.finish(&disks.store).await?;
        ledger.give_back(written.unused);
        runs.push(written.run);
    }
    Ok(Some(runs))
}

/// The runs that a store has.
pub(super) struct OpenedRuns {
    /// Those of the index, in the order of their epochs.
    pub(super) runs: Vec<Arc<Run>>,
    /// Those of holes, by their identity.
    pub(super) holes_runs: BTreeMap<u64, Arc<Run>>,
}

/// Opens all runs; nothing is read.
pub(super) fn open_runs(state: &State, places: SegmentPlaces) -> Result<OpenedRuns> {
    let mut segments = state.segments_by_run();
    let mut open = |record: &RunRecord| -> Result<Arc<Run>> {
        let layout = RunLayout {
            segments: segments.remove(&record.run).expect("every run is there")?,
            segments_base_bytes: places.base_bytes,
            segment_bytes: places.segment_bytes,
        };
        Ok(Arc::new(Run::open(run_meta(record), layout)?))
    };
    let mut records: Vec<&RunRecord> = state.runs.values().collect();
    records.sort_by_key(|record| (record.first_epoch, record.last_epoch, record.run));
    let runs = records.into_iter().map(&mut open).collect::<Result<_>>()?;
    let holes_runs = state.holes.values().map(|record| Ok((record.run, open(record)?))).collect::<Result<_>>()?;
    Ok(OpenedRuns { runs, holes_runs })
}

/// The index contradicts itself.
pub(super) fn overlapping(operation: &'static str) -> Error {
    let message = "the epochs of its index runs overlap; the origin is whole and can be used without Cairn";
    Error::new(ErrorKind::Corrupt, operation, "store").saying(message)
}

/// The volume in memory, from what the catalog now says.
fn assemble(mut ledger: Ledger, places: SegmentPlaces, watch: Watch, options: OpenOptions) -> Result<Volume> {
    let state = ledger.catalog.state();
    let OpenedRuns { runs, holes_runs } = open_runs(state, places)?;
    let horizon = ledger.horizon();
    let (facts, restore) = (state.volume, state.restore.clone());
    let blocks = blocks_for(facts.size_bytes);
    let in_use = InUseMap::all_in_use(blocks, ledger.catalog.superblock().granule_shift);
    let active = EpochState::new(facts.active_epoch, blocks, ledger.keeping(), options.lanes, in_use);
    let view = View { runs, maps: vec![active.saved_now()] };
    if !view.is_ordered() {
        return Err(overlapping("attach"));
    }
    // More epochs than snapshots and bookmarks: some group has several, so it may hold duplicates.
    let mark_horizon = ledger.mark_horizon();
    let epochs = facts.active_epoch.0.saturating_sub(mark_horizon.0.saturating_sub(1));
    ledger.groups_joined = mark_horizon != NO_EPOCH && epochs > ledger.marked().count() as u64;
    ledger.may_be_dead = true;
    ledger.holes_runs = holes_runs;
    Ok(Volume {
        store_id: ledger.catalog.superblock().store_id,
        session: ledger.catalog.superblock().session,
        places,
        limits: options.limits,
        gate: Gate::new(options.lanes),
        active: ActiveEpoch::new(Arc::new(active)),
        views: Views::new(view),
        lanes: (0..options.lanes).map(|_| Default::default()).collect(),
        operations: Default::default(),
        pins: Mutex::default(),
        cache: PageCache::new(options.limits.cache_pages),
        bitmaps: BitmapCache::new(options.limits.bitmap_bytes),
        watch,
        trust: Trust::new(blocks),
        holes: Mutex::new(lru::LruCache::new(HOLES_KEPT)),
        restore: RestoreState::new(planted!("restore-not-resumed", None, restore)),
        room_wanted: AtomicBool::new(false),
        stats: Default::default(),
        lateness: Lateness::new(options.save_deadline),
        work: Default::default(),
        retry: Default::default(),
        broken_log: options.broken_log,
        elsewhere: Mutex::default(),
        cut_observer: Default::default(),
        size_bytes: AtomicU64::new(facts.size_bytes),
        horizon: AtomicU64::new(horizon.0),
        mark_horizon: AtomicU64::new(mark_horizon.0),
        background_failures: Default::default(),
        activity: Mutex::default(),
        origin_flush_failures: 0,
        flush_failed: AtomicBool::new(facts.flush_failed),
        closed: AtomicBool::new(false),
        ledger: crate::sync::lock::Mutex::new(ledger),
    })
}
