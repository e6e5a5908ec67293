//! Deltas: which blocks of a snapshot are other than those of an older one (mission B1, B2).
//!
//! A delta from L to M is the blocks saved in the epochs from L's up to M's, together with what only M has: blocks that
//! were not in use in L, and those behind L's end. Blocks that are not in use in M come apart, as far as they were in
//! use in L. docs/decisions/0011-deltas-and-bookmarks.md says why that is exact.
//!
//! Invariants:
//! - Nothing that changed between L and M is left out. What is reported without having changed was overwritten with
//!   the same content, or was about to be overwritten when M was cut.
//! - L begins a group (`volume/ledger.rs`): no entry of before L hides one of after it.
//! - Memory: the bitmaps of one region of the volume and a cache with a bound, whatever the size of volume and delta.

mod bits;
mod cache;
mod extents;
mod intervals;
mod scan;

pub use bits::{Bits, BitsBuilder, Union, REGION_BLOCKS};
pub use cache::BitmapCache;
pub(crate) use extents::{End, Ends, Extents};
pub(crate) use scan::Index;

use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::{SnapshotHandle, SnapshotName, SnapshotPin};
use crate::sync::Arc;
use crate::units::Epoch;

/// What an extent of a delta is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExtentKind {
    /// The newer one's content may differ from the older one's.
    Data,
    /// In use in the older one and not in the newer one, where it reads as zeroes.
    NotInUse,
}

/// A piece of the volume that is not the same in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    /// Where it begins.
    pub offset_bytes: u64,
    /// How long it is: up to the end of a block, or of the newer one.
    pub length_bytes: u64,
    /// What it is.
    pub kind: ExtentKind,
}

/// One end of a delta: a snapshot, a bookmark, or the volume as it is when somebody asks.
#[derive(Clone, Debug)]
pub struct DeltaPoint {
    /// None: the volume as it is.
    pub(crate) pin: Option<Arc<SnapshotPin>>,
}

impl DeltaPoint {
    /// The volume as it is when it is asked: everything acknowledged before is in it.
    pub fn live() -> DeltaPoint {
        DeltaPoint { pin: None }
    }

    /// The name of the snapshot or bookmark; none for the volume as it is.
    pub fn name(&self) -> Option<&SnapshotName> {
        self.pin.as_ref().map(|pin| &pin.name)
    }

    /// Size in bytes; none for the volume as it is.
    pub fn size_bytes(&self) -> Option<u64> {
        self.pin.as_ref().map(|pin| pin.size_bytes)
    }
}

impl From<&SnapshotHandle> for DeltaPoint {
    fn from(handle: &SnapshotHandle) -> DeltaPoint {
        DeltaPoint { pin: Some(handle.pin.clone()) }
    }
}

/// What is asked of a delta, checked.
pub(crate) struct Question<'a> {
    pub(crate) older: Option<&'a SnapshotPin>,
    /// None: the volume as it is.
    pub(crate) newer: Option<&'a SnapshotPin>,
    pub(crate) newer_bytes: u64,
    pub(crate) offset_bytes: u64,
    pub(crate) results_max: usize,
}

impl<'a> Question<'a> {
    /// `Invalid` where the two are not in order, or the offset lies behind the end. `live_bytes` is the volume's size.
    pub(crate) fn check(
        older: Option<&'a DeltaPoint>,
        newer: &'a DeltaPoint,
        live_bytes: u64,
        offset_bytes: u64,
        results_max: usize,
    ) -> Result<Question<'a>> {
        let newer = newer.pin.as_deref();
        let older = match older {
            Some(DeltaPoint { pin: None }) => {
                return Err(invalid("the older one of a delta is a snapshot or a bookmark, not the volume".to_owned()));
            }
            older => older.and_then(|point| point.pin.as_deref()),
        };
        if let (Some(older), Some(newer)) = (older, newer) {
            refuse_disorder(older, newer)?;
        }
        let newer_bytes = newer.map_or(live_bytes, |newer| newer.size_bytes);
        if offset_bytes > newer_bytes {
            return Err(invalid(format!("the offset {offset_bytes} lies behind the end at {newer_bytes} bytes")));
        }
        if results_max == 0 {
            return Err(invalid("ask for one extent or more".to_owned()));
        }
        Ok(Question { older, newer, newer_bytes, offset_bytes, results_max })
    }

    /// The first epoch whose entries count; none where everything does. While a restore moves blocks back, the volume
    /// shows its target (epoch `restoring`) where it has not been yet.
    pub(crate) fn first_epoch(&self, restoring: Option<Epoch>) -> Option<Epoch> {
        let older = self.older?.epoch;
        let older = planted!("delta-begins-too-late", older.next(), older);
        Some(restoring.filter(|_| self.newer.is_none()).map_or(older, |target| target.min(older)))
    }
}

fn refuse_disorder(older: &SnapshotPin, newer: &SnapshotPin) -> Result<()> {
    if older.epoch == newer.epoch {
        return Err(invalid(format!("{} is asked for what changed since itself; name two snapshots", older.name)));
    }
    if older.epoch > newer.epoch {
        let message = format!("{} is younger than {}; name the older one first", older.name, newer.name);
        return Err(invalid(message));
    }
    Ok(())
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::Invalid, "compare snapshots", "volume").saying(message)
}

/// One end of the delta is broken.
pub(crate) fn broken(name: &SnapshotName) -> Error {
    let message = format!("{name} is broken, so what changed since is not known; `cairn show` says why");
    Error::new(ErrorKind::Broken, "compare snapshots", "store").saying(message)
}

/// A point of another volume, or of an earlier attachment.
pub(crate) fn foreign(name: &SnapshotName) -> Error {
    invalid(format!("{name} is a snapshot of another volume, or of an earlier attachment; open it again"))
}
