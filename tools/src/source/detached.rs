//! The snapshots of a volume that is not attached, read through its store, and its disk where that is needed (X12).
//!
//! Invariants:
//! - Both devices are held exclusively while anything is read, so that nobody attaches the volume meanwhile.
//! - Nothing is written.
//! - What changed between snapshots is known without the disk; their content, and the volume as it is, only with a disk
//!   that is what it was when the volume ended.

use super::{Facts, Hold, SnapshotSource};
use crate::context::Context;
use crate::exit::{ExitCode, Failure};
use crate::offline::with_paths;
use cairn_engine::delta::{DeltaPoint, Extent, ExtentKind};
use cairn_engine::disk::{aligned_buffer, AlignedBuffer, Disks};
use cairn_engine::error::Result as EngineResult;
use cairn_engine::snapshot::SnapshotName;
use cairn_engine::volume::{inspect, OfflineStore};
use cairn_target::broken_log::BrokenMark;
use cairn_target::config::VolumeConfig;
use cairn_target::control::api::{ChangeKind, ChangesPage, ExtentReport, SnapshotReport};
use cairn_target::device::{Access, Device};
use cairn_target::own_ring::{self, OwnRing, RingDisk};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::mpsc::{sync_channel, SyncSender};
use tokio::sync::{mpsc, OnceCell};
use uuid::Uuid;

/// How long to wait for a device that somebody is just closing.
const OPEN_WAIT_MS: u64 = 2000;
/// Requests that wait for their turn.
const QUEUE_MAX: usize = 64;

/// The snapshots of a volume that nobody serves. One thread drives the devices; whoever reads asks it.
pub struct Detached {
    facts: Facts,
    requests: mpsc::Sender<Request>,
}

/// What the thread is asked.
enum Request {
    Changes { from: Option<String>, to: Option<String>, offset_bytes: u64, max: usize, answer: Answer<ChangesPage> },
    Read { snapshot: String, offset_bytes: u64, length: usize, answer: Answer<AlignedBuffer> },
}

type Answer<T> = SyncSender<Result<T, Failure>>;

/// What the thread has.
struct Opened {
    config: VolumeConfig,
    store: OfflineStore,
    disks: Disks<RingDisk>,
    /// Those that were asked for, with what is known of them.
    points: RefCell<BTreeMap<SnapshotName, DeltaPoint>>,
    /// Why the disk is not to be read; found out when somebody wants to.
    obstacle: OnceCell<Option<Failure>>,
}

impl Detached {
    /// Opens the store. Fails with `Busy` where the volume is attached after all.
    pub fn open(context: &Context, config: &VolumeConfig) -> Result<Detached, Failure> {
        let mark = BrokenMark::new(&context.paths.volume(&config.name)?);
        let (requests, inbox) = mpsc::channel(QUEUE_MAX);
        let (ready, opened) = sync_channel(1);
        let config = config.clone();
        std::thread::spawn(move || {
            let failed = ready.clone();
            let served = own_ring::run(|ring: OwnRing| async move {
                match open_devices(&config, &mark, ring).await {
                    Ok((facts, opened)) => {
                        // Where nobody waits any more, the inbox is closed too.
                        let _ = ready.send(Ok(facts));
                        serve(Rc::new(opened), inbox).await;
                    }
                    Err(failure) => drop(ready.send(Err(failure))),
                }
            });
            if let Err(error) = served {
                let message = format!("io_uring cannot be used here ({error}); see `cairn features`");
                let _ = failed.send(Err(Failure::new(ExitCode::Failed, message)));
            }
        });
        let facts = opened.recv().unwrap_or_else(|_| Err(gone()))?;
        Ok(Detached { facts, requests })
    }

    fn ask<T>(&self, request: impl FnOnce(Answer<T>) -> Request) -> Result<T, Failure> {
        let (answer, answered) = sync_channel(1);
        self.requests.blocking_send(request(answer)).map_err(|_| gone())?;
        answered.recv().unwrap_or_else(|_| Err(gone()))
    }
}

fn gone() -> Failure {
    Failure::new(ExitCode::Failed, "the thread that reads the store died")
}

async fn open_devices(config: &VolumeConfig, mark: &BrokenMark, ring: OwnRing) -> Result<(Facts, Opened), Failure> {
    let access = Access::Exclusive { wait_ms: OPEN_WAIT_MS };
    let named = |error| with_paths(error, &config.origin, &config.store);
    let store_disk = RingDisk::new(Device::open(&config.store, access)?, ring.clone());
    let info = inspect(&store_disk).await.map_err(named)?;
    let store = OfflineStore::open(&store_disk, mark.read().as_ref()).await.map_err(named)?;
    let (origin_disk, obstacle) = match Device::open(&config.origin, access) {
        Ok(origin) => (RingDisk::new(origin, ring), OnceCell::new()),
        // Never read: the obstacle says why.
        Err(error) => {
            (RingDisk::new(store_disk.device().clone(), ring), OnceCell::new_with(Some(Some(Failure::from(error)))))
        }
    };
    let report = |snapshot: &_| SnapshotReport::of(snapshot, None);
    let facts = Facts {
        volume: config.name.clone(),
        volume_id: Uuid::from_bytes(info.superblock.volume_id),
        store_id: Uuid::from_bytes(info.superblock.store_id),
        snapshots: store.snapshots().iter().map(report).collect(),
        bookmarks: store.bookmarks().iter().map(report).collect(),
    };
    let disks = Disks { origin: origin_disk, store: store_disk };
    Ok((facts, Opened { config: config.clone(), store, disks, points: RefCell::default(), obstacle }))
}

/// Answers side by side until nobody asks any more.
async fn serve(opened: Rc<Opened>, mut inbox: mpsc::Receiver<Request>) {
    let mut running = tokio::task::JoinSet::new();
    while let Some(request) = inbox.recv().await {
        let opened = opened.clone();
        running.spawn_local(async move {
            // Whoever asked may have given up.
            match request {
                Request::Changes { from, to, offset_bytes, max, answer } => {
                    let _ = answer.send(opened.changes(from, to, offset_bytes, max).await);
                }
                Request::Read { snapshot, offset_bytes, length, answer } => {
                    let _ = answer.send(opened.read(&snapshot, offset_bytes, length).await);
                }
            }
        });
        while running.try_join_next().is_some() {}
    }
    while running.join_next().await.is_some() {}
}

impl Opened {
    fn named<T>(&self, result: EngineResult<T>) -> Result<T, Failure> {
        result.map_err(|error| with_paths(error, &self.config.origin, &self.config.store))
    }

    async fn point(&self, name: &str) -> Result<DeltaPoint, Failure> {
        let name = SnapshotName::new(name.strip_prefix('#').unwrap_or(name))?;
        if let Some(point) = self.points.borrow().get(&name) {
            return Ok(point.clone());
        }
        let point = self.named(self.store.delta_point(&self.disks.store, &name).await)?;
        self.points.borrow_mut().insert(name, point.clone());
        Ok(point)
    }

    async fn refuse_obstacle(&self) -> Result<(), Failure> {
        let verify = || async { self.named(self.store.verify_origin(&self.disks.origin).await).err() };
        match self.obstacle.get_or_init(verify).await {
            None => Ok(()),
            Some(Failure { code, kind, message }) => {
                Err(Failure { code: *code, kind: kind.clone(), message: message.clone() })
            }
        }
    }

    async fn changes(
        &self,
        from: Option<String>,
        to: Option<String>,
        offset_bytes: u64,
        max: usize,
    ) -> Result<ChangesPage, Failure> {
        let older = match from.as_deref() {
            Some(from) => Some(self.point(from).await?),
            None => None,
        };
        let newer = match &to {
            Some(to) => self.point(to).await?,
            None => {
                self.refuse_obstacle().await?;
                DeltaPoint::live()
            }
        };
        let size_bytes = newer.size_bytes().unwrap_or(self.store.size_bytes());
        let found = self.store.changes(&self.disks.store, older.as_ref(), &newer, offset_bytes, max).await;
        let found = self.named(found)?;
        let next_offset_bytes = found.last().filter(|_| found.len() == max);
        let next_offset_bytes = next_offset_bytes.map(|last| last.offset_bytes + last.length_bytes);
        Ok(ChangesPage {
            from,
            to,
            size_bytes,
            extents: found.iter().map(extent_report).collect(),
            next_offset_bytes: next_offset_bytes.filter(|next| *next < size_bytes),
        })
    }

    async fn read(&self, snapshot: &str, offset_bytes: u64, length: usize) -> Result<AlignedBuffer, Failure> {
        self.refuse_obstacle().await?;
        let point = self.point(snapshot).await?;
        let mut buffer = aligned_buffer(length);
        let read = self.store.read_snapshot(&self.disks, &point, offset_bytes, &mut buffer).await;
        self.named(read)?;
        Ok(buffer)
    }
}

fn extent_report(extent: &Extent) -> ExtentReport {
    let kind = match extent.kind {
        ExtentKind::Data => ChangeKind::Data,
        ExtentKind::NotInUse => ChangeKind::NotInUse,
    };
    ExtentReport { offset_bytes: extent.offset_bytes, length_bytes: extent.length_bytes, kind }
}

impl SnapshotSource for Detached {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn changes(
        &self,
        from: Option<&str>,
        to: Option<&str>,
        offset_bytes: u64,
        max: usize,
    ) -> Result<ChangesPage, Failure> {
        let (from, to) = (from.map(str::to_owned), to.map(str::to_owned));
        self.ask(|answer| Request::Changes { from, to, offset_bytes, max, answer })
    }

    fn read(&self, snapshot: &str, offset_bytes: u64, buffer: &mut [u8]) -> Result<(), Failure> {
        let (snapshot, length) = (snapshot.to_owned(), buffer.len());
        let content = self.ask(|answer| Request::Read { snapshot, offset_bytes, length, answer })?;
        buffer.copy_from_slice(&content);
        Ok(())
    }

    fn hold(&self, _snapshot: &str) -> Result<Box<dyn Hold>, Failure> {
        // Nobody can delete anything while the devices are held.
        Ok(Box::new(Held))
    }
}

/// The devices are held as long as the source exists.
struct Held;

impl Hold for Held {}
