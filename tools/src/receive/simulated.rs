//! A volume on simulated disks as a target of receives, on a machine that may stop at any moment.
//!
//! Invariants:
//! - Everything follows from seeds, but for the names of automatic snapshots.
//! - The machine stops between two steps of its scheduler: in the middle of a request of any of its disks, too.

use super::served::{Extents, Service, Standing};
use crate::block_io::BlockIo;
use crate::exit::{ExitCode, Failure, Outcome};
use cairn_engine::deadline::Deadline;
use cairn_engine::delta::{DeltaPoint, ExtentKind};
use cairn_engine::disk::{aligned_buffer, Disks};
use cairn_engine::error::{Error, ErrorKind};
use cairn_engine::lane::Lane;
use cairn_engine::sim::rig::{create_options, open_options, snapshot_name, snapshot_options, StateDirectory};
use cairn_engine::sim::{block_on, Crash, Scheduler, SimDisk, SimDiskOptions};
use cairn_engine::volume::{self, Limits, Volume};
use cairn_target::control::api::{ChangeKind, ExtentReport};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::panic::resume_unwind;
use std::rc::Rc;
use std::sync::Arc;

const STORE_BYTES: u64 = 16 << 20;
const SEGMENT_BYTES: u32 = 64 << 10;

/// What unwinds when the machine stops.
pub struct Stopped;

/// A machine with the volume attached.
pub struct Machine {
    scheduler: RefCell<Scheduler>,
    disks: Rc<Disks<SimDisk>>,
    volume: Arc<Volume>,
    /// One for requests, one for background work.
    lanes: Rc<[Lane<SimDisk>; 2]>,
    /// Steps until it stops.
    pub fuse: Cell<Option<u64>>,
}

impl Machine {
    /// With a volume that holds `content`.
    pub fn new(content: &[u8], seed: u64) -> Machine {
        let disk = |name, size_bytes| SimDisk::new(SimDiskOptions::new(name, size_bytes));
        let disks = Disks { origin: disk("origin", content.len() as u64), store: disk("store", STORE_BYTES) };
        disks.origin.poke(0, content);
        block_on(volume::create(&disks, &create_options(SEGMENT_BYTES))).expect("the store is large enough");
        Machine::boot(disks, seed)
    }

    fn boot(disks: Disks<SimDisk>, seed: u64) -> Machine {
        let mut scheduler = Scheduler::new(seed);
        scheduler.drive(&disks.origin);
        scheduler.drive(&disks.store);
        let disks = Rc::new(disks);
        let limits = Limits { spill_entries: 16, reserve_segments: 2, restore_step_blocks: 4, ..Limits::default() };
        let opened = Rc::clone(&disks);
        let open = async move { Volume::open(&opened, open_options(2, limits, &StateDirectory::default())).await };
        let open = scheduler.spawn("open", open);
        let volume = scheduler.run_until(&open).expect("no disk fails");
        let lane = |index| Lane::new(Arc::clone(&volume), index, Rc::clone(&disks));
        let lanes = Rc::new([lane(0), lane(1)]);
        scheduler.spawn("background", work_in_background(Arc::clone(&volume), Rc::clone(&lanes)));
        Machine { scheduler: RefCell::new(scheduler), disks, volume, lanes, fuse: Cell::new(None) }
    }

    /// Stops, and comes up again with what its disks hold.
    pub fn crash(self, seed: u64, crash: Crash) -> Machine {
        let Disks { origin, store } = &*self.disks;
        let disks = Disks { origin: origin.crash(seed, crash), store: store.crash(!seed, crash) };
        self.scheduler.into_inner().kill();
        Machine::boot(disks, seed)
    }

    /// Stops for good.
    pub fn switch_off(self) {
        self.scheduler.into_inner().kill();
    }

    fn step(&self) {
        if let Some(steps) = self.fuse.get() {
            match steps.checked_sub(1) {
                None => resume_unwind(Box::new(Stopped)),
                left => self.fuse.set(left),
            }
        }
        let stepped = self.scheduler.borrow_mut().step();
        assert!(stepped, "nothing goes on: {}", self.scheduler.borrow().hanging());
    }

    fn run<T: 'static>(&self, call: impl Future<Output = T> + 'static) -> T {
        let handle = self.scheduler.borrow_mut().spawn("call", call);
        while !handle.is_finished() {
            self.step();
        }
        handle.take().expect("it is finished")
    }

    /// The same for a request that waits until a restore is done.
    fn patiently<T: 'static, F>(&self, call: impl Fn(Arc<Volume>, Rc<Disks<SimDisk>>) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>> + 'static,
    {
        loop {
            match self.run(call(Arc::clone(&self.volume), Rc::clone(&self.disks))) {
                Err(error) if error.kind() == ErrorKind::Busy && self.volume.restore_progress().is_some() => {
                    while self.volume.restore_progress().is_some() {
                        self.step();
                    }
                }
                answer => return answer,
            }
        }
    }

    /// All of the volume.
    pub fn content(&self) -> Vec<u8> {
        let lanes = Rc::clone(&self.lanes);
        let mut buffer = aligned_buffer(self.volume.size_bytes() as usize);
        let read = async move { lanes[0].read(0, &mut buffer).await.map(|()| buffer.to_vec()) };
        self.run(read).expect("no disk fails")
    }

    /// Names of its snapshots, in the order of the alphabet.
    pub fn snapshots(&self) -> Vec<String> {
        let volume = Arc::clone(&self.volume);
        let found = self.run(async move { volume.snapshots().await });
        let mut names: Vec<String> = found.iter().map(|snapshot| snapshot.name.as_str().to_owned()).collect();
        names.sort();
        names
    }
}

async fn work_in_background(volume: Arc<Volume>, lanes: Rc<[Lane<SimDisk>; 2]>) {
    loop {
        let listener = volume.background_listener();
        if !volume.background_step(&lanes[1]).await.expect("no disk fails") {
            listener.await;
        }
    }
}

fn refused(error: Error) -> Failure {
    let code = if error.kind() == ErrorKind::NotFound { ExitCode::NotFound } else { ExitCode::Failed };
    Failure::new(code, format!("{error:?}"))
}

/// The volume as a service, and open.
pub struct Attached(pub Rc<Machine>);

impl Service for Attached {
    fn volume_id(&self) -> String {
        "the volume that is received into".to_owned()
    }

    fn size_bytes(&self) -> u64 {
        self.0.volume.size_bytes()
    }

    fn open_io(&self) -> Result<Box<dyn BlockIo>, Failure> {
        Ok(Box::new(Attached(Rc::clone(&self.0))))
    }

    fn standing(&self, snapshot: &str) -> Result<Standing, Failure> {
        match self.0.snapshots().iter().any(|name| name == snapshot) {
            true => Ok(Standing::Whole),
            false => Ok(Standing::Missing),
        }
    }

    fn take(&self, snapshot: &str) -> Outcome {
        let name = snapshot_name(snapshot);
        let taken = self.0.patiently(|volume, disks| {
            let name = name.clone();
            async move { volume.snapshot(&disks, &name, snapshot_options(), &Deadline::new()).await }
        });
        taken.map(drop).map_err(refused)
    }

    fn delete(&self, snapshot: &str) -> Outcome {
        let name = snapshot_name(snapshot);
        let deleted = self.0.patiently(|volume, disks| {
            let name = name.clone();
            async move { volume.delete(&disks, &name).await }
        });
        match deleted {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(refused(error)),
            _ => Ok(()),
        }
    }

    fn restore(&self, snapshot: &str, before: &str) -> Outcome {
        let (target, before) = (snapshot_name(snapshot), snapshot_name(before));
        let restored = self.0.patiently(|volume, disks| {
            let (target, before) = (target.clone(), before.clone());
            async move { volume.restore(&disks, &target, &before, snapshot_options(), &Deadline::new()).await }
        });
        restored.map(drop).map_err(refused)
    }

    fn changes_since(&self, snapshot: &str) -> Result<Extents<'_>, Failure> {
        let (volume, disks) = (Arc::clone(&self.0.volume), Rc::clone(&self.0.disks));
        let name = snapshot_name(snapshot);
        let found = self.0.run(async move {
            let older = volume.delta_point(&disks, &name).await?;
            volume.changes(&disks, Some(&older), &DeltaPoint::live(), 0, usize::MAX).await
        });
        let extents = found.map_err(refused)?.into_iter().map(|extent| {
            let kind = match extent.kind {
                ExtentKind::Data => ChangeKind::Data,
                ExtentKind::NotInUse => ChangeKind::NotInUse,
            };
            Ok(ExtentReport { offset_bytes: extent.offset_bytes, length_bytes: extent.length_bytes, kind })
        });
        Ok(Box::new(extents))
    }

    fn read_snapshot(&self, snapshot: &str, offset_bytes: u64, buffer: &mut [u8]) -> Outcome {
        let (volume, disks) = (Arc::clone(&self.0.volume), Rc::clone(&self.0.disks));
        let (name, mut content) = (snapshot_name(snapshot), aligned_buffer(buffer.len()));
        let read = self.0.run(async move {
            let handle = volume.snapshot_handle(&disks, &name).await?;
            volume.read_snapshot(&disks, &handle, offset_bytes, &mut content).await?;
            Ok(content)
        });
        buffer.copy_from_slice(&read.map_err(refused)?);
        Ok(())
    }
}

impl BlockIo for Attached {
    fn name(&self) -> &str {
        "volume"
    }

    fn size_bytes(&self) -> u64 {
        self.0.volume.size_bytes()
    }

    fn read(&mut self, offset_bytes: u64, buffer: &mut [u8]) -> Outcome {
        let (lanes, mut content) = (Rc::clone(&self.0.lanes), aligned_buffer(buffer.len()));
        let read = self.0.run(async move { lanes[0].read(offset_bytes, &mut content).await.map(|()| content) });
        buffer.copy_from_slice(&read.map_err(refused)?);
        Ok(())
    }

    fn write(&mut self, offset_bytes: u64, data: &[u8]) -> Outcome {
        let (lanes, mut content) = (Rc::clone(&self.0.lanes), aligned_buffer(data.len()));
        content.copy_from_slice(data);
        self.0.run(async move { lanes[0].write(offset_bytes, &content, false).await }).map_err(refused)
    }

    fn write_zeroes(&mut self, offset_bytes: u64, length_bytes: u64) -> Outcome {
        let lanes = Rc::clone(&self.0.lanes);
        let zeroed = async move { lanes[0].write_zeroes(offset_bytes, length_bytes, false, true).await };
        self.0.run(zeroed).map_err(refused)
    }

    fn make_durable(&mut self) -> Outcome {
        let lanes = Rc::clone(&self.0.lanes);
        self.0.run(async move { lanes[0].flush().await }).map_err(refused)
    }
}
