//! A volume on two real devices, and its operations, each of which the timeline hears of.
//!
//! Invariants:
//! - The timeline hears of an operation before the engine does, and of its end after the engine.
//! - Whatever runs is awaited: a future that is dropped while the kernel owns its memory would end the process.

use super::sampled_disk::{Mistake, SampledDisk};
use super::timeline::{Event, Outcome, Timeline};
use cairn_engine::deadline::Deadline;
use cairn_engine::disk::{aligned_buffer, Disks};
use cairn_engine::error::{Error, ErrorKind, Result};
use cairn_engine::holes::Holes;
use cairn_engine::lane::Lane;
use cairn_engine::sim::oracle::Change;
use cairn_engine::sim::picture::Picture;
use cairn_engine::sim::rig::{create_options, open_options, snapshot_name, snapshot_options, StateDirectory};
use cairn_engine::sim::stamp::stamp;
use cairn_engine::volume::{create, Accept, CheckOptions, Limits, Volume};
use cairn_target::device::{Access, Device};
use cairn_target::own_ring::{OwnRing, RingDisk};
use std::cell::Cell;
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Bytes in a segment: few records fill one.
const SEGMENT_BYTES: u32 = 64 << 10;
/// Lanes for requests; one more is for background work.
pub const LANES: u16 = 2;
/// Small bounds, so that a short run reaches spilling, sealing, merging and freeing.
pub const LIMITS: Limits = Limits {
    spill_entries: 24,
    entries_max: 96,
    cache_pages: 16,
    reserve_segments: 2,
    restore_step_blocks: 16,
    bitmap_bytes: 1 << 20,
};

/// How a change is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    Write { durable: bool },
    Zeroes { durable: bool, may_unmap: bool },
    Discard,
}

/// Opens both devices for one attachment.
pub fn open_disks(
    origin: &Path,
    store: &Path,
    ring: &OwnRing,
    timeline: &Rc<Timeline>,
    mistakes: [Option<Mistake>; 2],
) -> Rc<Disks<SampledDisk>> {
    let open = |path: &Path, mistake| {
        let device = Device::open(path, Access::Exclusive { wait_ms: 1000 }).expect("a device of the rig");
        SampledDisk::new(RingDisk::new(device, ring.clone()), timeline.clone(), mistake)
    };
    Rc::new(Disks { origin: open(origin, mistakes[0]), store: open(store, mistakes[1]) })
}

/// Makes a store.
pub async fn create_store(disks: &Disks<SampledDisk>) -> Result<()> {
    create(disks, &create_options(SEGMENT_BYTES)).await
}

/// An attached volume.
pub struct Machine {
    pub volume: Arc<Volume>,
    pub disks: Rc<Disks<SampledDisk>>,
    timeline: Rc<Timeline>,
    lanes: Vec<Lane<SampledDisk>>,
}

impl Machine {
    /// Attaches.
    pub async fn attach(
        disks: &Rc<Disks<SampledDisk>>,
        timeline: &Rc<Timeline>,
        state: &StateDirectory,
        accept: Accept,
    ) -> Result<Rc<Machine>> {
        let options = open_options(LANES + 1, LIMITS, state);
        let volume = Volume::open(disks, cairn_engine::volume::OpenOptions { accept, ..options }).await?;
        let lanes = (0..=LANES).map(|index| Lane::new(volume.clone(), index, disks.clone())).collect();
        Ok(Rc::new(Machine { volume, disks: disks.clone(), timeline: timeline.clone(), lanes }))
    }

    fn control(&self) -> &Lane<SampledDisk> {
        &self.lanes[LANES as usize]
    }

    /// Does all background work there is. Errors are the engine's to deal with; they end this round.
    pub async fn work_until_idle(&self) {
        while matches!(self.volume.background_step(self.control()).await, Ok(true)) {}
    }

    /// Writes, zeroes or discards sectors.
    pub async fn change(&self, lane: u16, sectors: Range<u64>, manner: Manner) -> Result<()> {
        let number = self.timeline.next_number();
        let change = match manner {
            Manner::Write { .. } => Change::Stamp(number),
            Manner::Zeroes { .. } => Change::Zero,
            Manner::Discard => Change::Discard,
        };
        let sector_bytes = super::SECTOR_BYTES as u64;
        let (offset_bytes, length_bytes) = (sectors.start * sector_bytes, (sectors.end - sectors.start) * sector_bytes);
        self.timeline.event(Event::ChangeStarted { number, sectors: sectors.clone(), change });
        let lane = &self.lanes[lane as usize];
        let (result, durable) = match manner {
            Manner::Write { durable } => {
                let mut data = aligned_buffer(length_bytes as usize);
                stamp(number, sectors.start, &mut data);
                (lane.write(offset_bytes, &data, durable).await, durable)
            }
            Manner::Zeroes { durable, may_unmap } => {
                (lane.write_zeroes(offset_bytes, length_bytes, durable, may_unmap).await, durable)
            }
            Manner::Discard => (lane.discard(offset_bytes, length_bytes).await, false),
        };
        self.timeline.event(Event::ChangeEnded { number, outcome: outcome(&result), durable });
        result
    }

    /// Flushes.
    pub async fn flush(&self, lane: u16) -> Result<()> {
        let number = self.timeline.next_number();
        self.timeline.event(Event::FlushStarted { number });
        let result = self.lanes[lane as usize].flush().await;
        self.timeline.event(Event::FlushEnded { number, outcome: outcome(&result) });
        result
    }

    /// What a frontend does once a second.
    pub async fn tick(&self) -> Result<()> {
        for lane in &self.lanes {
            lane.tick().await?;
        }
        Ok(())
    }

    /// Takes a snapshot.
    pub async fn snapshot(&self, name: &str) -> Result<()> {
        let number = self.timeline.next_number();
        let started = Event::SnapshotStarted { number, name: name.to_owned() };
        self.timeline.event(started);
        let result =
            self.volume.snapshot(&self.disks, &snapshot_name(name), snapshot_options(), &Deadline::new()).await;
        let outcome = outcome(&result);
        self.timeline.event(Event::SnapshotEnded { number, name: name.to_owned(), outcome });
        result.map(drop)
    }

    /// Reads all of a snapshot.
    pub async fn read_snapshot(&self, name: &str) -> Result<Rc<[u8]>> {
        let handle = self.volume.snapshot_handle(&self.disks, &snapshot_name(name)).await?;
        let mut buffer = aligned_buffer(handle.size_bytes() as usize);
        self.volume.read_snapshot(&self.disks, &handle, 0, &mut buffer).await?;
        let content: Rc<[u8]> = Rc::from(&buffer[..]);
        self.timeline.event(Event::SnapshotRead { name: name.to_owned(), content: content.clone() });
        Ok(content)
    }

    /// Deletes a snapshot.
    pub async fn delete(&self, name: &str) -> Result<()> {
        self.timeline.event(Event::DeleteStarted { name: name.to_owned() });
        let result = self.volume.delete(&self.disks, &snapshot_name(name)).await;
        self.timeline.event(Event::DeleteEnded { name: name.to_owned(), outcome: outcome(&result) });
        result
    }

    /// Takes the volume back to a snapshot, keeping what was there as `before`.
    pub async fn restore(&self, name: &str, before: &str) -> Result<()> {
        let content = self.read_snapshot(name).await?.to_vec();
        let holes = self.volume.snapshot_handle(&self.disks, &snapshot_name(name)).await?.holes().clone();
        let target = Rc::new(Picture { content, holes: Holes::clone(&holes) });
        let number = self.timeline.next_number();
        self.timeline.event(Event::SnapshotStarted { number, name: before.to_owned() });
        self.timeline.event(Event::RestoreStarted { target });
        let (target, kept) = (snapshot_name(name), snapshot_name(before));
        let result = self.volume.restore(&self.disks, &target, &kept, snapshot_options(), &Deadline::new()).await;
        let outcome = outcome(&result);
        self.timeline.event(Event::SnapshotEnded { number, name: before.to_owned(), outcome });
        self.timeline.event(Event::RestoreEnded { outcome });
        result.map(drop)
    }

    /// Waits until the background has moved all blocks of a restore.
    pub async fn finish_restore(&self) {
        while self.volume.restore_progress().is_some() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Detaches in order. A detach promises what a flush promises.
    pub async fn detach(&self) -> Result<()> {
        let number = self.timeline.next_number();
        self.timeline.event(Event::FlushStarted { number });
        let result = self.volume.close(&self.disks, 0).await;
        self.timeline.event(Event::FlushEnded { number, outcome: outcome(&result) });
        result
    }

    /// All of the volume.
    pub async fn read_volume(&self) -> Result<Vec<u8>> {
        let mut buffer = aligned_buffer(self.volume.size_bytes() as usize);
        self.lanes[0].read(0, &mut buffer).await?;
        Ok(buffer.to_vec())
    }

    /// Reads everything while nothing else runs, and holds it against the model. Where a device failed snapshots may
    /// be broken, and what the check says of the store is not judged.
    pub async fn inspect(&self, has_failed: bool) -> std::result::Result<(), String> {
        let said = |error: Error| error.to_string();
        let mut model = self.timeline.model();
        let content = self.read_volume().await.map_err(said)?;
        model.observe_volume(&content, false)?;
        let found = self.volume.snapshots().await;
        model.observe_names(&found.iter().map(|snapshot| snapshot.name.to_string()).collect::<Vec<_>>())?;
        for snapshot in found {
            if snapshot.broken.is_none() {
                self.read_snapshot(snapshot.name.as_str()).await.map_err(said)?;
            } else if !has_failed {
                return Err(format!("{snapshot:?}"));
            }
        }
        let findings = self.volume.check(&self.disks.store, CheckOptions { data: true }).await.map_err(said)?;
        if !has_failed && findings.iter().any(|finding| finding.serious) {
            return Err(format!("{findings:?}"));
        }
        Ok(())
    }
}

fn outcome<T>(result: &Result<T>) -> Outcome {
    match result {
        Ok(_) => Outcome::Done,
        Err(error) if [ErrorKind::Busy, ErrorKind::TimedOut, ErrorKind::Exists].contains(&error.kind()) => {
            Outcome::Refused
        }
        Err(_) => Outcome::Unclear,
    }
}

/// Background work on a task of its own, until it is stopped.
pub struct Background {
    is_over: Rc<(Cell<bool>, Notify)>,
    task: JoinHandle<()>,
}

impl Background {
    /// Starts working for `machine`.
    pub fn start(machine: &Rc<Machine>) -> Background {
        let is_over = Rc::new((Cell::new(false), Notify::new()));
        let (machine, over) = (machine.clone(), is_over.clone());
        let task = tokio::task::spawn_local(async move {
            while !over.0.get() {
                let listener = machine.volume.background_listener();
                let is_more = machine.volume.background_step(machine.control()).await;
                if !is_more.expect("background work succeeds while no device fails") {
                    tokio::select! {
                        () = listener => {}
                        () = over.1.notified() => {}
                    }
                }
            }
        });
        Background { is_over, task }
    }

    /// Stops between two steps.
    pub async fn stop(self) {
        self.is_over.0.set(true);
        self.is_over.1.notify_one();
        self.task.await.expect("background work does not panic");
    }
}
