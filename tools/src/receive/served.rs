//! What a receive asks of an attached volume.
//!
//! Invariants:
//! - A request that a restore is in the way of waits until that is done.
//! - A client that has just gone keeps nobody away: the target takes a moment to notice.

use crate::arguments::Wait;
use crate::block_io::{BlockIo, NbdIo, PlainIo};
use crate::client::{Client, CHANGE_TIMEOUT_MS};
use crate::context::Context;
use crate::exit::{ExitCode, Failure, Outcome};
use crate::names::VolumeName;
use crate::restoring::after_restore;
use crate::source::{Attached, Changes, SnapshotSource};
use cairn_target::control::api::{
    Consistency, DeleteReport, ExtentReport, Frontend, RestoreReport, RestoreRequest, SnapshotList, SnapshotReport,
    SnapshotRequest, VolumeReport,
};
use cairn_target::device::{kind_of, mount_points_of, DeviceKind};
use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long clients have to go before they are taken to stay: a receive that was killed may be gone on with at once.
const CLIENTS_GO_TIMEOUT: Duration = Duration::from_secs(2);
const CLIENTS_POLL: Duration = Duration::from_millis(50);

/// What there is of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// There is none of that name.
    Missing,
    /// It is there, and broken.
    Broken,
    /// It is there.
    Whole,
    /// It was deleted, and left a bookmark of its name.
    Bookmark,
}

/// What changed, in ascending order.
pub type Extents<'a> = Box<dyn Iterator<Item = Result<ExtentReport, Failure>> + 'a>;

/// An attached volume.
pub trait Service {
    /// Its identity, for ever.
    fn volume_id(&self) -> String;
    /// Its size.
    fn size_bytes(&self) -> u64;
    /// Opens it. Fails with `Busy` where it is mounted or open.
    fn open_io(&self) -> Result<Box<dyn BlockIo>, Failure>;
    /// What there is of a snapshot.
    fn standing(&self, snapshot: &str) -> Result<Standing, Failure>;
    /// Takes a snapshot.
    fn take(&self, snapshot: &str) -> Outcome;
    /// Deletes a snapshot; one that is gone already is as good.
    fn delete(&self, snapshot: &str) -> Outcome;
    /// Restores the volume to a snapshot; `before` becomes the name of what it was. It must not be open.
    fn restore(&self, snapshot: &str, before: &str) -> Outcome;
    /// What changed since a snapshot.
    fn changes_since(&self, snapshot: &str) -> Result<Extents<'_>, Failure>;
    /// Fills `buffer` with what a snapshot has at `offset_bytes`.
    fn read_snapshot(&self, snapshot: &str, offset_bytes: u64, buffer: &mut [u8]) -> Outcome;
}

/// A volume that a target serves.
pub struct Served<'a> {
    context: &'a Context,
    name: VolumeName,
    client: Client,
    report: VolumeReport,
    nbd_socket: PathBuf,
    /// For what is read of it; opened when it is needed.
    reader: OnceCell<Arc<Attached>>,
}

impl<'a> Served<'a> {
    /// Asks the target who it is.
    pub fn open(context: &'a Context, name: &VolumeName) -> Result<Served<'a>, Failure> {
        let client = context.client(name)?;
        let report: VolumeReport = client.get("/v1/volume")?;
        let nbd_socket = context.paths.volume(name.as_str())?.nbd_socket();
        Ok(Served { context, name: name.clone(), client, report, nbd_socket, reader: OnceCell::new() })
    }

    fn reader(&self) -> Result<&Arc<Attached>, Failure> {
        if let Some(reader) = self.reader.get() {
            return Ok(reader);
        }
        let reader = Arc::new(Attached::open(self.context.client(&self.name)?)?);
        Ok(self.reader.get_or_init(|| reader))
    }

    /// Fails with `Busy` where NBD clients have it open and stay.
    fn wait_for_clients_to_go(&self) -> Outcome {
        let begun = Instant::now();
        let mut clients = self.report.clients;
        while clients > 0 {
            if begun.elapsed() > CLIENTS_GO_TIMEOUT {
                let message = format!("{}: NBD clients have it open; disconnect them first", self.name);
                return Err(Failure::new(ExitCode::Busy, message));
            }
            std::thread::sleep(CLIENTS_POLL);
            clients = self.client.get::<VolumeReport>("/v1/volume")?.clients;
        }
        Ok(())
    }

    fn patiently<T>(&self, request: impl Fn() -> Result<T, Failure>) -> Result<T, Failure> {
        after_restore(self.context, &self.client, &Wait { no_wait: false }, request)
    }
}

impl Service for Served<'_> {
    fn volume_id(&self) -> String {
        self.report.volume_id.clone()
    }

    fn size_bytes(&self) -> u64 {
        self.report.size_bytes
    }

    fn open_io(&self) -> Result<Box<dyn BlockIo>, Failure> {
        let device = match (&self.report.frontend, &self.report.device) {
            (Frontend::Ublk, Some(device)) => Path::new(device),
            _ => {
                self.wait_for_clients_to_go()?;
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

    fn standing(&self, snapshot: &str) -> Result<Standing, Failure> {
        let SnapshotList { snapshots, bookmarks, .. } = self.client.get("/v1/snapshots")?;
        let found: Option<&SnapshotReport> = snapshots.iter().find(|found| found.name == snapshot);
        Ok(match found.map(|found| &found.state_reason) {
            None if bookmarks.iter().any(|bookmark| bookmark.name == snapshot) => Standing::Bookmark,
            None => Standing::Missing,
            Some(Some(_)) => Standing::Broken,
            Some(None) => Standing::Whole,
        })
    }

    fn take(&self, snapshot: &str) -> Outcome {
        let name = snapshot.to_owned();
        let request = SnapshotRequest { name, consistency: Consistency::Crash, freeze_timeout_ms: None };
        let taken = || self.client.post::<_, SnapshotReport>("/v1/snapshots", &request, CHANGE_TIMEOUT_MS);
        self.patiently(taken).map(drop)
    }

    fn delete(&self, snapshot: &str) -> Outcome {
        let path = format!("/v1/snapshots/{snapshot}");
        match self.patiently(|| self.client.delete::<DeleteReport>(&path)) {
            Err(failure) if failure.code != ExitCode::NotFound => Err(failure),
            _ => Ok(()),
        }
    }

    fn restore(&self, snapshot: &str, before: &str) -> Outcome {
        let request = RestoreRequest { snapshot: snapshot.to_owned(), before: Some(before.to_owned()) };
        let restored = || self.client.post::<_, RestoreReport>("/v1/restore", &request, CHANGE_TIMEOUT_MS);
        self.patiently(restored).map(drop)
    }

    fn changes_since(&self, snapshot: &str) -> Result<Extents<'_>, Failure> {
        let source: Arc<dyn SnapshotSource> = self.reader()?.clone();
        Ok(Box::new(Changes::new(source, Some(snapshot.to_owned()), None)))
    }

    fn read_snapshot(&self, snapshot: &str, offset_bytes: u64, buffer: &mut [u8]) -> Outcome {
        self.reader()?.read(snapshot, offset_bytes, buffer)
    }
}
