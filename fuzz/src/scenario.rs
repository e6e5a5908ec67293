//! Stores that the engine itself made, with all that is known of them: what every fuzzed image begins as.
//!
//! Invariants:
//! - They are made once and are the same in every process: an input means the same everywhere.
//! - What a snapshot must show was written down when it was taken; it was not read back from the store.

use crate::machine::{copy_of, Machine, Pair};
use crate::seal::{kind_of, BLOCK_BYTES};
use cairn_engine::catalog::record::{self, LogIdentity};
use cairn_engine::catalog::Catalog;
use cairn_engine::format::geometry::{Geometry, AREA_BYTES_MIN};
use cairn_engine::format::item::{Item, SegmentState, VolumeFacts};
use cairn_engine::format::record::{RecordHeader, RecordHome};
use cairn_engine::format::superblock::{OriginIdentity, Superblock};
use cairn_engine::sim::rig::create_options;
use cairn_engine::sim::{block_on, SimDisk, SimDiskOptions};
use cairn_engine::units::Epoch;
use cairn_engine::volume::{create, Accept};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::OnceLock;

/// Blocks of the volumes; the last one is partial.
pub const VOLUME_BLOCKS: u64 = 24;
/// Bytes of the volumes.
pub const VOLUME_BYTES: u64 = (VOLUME_BLOCKS - 1) * BLOCK_BYTES + 3 * 512;
const STORE_BYTES: u64 = 4 << 20;
const SEGMENT_BYTES: u32 = 64 << 10;

/// What a snapshot must show.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Its content, bit for bit.
    pub content: Vec<u8>,
    /// It was broken when the image was made, and stays so.
    pub broken: bool,
}

/// An image, and what is known of it.
pub struct Scenario {
    disks: Pair,
    /// The snapshots, by name.
    pub snapshots: BTreeMap<String, Expected>,
    /// What the volume shows.
    pub volume: Vec<u8>,
    /// A restore is under way: part of the volume is still on the store.
    pub restoring: bool,
    /// Addresses of the blocks of the store that hold something, and of the first one behind each such run.
    pub blocks: Vec<u64>,
    /// What the end of a log rests on. Where all ranges of one of these are destroyed nothing else on the store says
    /// that the log ever went further: docs/DURABILITY.md names this window.
    pub tails: Vec<Vec<Range<u64>>>,
}

/// All scenarios.
pub fn scenarios() -> &'static [Scenario] {
    static SCENARIOS: OnceLock<Vec<Scenario>> = OnceLock::new();
    SCENARIOS.get_or_init(|| vec![detached(), killed(), restoring(), full(), young()])
}

/// Writes the volume and remembers what every snapshot must show.
struct Author {
    machine: Machine,
    volume: Vec<u8>,
    snapshots: BTreeMap<String, Expected>,
    next_value: u8,
}

impl Author {
    fn new(store_bytes: u64) -> Author {
        let origin = SimDisk::new(SimDiskOptions::new("origin", VOLUME_BYTES));
        let store = SimDisk::new(SimDiskOptions::new("store", store_bytes));
        let mut volume = vec![0; VOLUME_BYTES as usize];
        for (index, byte) in volume.iter_mut().enumerate() {
            *byte = (index / 512 % 251) as u8;
        }
        origin.poke(0, &volume);
        let disks = Pair { origin, store };
        block_on(create(&disks, &create_options(SEGMENT_BYTES))).expect("the store is large enough");
        let machine = Machine::attach(disks, Accept::default()).expect("a new store can be attached");
        Author { machine, volume, snapshots: BTreeMap::new(), next_value: 0 }
    }

    /// Writes whole blocks, each write with a value of its own.
    fn write(&mut self, blocks: Range<u64>) {
        self.next_value += 1;
        let value = 0x80 | self.next_value;
        let (start, end) = (blocks.start * BLOCK_BYTES, (blocks.end * BLOCK_BYTES).min(VOLUME_BYTES));
        let lane = usize::from(self.next_value);
        self.machine.write(lane, start, (end - start) as usize, value).expect("nothing fails here");
        self.volume[start as usize..end as usize].fill(value);
    }

    fn snapshot(&mut self, name: &'static str) {
        self.machine.snapshot(name).expect("nothing fails here");
        self.expect(name, self.volume.clone());
    }

    fn expect(&mut self, name: &str, content: Vec<u8>) {
        self.snapshots.insert(name.to_owned(), Expected { content, broken: false });
    }

    fn finish(mut self, detach: bool) -> Scenario {
        for (name, reason) in self.machine.snapshots() {
            self.snapshots.get_mut(&name).expect("only those that were taken exist").broken = reason.is_some();
        }
        let restoring = self.machine.volume.restore_progress().is_some();
        let disks = match detach {
            true => {
                let (result, disks) = self.machine.detach();
                result.expect("nothing is in the way");
                disks
            }
            false => self.machine.kill(),
        };
        let (blocks, tails) = (blocks_of(&disks.store), tails_of(&disks.store));
        Scenario { disks, snapshots: self.snapshots, volume: self.volume, restoring, blocks, tails }
    }
}

/// Several snapshots, runs that were spilled and merged, a deleted snapshot; detached in order.
fn detached() -> Scenario {
    let mut author = Author::new(STORE_BYTES);
    for (name, blocks) in [("one", 0..14), ("two", 3..20), ("gone", 0..24), ("three", 10..12)] {
        author.snapshot(name);
        author.write(blocks);
        author.write(5..6);
    }
    author.machine.settle();
    author.machine.delete("gone").expect("it can be deleted");
    author.snapshots.remove("gone");
    author.snapshot("four");
    author.write(20..24);
    author.machine.settle();
    author.finish(true)
}

/// Records that no run covers, in the segments of two lanes; the process was killed.
fn killed() -> Scenario {
    let mut author = Author::new(STORE_BYTES);
    author.snapshot("one");
    author.write(0..9);
    author.snapshot("two");
    author.write(2..4);
    author.write(4..5);
    author.machine.settle();
    author.write(12..13);
    author.write(20..24);
    author.machine.settle();
    author.finish(false)
}

/// A restore that moved some blocks; the process was killed.
fn restoring() -> Scenario {
    let mut author = Author::new(STORE_BYTES);
    author.snapshot("one");
    author.write(1..22);
    author.machine.settle();
    author.machine.begin_restore("one", "before", 60).expect("it can begin");
    assert!(author.machine.volume.restore_progress().is_some(), "the restore is still under way");
    author.expect("before", author.volume.clone());
    author.volume = author.snapshots["one"].content.clone();
    author.finish(false)
}

/// A store that was too small: the oldest snapshots had to go.
fn full() -> Scenario {
    let mut author = Author::new((2 << 20) + (11 << 16));
    for name in ["one", "two", "three", "four", "five", "six", "seven", "eight"] {
        author.snapshot(name);
        author.write(0..20);
        author.machine.settle();
    }
    let scenario = author.finish(false);
    assert!(scenario.snapshots["one"].broken && !scenario.snapshots["eight"].broken, "some had to go");
    scenario
}

/// The smallest store that holds anything.
fn young() -> Scenario {
    let mut author = Author::new(STORE_BYTES);
    author.snapshot("one");
    author.write(7..8);
    author.finish(true)
}

impl Scenario {
    /// The disks, to do with as one likes.
    pub fn disks(&self) -> Pair {
        copy_of(&self.disks)
    }
}

fn blocks_of(store: &SimDisk) -> Vec<u64> {
    let mut blocks = Vec::new();
    let mut before = false;
    for address_bytes in (0..size_bytes(store)).step_by(BLOCK_BYTES as usize) {
        let holds = store.peek(address_bytes, BLOCK_BYTES).iter().any(|byte| *byte != 0);
        if holds || before {
            blocks.push(address_bytes);
        }
        before = holds;
    }
    blocks
}

fn size_bytes(store: &SimDisk) -> u64 {
    cairn_engine::disk::Disk::size_bytes(store)
}

fn tails_of(store: &SimDisk) -> Vec<Vec<Range<u64>>> {
    let catalog = block_on(Catalog::open(store)).expect("a scenario is whole");
    let mut tails = Vec::from_iter(catalog_tail(store, catalog.superblock()));
    let mut lanes: BTreeMap<u16, Vec<(u64, u64, RecordHeader)>> = BTreeMap::new();
    for (index, segment) in catalog.state().segments.iter().enumerate() {
        let SegmentState::Lane { lane } = segment.state else { continue };
        let (segment, incarnation) = (index as u32, segment.incarnation);
        let home = RecordHome { store: catalog.superblock().store_id, lane, segment, incarnation };
        let start = catalog.superblock().geometry.segment_offset_bytes(segment);
        for address_bytes in (start..start + u64::from(SEGMENT_BYTES)).step_by(BLOCK_BYTES as usize) {
            if let Some(header) = RecordHeader::decode(&home, address_bytes, &store.peek(address_bytes, BLOCK_BYTES)) {
                lanes.entry(lane).or_default().push((header.sequence, address_bytes, header));
            }
        }
    }
    for mut records in lanes.into_values() {
        records.sort_by_key(|(sequence, ..)| *sequence);
        // The last record that says something, and those behind it that confirm it.
        let last = records.iter().rposition(|(.., header)| !header.entries.is_empty()).unwrap_or(0);
        let range = |(_, address_bytes, header): &(u64, u64, RecordHeader)| {
            *address_bytes..address_bytes + header.length_bytes() as u64
        };
        tails.push(records[last..].iter().map(range).collect());
    }
    tails
}

/// Both copies of the last record, where the superblock does not know of it.
fn catalog_tail(store: &SimDisk, superblock: &Superblock) -> Option<Vec<Range<u64>>> {
    let known = |sequence: &u64| *sequence < superblock.catalog.records_min;
    last_record(store, superblock).filter(|(sequence, _)| !known(sequence)).map(|(_, copies)| copies)
}

/// The last record of the current log: its sequence, and where its copies lie.
pub fn last_record(store: &SimDisk, superblock: &Superblock) -> Option<(u64, Vec<Range<u64>>)> {
    let (area, generation) = (superblock.area(), superblock.catalog.generation);
    let log = LogIdentity { store_id: superblock.store_id, generation, session: superblock.session };
    let mut last: Option<(u64, Vec<Range<u64>>)> = None;
    for address_bytes in (area.offset_bytes..area.end_bytes()).step_by(BLOCK_BYTES as usize) {
        let length_bytes = area.end_bytes().min(address_bytes + record::RECORD_BYTES_MAX as u64) - address_bytes;
        if kind_of(&store.peek(address_bytes, BLOCK_BYTES)).is_none() {
            continue;
        }
        let Some(found) = record::find(log, address_bytes, &store.peek(address_bytes, length_bytes)) else { continue };
        let range = address_bytes..address_bytes + found.length_bytes as u64;
        match &mut last {
            Some((sequence, copies)) if *sequence == found.sequence => copies.push(range),
            Some((sequence, _)) if *sequence > found.sequence => {}
            _ => last = Some((found.sequence, vec![range])),
        }
    }
    last
}

/// A store of two catalog areas and a few segments, and nothing in them but the volume.
pub struct MetadataStore {
    disk: SimDisk,
    superblock: Superblock,
}

impl MetadataStore {
    /// Bytes of its device.
    pub const STORE_BYTES: u64 = 2 << 20;

    /// The only one.
    pub fn get() -> &'static MetadataStore {
        static STORE: OnceLock<MetadataStore> = OnceLock::new();
        STORE.get_or_init(|| {
            let disk = SimDisk::new(SimDiskOptions::new("store", MetadataStore::STORE_BYTES));
            let geometry = Geometry::plan_with_area(MetadataStore::STORE_BYTES, SEGMENT_BYTES, AREA_BYTES_MIN);
            let origin = OriginIdentity { size_bytes: VOLUME_BYTES, sector_bytes: 512 };
            let mut superblock = Superblock::new([1; 16], [2; 16], geometry.expect("it fits"), origin);
            superblock.host_id = [4; 16];
            superblock.clean = false;
            let facts = VolumeFacts { size_bytes: VOLUME_BYTES, active_epoch: Epoch(1), flush_failed: false };
            let catalog = block_on(Catalog::create(&disk, superblock, &[Item::Volume(facts)]));
            let superblock = catalog.expect("the disk takes it").superblock().clone();
            MetadataStore { disk, superblock }
        })
    }

    /// Copy A of its superblock.
    pub fn superblock(&self) -> Vec<u8> {
        let block = self.disk.peek(0, BLOCK_BYTES);
        assert!(kind_of(&block).is_some());
        block
    }

    /// The superblock, read.
    pub fn decoded(&self) -> Superblock {
        self.superblock.clone()
    }
}
