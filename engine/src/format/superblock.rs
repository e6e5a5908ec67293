//! The superblock: whose store this is, where its parts lie, which catalog is current.
//!
//! Invariants:
//! - Two copies, B (at 64 KiB) written before A (at 0), each durable before the next step: at any crash one is valid.
//! - The valid copy with the highest sequence counts. Magic, checksum, version, features and sequence keep their place
//!   in every version to come.
//! - What `decode` returns has passed every bound: nobody checks again.

use crate::disk::{aligned_buffer, Disk};
use crate::error::{Error, ErrorKind, Result};
use crate::format::checksum::{salted, Kind};
use crate::format::geometry::{Area, Geometry, SUPERBLOCK_A_BYTES, SUPERBLOCK_B_BYTES};
use crate::in_use::GRANULE_SHIFT_MAX;
use crate::units::COUNTER_MAX;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of one copy.
pub const SUPERBLOCK_BYTES: usize = 4096;
/// The version this program writes, and the newest it reads.
pub const FORMAT_VERSION: u32 = 1;
/// Features whose absence in a program does no harm; they may not need fields of the superblock.
pub const FEATURES_COMPATIBLE: u64 = 0;
/// Features that a program must know to write the store.
pub const FEATURES_READ_ONLY_COMPATIBLE: u64 = 0;
/// Features that a program must know to read the store.
pub const FEATURES_INCOMPATIBLE: u64 = INCOMPATIBLE_BOOKMARKS;
/// There were bookmarks: a snapshot's record may be one, and entries may have no image. Whoever does not know that takes
/// a bookmark for a snapshot, and shows what it never held.
pub const INCOMPATIBLE_BOOKMARKS: u64 = 1 << 0;

/// What every superblock begins with.
pub const MAGIC: [u8; 8] = *b"CAIRN\x00\xf5\x0a";
const CHECKSUM_END: usize = 12;
/// More attaches than any store will see; a run's identity has the session in its upper half.
const SESSION_MAX: u64 = 1 << 31;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct AreaImage {
    offset_bytes: U64,
    length_bytes: U64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Image {
    magic: [u8; 8],
    checksum: U32,
    version: U32,
    incompatible: U64,
    read_only_compatible: U64,
    compatible: U64,
    sequence: U64,
    store_id: [u8; 16],
    volume_id: [u8; 16],
    store_bytes: U64,
    segments_base_bytes: U64,
    segment_count: U32,
    segment_bytes: U32,
    areas: [AreaImage; 2],
    area_current: U32,
    clean: U32,
    generation: U64,
    generation_reserved: U64,
    checkpoint_records: U64,
    checkpoint_bytes: U64,
    records_min: U64,
    previous_generation: U64,
    previous_records: U64,
    host_id: [u8; 16],
    boot_id: [u8; 16],
    session: U64,
    last_activity_unix_ms: U64,
    origin_size_bytes: U64,
    origin_sector_bytes: U32,
    granule_shift: u8,
    reserved: [u8; 3],
    sample_key: [u8; 32],
    records_found: U64,
    tail: [u8; SUPERBLOCK_BYTES - 304],
}

const _: () = assert!(size_of::<Image>() == SUPERBLOCK_BYTES);
// What changes lies in one sector: torn, a copy is the old one or the new one, never a third.
const _: () = assert!(std::mem::offset_of!(Image, tail) <= 512);

/// Which catalog is current, and how far it is known to reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct CatalogPlace {
    /// Index of the current area.
    pub area_current: u32,
    /// Generation of the records in it.
    pub generation: u64,
    /// Highest generation any record may carry; a new checkpoint takes the next one, so that leftovers of a checkpoint
    /// that was never finished cannot pass for records of this one.
    pub generation_reserved: u64,
    /// Number of records of the checkpoint at the start of the area.
    pub checkpoint_records: u64,
    /// Bytes they take, both copies counted.
    pub checkpoint_bytes: u64,
    /// Records that were durable when this superblock was written; a catalog that ends earlier is damaged.
    pub records_min: u64,
    /// Records that the session named here found when it began, or the checkpoint's where it wrote that itself: those
    /// behind count only if that session appended them.
    pub records_found: u64,
    /// Generation in the other area whose state the checkpoint repeats; 0 where there is none.
    pub previous_generation: u64,
    /// Number of its records.
    pub previous_records: u64,
}

/// What identifies the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct OriginIdentity {
    /// Size in bytes.
    pub size_bytes: u64,
    /// Logical sector in bytes.
    pub sector_bytes: u32,
}

/// The superblock, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Compatible features in use.
    pub compatible: u64,
    /// Read-only compatible features in use.
    pub read_only_compatible: u64,
    /// Incompatible features in use.
    pub incompatible: u64,
    /// Grows with every write of the superblock.
    pub sequence: u64,
    /// Identity of the store; random, and new at every creation.
    pub store_id: [u8; 16],
    /// Identity of the volume.
    pub volume_id: [u8; 16],
    /// Where everything lies.
    pub geometry: Geometry,
    /// Which catalog is current. Only the catalog changes it.
    pub catalog: CatalogPlace,
    /// The volume was closed in order after its last use.
    pub clean: bool,
    /// The host that used it last.
    pub host_id: [u8; 16],
    /// That host's boot.
    pub boot_id: [u8; 16],
    /// Grows at every attach.
    pub session: u64,
    /// When it was last used, in milliseconds since 1970.
    pub last_activity_unix_ms: u64,
    /// What the origin was.
    pub origin: OriginIdentity,
    /// Chooses the blocks that are sampled; secret from whoever writes the origin.
    pub sample_key: [u8; 32],
    /// Blocks to a bit of the in-use map, as a power of two: 0 to 6.
    pub granule_shift: u8,
}

/// What `read` found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The superblock that counts.
    pub superblock: Superblock,
    /// Byte address of a copy that could not be used, or is older than the other; the next write repairs it.
    pub damaged_copy: Option<u64>,
    /// A feature is in use that this program does not know and may not write beside.
    pub read_only: bool,
}

impl Superblock {
    /// A superblock for a new store; times, hosts and keys start empty.
    pub fn new(store_id: [u8; 16], volume_id: [u8; 16], geometry: Geometry, origin: OriginIdentity) -> Superblock {
        Superblock {
            compatible: 0,
            read_only_compatible: 0,
            incompatible: 0,
            sequence: 0,
            store_id,
            volume_id,
            geometry,
            catalog: CatalogPlace::default(),
            clean: true,
            host_id: [0; 16],
            boot_id: [0; 16],
            session: 0,
            last_activity_unix_ms: 0,
            origin,
            sample_key: [0; 32],
            granule_shift: 0,
        }
    }

    /// The current catalog area.
    pub fn area(&self) -> Area {
        self.geometry.areas[self.catalog.area_current as usize]
    }

    /// The area that the next checkpoint goes to.
    pub fn area_other(&self) -> Area {
        self.geometry.areas[1 - self.catalog.area_current as usize]
    }

    /// The 4096 bytes of the copy at `address_bytes`, written to `bytes`.
    fn encode(&self, address_bytes: u64, bytes: &mut [u8]) {
        assert!(bytes.len() == SUPERBLOCK_BYTES);
        let mut image = Image::new_zeroed();
        image.magic = MAGIC;
        image.version = FORMAT_VERSION.into();
        image.incompatible = self.incompatible.into();
        image.read_only_compatible = self.read_only_compatible.into();
        image.compatible = self.compatible.into();
        image.sequence = self.sequence.into();
        image.store_id = self.store_id;
        image.volume_id = self.volume_id;
        self.encode_geometry(&mut image);
        image.clean = u32::from(self.clean).into();
        image.host_id = self.host_id;
        image.boot_id = self.boot_id;
        image.session = self.session.into();
        image.last_activity_unix_ms = self.last_activity_unix_ms.into();
        image.origin_size_bytes = self.origin.size_bytes.into();
        image.origin_sector_bytes = self.origin.sector_bytes.into();
        image.sample_key = self.sample_key;
        image.granule_shift = self.granule_shift;
        let checksum = salted(Kind::Superblock, address_bytes, 0, &image.as_bytes()[CHECKSUM_END..]);
        image.checksum = checksum.into();
        bytes.copy_from_slice(image.as_bytes());
    }

    fn encode_geometry(&self, image: &mut Image) {
        image.store_bytes = self.geometry.store_bytes.into();
        image.segments_base_bytes = self.geometry.segments_base_bytes.into();
        image.segment_count = self.geometry.segment_count.into();
        image.segment_bytes = self.geometry.segment_bytes.into();
        image.areas = self
            .geometry
            .areas
            .map(|area| AreaImage { offset_bytes: area.offset_bytes.into(), length_bytes: area.length_bytes.into() });
        image.area_current = self.catalog.area_current.into();
        image.generation = self.catalog.generation.into();
        image.generation_reserved = self.catalog.generation_reserved.into();
        image.checkpoint_records = self.catalog.checkpoint_records.into();
        image.checkpoint_bytes = self.catalog.checkpoint_bytes.into();
        image.records_min = self.catalog.records_min.into();
        image.records_found = self.catalog.records_found.into();
        image.previous_generation = self.catalog.previous_generation.into();
        image.previous_records = self.catalog.previous_records.into();
    }

    fn decode(image: &Image) -> Superblock {
        Superblock {
            compatible: image.compatible.get(),
            read_only_compatible: image.read_only_compatible.get(),
            incompatible: image.incompatible.get(),
            sequence: image.sequence.get(),
            store_id: image.store_id,
            volume_id: image.volume_id,
            geometry: Geometry {
                store_bytes: image.store_bytes.get(),
                areas: image
                    .areas
                    .map(|area| Area { offset_bytes: area.offset_bytes.get(), length_bytes: area.length_bytes.get() }),
                segments_base_bytes: image.segments_base_bytes.get(),
                segment_bytes: image.segment_bytes.get(),
                segment_count: image.segment_count.get(),
            },
            catalog: CatalogPlace {
                area_current: image.area_current.get(),
                generation: image.generation.get(),
                generation_reserved: image.generation_reserved.get(),
                checkpoint_records: image.checkpoint_records.get(),
                checkpoint_bytes: image.checkpoint_bytes.get(),
                records_min: image.records_min.get(),
                records_found: image.records_found.get(),
                previous_generation: image.previous_generation.get(),
                previous_records: image.previous_records.get(),
            },
            clean: image.clean.get() != 0,
            host_id: image.host_id,
            boot_id: image.boot_id,
            session: image.session.get(),
            last_activity_unix_ms: image.last_activity_unix_ms.get(),
            origin: OriginIdentity {
                size_bytes: image.origin_size_bytes.get(),
                sector_bytes: image.origin_sector_bytes.get(),
            },
            sample_key: image.sample_key,
            granule_shift: image.granule_shift,
        }
    }

    /// Names the first field that makes no sense.
    fn check(&self) -> std::result::Result<(), &'static str> {
        self.geometry.check()?;
        let catalog = &self.catalog;
        if catalog.area_current > 1 {
            return Err("area_current");
        }
        if catalog.generation == 0 || catalog.generation > catalog.generation_reserved {
            return Err("generation");
        }
        if catalog.previous_generation >= catalog.generation {
            return Err("previous_generation");
        }
        let known = catalog.records_min.min(catalog.records_found);
        if catalog.checkpoint_records == 0 || catalog.checkpoint_records > known {
            return Err("checkpoint_records");
        }
        if !catalog.checkpoint_bytes.is_multiple_of(4096) || catalog.checkpoint_bytes > self.area().length_bytes {
            return Err("checkpoint_bytes");
        }
        if self.origin.size_bytes == 0 || !self.origin.size_bytes.is_multiple_of(512) {
            return Err("origin size_bytes");
        }
        if !matches!(self.origin.sector_bytes, 512 | 4096) {
            return Err("origin sector_bytes");
        }
        if self.granule_shift > GRANULE_SHIFT_MAX {
            return Err("granule");
        }
        Ok(())
    }
}

/// Names the first counter that has no room left to grow. Whoever wrote the store could not have counted so far, and going
/// on from there would overflow.
fn exhausted_counter(superblock: &Superblock) -> Option<&'static str> {
    let catalog = &superblock.catalog;
    let counters = [
        ("sequence", superblock.sequence, COUNTER_MAX),
        ("generation", catalog.generation_reserved, COUNTER_MAX),
        ("records_min", catalog.records_min, COUNTER_MAX),
        ("session", superblock.session, SESSION_MAX),
    ];
    counters.into_iter().find(|(_, value, value_max)| value >= value_max).map(|(name, ..)| name)
}

/// One copy as it was found.
enum Copy {
    Valid(Box<Image>),
    Damaged,
    Foreign,
    Unreadable(Error),
}

async fn read_copy<D: Disk>(store: &D, address_bytes: u64) -> Copy {
    if address_bytes + SUPERBLOCK_BYTES as u64 > store.size_bytes() {
        return Copy::Foreign;
    }
    let mut bytes = aligned_buffer(SUPERBLOCK_BYTES);
    if let Err(error) = store.read(address_bytes, &mut bytes).await {
        return Copy::Unreadable(error);
    }
    let image = Image::read_from_bytes(&bytes).expect("the buffer has the size of the image");
    if image.magic != MAGIC {
        return Copy::Foreign;
    }
    if image.checksum.get() != salted(Kind::Superblock, address_bytes, 0, &bytes[CHECKSUM_END..]) {
        return Copy::Damaged;
    }
    Copy::Valid(Box::new(image))
}

/// Reads both copies and takes the valid one with the highest sequence.
///
/// Fails with `NotAStore` where neither has the signature, `TooNew` where the one that counts needs a newer program,
/// `Corrupt` where neither copy is whole or a field makes no sense, `Io` where neither can be read.
pub async fn read<D: Disk>(store: &D) -> Result<Found> {
    let a = read_copy(store, SUPERBLOCK_A_BYTES).await;
    let b = read_copy(store, SUPERBLOCK_B_BYTES).await;
    let (image, damaged_copy) = match (a, b) {
        (Copy::Valid(a), Copy::Valid(_)) if planted!("older-superblock-wins") => (a, None),
        (Copy::Valid(a), Copy::Valid(b)) if a.sequence.get() > b.sequence.get() => (a, Some(SUPERBLOCK_B_BYTES)),
        (Copy::Valid(a), Copy::Valid(b)) if a.sequence.get() < b.sequence.get() => (b, Some(SUPERBLOCK_A_BYTES)),
        (Copy::Valid(a), Copy::Valid(_)) => (a, None),
        (Copy::Valid(a), _) => (a, Some(SUPERBLOCK_B_BYTES)),
        (_, Copy::Valid(b)) => (b, Some(SUPERBLOCK_A_BYTES)),
        (Copy::Unreadable(error), _) | (_, Copy::Unreadable(error)) => return Err(error),
        (Copy::Foreign, Copy::Foreign) => {
            return Err(Error::new(ErrorKind::NotAStore, "read the superblock", "store")
                .saying("there is no Cairn signature; name the right device, or create a store on it"))
        }
        _ => {
            return Err(Error::new(ErrorKind::Corrupt, "read the superblock", "store")
                .saying("both copies are damaged; the origin is whole and can be used without Cairn"))
        }
    };
    refuse_newer(&image)?;
    let superblock = Superblock::decode(&image);
    let corrupt = |field: &str| {
        Error::new(ErrorKind::Corrupt, "read the superblock", "store")
            .saying(format!("the field {field} makes no sense; the origin is whole and can be used without Cairn"))
    };
    superblock.check().map_err(corrupt)?;
    exhausted_counter(&superblock).map_or(Ok(()), |name| Err(corrupt(name)))?;
    if superblock.geometry.store_bytes > store.size_bytes() {
        return Err(Error::new(ErrorKind::Corrupt, "read the superblock", "store").saying(format!(
            "the store was {} bytes and is {} now; it was truncated, or this is not the whole device",
            superblock.geometry.store_bytes,
            store.size_bytes()
        )));
    }
    let read_only = superblock.read_only_compatible & !FEATURES_READ_ONLY_COMPATIBLE != 0;
    Ok(Found { superblock, damaged_copy, read_only })
}

fn refuse_newer(image: &Image) -> Result<()> {
    let too_new = |message: String| Err(Error::new(ErrorKind::TooNew, "read the superblock", "store").saying(message));
    let version = image.version.get();
    if version > FORMAT_VERSION {
        return too_new(format!(
            "the store has format version {version}, this program knows up to {FORMAT_VERSION}; use a newer Cairn"
        ));
    }
    let unknown = image.incompatible.get() & !FEATURES_INCOMPATIBLE;
    if unknown != 0 {
        return too_new(format!(
            "the store uses features this program does not know ({unknown:#x}); use a newer Cairn"
        ));
    }
    Ok(())
}

/// Writes both copies under the next sequence, B before A, each durable. After an error either copy may hold what was
/// written; the caller writes again before it relies on the superblock.
pub async fn write_both<D: Disk>(store: &D, superblock: &mut Superblock) -> Result<()> {
    superblock.sequence += 1;
    superblock.check().expect("only a superblock that makes sense is ever written");
    let mut bytes = aligned_buffer(SUPERBLOCK_BYTES);
    for address_bytes in [SUPERBLOCK_B_BYTES, SUPERBLOCK_A_BYTES] {
        superblock.encode(address_bytes, &mut bytes);
        store.write_durable(address_bytes, &bytes).await?;
    }
    Ok(())
}

/// Zeroes both copies, durably: the device is no store any more.
pub async fn erase<D: Disk>(store: &D) -> Result<()> {
    let zeroes = aligned_buffer(SUPERBLOCK_BYTES);
    for address_bytes in [SUPERBLOCK_A_BYTES, SUPERBLOCK_B_BYTES] {
        store.write_durable(address_bytes, &zeroes).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::memory_disk::{run, MemoryDisk};
    use crate::format::geometry::AREA_BYTES_MIN;

    fn store() -> (MemoryDisk, Superblock) {
        let disk = MemoryDisk::new(2 << 20);
        let geometry = Geometry::plan_with_area(2 << 20, 64 << 10, AREA_BYTES_MIN).expect("it fits");
        let origin = OriginIdentity { size_bytes: 1 << 30, sector_bytes: 4096 };
        let mut superblock = Superblock::new([1; 16], [2; 16], geometry, origin);
        superblock.catalog.generation = 3;
        superblock.catalog.generation_reserved = 4;
        superblock.catalog.checkpoint_records = 1;
        superblock.catalog.checkpoint_bytes = 8192;
        superblock.catalog.records_min = 2;
        superblock.catalog.records_found = 1;
        superblock.session = 5;
        superblock.host_id = [6; 16];
        superblock.boot_id = [7; 16];
        superblock.last_activity_unix_ms = 8;
        superblock.sample_key = [9; 32];
        superblock.granule_shift = 3;
        superblock.clean = false;
        run(write_both(&disk, &mut superblock)).expect("written");
        (disk, superblock)
    }

    /// Changes both copies and makes their checksums right again, as another program would have written them.
    fn rewrite(disk: &MemoryDisk, change: impl Fn(&mut Image)) {
        for address_bytes in [SUPERBLOCK_A_BYTES, SUPERBLOCK_B_BYTES] {
            let mut bytes = disk.bytes.borrow_mut();
            let part = &mut bytes[address_bytes as usize..][..SUPERBLOCK_BYTES];
            let mut image = Image::read_from_bytes(part).expect("the size is right");
            change(&mut image);
            image.checksum = salted(Kind::Superblock, address_bytes, 0, &image.as_bytes()[CHECKSUM_END..]).into();
            part.copy_from_slice(image.as_bytes());
        }
    }

    fn refusal(change: impl Fn(&mut Image)) -> Error {
        let (disk, _) = store();
        rewrite(&disk, change);
        run(read(&disk)).expect_err("refused")
    }

    #[test]
    fn what_was_written_is_read() {
        let (disk, superblock) = store();
        let found = run(read(&disk)).expect("read");
        assert_eq!(found.superblock, superblock);
        assert_eq!((found.damaged_copy, found.read_only), (None, false));
    }

    #[test]
    fn the_newest_whole_copy_counts() {
        let (disk, mut superblock) = store();
        let old = disk.bytes.borrow()[..4096].to_vec();
        superblock.session = 77;
        run(write_both(&disk, &mut superblock)).expect("written");
        disk.bytes.borrow_mut()[..4096].copy_from_slice(&old);
        let found = run(read(&disk)).expect("read");
        assert_eq!((found.superblock.session, found.damaged_copy), (77, Some(SUPERBLOCK_A_BYTES)));
        disk.bytes.borrow_mut()[SUPERBLOCK_B_BYTES as usize + 500] ^= 1;
        let found = run(read(&disk)).expect("read");
        assert_eq!((found.superblock.session, found.damaged_copy), (5, Some(SUPERBLOCK_B_BYTES)));
    }

    #[test]
    fn a_newer_format_is_refused_and_says_which() {
        let error = refusal(|image| image.version = 2.into());
        assert_eq!(error.kind(), ErrorKind::TooNew);
        assert!(error.message().contains("version 2"));
        for bit in (0..64).map(|shift| 1u64 << shift).filter(|bit| bit & FEATURES_INCOMPATIBLE == 0) {
            let error = refusal(|image| image.incompatible = (FEATURES_INCOMPATIBLE | bit).into());
            assert_eq!(error.kind(), ErrorKind::TooNew);
            assert!(error.message().contains(&format!("({bit:#x})")), "{error}");
        }
        let (disk, _) = store();
        rewrite(&disk, |image| image.incompatible = FEATURES_INCOMPATIBLE.into());
        assert_eq!(run(read(&disk)).expect("known").superblock.incompatible, FEATURES_INCOMPATIBLE);
    }

    #[test]
    fn features_to_read_beside_make_the_store_read_only() {
        let (disk, _) = store();
        rewrite(&disk, |image| image.read_only_compatible = 1.into());
        assert!(run(read(&disk)).expect("read").read_only);
        rewrite(&disk, |image| {
            image.read_only_compatible = 0.into();
            image.compatible = 1.into();
        });
        assert!(!run(read(&disk)).expect("read").read_only);
    }

    #[test]
    fn fields_that_make_no_sense_are_corrupt_and_named() {
        type Change = fn(&mut Image);
        let changes: [(&str, Change); 14] = [
            ("segment_bytes", |image| image.segment_bytes = 65_537.into()),
            ("segment_count", |image| image.segment_count = 0.into()),
            ("segment_count", |image| image.segment_count = u32::MAX.into()),
            ("store_bytes", |image| image.segment_count = 1_000.into()),
            ("catalog area offset", |image| image.areas[1].offset_bytes = 512.into()),
            ("overlapping parts", |image| image.areas[1] = image.areas[0]),
            ("area_current", |image| image.area_current = 2.into()),
            ("generation", |image| image.generation = 0.into()),
            ("origin sector_bytes", |image| image.origin_sector_bytes = 513.into()),
            ("sequence", |image| image.sequence = u64::MAX.into()),
            ("generation", |image| image.generation_reserved = u64::MAX.into()),
            ("granule", |image| image.granule_shift = 7),
            ("records_min", |image| image.records_min = u64::MAX.into()),
            ("session", |image| image.session = u64::MAX.into()),
        ];
        for (field, change) in changes {
            let error = refusal(change);
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{field}");
            assert!(error.message().contains(field), "{field}: {error}");
        }
    }

    #[test]
    fn what_is_no_store_says_so() {
        assert_eq!(run(read(&MemoryDisk::new(1 << 20))).expect_err("zeroes").kind(), ErrorKind::NotAStore);
        assert_eq!(run(read(&MemoryDisk::new(512))).expect_err("tiny").kind(), ErrorKind::NotAStore);
        let (disk, _) = store();
        run(erase(&disk)).expect("erased");
        assert_eq!(run(read(&disk)).expect_err("erased").kind(), ErrorKind::NotAStore);
    }

    #[test]
    fn two_damaged_copies_are_corrupt_never_no_store() {
        let (disk, _) = store();
        disk.bytes.borrow_mut()[300] ^= 1;
        disk.bytes.borrow_mut()[SUPERBLOCK_B_BYTES as usize + 3000] ^= 1;
        assert_eq!(run(read(&disk)).expect_err("damaged").kind(), ErrorKind::Corrupt);
    }
}
