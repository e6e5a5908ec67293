//! Any bytes as the two catalog areas.
//!
//! Input: a byte of flags, then records. A record is a byte of manner and a piece (its items, or a raw block); the
//! engine seals it and lays it where the next record of its area belongs. Manner: the low two bits say what it is (0
//! appended, 1 of the checkpoint, 2 the last of the checkpoint, 3 a raw block); 4 destroys its first copy, 8 its
//! second; 16 puts it into the other area, which holds the log the checkpoint was made of; 32 skips a sequence; 64
//! makes it of another session. Flags: 1 makes the superblock know of every record, 2 names the other area's log as the
//! previous one, 4 lets the checkpoint end elsewhere, 8 lets the last session have found all records when it began.
//!
//! What must hold: a state, or an error that says what is wrong. A state says the same after a checkpoint, and after it
//! was written and read again.

use crate::bytes::Bytes;
use crate::memory::bounded;
use crate::scenario::MetadataStore;
use cairn_engine::catalog::record::{self, LogIdentity, Role, RECORD_BYTES_MAX, RECORD_ITEMS_BYTES_MAX};
use cairn_engine::catalog::state::State;
use cairn_engine::catalog::Catalog;
use cairn_engine::disk::aligned_buffer;
use cairn_engine::error::ErrorKind;
use cairn_engine::format::geometry::Area;
use cairn_engine::format::item::Item;
use cairn_engine::format::superblock::{self, Superblock};
use cairn_engine::sim::{block_on, SimDisk, SimDiskOptions};

const MEMORY_BYTES_MAX: usize = 32 << 20;
/// Generations of the current log and of the one before it.
const GENERATION: u64 = 2;
const GENERATION_BEFORE: u64 = 1;
/// The last session. Of a later one there can be no records: the next attach makes it.
const SESSION: u64 = 5;
/// Records an input may have: more than fit in an area.
const RECORDS_MAX: usize = 80;

/// One of the two areas while it is filled.
struct Log {
    area: Area,
    generation: u64,
    position_bytes: u64,
    sequence: u64,
    checkpoint_records: u64,
    checkpoint_bytes: u64,
}

impl Log {
    fn new(area: Area, generation: u64) -> Log {
        let position_bytes = area.offset_bytes;
        Log { area, generation, position_bytes, sequence: 0, checkpoint_records: 0, checkpoint_bytes: 0 }
    }

    fn add(&mut self, store: &SimDisk, store_id: [u8; 16], manner: u8, content: &[u8]) {
        let content = &content[..content.len().min(RECORD_ITEMS_BYTES_MAX)];
        let mut buffer = aligned_buffer(2 * RECORD_BYTES_MAX);
        let role = match manner & 3 {
            0 => Role::Appended,
            1 => Role::Checkpoint,
            2 => Role::CheckpointLast,
            _ => return self.add_raw(store, content),
        };
        self.sequence += u64::from(manner & 32 != 0);
        let session = SESSION - u64::from(manner & 64 != 0);
        let log = LogIdentity { store_id, generation: self.generation, session };
        let length = record::encode(log, self.sequence, role, content, self.position_bytes, &mut buffer);
        if self.position_bytes + length as u64 > self.area.end_bytes() {
            return;
        }
        if manner & 4 != 0 {
            buffer[9] ^= 1;
        }
        if manner & 8 != 0 {
            buffer[length / 2 + 9] ^= 1;
        }
        store.poke(self.position_bytes, &buffer[..length]);
        self.position_bytes += length as u64;
        self.sequence += 1;
        if role != Role::Appended {
            self.checkpoint_records = self.sequence;
            self.checkpoint_bytes = self.position_bytes - self.area.offset_bytes;
        }
    }

    fn add_raw(&mut self, store: &SimDisk, content: &[u8]) {
        let length_bytes = (content.len() as u64).next_multiple_of(4096);
        if self.position_bytes + length_bytes <= self.area.end_bytes() {
            store.poke(self.position_bytes, content);
            self.position_bytes += length_bytes;
        }
    }
}

/// Reads what `data` describes.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let flags = bytes.u8();
    let template = MetadataStore::get();
    let store = SimDisk::new(SimDiskOptions::new("store", MetadataStore::STORE_BYTES));
    let mut superblock = template.decoded();
    superblock.session = SESSION;
    let areas = superblock.geometry.areas;
    let (mut current, mut before) = (Log::new(areas[0], GENERATION), Log::new(areas[1], GENERATION_BEFORE));
    for _ in 0..RECORDS_MAX {
        if bytes.is_empty() {
            break;
        }
        let (manner, content) = (bytes.u8(), bytes.piece());
        let log = if manner & 16 != 0 { &mut before } else { &mut current };
        log.add(&store, superblock.store_id, manner, content);
    }
    place(&mut superblock, flags, &current, &before);
    block_on(superblock::write_both(&store, &mut superblock)).expect("the disk takes it");
    bounded(MEMORY_BYTES_MAX, || judge(&store));
}

/// Makes the superblock point to the logs.
fn place(superblock: &mut Superblock, flags: u8, current: &Log, before: &Log) {
    let place = &mut superblock.catalog;
    place.area_current = 0;
    place.generation = GENERATION;
    place.generation_reserved = GENERATION;
    place.checkpoint_records = current.checkpoint_records.max(1);
    place.checkpoint_bytes = current.checkpoint_bytes;
    if flags & 4 != 0 {
        place.checkpoint_bytes = place.checkpoint_bytes.saturating_sub(4096);
    }
    let known = if flags & 1 != 0 { current.sequence } else { 0 };
    place.records_min = known.max(place.checkpoint_records);
    let found = if flags & 8 != 0 { current.sequence } else { 0 };
    place.records_found = found.max(place.checkpoint_records);
    place.records_found = place.checkpoint_records;
    (place.previous_generation, place.previous_records) = match flags & 2 {
        0 => (0, 0),
        _ => (GENERATION_BEFORE, before.sequence),
    };
}

fn judge(store: &SimDisk) {
    let mut catalog = match block_on(Catalog::open(store)) {
        Ok(catalog) => catalog,
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::TooNew), "{error:?}");
            return;
        }
    };
    let mut rebuilt = State::new(catalog.superblock().geometry.segment_count);
    for item in catalog.state().checkpoint() {
        rebuilt.apply(&item).expect("a checkpoint says nothing new");
    }
    assert_eq!(&rebuilt, catalog.state(), "a checkpoint says something else");
    append(&mut catalog, store);
    if block_on(catalog.compact(store)).is_ok() {
        assert_same_when_read_again(&catalog, store);
    }
}

/// Appends something harmless; what is refused changes nothing.
fn append(catalog: &mut Catalog, store: &SimDisk) {
    let before = catalog.state().clone();
    match block_on(catalog.append(store, &[Item::RunFloor { run: 1 }, Item::SampleReset])) {
        Ok(()) => assert_same_when_read_again(catalog, store),
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::NoSpace | ErrorKind::Corrupt), "{error:?}");
            assert_eq!(&before, catalog.state());
        }
    }
}

fn assert_same_when_read_again(catalog: &Catalog, store: &SimDisk) {
    let again = block_on(Catalog::open(store)).expect("what was just written can be read");
    assert_eq!(again.state(), catalog.state());
}
