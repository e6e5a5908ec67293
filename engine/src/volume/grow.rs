//! Growing the volume and the store, while in use (mission A7).

use super::seal::NO_EPOCH;
use super::Volume;
use crate::disk::{Disk, Disks};
use crate::error::{Error, ErrorKind, Result};
use crate::format::item::{Item, VolumeFacts};
use crate::lane::Lane;
use crate::lateness::Lateness;
use crate::sync::atomic::Ordering;
use crate::sync::Arc;
use crate::units::blocks_for;

impl Volume {
    /// Grows the volume to the size of its origin, in bytes. Snapshots keep the size they were taken at. Returns the
    /// new size. `lane` is the caller's own.
    pub async fn grow<D: Disk>(&self, lane: &Lane<D>) -> Result<u64> {
        let disks = lane.disks();
        let _operation = self.operations.lock().await;
        self.refuse_closed("grow")?;
        self.restore.refuse("grow")?;
        let (before, after) = (self.size_bytes(), disks.origin.size_bytes());
        if after < before {
            let message = format!("the origin has {after} bytes, less than the volume's {before}; a volume only grows");
            return Err(Error::new(ErrorKind::Invalid, "grow", "origin").saying(message));
        }
        if after == before {
            return Ok(before);
        }
        self.watch.is_about_to_grow(lane, after).await?;
        let mut ledger = self.ledger.lock().await;
        self.lateness.refuse("grow", NO_EPOCH)?;
        // A new epoch, because the maps of the old one end where the volume ended.
        let keeping = planted!("growth-stops-saving", crate::epoch::Keeping::Nothing, self.active_epoch().keeping);
        let (before_epoch, next) = (self.active_epoch(), self.prepare_epoch(blocks_for(after), keeping));
        self.close_gate().await;
        let facts = VolumeFacts { size_bytes: after, active_epoch: next.number, ..ledger.catalog.state().volume };
        let Some(result) = self.append_behind_gate(&mut ledger, disks, &[Item::Volume(facts)]).await else {
            self.gate.open();
            return Err(Lateness::refusal("grow"));
        };
        if result.is_ok() {
            self.size_bytes.store(after, Ordering::Release);
            self.switch_epoch(&mut ledger, Arc::clone(&next));
            ledger.groups_joined = true;
        }
        self.gate.open();
        if result.is_ok() {
            // The epoch has no snapshot of its own: what was not needed before, and what is new, nobody needs.
            let all = 0..blocks_for(after);
            next.needed.forgo_all(std::slice::from_ref(&all), &before_epoch.needed).await;
        }
        self.active_epoch().in_use.inherit();
        result?;
        drop(ledger);
        self.watch.has_grown(lane).await;
        Ok(after)
    }

    /// Uses what a store device has grown by, as far as the catalog's areas, sized when the store was made, can keep
    /// account of it. Returns the bytes of the store now in use. Fails with `NoSpace` where that is nothing more.
    pub async fn grow_store<D: Disk>(&self, disks: &Disks<D>) -> Result<u64> {
        let _operation = self.operations.lock().await;
        self.refuse_closed("grow the store")?;
        let mut ledger = self.ledger.lock().await;
        let geometry = ledger.catalog.superblock().geometry;
        let store_bytes = disks.store.size_bytes() / 4096 * 4096;
        if store_bytes < geometry.store_bytes {
            let message =
                format!("the store device has {store_bytes} bytes, less than the {} in use", geometry.store_bytes);
            return Err(Error::new(ErrorKind::Invalid, "grow the store", "store").saying(message));
        }
        let segments = (store_bytes - geometry.segments_base_bytes) / u64::from(geometry.segment_bytes);
        let segments_max = ledger.catalog.segments_max();
        if segments > u64::from(geometry.segment_count) && segments_max <= geometry.segment_count {
            let message = "this store was made too small to keep account of more; make a new, larger store";
            return Err(Error::new(ErrorKind::NoSpace, "grow the store", "store").saying(message));
        }
        let bounded = u32::try_from(segments).unwrap_or(u32::MAX).min(segments_max);
        if bounded > geometry.segment_count {
            let in_use = match u64::from(bounded) == segments {
                true => store_bytes,
                false => geometry.segments_base_bytes + u64::from(bounded) * u64::from(geometry.segment_bytes),
            };
            ledger.catalog.grow_store(&disks.store, in_use, bounded).await?;
            ledger.give_back(geometry.segment_count..bounded);
        }
        Ok(ledger.catalog.superblock().geometry.store_bytes)
    }
}
