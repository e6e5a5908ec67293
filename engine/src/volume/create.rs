//! Making a store, looking at one, and taking its signature away.

use crate::catalog::Catalog;
use crate::disk::{Disk, Disks};
use crate::error::{Error, ErrorKind, Result};
use crate::format::geometry::{Geometry, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SEGMENT_COUNT_MAX};
use crate::format::item::{Item, VolumeFacts};
use crate::format::superblock::{self, OriginIdentity, Superblock};
use crate::in_use::GRANULE_SHIFT_MAX;
use crate::snapshot::Snapshot;
use crate::units::{Epoch, BLOCK_BYTES};
use crate::volume::CreateOptions;
use crate::watch::{self, WatchLog};

/// Segments a store of middling size is cut into, when its segments are not chosen by hand.
const SEGMENTS_WANTED: u64 = 65_536;
/// Bounds of segments that are not chosen by hand.
const SEGMENT_BYTES_DEFAULT_MIN: u64 = 256 << 10;
const SEGMENT_BYTES_DEFAULT_MAX: u64 = 4 << 20;

/// What a store says of itself, read without opening the volume.
#[derive(Clone, Debug)]
pub struct StoreInfo {
    /// The superblock.
    pub superblock: Superblock,
    /// Size of the volume in bytes.
    pub volume_bytes: u64,
    /// Snapshots, oldest first.
    pub snapshots: Vec<Snapshot>,
    /// Bookmarks, oldest first.
    pub bookmarks: Vec<Snapshot>,
    /// Segments in all, and free ones.
    pub segments_total: u64,
    /// Segments that are free.
    pub segments_free: u64,
    /// A restore was under way.
    pub restoring: bool,
    /// A flush of the origin failed and was not cleared.
    pub flush_failed: bool,
}

/// Makes a store for an origin. Nothing is written to the origin; what was on the store is lost, so the caller asks
/// first. Fails with `NoSpace` where the store is too small, `Invalid` where the sizes make no sense.
pub async fn create<D: Disk>(disks: &Disks<D>, options: &CreateOptions) -> Result<()> {
    let size_bytes = disks.origin.size_bytes();
    if size_bytes < BLOCK_BYTES as u64 {
        let message = format!("the origin has {size_bytes} bytes; a volume needs at least {BLOCK_BYTES}");
        return Err(Error::new(ErrorKind::Invalid, "create", "origin").saying(message));
    }
    let available = disks.store.size_bytes();
    let store_bytes = options.store_bytes.unwrap_or(available);
    if store_bytes > available {
        let message = format!("the store device has {available} bytes, less than the {store_bytes} asked for");
        return Err(Error::new(ErrorKind::NoSpace, "create", "store").saying(message));
    }
    let automatic = (store_bytes / SEGMENTS_WANTED).next_power_of_two();
    let automatic = automatic.clamp(SEGMENT_BYTES_DEFAULT_MIN, SEGMENT_BYTES_DEFAULT_MAX);
    let least = store_bytes.div_ceil(u64::from(SEGMENT_COUNT_MAX)).next_power_of_two();
    let automatic = automatic.max(least).min(u64::from(SEGMENT_BYTES_MAX)) as u32;
    let segment_bytes = options.segment_bytes.unwrap_or(automatic);
    if !segment_bytes.is_power_of_two() || segment_bytes < SEGMENT_BYTES_MIN {
        let message = format!("{segment_bytes} is no segment size; use a power of two from {SEGMENT_BYTES_MIN} on");
        return Err(Error::new(ErrorKind::Invalid, "create", "store").saying(message));
    }
    create_with_geometry(disks, options, Geometry::plan(store_bytes, segment_bytes)?).await
}

/// The same where it is known where everything lies.
pub(crate) async fn create_with_geometry<D: Disk>(
    disks: &Disks<D>,
    options: &CreateOptions,
    geometry: Geometry,
) -> Result<()> {
    let size_bytes = disks.origin.size_bytes();
    let origin = OriginIdentity { size_bytes, sector_bytes: disks.origin.sector_bytes() };
    let mut superblock = Superblock::new(options.store_id, options.volume_id, geometry, origin);
    superblock.clean = true;
    superblock.host_id = options.host_id;
    superblock.last_activity_unix_ms = options.now_unix_ms;
    superblock.sample_key = options.sample_key;
    superblock.granule_shift = granule_shift(options.granule_blocks)?;
    // Run ids follow from sessions: pages of an earlier store on the device are not to pass for this one's.
    let [a, b, c, d, ..] = options.store_id;
    superblock.session = u64::from(u32::from_le_bytes([a, b, c, d]) >> 1);
    let key = &options.sample_key;
    let mut items = vec![Item::Volume(VolumeFacts { size_bytes, active_epoch: Epoch(1), flush_failed: false })];
    items.extend(WatchLog::read(&disks.origin, key, size_bytes, std::iter::empty()).await.items());
    items.extend(watch::read_sample(&disks.origin, key, size_bytes, |_| true).await);
    Catalog::create(&disks.store, superblock, &items).await?;
    Ok(())
}

fn granule_shift(granule_blocks: u32) -> Result<u8> {
    let shift = granule_blocks.checked_ilog2().unwrap_or(u32::MAX);
    if granule_blocks.is_power_of_two() && shift <= u32::from(GRANULE_SHIFT_MAX) {
        return Ok(shift as u8);
    }
    let message = format!("{granule_blocks} blocks to a bit of the in-use map cannot be; use 1, 2, 4, 8, 16, 32 or 64");
    Err(Error::new(ErrorKind::Invalid, "create", "store").saying(message))
}

/// Takes the store's signature away. The origin is not touched; the snapshots are gone.
pub async fn destroy<D: Disk>(store: &D) -> Result<()> {
    superblock::erase(store).await
}

/// Looks at a store without changing it.
pub async fn inspect<D: Disk>(store: &D) -> Result<StoreInfo> {
    let catalog = Catalog::open(store).await?;
    let state = catalog.state();
    let is_free = |segment: &&crate::catalog::state::SegmentRecord| {
        matches!(segment.state, crate::format::item::SegmentState::Free)
    };
    let all = state.snapshots.values().map(Snapshot::from_record);
    let (bookmarks, snapshots) = all.partition(|snapshot| snapshot.bookmark);
    Ok(StoreInfo {
        superblock: catalog.superblock().clone(),
        volume_bytes: state.volume.size_bytes,
        snapshots,
        bookmarks,
        segments_total: state.segments.len() as u64,
        segments_free: state.segments.iter().filter(is_free).count() as u64,
        restoring: state.restore.is_some(),
        flush_failed: state.volume.flush_failed,
    })
}
