//! Reading: the volume's current content, and snapshots (mission A3; fig. 27).
//!
//! Invariants:
//! - Readers never block writers.
//! - Content read from the origin for a snapshot counts only if, afterwards, the index as it is *then* still has no
//!   entry for the block: a writer publishes before it overwrites.

use super::content::{read_bytes, read_saved, read_unsaved};
use super::Volume;
use crate::disk::{Disk, Disks};
use crate::entry::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::lane::invalid;
use crate::snapshot::{Snapshot, SnapshotHandle, SnapshotName, SnapshotPin};
use crate::sync::{Arc, OnceLock};
use crate::units::{blocks_touched, BlockIndex, Epoch, BLOCK_BYTES, BLOCK_MAX};
use std::ops::Range;

impl Volume {
    /// Reads a snapshot. Any alignment is served; whole sectors are faster.
    pub async fn read_snapshot<D: Disk>(
        &self,
        disks: &Disks<D>,
        snapshot: &SnapshotHandle,
        offset_bytes: u64,
        buffer: &mut [u8],
    ) -> Result<()> {
        let end_bytes = offset_bytes.checked_add(buffer.len() as u64);
        if end_bytes.is_none_or(|end_bytes| end_bytes > snapshot.size_bytes()) {
            let size_bytes = snapshot.size_bytes();
            let message = format!("{} bytes at {offset_bytes} exceed its {size_bytes} bytes", buffer.len());
            return Err(invalid("read snapshot", message));
        }
        self.refuse_broken(&snapshot.pin)?;
        let result = self.read_in_use(disks, snapshot, offset_bytes, buffer).await;
        // A snapshot that broke while it was being read may have given wrong bytes.
        self.refuse_broken(&snapshot.pin)?;
        result
    }

    /// What is in use as of the snapshot; zeroes elsewhere.
    async fn read_in_use<D: Disk>(
        &self,
        disks: &Disks<D>,
        snapshot: &SnapshotHandle,
        offset_bytes: u64,
        buffer: &mut [u8],
    ) -> Result<()> {
        let (holes, end_bytes) = (snapshot.holes(), offset_bytes + buffer.len() as u64);
        let mut at = offset_bytes;
        let nothing_behind = BLOCK_MAX + 1..BLOCK_MAX + 1;
        for hole in holes.within(blocks_touched(offset_bytes, buffer.len() as u64)).chain([nothing_behind]) {
            let hole_bytes = hole.start * BLOCK_BYTES as u64..hole.end * BLOCK_BYTES as u64;
            let start = hole_bytes.start.clamp(at, end_bytes);
            if at < start {
                let part = &mut buffer[(at - offset_bytes) as usize..(start - offset_bytes) as usize];
                self.read_as_of(disks, snapshot.pin.epoch, at, part).await?;
            }
            let end = hole_bytes.end.clamp(start, end_bytes);
            planted!("holes-show-what-is-there", continue);
            buffer[(start - offset_bytes) as usize..(end - offset_bytes) as usize].fill(0);
            at = end;
        }
        Ok(())
    }

    fn refuse_broken(&self, pin: &SnapshotPin) -> Result<()> {
        if pin.epoch >= self.horizon() {
            return Ok(());
        }
        let message = format!("snapshot {} is broken; `cairn show` says why", pin.name);
        Err(Error::new(ErrorKind::Broken, "read snapshot", "store").saying(message))
    }

    /// Reads the current content; while a restore is moving blocks back, that is the snapshot for unmoved blocks.
    pub(crate) async fn read_current<D: Disk>(&self, disks: &Disks<D>, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let range = blocks_touched(offset, buffer.len() as u64);
        match self.restore.target_of_unmoved(range) {
            None => disks.origin.read(offset, buffer).await,
            Some(_) => self.read_during_restore(disks, offset, buffer).await,
        }
    }

    /// Reads the volume as of the cut that opened `epoch`.
    pub(crate) async fn read_as_of<D: Disk>(
        &self,
        disks: &Disks<D>,
        epoch: Epoch,
        offset_bytes: u64,
        buffer: &mut [u8],
    ) -> Result<()> {
        let read_blocks = async |range: Range<BlockIndex>, content: &mut [u8]| {
            self.read_blocks_as_of(disks, epoch, range, content).await
        };
        read_bytes(offset_bytes, buffer, read_blocks).await
    }

    /// Whole blocks as of an epoch's cut, into memory that is aligned to blocks.
    pub(crate) async fn read_blocks_as_of<D: Disk>(
        &self,
        disks: &Disks<D>,
        epoch: Epoch,
        range: Range<BlockIndex>,
        content: &mut [u8],
    ) -> Result<()> {
        let count = (range.end - range.start) as usize;
        assert_eq!(content.len(), count * BLOCK_BYTES);
        let mut found: Vec<Option<Entry>> = vec![None; count];
        let mut read: Vec<bool> = vec![false; count];
        loop {
            let view = self.view_now();
            view.find_range(&disks.store, &self.cache, range.clone(), epoch, &mut found).await?;
            read_saved(&disks.store, &found, &mut read, content).await?;
            drop(view);
            let missing: Vec<usize> = (0..count).filter(|&slot| found[slot].is_none()).collect();
            if missing.is_empty() {
                return Ok(());
            }
            let earlier = planted!("second-look-in-old-view").then(|| self.view_now());
            read_unsaved(&disks.origin, self.size_bytes(), range.start, &missing, content).await?;
            planted!("no-second-look", return Ok(()));
            // Look again, in the index as it is now.
            let view = earlier.unwrap_or_else(|| self.view_now());
            view.find_range(&disks.store, &self.cache, range.clone(), epoch, &mut found).await?;
            if missing.iter().all(|&slot| found[slot].is_none()) {
                return Ok(());
            }
        }
    }

    /// A handle that keeps the snapshot readable and undeletable. Fails with `NotFound` or
    /// `Broken`, with `Busy` while it is being taken, or where its in-use map cannot be read.
    pub async fn snapshot_handle<D: Disk>(&self, disks: &Disks<D>, name: &SnapshotName) -> Result<SnapshotHandle> {
        let snapshot = self.ledger.lock().await.snapshot(name)?;
        if snapshot.bookmark {
            let message =
                format!("{name} is a bookmark: what the snapshot held is gone, only what changed since is known");
            return Err(Error::new(ErrorKind::NotFound, "open snapshot", "volume").saying(message));
        }
        Ok(SnapshotHandle { pin: self.pinned(disks, name).await? })
    }

    /// Keeps a snapshot or bookmark from being deleted.
    pub(super) async fn pinned<D: Disk>(&self, disks: &Disks<D>, name: &SnapshotName) -> Result<Arc<SnapshotPin>> {
        let pin = {
            let mut ledger = self.ledger.lock().await;
            let snapshot = self.as_decided(ledger.snapshot(name)?);
            if let Some((_, reason)) = &snapshot.broken {
                let message = format!("snapshot {name} is broken: {reason}");
                return Err(Error::new(ErrorKind::Broken, "open snapshot", "store").saying(message));
            }
            if ledger.cut_under_way == Some(snapshot.epoch) {
                let message = format!("snapshot {name} is just being taken; try again");
                return Err(Error::new(ErrorKind::Busy, "open snapshot", "volume").saying(message));
            }
            self.settle_map(&mut ledger, disks, snapshot.epoch).await?;
            self.pin(&snapshot)
        };
        if pin.holes.get().is_none() {
            // From here on it cannot be deleted. Somebody else may have been faster.
            let holes = self.holes_of(disks, pin.epoch).await?;
            pin.holes.get_or_init(|| holes);
        }
        Ok(pin)
    }

    fn pin(&self, snapshot: &Snapshot) -> Arc<SnapshotPin> {
        let mut pins = self.pins.lock().expect("no holder of this lock panics");
        if let Some(pin) = pins.get(&snapshot.epoch).and_then(|pin| pin.upgrade()) {
            return pin;
        }
        let Snapshot { epoch, size_bytes, ref name, .. } = *snapshot;
        let pin = Arc::new(SnapshotPin { epoch, size_bytes, name: name.clone(), holes: OnceLock::new() });
        pins.retain(|_, pin| pin.strong_count() > 0);
        pins.insert(epoch, Arc::downgrade(&pin));
        pin
    }
}
