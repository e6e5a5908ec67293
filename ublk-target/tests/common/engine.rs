//! A real volume on disks in memory, served over NBD, with snapshots on demand.

use super::runs_locally;
use cairn_engine::deadline::Deadline;
use cairn_engine::disk::{Disk, Disks};
use cairn_engine::error::Result;
use cairn_engine::lane::Lane;
use cairn_engine::snapshot::{Consistency, SnapshotName, SnapshotOptions};
use cairn_engine::volume::{create, BrokenElsewhere, BrokenLog, CreateOptions, Limits, OpenOptions, Volume};
use cairn_target::nbd::{serve, ListenOptions, Listeners, Sessions, VolumeSource};
use cairn_target::stats::Stats;
use cairn_target::stop::{stop_switch, StopSwitch};
use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};

/// A disk in memory that gives way before it acts, so that requests overlap.
pub struct MemoryDisk {
    content: RefCell<Vec<u8>>,
}

impl MemoryDisk {
    pub fn new(size_bytes: usize) -> MemoryDisk {
        MemoryDisk { content: RefCell::new(vec![0; size_bytes]) }
    }

    async fn change(&self, offset_bytes: u64, length_bytes: u64, change: impl FnOnce(&mut [u8])) -> Result<()> {
        tokio::task::yield_now().await;
        let range = offset_bytes as usize..(offset_bytes + length_bytes) as usize;
        change(&mut self.content.borrow_mut()[range]);
        Ok(())
    }
}

impl Disk for MemoryDisk {
    fn size_bytes(&self) -> u64 {
        self.content.borrow().len() as u64
    }

    fn sector_bytes(&self) -> u32 {
        512
    }

    fn discard_bytes_max(&self) -> u64 {
        1 << 30
    }

    async fn read(&self, offset_bytes: u64, buffer: &mut [u8]) -> Result<()> {
        self.change(offset_bytes, buffer.len() as u64, |content| buffer.copy_from_slice(content)).await
    }

    async fn write(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.change(offset_bytes, data.len() as u64, |content| content.copy_from_slice(data)).await
    }

    async fn write_durable(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.write(offset_bytes, data).await
    }

    async fn write_zeroes(&self, offset_bytes: u64, length_bytes: u64, _may_unmap: bool) -> Result<()> {
        self.change(offset_bytes, length_bytes, |content| content.fill(0)).await
    }

    async fn discard(&self, offset_bytes: u64, length_bytes: u64) -> Result<()> {
        self.change(offset_bytes, length_bytes, |content| content.fill(0xdd)).await
    }

    fn flush_failures(&self) -> u64 {
        0
    }

    async fn flush(&self) -> Result<()> {
        tokio::task::yield_now().await;
        Ok(())
    }
}

struct NoLog;

impl BrokenLog for NoLog {
    fn record(&self, _elsewhere: &BrokenElsewhere) -> bool {
        false
    }

    fn clear(&self) {}
}

async fn open_volume(disks: &Disks<MemoryDisk>) -> Arc<Volume> {
    let options = CreateOptions {
        granule_blocks: 1,
        store_id: [1; 16],
        volume_id: [2; 16],
        sample_key: [3; 32],
        segment_bytes: None,
        store_bytes: None,
        host_id: [4; 16],
        now_unix_ms: 0,
    };
    create(disks, &options).await.expect("creates");
    let options = OpenOptions {
        host_id: [4; 16],
        boot_id: [5; 16],
        now_unix_ms: 0,
        lanes: 1,
        accept: Default::default(),
        broken_elsewhere: None,
        broken_log: Box::new(NoLog),
        save_deadline: Default::default(),
        limits: Limits::default(),
    };
    Volume::open(disks, options).await.expect("opens")
}

/// What the test asks of the volume's thread.
pub enum Order {
    Snapshot(&'static str),
    Delete(&'static str),
    Bookmark(&'static str),
}

/// A volume `vol` served over NBD on a thread of its own.
pub struct VolumeServer {
    _directory: TempDir,
    pub socket: PathBuf,
    pub sessions: Sessions,
    pub stats: Arc<Stats>,
    orders: mpsc::UnboundedSender<(Order, oneshot::Sender<Result<()>>)>,
    switch: StopSwitch,
    thread: Option<JoinHandle<()>>,
}

impl VolumeServer {
    pub fn start(size_bytes: usize, read_write: bool) -> VolumeServer {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("nbd.sock");
        let options = ListenOptions { unix_path: Some(socket.clone()), ..Default::default() };
        let listeners = Listeners::bind(&options).expect("binds");
        let (switch, stop) = stop_switch();
        let (orders, mut inbox) = mpsc::unbounded_channel::<(Order, oneshot::Sender<Result<()>>)>();
        let (sessions, stats) = (Sessions::default(), Arc::new(Stats::default()));
        let (server_sessions, server_stats) = (sessions.clone(), stats.clone());
        let thread = std::thread::spawn(move || {
            runs_locally(async move {
                let disks = Rc::new(Disks { origin: MemoryDisk::new(size_bytes), store: MemoryDisk::new(64 << 20) });
                let volume = open_volume(&disks).await;
                let lane = Rc::new(Lane::new(volume.clone(), 0, disks.clone()));
                let obedient = tokio::task::spawn_local(async move {
                    while let Some((order, done)) = inbox.recv().await {
                        let _ = done.send(obey(&volume, &disks, order).await);
                    }
                });
                let source = VolumeSource::new("vol", lane, read_write, server_stats.recorder());
                serve(Rc::new(source), listeners, server_sessions, stop).await.expect("serves");
                obedient.abort();
            });
        });
        VolumeServer { _directory: directory, socket, sessions, stats, orders, switch, thread: Some(thread) }
    }

    /// Has the order carried out.
    pub fn order(&self, order: Order) -> Result<()> {
        let (sender, receiver) = oneshot::channel();
        assert!(self.orders.send((order, sender)).is_ok(), "the volume's thread runs");
        receiver.blocking_recv().expect("the volume's thread answers")
    }
}

async fn obey(volume: &Arc<Volume>, disks: &Disks<MemoryDisk>, order: Order) -> Result<()> {
    match order {
        Order::Snapshot(name) => {
            let options = SnapshotOptions { now_unix_ms: 0, consistency: Consistency::Crash };
            let name = SnapshotName::new(name)?;
            volume.snapshot(disks, &name, options, &Deadline::new()).await.map(drop)
        }
        Order::Delete(name) => volume.delete(disks, &SnapshotName::new(name)?).await,
        Order::Bookmark(name) => volume.bookmark(disks, &SnapshotName::new(name)?).await.map(drop),
    }
}

impl Drop for VolumeServer {
    fn drop(&mut self) {
        self.switch.raise();
        let outcome = self.thread.take().expect("runs").join();
        assert!(outcome.is_ok() || std::thread::panicking(), "the server must not panic");
    }
}
