//! Reading: the volume's current content, and snapshots (mission A3; fig. 27).
//!
//! Invariants:
//! - Readers never block writers.
//! - Content read from the origin for a snapshot counts only if, afterwards, the index as it is *then* still has no
//!   entry for the block: a writer publishes before it overwrites.
//! - A before-image is verified against its checksum on every read; a wrong one is an error, never data.

use super::Volume;
use crate::disk::{aligned_buffer, AlignedBuffer, Disk, Disks};
use crate::entry::{Entry, UNREADABLE};
use crate::error::{Error, ErrorKind, Result};
use crate::format::checksum;
use crate::lane::invalid;
use crate::snapshot::{Snapshot, SnapshotHandle, SnapshotName, SnapshotPin};
use crate::sync::{Arc, OnceLock};
use crate::units::{blocks_touched, pieces, BlockIndex, Epoch, BLOCK_BYTES, BLOCK_MAX};
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
        for (at, length_bytes) in pieces(offset_bytes, buffer.len() as u64) {
            let range = blocks_touched(at, length_bytes);
            let blocks = self.read_blocks_as_of(disks, epoch, range.clone()).await?;
            let (done, length) = ((at - offset_bytes) as usize, length_bytes as usize);
            let skip = (at - range.start * BLOCK_BYTES as u64) as usize;
            buffer[done..done + length].copy_from_slice(&blocks[skip..skip + length]);
        }
        Ok(())
    }

    /// Whole blocks as of an epoch's cut.
    pub(crate) async fn read_blocks_as_of<D: Disk>(
        &self,
        disks: &Disks<D>,
        epoch: Epoch,
        range: Range<BlockIndex>,
    ) -> Result<AlignedBuffer> {
        let count = (range.end - range.start) as usize;
        let mut content = aligned_buffer(count * BLOCK_BYTES);
        let mut found: Vec<Option<Entry>> = vec![None; count];
        let mut read: Vec<bool> = vec![false; count];
        loop {
            let view = self.view_now();
            view.find_range(&disks.store, &self.cache, range.clone(), epoch, &mut found).await?;
            self.read_entries(disks, &found, &mut read, &mut content).await?;
            drop(view);
            let missing: Vec<usize> = (0..count).filter(|&slot| found[slot].is_none()).collect();
            if missing.is_empty() {
                return Ok(content);
            }
            let earlier = planted!("second-look-in-old-view").then(|| self.view_now());
            self.read_missing(disks, range.start, &missing, &mut content).await?;
            planted!("no-second-look", return Ok(content));
            // Look again, in the index as it is now.
            let view = earlier.unwrap_or_else(|| self.view_now());
            view.find_range(&disks.store, &self.cache, range.clone(), epoch, &mut found).await?;
            if missing.iter().all(|&slot| found[slot].is_none()) {
                return Ok(content);
            }
        }
    }

    /// Reads the images of the slots that have an entry and were not read yet; neighbours on the store in one read.
    async fn read_entries<D: Disk>(
        &self,
        disks: &Disks<D>,
        found: &[Option<Entry>],
        read: &mut [bool],
        content: &mut [u8],
    ) -> Result<()> {
        let mut slot = 0;
        while slot < found.len() {
            let Some(entry) = found[slot].filter(|_| !read[slot]) else {
                slot += 1;
                continue;
            };
            let mut end = slot + 1;
            let follows = |end: usize| {
                found.get(end).copied().flatten().is_some_and(|next| {
                    !read[end]
                        && next.address != UNREADABLE
                        && !next.is_mark()
                        && next.address == entry.address + (end - slot) as u64
                })
            };
            while entry.address != UNREADABLE && follows(end) {
                end += 1;
            }
            let images = &mut content[slot * BLOCK_BYTES..end * BLOCK_BYTES];
            self.read_images(disks, entry, images).await?;
            for (index, image) in images.chunks_exact(BLOCK_BYTES).enumerate() {
                let entry = found[slot + index].expect("the run is of entries");
                verify(&entry, image)?;
            }
            read[slot..end].fill(true);
            slot = end;
        }
        Ok(())
    }

    async fn read_images<D: Disk>(&self, disks: &Disks<D>, first: Entry, images: &mut [u8]) -> Result<()> {
        if first.is_mark() {
            let message = format!("block {} was overwritten and its content not kept; run `cairn check`", first.block);
            return Err(Error::new(ErrorKind::Corrupt, "read snapshot", "store").saying(message));
        }
        if first.address == UNREADABLE {
            let message = "the block could not be read from the disk when it was about to be overwritten";
            let offset = first.block * BLOCK_BYTES as u64;
            return Err(Error::new(ErrorKind::Io, "read snapshot", "origin").at(offset).saying(message));
        }
        disks.store.read(first.address * BLOCK_BYTES as u64, images).await
    }

    /// Reads from the origin the slots that no epoch saved; neighbours in one read.
    async fn read_missing<D: Disk>(
        &self,
        disks: &Disks<D>,
        first: BlockIndex,
        missing: &[usize],
        content: &mut [u8],
    ) -> Result<()> {
        let mut index = 0;
        while index < missing.len() {
            let from = missing[index];
            let mut end = from + 1;
            index += 1;
            while index < missing.len() && missing[index] == end {
                end += 1;
                index += 1;
            }
            let offset = (first + from as u64) * BLOCK_BYTES as u64;
            let blocks = &mut content[from * BLOCK_BYTES..end * BLOCK_BYTES];
            let available = self.size_bytes().saturating_sub(offset).min(blocks.len() as u64) as usize;
            let (inside, beyond) = blocks.split_at_mut(available);
            beyond.fill(0);
            disks.origin.read(offset, inside).await?;
        }
        Ok(())
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
            let ledger = self.ledger.lock().await;
            let snapshot = ledger.snapshot(name)?;
            if let Some((_, reason)) = &snapshot.broken {
                let message = format!("snapshot {name} is broken: {reason}");
                return Err(Error::new(ErrorKind::Broken, "open snapshot", "store").saying(message));
            }
            if ledger.cut_under_way == Some(snapshot.epoch) {
                let message = format!("snapshot {name} is just being taken; try again");
                return Err(Error::new(ErrorKind::Busy, "open snapshot", "volume").saying(message));
            }
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

/// The image is what was saved, or the read fails.
pub(crate) fn verify(entry: &Entry, image: &[u8]) -> Result<()> {
    assert_eq!(image.len(), BLOCK_BYTES);
    planted!("image-not-verified", return Ok(()));
    if checksum::image(image) == entry.checksum {
        return Ok(());
    }
    let message = format!("the saved content of block {} is damaged (checksum); run `cairn check`", entry.block);
    Err(Error::new(ErrorKind::Corrupt, "read snapshot", "store").at(entry.address * BLOCK_BYTES as u64).saying(message))
}
