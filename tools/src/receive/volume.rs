//! An attached volume as the target of a receive.
//!
//! Invariants:
//! - An automatic snapshot is taken before anything is written; going back is restoring it.
//! - The volume is the base only while nothing was written since the snapshot that was received: its own delta says so.

use super::identity::TargetIdentity;
use super::input::Announced;
use super::place::{read_json, remove, write_json, Place, Progress, Stage};
use super::target::Target;
use crate::arguments::Wait;
use crate::block_io::{self, BlockIo, NbdIo, PlainIo};
use crate::client::{Client, CHANGE_TIMEOUT_MS};
use crate::context::Context;
use crate::exit::{ExitCode, Failure, Outcome};
use crate::names::VolumeName;
use crate::output::bytes::format_bytes;
use crate::restoring::after_restore;
use crate::source::{Attached, Changes, Piece, Pieces, SnapshotSource};
use cairn_delta::{is_zero, Fingerprint, FRAME_BYTES_MAX};
use cairn_target::control::api::{
    Consistency, DeleteReport, Frontend, RestoreReport, RestoreRequest, SnapshotList, SnapshotReport, SnapshotRequest,
    VolumeReport,
};
use cairn_target::device::{kind_of, mount_points_of, DeviceKind};
use cairn_target::process::now_unix_ms;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How much of a volume is looked at to see whether it holds anything.
const LOOKED_AT_BYTES: u64 = 16 << 20;

/// A volume that a target serves.
pub struct VolumeTarget<'a> {
    context: &'a Context,
    name: VolumeName,
    client: Client,
    report: VolumeReport,
    nbd_socket: PathBuf,
    /// None while the volume must not be open.
    io: Option<Box<dyn BlockIo>>,
}

impl<'a> VolumeTarget<'a> {
    /// Opens the volume through its frontend. Fails with `Busy` where it is mounted or open.
    pub fn open(context: &'a Context, name: &VolumeName) -> Result<VolumeTarget<'a>, Failure> {
        let client = context.client(name)?;
        let report: VolumeReport = client.get("/v1/volume")?;
        let nbd_socket = context.paths.volume(name.as_str())?.nbd_socket();
        let mut target = VolumeTarget { context, name: name.clone(), client, report, nbd_socket, io: None };
        target.io = Some(target.open_io()?);
        Ok(target)
    }

    fn open_io(&self) -> Result<Box<dyn BlockIo>, Failure> {
        let device = match (&self.report.frontend, &self.report.device) {
            (Frontend::Ublk, Some(device)) => Path::new(device),
            _ => {
                if self.report.clients > 0 {
                    let message = format!("{}: NBD clients have it open; disconnect them first", self.name);
                    return Err(Failure::new(ExitCode::Busy, message));
                }
                return Ok(Box::new(NbdIo::open(&self.nbd_socket, self.name.as_str())?));
            }
        };
        if let Ok(DeviceKind::Block { number }) = kind_of(device) {
            if let Some(point) = mount_points_of(number).first() {
                let message = format!("{}: it is mounted on {}; unmount it first", self.name, point.display());
                return Err(Failure::new(ExitCode::Busy, message));
            }
        }
        Ok(Box::new(PlainIo::open(device)?))
    }

    fn snapshots(&self) -> Result<Vec<SnapshotReport>, Failure> {
        Ok(self.client.get::<SnapshotList>("/v1/snapshots")?.snapshots)
    }

    fn take(&self, name: &str) -> Result<SnapshotReport, Failure> {
        let request =
            SnapshotRequest { name: name.to_owned(), consistency: Consistency::Crash, freeze_timeout_ms: None };
        after_restore(self.context, &self.client, &Wait { no_wait: false }, || {
            self.client.post("/v1/snapshots", &request, CHANGE_TIMEOUT_MS)
        })
    }

    /// One that is gone already is as good.
    fn delete(&self, name: &str) -> Outcome {
        let deleted = after_restore(self.context, &self.client, &Wait { no_wait: false }, || {
            self.client.delete::<DeleteReport>(&format!("/v1/snapshots/{name}"))
        });
        match deleted {
            Err(failure) if failure.code != ExitCode::NotFound => Err(failure),
            _ => Ok(()),
        }
    }

    fn changes_since(&self, snapshot: &str) -> Result<Changes, Failure> {
        let source: Arc<dyn SnapshotSource> = Arc::new(Attached::open(self.context.client(&self.name)?)?);
        Ok(Changes::new(source, Some(snapshot.to_owned()), None))
    }
}

impl Target for VolumeTarget<'_> {
    fn name(&self) -> &str {
        self.name.as_str()
    }

    fn io(&mut self) -> &mut dyn BlockIo {
        self.io.as_mut().expect("the volume is open while it is received into").as_mut()
    }

    fn identity(&self, place: &Place) -> Result<Option<TargetIdentity>, Failure> {
        read_json(&place.identity_file())
    }

    fn is_untouched(&mut self, identity: &TargetIdentity) -> Result<Option<bool>, Failure> {
        let Some(local) = &identity.local_snapshot else { return Ok(None) };
        if !self.snapshots()?.iter().any(|snapshot| snapshot.name == *local && snapshot.state_reason.is_none()) {
            return Ok(None);
        }
        match self.changes_since(local)?.next() {
            None => Ok(Some(true)),
            // What was written may be what was there.
            Some(Ok(_)) if identity.fingerprint.is_some() => Ok(None),
            Some(Ok(_)) => Ok(Some(false)),
            Some(Err(failure)) => Err(failure),
        }
    }

    fn holds_data(&mut self) -> Result<bool, Failure> {
        let size_bytes = self.report.size_bytes.min(LOOKED_AT_BYTES);
        let mut holds = false;
        block_io::steps(self.io(), 0, size_bytes, |io, at, length_bytes| {
            let mut content = vec![0; length_bytes as usize];
            io.read(at, &mut content)?;
            holds |= !is_zero(&content);
            Ok(())
        })?;
        Ok(holds)
    }

    fn check(&mut self, announced: &Announced) -> Outcome {
        let refused = |message: String| Err(Failure::new(ExitCode::Refused, message));
        let (has, needs) = (self.report.size_bytes, announced.size_after_bytes);
        if has < needs {
            let (has_text, needs_text) = (format_bytes(has), format_bytes(needs));
            return refused(format!(
                "{}: it is too small: {has_text} ({has} bytes), and the stream needs {needs_text} ({needs} bytes)",
                self.name
            ));
        }
        let source = announced.volume_id.map(|id| uuid::Uuid::from_bytes(id).to_string());
        if source.is_some_and(|source| source == self.report.volume_id) {
            return refused(format!(
                "{}: the stream comes from this very volume; to go back to a snapshot of it: cairn restore",
                self.name
            ));
        }
        if self.snapshots()?.iter().any(|snapshot| snapshot.name == announced.target.name) {
            let name = format!("{}@{}", self.name, announced.target.name);
            let message = format!("{name} exists, and is to become the name of what is received; delete it first");
            return Err(Failure::new(ExitCode::Exists, message));
        }
        Ok(())
    }

    fn begin(&mut self, place: &Place, progress: &mut Progress, _announced: &Announced) -> Outcome {
        let before = format!("before-receive-{}", now_unix_ms());
        progress.before = Some(before.clone());
        // Recorded first: a snapshot without a record would stay for ever.
        place.save(progress)?;
        self.take(&before)?;
        progress.before_taken = true;
        place.save(progress)?;
        remove(&place.identity_file())
    }

    fn reopen(&mut self, place: &Place, progress: &mut Progress, _size_after_bytes: u64) -> Outcome {
        remove(&place.identity_file())?;
        let before = progress.before.clone().unwrap_or_default();
        let is_there = self.snapshots()?.iter().any(|snapshot| snapshot.name == before);
        if !progress.before_taken && !is_there {
            self.take(&before)?;
        }
        if !progress.before_taken {
            progress.before_taken = true;
            return place.save(progress);
        }
        if is_there {
            return Ok(());
        }
        let message = format!("{}: its snapshot {before} is gone, to which it would be taken back", self.name);
        Err(Failure::new(ExitCode::Damaged, message))
    }

    fn save(&mut self, _offset_bytes: u64, _length_bytes: u64) -> Outcome {
        // The snapshot keeps it.
        Ok(())
    }

    fn make_saved_durable(&mut self) -> Outcome {
        Ok(())
    }

    fn difference(
        &mut self,
        progress: &Progress,
        _announced: &Announced,
    ) -> Result<Option<(Fingerprint, Fingerprint)>, Failure> {
        let before = progress.before.clone().unwrap_or_default();
        let reader = Attached::open(self.context.client(&self.name)?)?;
        let (mut old, mut new) = (Fingerprint::EMPTY, Fingerprint::EMPTY);
        for piece in Pieces::new(self.changes_since(&before)?) {
            let Piece { offset_bytes, length_bytes, .. } = piece?;
            let end_bytes = (offset_bytes + length_bytes).min(self.report.size_bytes);
            let mut at = offset_bytes;
            while at < end_bytes {
                let mut content = vec![0; (end_bytes - at).min(FRAME_BYTES_MAX as u64) as usize];
                reader.read(&before, at, &mut content)?;
                old += Fingerprint::of_content(at, &content);
                self.io().read(at, &mut content)?;
                new += Fingerprint::of_content(at, &content);
                at += content.len() as u64;
            }
        }
        Ok(Some((old, new)))
    }

    fn commit(&mut self, place: &Place, progress: &mut Progress, mut identity: TargetIdentity) -> Outcome {
        self.io().make_durable()?;
        // There was none of this name when the receive began; one that is there was taken by an end that was interrupted.
        self.delete(&progress.snapshot)?;
        self.take(&progress.snapshot)?;
        identity.local_snapshot = Some(progress.snapshot.clone());
        write_json(&place.identity_file(), &identity)?;
        progress.received = Some(progress.snapshot.clone());
        progress.stage = Stage::Done;
        progress.token = None;
        place.save(progress)
    }

    fn roll_back(mut self: Box<Self>, place: &Place, progress: &mut Progress) -> Outcome {
        progress.stage = Stage::Undoing;
        place.save(progress)?;
        remove(&place.identity_file())?;
        self.io = None;
        let before = progress.before.clone().unwrap_or_default();
        if self.snapshots()?.iter().any(|snapshot| snapshot.name == before) {
            let aside = format!("undone-receive-{}", now_unix_ms());
            let request = RestoreRequest { snapshot: before.clone(), before: Some(aside.clone()) };
            after_restore(self.context, &self.client, &Wait { no_wait: false }, || {
                self.client.post::<_, RestoreReport>("/v1/restore", &request, CHANGE_TIMEOUT_MS)
            })?;
            self.delete(&aside)?;
            if let Some(received) = &progress.received {
                self.delete(received)?;
            }
        }
        if let Some(identity) = &progress.identity_before {
            write_json(&place.identity_file(), identity)?;
        }
        place.clear()?;
        self.delete(&before)
    }
}

/// Deletes the snapshot that an earlier receive, which can no longer be taken back, left.
pub fn forget_before(context: &Context, name: &VolumeName, before: &str) -> Outcome {
    let client = context.client(name)?;
    match client.delete::<DeleteReport>(&format!("/v1/snapshots/{before}")) {
        Err(failure) if failure.code != ExitCode::NotFound => Err(failure),
        _ => Ok(()),
    }
}
