//! One schedule's machine: disks, a volume, and the threads that use it.
//!
//! Invariants:
//! - Each thread has its own lane and its own handles on the disks, as in production.
//! - A request takes effect at one instant, which the schedule picks between its call and its return.

use crate::judge::{Judge, BLOCKS, SECTOR_BYTES};
use cairn_engine::deadline::Deadline;
use cairn_engine::disk::{aligned_buffer, Disk, Disks};
use cairn_engine::error::{ErrorKind, Result};
use cairn_engine::lane::Lane;
use cairn_engine::sim::disk::{Crash, SimDisk, SimDiskOptions};
use cairn_engine::sim::executor;
use cairn_engine::sim::rig::{create_options, open_options, snapshot_name, snapshot_options, StateDirectory};
use cairn_engine::sim::stamp::stamp;
use cairn_engine::units::BLOCK_BYTES;
use cairn_engine::volume::{create, CheckOptions, Limits, Volume};
use shuttle::future::block_on;
use shuttle::rand::{thread_rng, Rng};
use shuttle::thread;
use std::future::Future;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

const WRITERS: u16 = 4;
const WRITES_EACH: usize = 5;
/// The first is there before anybody writes.
const SNAPSHOTS: [&str; 3] = ["empty", "first", "second"];
const READS: usize = 4;
const SEGMENT_BYTES: u32 = 64 << 10;
const LIMITS: Limits = Limits {
    spill_entries: 3,
    entries_max: 64,
    cache_pages: 4,
    reserve_segments: 2,
    restore_step_blocks: 1,
    bitmap_bytes: 1 << 20,
};

/// What is done wrong on purpose.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    None,
    /// One write goes to the origin without asking the volume.
    WritesPastTheVolume,
}

/// A simulated disk whose requests take time.
struct SlowDisk(SimDisk);

impl Disk for SlowDisk {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }

    fn sector_bytes(&self) -> u32 {
        self.0.sector_bytes()
    }

    fn discard_bytes_max(&self) -> u64 {
        self.0.discard_bytes_max()
    }

    async fn read(&self, offset_bytes: u64, buffer: &mut [u8]) -> Result<()> {
        slowly(self.0.read(offset_bytes, buffer)).await
    }

    async fn write(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        slowly(self.0.write(offset_bytes, data)).await
    }

    async fn write_durable(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        slowly(self.0.write_durable(offset_bytes, data)).await
    }

    async fn write_zeroes(&self, offset_bytes: u64, length_bytes: u64, may_unmap: bool) -> Result<()> {
        slowly(self.0.write_zeroes(offset_bytes, length_bytes, may_unmap)).await
    }

    async fn discard(&self, offset_bytes: u64, length_bytes: u64) -> Result<()> {
        slowly(self.0.discard(offset_bytes, length_bytes)).await
    }

    async fn flush(&self) -> Result<()> {
        slowly(self.0.flush()).await
    }

    fn flush_failures(&self) -> u64 {
        self.0.flush_failures()
    }
}

async fn slowly<T>(request: impl Future<Output = T>) -> T {
    thread::yield_now();
    let result = request.await;
    thread::yield_now();
    result
}

/// A new store beside an empty origin, made once.
fn template() -> &'static (SimDisk, SimDisk) {
    static TEMPLATE: OnceLock<(SimDisk, SimDisk)> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let disk = |name, size_bytes| SimDisk::new(SimDiskOptions::new(name, size_bytes));
        let disks = Disks { origin: disk("origin", 512 << 10), store: disk("store", 4 << 20) };
        executor::block_on(create(&disks, &create_options(SEGMENT_BYTES))).expect("the store is large enough");
        (disks.origin, disks.store)
    })
}

/// What every thread has of the machine.
#[derive(Clone)]
struct Machine {
    origin: SimDisk,
    store: SimDisk,
    volume: Arc<Volume>,
    judge: Arc<Judge>,
}

impl Machine {
    fn new() -> Machine {
        let (origin, store) = template();
        let (origin, store) = (origin.crash(0, Crash::Process), store.crash(0, Crash::Process));
        let disks = Disks { origin: origin.clone(), store: store.clone() };
        let options = open_options(WRITERS + 1, LIMITS, &StateDirectory::default());
        let volume = executor::block_on(Volume::open(&disks, options)).expect("a new store can be opened");
        let machine = Machine { origin, store, volume, judge: Arc::default() };
        machine.snapshot(&machine.disks(), SNAPSHOTS[0]);
        machine
    }

    fn snapshot(&self, disks: &Disks<SlowDisk>, name: &str) {
        let cut = self.judge.cut_begins();
        let (snapshot, deadline) = (snapshot_name(name), Deadline::new());
        block_on(self.volume.snapshot(disks, &snapshot, snapshot_options(), &deadline)).expect("the disks work");
        self.judge.cut_ends(name, cut);
    }

    fn disks(&self) -> Disks<SlowDisk> {
        Disks { origin: SlowDisk(self.origin.clone()), store: SlowDisk(self.store.clone()) }
    }

    fn lane(&self, index: u16) -> Lane<SlowDisk> {
        Lane::new(Arc::clone(&self.volume), index, Rc::new(self.disks()))
    }

    /// Writes the lane's own sectors, so that the order of the writes of a sector is known.
    fn write(&self, index: u16, mistake: Mistake) {
        let lane = self.lane(index);
        for _ in 0..WRITES_EACH {
            let places = self.judge.places(index);
            let (first_sector, sectors) = places[thread_rng().gen_range(0..places.len())];
            let offset_bytes = first_sector * SECTOR_BYTES as u64;
            let mut data = aligned_buffer(sectors as usize * SECTOR_BYTES);
            let write = self.judge.write_begins(first_sector, sectors);
            stamp(write, first_sector, &mut data);
            let result = match (mistake, index) {
                (Mistake::WritesPastTheVolume, 0) => block_on(lane.disks().origin.write(offset_bytes, &data)),
                _ => block_on(lane.write(offset_bytes, &data, false)),
            };
            result.expect("the disks work");
            self.judge.write_ends(write);
        }
    }

    /// Takes snapshots, then deletes the first one unless somebody reads it.
    fn cut(&self) {
        let disks = self.disks();
        SNAPSHOTS[1..].iter().for_each(|name| self.snapshot(&disks, name));
        match block_on(self.volume.delete(&disks, &snapshot_name(SNAPSHOTS[0]))) {
            Ok(()) => self.judge.forget(SNAPSHOTS[0]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Busy),
        }
    }

    /// Reads a snapshot if there is one, in pieces that need not be whole blocks.
    fn read_snapshot(&self, disks: &Disks<SlowDisk>, name: &str) {
        let handle = match block_on(self.volume.snapshot_handle(disks, &snapshot_name(name))) {
            Ok(handle) => handle,
            // Busy: it is just being taken.
            Err(error) => return assert!(matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Busy), "{error}"),
        };
        let mut content = aligned_buffer(((BLOCKS.end - BLOCKS.start) as usize) * BLOCK_BYTES);
        let offset_bytes = BLOCKS.start * BLOCK_BYTES as u64;
        block_on(self.volume.read_snapshot(disks, &handle, offset_bytes, &mut content)).expect("the disks work");
        self.judge.snapshot_shows(name, &content);
    }

    fn read_snapshots(&self) {
        let disks = self.disks();
        for _ in 0..READS {
            self.read_snapshot(&disks, SNAPSHOTS[thread_rng().gen_range(0..SNAPSHOTS.len())]);
        }
    }

    fn work(&self) {
        let lane = self.lane(WRITERS);
        for _ in 0..2 * READS {
            block_on(self.volume.background_step(&lane)).expect("the disks work");
        }
    }

    /// All threads have ended: the snapshots are what they were, and the store is whole.
    fn inspect(&self) {
        let (disks, lane) = (self.disks(), self.lane(WRITERS));
        SNAPSHOTS.into_iter().for_each(|name| self.read_snapshot(&disks, name));
        while block_on(self.volume.background_step(&lane)).expect("the disks work") {}
        SNAPSHOTS.into_iter().for_each(|name| self.read_snapshot(&disks, name));
        self.judge.judge();
        let findings = block_on(self.volume.check(&disks.store, CheckOptions::default()));
        let findings = findings.expect("the disks work");
        assert!(findings.is_empty(), "the store is not whole: {findings:?}");
    }
}

/// One schedule.
pub fn run(mistake: Mistake) {
    let machine = Machine::new();
    let mut threads = Vec::new();
    for index in 0..WRITERS {
        let machine = machine.clone();
        threads.push(thread::spawn(move || machine.write(index, mistake)));
    }
    for role in [Machine::cut, Machine::read_snapshots, Machine::work] {
        let machine = machine.clone();
        threads.push(thread::spawn(move || role(&machine)));
    }
    for thread in threads {
        thread.join().expect("a thread ends");
    }
    machine.inspect();
}
