//! The control API's handler: each call is one operation on the volume or its devices.
//!
//! Invariants:
//! - A cut is abandoned at its deadline; production never waits longer for it.
//! - What an answer says of a snapshot's device is what the kernel has.

use super::deltas::Hold;
use super::sight::Sight;
use super::worker::Worker;
use crate::control::api::{
    ChangesPage, CheckReport, Consistency, DetachReport, EngineReport, ExposeReport, FindingReport, Frontend,
    GrowReport, GrowRequest, OnLate, OriginReport, RestoreProgress, RestoreReport, SaveDeadlineReport, Severity,
    SnapshotList, SnapshotReport, StatsReport, StoreReport, VolumeReport, VolumeState,
};
use crate::control::timestamp::Timestamp;
use crate::control::{ChangesQuery, ControlHandler};
use crate::device::DeviceKind;
use crate::nbd::unix_uri;
use crate::process::now_unix_ms;
use crate::run_state::Exposed;
use cairn_engine::deadline::Deadline;
use cairn_engine::disk::AlignedBuffer;
use cairn_engine::error::{Error, ErrorKind, Result};
use cairn_engine::lateness::{self, LatenessReport, SaveDeadline};
use cairn_engine::snapshot::{self, Snapshot, SnapshotName, SnapshotOptions};
use cairn_engine::units::BLOCK_BYTES;
use cairn_engine::volume::CheckOptions;
use std::future::Future;
use std::time::Duration;

/// How long a cut may take when the caller does not say.
const CUT_LIMIT: Duration = Duration::from_secs(30);

impl Worker {
    fn snapshot_report(&self, snapshot: &Snapshot) -> SnapshotReport {
        let exposed = self.block_devices.exposure(snapshot.name.as_str());
        SnapshotReport::of(snapshot, exposed.map(|exposed| self.expose_report(exposed)))
    }

    fn expose_report(&self, exposed: Exposed) -> ExposeReport {
        let Exposed { snapshot, device, scratch } = exposed;
        let export = self.export_name(&snapshot);
        ExposeReport {
            device: device.map(|_| self.paths.snapshot_link(&snapshot).display().to_string()),
            // The export shows the snapshot, never what was written to a scratch device.
            nbd_uri: (!scratch).then(|| unix_uri(&self.paths.nbd_socket(), &export)),
            snapshot,
            scratch,
        }
    }

    /// What people and NBD clients call a snapshot.
    pub(super) fn export_name(&self, snapshot: impl std::fmt::Display) -> String {
        format!("{}@{snapshot}", self.config.name)
    }

    fn refuse_scratch(&self, name: &SnapshotName, obstacle: &str) -> Error {
        Error::new(ErrorKind::Invalid, "expose", self.export_name(name)).saying(format!(
            "{obstacle}, and a scratch device takes it. The snapshot as it is can be read over NBD: {}",
            unix_uri(&self.paths.nbd_socket(), &self.export_name(name))
        ))
    }

    /// Whoever looks into a snapshot may be choosing the one to go back to: that is finished first.
    fn refuse_restore_while_exposed(&self) -> Result<()> {
        let exposed = self.block_devices.exposed();
        let Some(first) = exposed.first() else { return Ok(()) };
        let name = self.export_name(&first.snapshot);
        Err(Error::new(ErrorKind::Busy, "restore", self.config.name.clone())
            .saying(format!("{name} is exposed; `cairn unexpose {name}` first")))
    }

    pub(super) async fn snapshot_named(&self, name: &SnapshotName) -> Result<Snapshot> {
        let snapshots = self.volume.snapshots().await;
        snapshots.into_iter().find(|snapshot| snapshot.name == *name).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "find the snapshot", format!("{}@{name}", self.config.name))
                .saying("there is no such snapshot; `cairn list` shows those that exist")
        })
    }

    fn restore_report(&self, snapshots: &[Snapshot]) -> Option<RestoreProgress> {
        let progress = self.volume.restore_progress()?;
        let name_of = |epoch| {
            let named = snapshots.iter().find(|snapshot| snapshot.epoch == epoch);
            named.map(|snapshot| snapshot.name.to_string()).unwrap_or_default()
        };
        Some(RestoreProgress {
            snapshot: name_of(progress.target),
            before: name_of(progress.before),
            done_bytes: progress.cursor_block * BLOCK_BYTES as u64,
            total_bytes: self.volume.size_bytes(),
        })
    }

    fn save_deadline_report(&self, lateness: &LatenessReport) -> SaveDeadlineReport {
        let SaveDeadline { deadline_ms, on_late } = self.config.save_deadline();
        SaveDeadlineReport {
            deadline_ms,
            on_late: match on_late {
                lateness::OnLate::Wait => OnLate::Wait,
                lateness::OnLate::Break => OnLate::Break,
            },
            late_for_ms: lateness.late_for_ms,
            given_up: lateness.given_up.clone(),
        }
    }

    async fn grow_store(&self, store_bytes: u64) -> Result<()> {
        let store = &self.devices.store;
        if store.kind() == DeviceKind::File && store.size_bytes() < store_bytes {
            let failed = |source: std::io::Error| {
                Error::new(ErrorKind::NoSpace, "grow the store", store.path().display().to_string())
                    .saying("the file could not be extended; make room on its file system")
                    .caused_by(source)
            };
            let (mode, added) = (rustix::fs::FallocateFlags::empty(), store_bytes - store.size_bytes());
            rustix::fs::fallocate(store.file(), mode, store.size_bytes(), added).map_err(|e| failed(e.into()))?;
            store.file().sync_all().map_err(failed)?;
        }
        if store.refresh_size()? < store_bytes {
            return Err(Error::new(ErrorKind::Invalid, "grow the store", store.path().display().to_string())
                .saying(format!("the device has only {} bytes; enlarge it first", store.size_bytes())));
        }
        self.volume.grow_store(&self.disks).await.map(|_| ())
    }
}

/// Runs a cut with a deadline that comes when `limit` is over. The cut itself is never dropped: it gives up by itself.
async fn with_limit<T>(limit: Duration, deadline: Deadline, cut: impl Future<Output = T>) -> T {
    let timer = tokio::task::spawn_local(async move {
        tokio::time::sleep(limit).await;
        deadline.expire();
    });
    let result = cut.await;
    timer.abort();
    result
}

impl ControlHandler for Worker {
    type Hold = Hold;

    async fn volume(&self) -> Result<VolumeReport> {
        let Sight { stats, snapshots, .. } = self.sight().await;
        let lateness = self.volume.lateness();
        let broken: Vec<&Snapshot> = snapshots.iter().filter(|snapshot| snapshot.broken.is_some()).collect();
        let of_snapshots = broken.first().map(|first| {
            let why = first.broken.as_ref().map(|(_, reason)| reason.as_str()).unwrap_or_default();
            format!("{} of {} snapshots are broken; {}: {why}", broken.len(), snapshots.len(), first.name)
        });
        let of_disk = self.volume.is_flush_failed().then(|| {
            "a flush of the disk failed, and no flush succeeds any more; check the disk, then attach with \
             --clear-failed-flush"
                .to_owned()
        });
        let waiting =
            |late_for_ms| format!("the store does not answer: a write has waited for it for {late_for_ms} ms");
        let of_store = lateness.given_up.clone().or_else(|| lateness.late_for_ms.map(waiting));
        let reasons: Vec<String> = of_disk.into_iter().chain(of_store).chain(of_snapshots).collect();
        let state = match (reasons.is_empty(), &lateness.given_up) {
            (true, _) => VolumeState::Whole,
            (false, None) => VolumeState::Degraded,
            (false, Some(_)) => VolumeState::Broken,
        };
        let free_bytes = stats.segments_free * stats.segment_bytes;
        let store_bytes = self.devices.store.size_bytes();
        let origin = &self.devices.origin;
        Ok(VolumeReport {
            name: self.config.name.clone(),
            volume_id: self.identity.volume_id.to_string(),
            store_id: self.identity.store_id.to_string(),
            size_bytes: self.volume.size_bytes(),
            origin: OriginReport {
                path: origin.path().display().to_string(),
                size_bytes: origin.size_bytes(),
                sector_bytes: origin.limits().sector_bytes,
            },
            store: StoreReport {
                path: self.devices.store.path().display().to_string(),
                size_bytes: store_bytes,
                used_bytes: store_bytes.saturating_sub(free_bytes),
                free_bytes,
            },
            state,
            state_reason: (!reasons.is_empty()).then(|| reasons.join("; ")),
            frontend: if self.by_ublk { Frontend::Ublk } else { Frontend::Nbd },
            device: self.by_ublk.then(|| self.paths.device_link().display().to_string()),
            nbd_uri: (!self.by_ublk).then(|| unix_uri(&self.paths.nbd_socket(), &self.config.name)),
            clients: u64::from(self.sessions.count(&self.config.name)),
            snapshots: snapshots.len() as u64,
            restore: self.restore_report(&snapshots),
            save_deadline: Some(self.save_deadline_report(&lateness)),
            process_id: std::process::id(),
            attached_at: Timestamp::from_unix_ms(self.attached_unix_ms),
        })
    }

    async fn snapshots(&self) -> Result<SnapshotList> {
        let Sight { snapshots, bookmarks, .. } = self.sight().await;
        Ok(SnapshotList {
            volume: self.config.name.clone(),
            snapshots: snapshots.iter().map(|snapshot| self.snapshot_report(snapshot)).collect(),
            bookmarks: bookmarks.iter().map(|one| self.snapshot_report(one)).collect(),
        })
    }

    async fn snapshot(
        &self,
        name: SnapshotName,
        consistency: Consistency,
        limit: Option<Duration>,
    ) -> Result<SnapshotReport> {
        let options = SnapshotOptions {
            now_unix_ms: now_unix_ms(),
            consistency: match consistency {
                Consistency::Crash => snapshot::Consistency::Crash,
                Consistency::Filesystem => snapshot::Consistency::Filesystem,
                Consistency::Application => snapshot::Consistency::Application,
            },
        };
        let deadline = Deadline::new();
        let cut = self.volume.snapshot(&self.disks, &name, options, &deadline);
        let snapshot = with_limit(limit.unwrap_or(CUT_LIMIT), deadline.clone(), cut).await?;
        self.look().await;
        Ok(self.snapshot_report(&snapshot))
    }

    async fn delete(&self, name: SnapshotName, keep_bookmark: bool) -> Result<()> {
        let _alone = self.administration.lock().await;
        if self.block_devices.exposure(name.as_str()).is_some() {
            let path = self.export_name(&name);
            let message = format!("it is exposed; `cairn unexpose {path}` first");
            return Err(Error::new(ErrorKind::Busy, "delete", path).saying(message));
        }
        match keep_bookmark {
            true => self.volume.bookmark(&self.disks, &name).await.map(|_| ()),
            false => self.volume.delete(&self.disks, &name).await,
        }?;
        self.look().await;
        Ok(())
    }

    async fn changes(&self, query: ChangesQuery) -> Result<ChangesPage> {
        self.changes_page(query).await
    }

    async fn data(&self, name: SnapshotName, offset_bytes: u64, length_bytes: u64) -> Result<(AlignedBuffer, u64)> {
        self.snapshot_data(&name, offset_bytes, length_bytes).await
    }

    async fn hold(&self, name: SnapshotName) -> Result<Hold> {
        self.hold_snapshot(&name).await
    }

    async fn expose(&self, name: SnapshotName, scratch: bool) -> Result<ExposeReport> {
        let _alone = self.administration.lock().await;
        self.snapshot_named(&name).await?;
        let handle = self.volume.snapshot_handle(&self.disks, &name).await?;
        match crate::ublk::features::obstacle() {
            Some(obstacle) if scratch => return Err(self.refuse_scratch(&name, &obstacle)),
            Some(_) => self.block_devices.expose_over_nbd(name.as_str(), handle)?,
            None => {
                let shown = name.clone();
                self.off_thread(move |devices| devices.expose(&shown, handle, scratch)).await?;
            }
        }
        let exposed =
            self.block_devices.exposure(name.as_str()).expect("it was exposed just now, and nothing else runs");
        Ok(self.expose_report(exposed))
    }

    async fn unexpose(&self, name: SnapshotName) -> Result<()> {
        let _alone = self.administration.lock().await;
        self.snapshot_named(&name).await?;
        let over_nbd = self.block_devices.exposure(name.as_str()).is_some_and(|exposed| exposed.device.is_none());
        let _no_clients = if over_nbd { Some(self.reserve(&self.export_name(&name)).await?) } else { None };
        self.off_thread(move |devices| devices.unexpose(name.as_str())).await
    }

    async fn restore(&self, snapshot: SnapshotName, before: Option<SnapshotName>) -> Result<RestoreReport> {
        let _alone = self.administration.lock().await;
        let now_unix_ms = now_unix_ms();
        let before = match before {
            Some(before) => before,
            None => SnapshotName::new(&format!("before-restore-{now_unix_ms}"))?,
        };
        self.refuse_restore_while_exposed()?;
        let _no_clients = self.reserve(&self.config.name).await?;
        self.off_thread(|devices| devices.check_unused(false)).await?;
        let options = SnapshotOptions { now_unix_ms, consistency: snapshot::Consistency::Crash };
        let deadline = Deadline::new();
        let restore = self.volume.restore(&self.disks, &snapshot, &before, options, &deadline);
        with_limit(CUT_LIMIT, deadline.clone(), restore).await?;
        self.look().await;
        Ok(RestoreReport { restored: snapshot.to_string(), before: before.to_string() })
    }

    async fn grow(&self, request: GrowRequest) -> Result<GrowReport> {
        let _alone = self.administration.lock().await;
        if let Some(store_bytes) = request.store_bytes {
            self.grow_store(store_bytes).await?;
        }
        let mut notice = None;
        if request.volume {
            self.devices.origin.refresh_size()?;
            let size_bytes = self.volume.grow(&self.lane).await?;
            notice = self.off_thread(move |devices| devices.grow(size_bytes)).await?;
        }
        Ok(GrowReport { size_bytes: self.volume.size_bytes(), store_bytes: self.devices.store.size_bytes(), notice })
    }

    async fn stats(&self) -> Result<StatsReport> {
        let (Sight { stats, .. }, lateness) = (self.sight().await, self.volume.lateness());
        let (paths, store_id) = (self.paths.clone(), self.identity.store_id);
        let audit = self.off_thread(move |_| crate::audit::last_report(&paths, store_id)).await;
        Ok(StatsReport {
            volume: self.config.name.clone(),
            since: Timestamp::from_unix_ms(self.attached_unix_ms),
            operations: self.stats.operations(),
            engine: EngineReport {
                saves: stats.saves,
                saved_blocks: stats.blocks_saved,
                saved_bytes: stats.blocks_saved * BLOCK_BYTES as u64,
                records: stats.records,
                cuts: stats.cuts,
                cuts_timed_out: stats.cuts_timed_out,
                runs_written: stats.runs_written,
                merges: stats.merges,
                segments_freed: stats.segments_freed,
                restored_blocks: stats.blocks_restored,
                snapshots_broken: stats.snapshots_broken,
                forgone_blocks: stats.blocks_forgone,
                not_in_use_bytes: self.volume.holes_now().blocks() * BLOCK_BYTES as u64,
                times_late: lateness.times_late,
                longest_save_wait_ms: lateness.longest_wait_ms,
            },
            cut_pauses: self.stats.cut_pauses(),
            cut_drains: self.stats.cut_drains(),
            audit,
        })
    }

    async fn check(&self, data: bool) -> Result<CheckReport> {
        let found = self.volume.check(&self.disks.store, CheckOptions { data }).await?;
        let findings: Vec<FindingReport> = found
            .into_iter()
            .map(|finding| FindingReport {
                severity: if finding.serious { Severity::Error } else { Severity::Warning },
                subject: self.config.name.clone(),
                message: finding.sentence,
            })
            .collect();
        Ok(CheckReport { clean: findings.is_empty(), data, findings })
    }

    async fn detach(&self) -> Result<DetachReport> {
        Worker::detach(self).await?;
        self.stop.raise();
        Ok(DetachReport { detached: self.config.name.clone() })
    }
}
