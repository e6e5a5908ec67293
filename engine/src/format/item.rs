//! The items of the catalog: the facts its records carry, and their bytes.
//!
//! Invariants:
//! - An item is a tag, a payload length, and a payload; integers are little endian.
//! - Decoding any bytes gives items or a typed error, never a panic.
//! - A tag with the high bit set may be skipped by a program that does not know it; any other unknown tag is `TooNew`.

use crate::error::{Error, ErrorKind, Result};
use crate::units::{BlockIndex, Epoch, SegmentIndex};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Longest name and longest reason, in bytes.
pub const TEXT_BYTES_MAX: usize = 255;
/// Bytes of tag and length in front of every payload.
pub const ITEM_HEADER_BYTES: usize = 4;
/// The bit of a tag that says the item may be skipped.
pub const TAG_SKIPPABLE: u16 = 0x8000;

/// The snapshot was taken by Cairn itself, not by a person.
pub const SNAPSHOT_AUTOMATIC: u32 = 1;
/// What is left of a deleted snapshot: which blocks were overwritten since, but not what they held.
pub const SNAPSHOT_BOOKMARK: u32 = 2;

/// The volume's own facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct VolumeFacts {
    /// Size in bytes.
    pub size_bytes: u64,
    /// The epoch that saves go to.
    pub active_epoch: Epoch,
    /// A flush of the origin failed and nobody has acknowledged it yet (law 4).
    pub flush_failed: bool,
}

/// At which kind of point a snapshot was taken (mission A8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Consistency {
    /// As after a power cut.
    #[default]
    Crash,
    /// The filesystem was frozen.
    Filesystem,
    /// The application's hooks had run.
    Application,
}

/// Why a snapshot's content is not known any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BrokenReason {
    /// The store could not be written when a before-image had to be saved.
    StoreFailed,
    /// The store was full.
    StoreFull,
    /// Records that were complete once are missing or damaged.
    RecordLost,
    /// The origin was written while Cairn was away.
    OriginChanged,
    /// Another host used the volume and did not close it.
    OtherHost,
    /// A reason this program does not know; the text says it.
    Other,
}

/// A snapshot: a name for the epoch it opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRecord {
    /// The epoch it opened; its identity.
    pub epoch: Epoch,
    /// When it was taken, in milliseconds since 1970.
    pub created_unix_ms: u64,
    /// The volume's size then, in bytes.
    pub size_bytes: u64,
    /// [`SNAPSHOT_AUTOMATIC`], [`SNAPSHOT_BOOKMARK`] and flags to come.
    pub flags: u32,
    /// At which kind of point.
    pub consistency: Consistency,
    /// Set where the content is not known any more.
    pub broken: Option<BrokenReason>,
    /// Its name, at most [`TEXT_BYTES_MAX`] bytes.
    pub name: String,
    /// A sentence on why it is broken, at most [`TEXT_BYTES_MAX`] bytes.
    pub reason: String,
}

impl SnapshotRecord {
    /// Whether it is a bookmark, which nobody reads.
    pub fn is_bookmark(&self) -> bool {
        self.flags & SNAPSHOT_BOOKMARK != 0
    }
}

/// What a segment is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum SegmentState {
    /// For nothing.
    #[default]
    Free,
    /// Handed to a lane; records may be in it that no run covers.
    Lane {
        /// The lane.
        lane: u16,
    },
    /// Holds records that are all covered by runs.
    Data {
        /// The epoch they belong to.
        epoch: Epoch,
    },
    /// Holds pages of a run.
    Run {
        /// The run.
        run: u64,
        /// Which of the run's segments it is, from 0.
        ordinal: u32,
    },
}

/// A run: an immutable sorted index of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunRecord {
    /// Its identity; only grows.
    pub run: u64,
    /// Oldest epoch of its entries.
    pub first_epoch: Epoch,
    /// Youngest epoch of its entries.
    pub last_epoch: Epoch,
    /// Number of entries.
    pub entries: u64,
    /// Number of pages.
    pub pages: u64,
    /// Levels of pages; 1 where the only page is a leaf.
    pub height: u8,
    /// Lowest block of its entries.
    pub first_block: BlockIndex,
    /// Highest block of its entries.
    pub last_block: BlockIndex,
}

/// One fact. A record's items are applied together or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// Replaces the volume's facts.
    Volume(VolumeFacts),
    /// Adds a snapshot, or replaces the one of the same epoch.
    SnapshotPut(SnapshotRecord),
    /// Removes a snapshot.
    SnapshotDelete {
        /// Its epoch.
        epoch: Epoch,
    },
    /// Says what a range of segments is used for; the ordinals of a run count up from that of the first segment.
    Segments {
        /// The first segment.
        first: SegmentIndex,
        /// How many.
        count: u32,
        /// What they are used for.
        state: SegmentState,
        /// How often they were handed out; never goes back.
        incarnation: u32,
    },
    /// Adds a run, or replaces the one of the same identity.
    RunPut(RunRecord),
    /// Removes a run.
    RunDelete {
        /// Its identity.
        run: u64,
    },
    /// Starts a restore, or moves its cursor: every block below the cursor is moved.
    RestorePut {
        /// The snapshot being restored.
        target_epoch: Epoch,
        /// The automatic snapshot of the state before.
        before_epoch: Epoch,
        /// The first block not yet moved in sequence.
        cursor_block: BlockIndex,
    },
    /// Blocks moved ahead of the cursor.
    RestoreMoved {
        /// The first block.
        start_block: BlockIndex,
        /// How many.
        count_blocks: u64,
    },
    /// The restore is complete.
    RestoreEnd,
    /// A watched block is about to get this content: one hash for each sector of 512 bytes.
    WatchAdd {
        /// The block.
        block: BlockIndex,
        /// The hashes of its sectors.
        hashes: [u64; 8],
    },
    /// Drops all watched content.
    WatchReset,
    /// The hash of a sampled block.
    Sample {
        /// The block.
        block: BlockIndex,
        /// Its hash.
        hash: u64,
    },
    /// Drops all samples.
    SampleReset,
    /// Runs cover the records of this lane up to and with this sequence.
    LaneIndexed {
        /// The lane.
        lane: u16,
        /// The sequence.
        sequence: u64,
    },
    /// No run up to this one is ever made again.
    RunFloor {
        /// The highest identity used so far.
        run: u64,
    },
    /// Adds a run of holes: the blocks that were not in use at some moment.
    HolesPut(RunRecord),
    /// Removes a run of holes that nothing refers to.
    HolesDelete {
        /// Its identity.
        run: u64,
    },
    /// A snapshot's in-use map. Without one everything is in use in it.
    MapPut {
        /// The snapshot's epoch.
        epoch: Epoch,
        /// The run of its holes.
        run: u64,
    },
    /// The volume's own in-use map, and all of it is trusted again.
    LiveMap {
        /// The run of its holes; [`NO_HOLES`] where everything is in use.
        run: u64,
    },
    /// Of the volume's own map these blocks are not trusted any more: they are in use.
    Untrusted {
        /// The first block.
        start_block: BlockIndex,
        /// How many.
        count_blocks: u64,
    },
}

/// Stands for a run of no holes: everything is in use.
pub const NO_HOLES: u64 = 0;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct HeaderImage {
    tag: U16,
    length_bytes: U16,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct VolumeImage {
    size_bytes: U64,
    active_epoch: U64,
    flush_failed: u8,
    reserved: [u8; 7],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct SnapshotImage {
    epoch: U64,
    created_unix_ms: U64,
    size_bytes: U64,
    flags: U32,
    consistency: u8,
    broken: u8,
    name_bytes: u8,
    reason_bytes: u8,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct SegmentsImage {
    first: U32,
    count: U32,
    incarnation: U32,
    state: u8,
    reserved: u8,
    lane: U16,
    owner: U64,
    ordinal: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RunImage {
    run: U64,
    first_epoch: U64,
    last_epoch: U64,
    entries: U64,
    pages: U64,
    first_block: U64,
    last_block: U64,
    height: u8,
    reserved: [u8; 7],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RestoreImage {
    target_epoch: U64,
    before_epoch: U64,
    cursor_block: U64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct PairImage {
    first: U64,
    second: U64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct WatchImage {
    block: U64,
    hashes: [U64; 8],
}

const _: () = assert!(size_of::<HeaderImage>() == ITEM_HEADER_BYTES);
const _: () = assert!(size_of::<VolumeImage>() == 24);
const _: () = assert!(size_of::<SnapshotImage>() == 32);
const _: () = assert!(size_of::<SegmentsImage>() == 28);
const _: () = assert!(size_of::<RunImage>() == 64);
const _: () = assert!(size_of::<RestoreImage>() == 24);
const _: () = assert!(size_of::<PairImage>() == 16);
const _: () = assert!(size_of::<WatchImage>() == 72);

mod tag {
    pub const VOLUME: u16 = 1;
    pub const SNAPSHOT_PUT: u16 = 2;
    pub const SNAPSHOT_DELETE: u16 = 3;
    pub const SEGMENTS: u16 = 4;
    pub const RUN_PUT: u16 = 5;
    pub const RUN_DELETE: u16 = 6;
    pub const RESTORE_PUT: u16 = 7;
    pub const RESTORE_MOVED: u16 = 8;
    pub const RESTORE_END: u16 = 9;
    pub const WATCH_ADD: u16 = 10;
    pub const WATCH_RESET: u16 = 11;
    pub const SAMPLE: u16 = 12;
    pub const SAMPLE_RESET: u16 = 13;
    pub const LANE_INDEXED: u16 = 14;
    pub const RUN_FLOOR: u16 = 15;
    pub const HOLES_PUT: u16 = 16;
    pub const HOLES_DELETE: u16 = 17;
    pub const MAP_PUT: u16 = 18;
    pub const LIVE_MAP: u16 = 19;
    pub const UNTRUSTED: u16 = 20;
}

/// Appends the item's bytes.
pub fn encode(item: &Item, bytes: &mut Vec<u8>) {
    match item {
        Item::Volume(facts) => put(bytes, tag::VOLUME, volume_image(facts).as_bytes(), &[]),
        Item::SnapshotPut(snapshot) => encode_snapshot(snapshot, bytes),
        Item::SnapshotDelete { epoch } => put(bytes, tag::SNAPSHOT_DELETE, U64::new(epoch.0).as_bytes(), &[]),
        Item::Segments { first, count, state, incarnation } => {
            put(bytes, tag::SEGMENTS, segments_image(*first, *count, *state, *incarnation).as_bytes(), &[])
        }
        Item::RunPut(run) => put(bytes, tag::RUN_PUT, run_image(run).as_bytes(), &[]),
        Item::RunDelete { run } => put(bytes, tag::RUN_DELETE, U64::new(*run).as_bytes(), &[]),
        Item::RestorePut { target_epoch, before_epoch, cursor_block } => {
            let image = RestoreImage {
                target_epoch: target_epoch.0.into(),
                before_epoch: before_epoch.0.into(),
                cursor_block: (*cursor_block).into(),
            };
            put(bytes, tag::RESTORE_PUT, image.as_bytes(), &[]);
        }
        Item::RestoreMoved { start_block, count_blocks } => {
            put_pair(bytes, tag::RESTORE_MOVED, *start_block, *count_blocks)
        }
        Item::RunFloor { run } => put(bytes, tag::RUN_FLOOR, U64::new(*run).as_bytes(), &[]),
        Item::RestoreEnd => put(bytes, tag::RESTORE_END, &[], &[]),
        Item::WatchAdd { block, hashes } => {
            let image = WatchImage { block: (*block).into(), hashes: hashes.map(U64::new) };
            put(bytes, tag::WATCH_ADD, image.as_bytes(), &[]);
        }
        Item::WatchReset => put(bytes, tag::WATCH_RESET, &[], &[]),
        Item::Sample { block, hash } => put_pair(bytes, tag::SAMPLE, *block, *hash),
        Item::SampleReset => put(bytes, tag::SAMPLE_RESET, &[], &[]),
        Item::LaneIndexed { lane, sequence } => put_pair(bytes, tag::LANE_INDEXED, u64::from(*lane), *sequence),
        Item::HolesPut(run) => put(bytes, tag::HOLES_PUT, run_image(run).as_bytes(), &[]),
        Item::HolesDelete { run } => put(bytes, tag::HOLES_DELETE, U64::new(*run).as_bytes(), &[]),
        Item::MapPut { epoch, run } => put_pair(bytes, tag::MAP_PUT, epoch.0, *run),
        Item::LiveMap { run } => put(bytes, tag::LIVE_MAP, U64::new(*run).as_bytes(), &[]),
        Item::Untrusted { start_block, count_blocks } => put_pair(bytes, tag::UNTRUSTED, *start_block, *count_blocks),
    }
}

/// The items that `bytes` hold. Fails with `Corrupt` where they make no sense, `TooNew` where an item is unknown.
pub fn decode_all(mut bytes: &[u8]) -> Result<Vec<Item>> {
    let mut items = Vec::new();
    while !bytes.is_empty() {
        let (header, rest) = HeaderImage::read_from_prefix(bytes).map_err(|_| nonsense("an item's header"))?;
        let length_bytes = usize::from(header.length_bytes.get());
        if length_bytes > rest.len() {
            return Err(nonsense("an item's length"));
        }
        let (payload, rest) = rest.split_at(length_bytes);
        bytes = rest;
        if let Some(item) = decode(header.tag.get(), payload)? {
            items.push(item);
        }
    }
    Ok(items)
}

/// One item; none where it is unknown and may be skipped.
fn decode(tag: u16, payload: &[u8]) -> Result<Option<Item>> {
    let item = match tag {
        tag::VOLUME => decode_volume(&whole(payload)?)?,
        tag::SNAPSHOT_PUT => decode_snapshot(payload)?,
        tag::SNAPSHOT_DELETE => Item::SnapshotDelete { epoch: Epoch(whole::<U64>(payload)?.get()) },
        tag::SEGMENTS => decode_segments(&whole(payload)?)?,
        tag::RUN_PUT => Item::RunPut(decode_run(&whole(payload)?)),
        tag::RUN_DELETE => Item::RunDelete { run: whole::<U64>(payload)?.get() },
        tag::RESTORE_PUT => {
            let image: RestoreImage = whole(payload)?;
            Item::RestorePut {
                target_epoch: Epoch(image.target_epoch.get()),
                before_epoch: Epoch(image.before_epoch.get()),
                cursor_block: image.cursor_block.get(),
            }
        }
        tag::RESTORE_MOVED => {
            let pair: PairImage = whole(payload)?;
            Item::RestoreMoved { start_block: pair.first.get(), count_blocks: pair.second.get() }
        }
        tag::RESTORE_END => whole::<[u8; 0]>(payload).map(|_| Item::RestoreEnd)?,
        tag::WATCH_ADD => {
            let image: WatchImage = whole(payload)?;
            Item::WatchAdd { block: image.block.get(), hashes: image.hashes.map(U64::get) }
        }
        tag::WATCH_RESET => whole::<[u8; 0]>(payload).map(|_| Item::WatchReset)?,
        tag::SAMPLE => {
            let pair: PairImage = whole(payload)?;
            Item::Sample { block: pair.first.get(), hash: pair.second.get() }
        }
        tag::SAMPLE_RESET => whole::<[u8; 0]>(payload).map(|_| Item::SampleReset)?,
        tag::LANE_INDEXED => {
            let pair: PairImage = whole(payload)?;
            let lane = u16::try_from(pair.first.get()).map_err(|_| nonsense("a lane"))?;
            Item::LaneIndexed { lane, sequence: pair.second.get() }
        }
        tag::RUN_FLOOR => Item::RunFloor { run: whole::<U64>(payload)?.get() },
        tag::HOLES_PUT => Item::HolesPut(decode_run(&whole(payload)?)),
        tag::HOLES_DELETE => Item::HolesDelete { run: whole::<U64>(payload)?.get() },
        tag::MAP_PUT => {
            let pair: PairImage = whole(payload)?;
            Item::MapPut { epoch: Epoch(pair.first.get()), run: pair.second.get() }
        }
        tag::LIVE_MAP => Item::LiveMap { run: whole::<U64>(payload)?.get() },
        tag::UNTRUSTED => {
            let pair: PairImage = whole(payload)?;
            Item::Untrusted { start_block: pair.first.get(), count_blocks: pair.second.get() }
        }
        skippable if skippable & TAG_SKIPPABLE != 0 => return Ok(None),
        unknown => {
            return Err(Error::new(ErrorKind::TooNew, "read the catalog", "store")
                .saying(format!("the catalog holds items of an unknown kind ({unknown}); use a newer Cairn")))
        }
    };
    Ok(Some(item))
}

fn nonsense(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, "read the catalog", "store")
        .saying(format!("{what} makes no sense; run `cairn check`, the origin is whole and can be used without Cairn"))
}

fn whole<T: FromBytes>(payload: &[u8]) -> Result<T> {
    T::read_from_bytes(payload).map_err(|_| nonsense("an item's length"))
}

fn put(bytes: &mut Vec<u8>, tag: u16, payload: &[u8], text: &[u8]) {
    let length_bytes = u16::try_from(payload.len() + text.len()).expect("payloads are small");
    bytes.extend_from_slice(HeaderImage { tag: tag.into(), length_bytes: length_bytes.into() }.as_bytes());
    bytes.extend_from_slice(payload);
    bytes.extend_from_slice(text);
}

fn put_pair(bytes: &mut Vec<u8>, tag: u16, first: u64, second: u64) {
    put(bytes, tag, PairImage { first: first.into(), second: second.into() }.as_bytes(), &[]);
}

fn volume_image(facts: &VolumeFacts) -> VolumeImage {
    VolumeImage {
        size_bytes: facts.size_bytes.into(),
        active_epoch: facts.active_epoch.0.into(),
        flush_failed: u8::from(facts.flush_failed),
        reserved: [0; 7],
    }
}

fn decode_volume(image: &VolumeImage) -> Result<Item> {
    if image.flush_failed > 1 {
        return Err(nonsense("the flush latch"));
    }
    Ok(Item::Volume(VolumeFacts {
        size_bytes: image.size_bytes.get(),
        active_epoch: Epoch(image.active_epoch.get()),
        flush_failed: image.flush_failed == 1,
    }))
}

fn encode_snapshot(snapshot: &SnapshotRecord, bytes: &mut Vec<u8>) {
    let image = SnapshotImage {
        epoch: snapshot.epoch.0.into(),
        created_unix_ms: snapshot.created_unix_ms.into(),
        size_bytes: snapshot.size_bytes.into(),
        flags: snapshot.flags.into(),
        consistency: match snapshot.consistency {
            Consistency::Crash => 0,
            Consistency::Filesystem => 1,
            Consistency::Application => 2,
        },
        broken: match snapshot.broken {
            None => 0,
            Some(BrokenReason::StoreFailed) => 1,
            Some(BrokenReason::StoreFull) => 2,
            Some(BrokenReason::RecordLost) => 3,
            Some(BrokenReason::OriginChanged) => 4,
            Some(BrokenReason::OtherHost) => 5,
            Some(BrokenReason::Other) => 255,
        },
        name_bytes: u8::try_from(snapshot.name.len()).expect("names are checked before they get here"),
        reason_bytes: u8::try_from(snapshot.reason.len()).expect("reasons are cut before they get here"),
    };
    put(bytes, tag::SNAPSHOT_PUT, image.as_bytes(), format!("{}{}", snapshot.name, snapshot.reason).as_bytes());
}

fn decode_snapshot(payload: &[u8]) -> Result<Item> {
    let (image, text) = SnapshotImage::read_from_prefix(payload).map_err(|_| nonsense("a snapshot's length"))?;
    let name_bytes = usize::from(image.name_bytes);
    if text.len() != name_bytes + usize::from(image.reason_bytes) {
        return Err(nonsense("a snapshot's length"));
    }
    let utf8 = |part: &[u8]| String::from_utf8(part.to_vec()).map_err(|_| nonsense("a snapshot's text"));
    Ok(Item::SnapshotPut(SnapshotRecord {
        epoch: Epoch(image.epoch.get()),
        created_unix_ms: image.created_unix_ms.get(),
        size_bytes: image.size_bytes.get(),
        flags: image.flags.get(),
        consistency: match image.consistency {
            0 => Consistency::Crash,
            1 => Consistency::Filesystem,
            2 => Consistency::Application,
            _ => return Err(nonsense("a snapshot's consistency")),
        },
        broken: match image.broken {
            0 => None,
            1 => Some(BrokenReason::StoreFailed),
            2 => Some(BrokenReason::StoreFull),
            3 => Some(BrokenReason::RecordLost),
            4 => Some(BrokenReason::OriginChanged),
            5 => Some(BrokenReason::OtherHost),
            _ => Some(BrokenReason::Other),
        },
        name: utf8(&text[..name_bytes])?,
        reason: utf8(&text[name_bytes..])?,
    }))
}

fn segments_image(first: SegmentIndex, count: u32, state: SegmentState, incarnation: u32) -> SegmentsImage {
    let (state, lane, owner, ordinal) = match state {
        SegmentState::Free => (0, 0, 0, 0),
        SegmentState::Lane { lane } => (1, lane, 0, 0),
        SegmentState::Data { epoch } => (2, 0, epoch.0, 0),
        SegmentState::Run { run, ordinal } => (3, 0, run, ordinal),
    };
    SegmentsImage {
        first: first.into(),
        count: count.into(),
        incarnation: incarnation.into(),
        state,
        reserved: 0,
        lane: lane.into(),
        owner: owner.into(),
        ordinal: ordinal.into(),
    }
}

fn decode_segments(image: &SegmentsImage) -> Result<Item> {
    let state = match image.state {
        0 => SegmentState::Free,
        1 => SegmentState::Lane { lane: image.lane.get() },
        2 => SegmentState::Data { epoch: Epoch(image.owner.get()) },
        3 => SegmentState::Run { run: image.owner.get(), ordinal: image.ordinal.get() },
        _ => return Err(nonsense("a segment's state")),
    };
    let (first, count) = (image.first.get(), image.count.get());
    Ok(Item::Segments { first, count, state, incarnation: image.incarnation.get() })
}

fn run_image(run: &RunRecord) -> RunImage {
    RunImage {
        run: run.run.into(),
        first_epoch: run.first_epoch.0.into(),
        last_epoch: run.last_epoch.0.into(),
        entries: run.entries.into(),
        pages: run.pages.into(),
        first_block: run.first_block.into(),
        last_block: run.last_block.into(),
        height: run.height,
        reserved: [0; 7],
    }
}

fn decode_run(image: &RunImage) -> RunRecord {
    RunRecord {
        run: image.run.get(),
        first_epoch: Epoch(image.first_epoch.get()),
        last_epoch: Epoch(image.last_epoch.get()),
        entries: image.entries.get(),
        pages: image.pages.get(),
        height: image.height,
        first_block: image.first_block.get(),
        last_block: image.last_block.get(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_of_each() -> Vec<Item> {
        let snapshot = SnapshotRecord {
            epoch: Epoch(5),
            created_unix_ms: 6,
            size_bytes: 7,
            flags: SNAPSHOT_AUTOMATIC,
            consistency: Consistency::Application,
            broken: Some(BrokenReason::OriginChanged),
            name: "n\u{e4}chtlich".into(),
            reason: "x".repeat(TEXT_BYTES_MAX),
        };
        let run = RunRecord {
            run: 1,
            first_epoch: Epoch(2),
            last_epoch: Epoch(3),
            entries: 4,
            pages: 5,
            height: 6,
            first_block: 7,
            last_block: 8,
        };
        let segments = |state| Item::Segments { first: 1, count: 2, state, incarnation: 3 };
        vec![
            Item::Volume(VolumeFacts { size_bytes: 512, active_epoch: Epoch(9), flush_failed: true }),
            Item::SnapshotPut(snapshot),
            Item::SnapshotDelete { epoch: Epoch(1) },
            segments(SegmentState::Free),
            segments(SegmentState::Lane { lane: 65_535 }),
            segments(SegmentState::Data { epoch: Epoch(u64::MAX) }),
            segments(SegmentState::Run { run: 1, ordinal: 2 }),
            Item::RunPut(run),
            Item::RunDelete { run: 2 },
            Item::RestorePut { target_epoch: Epoch(1), before_epoch: Epoch(2), cursor_block: 3 },
            Item::RestoreMoved { start_block: 4, count_blocks: 5 },
            Item::RestoreEnd,
            Item::WatchAdd { block: 1, hashes: [1, 2, 3, 4, 5, 6, 7, 8] },
            Item::WatchReset,
            Item::Sample { block: 1, hash: 2 },
            Item::SampleReset,
            Item::LaneIndexed { lane: 1, sequence: 2 },
            Item::RunFloor { run: 3 },
            Item::HolesPut(RunRecord { run: 9, ..run }),
            Item::HolesDelete { run: 9 },
            Item::MapPut { epoch: Epoch(5), run: 9 },
            Item::LiveMap { run: NO_HOLES },
            Item::Untrusted { start_block: 6, count_blocks: 7 },
        ]
    }

    fn encoded(items: &[Item]) -> Vec<u8> {
        let mut bytes = Vec::new();
        items.iter().for_each(|item| encode(item, &mut bytes));
        bytes
    }

    #[test]
    fn every_item_survives_its_bytes() {
        let items = one_of_each();
        assert_eq!(decode_all(&encoded(&items)).expect("decoded"), items);
    }

    #[test]
    fn any_bytes_decode_to_items_or_a_typed_error() {
        let mut random = fastrand::Rng::with_seed(1);
        let good = encoded(&one_of_each());
        for _ in 0..20_000 {
            let mut bytes = good.clone();
            for _ in 0..random.usize(1..4) {
                let place = random.usize(..bytes.len());
                bytes[place] = random.u8(..);
            }
            bytes.truncate(random.usize(..=bytes.len()));
            let mut noise = vec![0; random.usize(..300)];
            random.fill(&mut noise);
            if noise.len() > 2 {
                noise[0] %= 22;
                noise[1] = 0;
            }
            for bytes in [bytes, noise] {
                match decode_all(&bytes) {
                    Ok(items) => assert_eq!(decode_all(&encoded(&items)).expect("decoded"), items),
                    Err(error) => assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::TooNew)),
                }
            }
        }
    }

    #[test]
    fn unknown_items_are_skipped_only_where_they_may_be() {
        let mut bytes = encoded(&[Item::RestoreEnd]);
        put(&mut bytes, TAG_SKIPPABLE | 900, b"whatever", &[]);
        bytes.extend(encoded(&[Item::WatchReset]));
        assert_eq!(decode_all(&bytes).expect("decoded"), [Item::RestoreEnd, Item::WatchReset]);
        put(&mut bytes, 900, b"whatever", &[]);
        assert_eq!(decode_all(&bytes).expect_err("unknown").kind(), ErrorKind::TooNew);
    }
}
