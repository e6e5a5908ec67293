//! The exports of a volume: its current content through a lane, its snapshots through the index.
//!
//! Invariants:
//! - The volume is shown only where the worker says so: one read-write frontend at a time.
//! - A snapshot that is open cannot be deleted: the handle keeps it. So does one that a client compares it with.
//! - Every request is counted in the thread's statistics.

use super::block_facts::BlockFacts;
use super::context::{Context, Extent, Subject};
use super::export::{Export, ExportSource};
use crate::control::api::Operation;
use crate::stats::Recorder;
use cairn_engine::delta::DeltaPoint;
use cairn_engine::disk::{Disk, Disks};
use cairn_engine::error::{Error, ErrorKind, Result};
use cairn_engine::lane::Lane;
use cairn_engine::snapshot::{SnapshotHandle, SnapshotName};
use cairn_engine::volume::Volume;
use std::rc::Rc;
use std::sync::Arc;

/// The volume, read-write, through one thread's lane.
pub struct VolumeExport<D> {
    lane: Rc<Lane<D>>,
    facts: BlockFacts<D>,
    recorder: Recorder,
}

/// A snapshot, read-only, through one thread's disks.
pub struct SnapshotExport<D> {
    volume: Arc<Volume>,
    disks: Rc<Disks<D>>,
    handle: SnapshotHandle,
    facts: BlockFacts<D>,
    recorder: Recorder,
}

/// What a name of [`VolumeSource`] stands for.
pub enum NamedExport<D> {
    /// `VOL`
    Volume(VolumeExport<D>),
    /// `VOL@SNAP`
    Snapshot(SnapshotExport<D>),
}

/// `VOL`, where it may be written, and every whole snapshot as `VOL@SNAP`.
pub struct VolumeSource<D> {
    name: String,
    lane: Rc<Lane<D>>,
    read_write: bool,
    recorder: Recorder,
}

impl<D: Disk> VolumeExport<D> {
    /// The volume behind `lane`, whose thread records with `recorder`.
    pub fn new(lane: Rc<Lane<D>>, recorder: Recorder) -> VolumeExport<D> {
        let facts = BlockFacts::new(lane.volume().clone(), lane.disks().clone(), DeltaPoint::live());
        VolumeExport { lane, facts, recorder }
    }

    /// The lane it writes through.
    pub fn lane(&self) -> &Rc<Lane<D>> {
        &self.lane
    }

    /// Where its requests are counted.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }
}

impl<D: Disk> SnapshotExport<D> {
    /// The snapshot that `handle` keeps, read with this thread's `disks`.
    pub fn new(
        volume: Arc<Volume>,
        disks: Rc<Disks<D>>,
        handle: SnapshotHandle,
        recorder: Recorder,
    ) -> SnapshotExport<D> {
        let facts = BlockFacts::new(volume.clone(), disks.clone(), DeltaPoint::from(&handle));
        SnapshotExport { volume, disks, handle, facts, recorder }
    }
}

impl<D: Disk> VolumeSource<D> {
    /// The exports of volume `name`. `read_write`: no other frontend writes it, so the volume itself is shown, too.
    pub fn new(name: &str, lane: Rc<Lane<D>>, read_write: bool, recorder: Recorder) -> VolumeSource<D> {
        VolumeSource { name: name.to_owned(), lane, read_write, recorder }
    }

    async fn open_snapshot(&self, name: &str) -> Result<SnapshotExport<D>> {
        let handle = self.lane.volume().snapshot_handle(self.lane.disks(), &SnapshotName::new(name)?).await?;
        let (volume, disks) = (self.lane.volume().clone(), self.lane.disks().clone());
        Ok(SnapshotExport::new(volume, disks, handle, self.recorder.clone()))
    }
}

impl<D: Disk + 'static> ExportSource for VolumeSource<D> {
    type Export = NamedExport<D>;

    async fn names(&self) -> Vec<String> {
        let snapshots = self.lane.volume().snapshots().await;
        let whole = snapshots.iter().filter(|snapshot| snapshot.broken.is_none());
        let volume = self.read_write.then(|| self.name.clone());
        volume.into_iter().chain(whole.map(|snapshot| format!("{}@{}", self.name, snapshot.name))).collect()
    }

    fn full_name<'a>(&'a self, name: &'a str) -> &'a str {
        if name.is_empty() {
            &self.name
        } else {
            name
        }
    }

    async fn open(&self, name: &str) -> Result<Rc<NamedExport<D>>> {
        let refused = |kind, sentence: &str| Err(Error::new(kind, "open the NBD export", name).saying(sentence));
        match name.strip_prefix(self.name.as_str()) {
            Some("") if !self.read_write => {
                refused(ErrorKind::Busy, "the volume is served as a block device; over NBD it shows its snapshots only")
            }
            Some("") => {
                let export = VolumeExport::new(self.lane.clone(), self.recorder.clone());
                Ok(Rc::new(NamedExport::Volume(export)))
            }
            Some(rest) if rest.starts_with('@') => {
                Ok(Rc::new(NamedExport::Snapshot(self.open_snapshot(&rest[1..]).await?)))
            }
            _ => refused(ErrorKind::NotFound, "there is no such export; `nbdinfo --list` shows those that exist"),
        }
    }
}

impl<D: Disk> Export for VolumeExport<D> {
    fn size_bytes(&self) -> u64 {
        self.lane.volume().size_bytes()
    }

    fn sector_bytes(&self) -> u32 {
        self.lane.disks().origin.sector_bytes()
    }

    fn read_only(&self) -> bool {
        false
    }

    fn can_discard(&self) -> bool {
        // Also where the disk below takes none: it is how the volume learns what is not in use.
        true
    }

    async fn read(&self, offset_bytes: u64, buffer: &mut [u8]) -> Result<()> {
        let length_bytes = buffer.len() as u64;
        let begun = self.recorder.begin(Operation::Read, length_bytes);
        begun.ended(self.lane.read(offset_bytes, buffer).await)
    }

    async fn write(&self, offset_bytes: u64, data: &[u8], durable: bool) -> Result<()> {
        let begun = self.recorder.begin(Operation::Write, data.len() as u64);
        begun.ended(self.lane.write(offset_bytes, data, durable).await)
    }

    async fn write_zeroes(&self, offset_bytes: u64, length_bytes: u64, durable: bool, may_unmap: bool) -> Result<()> {
        let begun = self.recorder.begin(Operation::WriteZeroes, length_bytes);
        begun.ended(self.lane.write_zeroes(offset_bytes, length_bytes, durable, may_unmap).await)
    }

    async fn discard(&self, offset_bytes: u64, length_bytes: u64) -> Result<()> {
        let begun = self.recorder.begin(Operation::Discard, length_bytes);
        begun.ended(self.lane.discard(offset_bytes, length_bytes).await)
    }

    async fn flush(&self) -> Result<()> {
        self.recorder.begin(Operation::Flush, 0).ended(self.lane.flush().await)
    }

    async fn contexts(&self) -> Vec<Context> {
        self.facts.contexts().await
    }

    async fn block_status(
        &self,
        subject: Subject,
        offset_bytes: u64,
        length_bytes: u64,
        extents_max: usize,
    ) -> Result<Vec<Extent>> {
        self.facts.block_status(subject, offset_bytes..offset_bytes + length_bytes, extents_max).await
    }
}

/// What a snapshot says to whoever wants to change it.
fn read_only(operation: &'static str) -> Result<()> {
    Err(Error::new(ErrorKind::ReadOnly, operation, "snapshot").saying("a snapshot cannot be changed"))
}

impl<D: Disk> Export for SnapshotExport<D> {
    fn size_bytes(&self) -> u64 {
        self.handle.size_bytes()
    }

    fn sector_bytes(&self) -> u32 {
        self.disks.origin.sector_bytes()
    }

    fn read_only(&self) -> bool {
        true
    }

    fn can_discard(&self) -> bool {
        false
    }

    async fn read(&self, offset_bytes: u64, buffer: &mut [u8]) -> Result<()> {
        let length_bytes = buffer.len() as u64;
        let begun = self.recorder.begin(Operation::SnapshotRead, length_bytes);
        begun.ended(self.volume.read_snapshot(&self.disks, &self.handle, offset_bytes, buffer).await)
    }

    async fn write(&self, _offset_bytes: u64, _data: &[u8], _durable: bool) -> Result<()> {
        read_only("write")
    }

    async fn write_zeroes(&self, _offset: u64, _length_bytes: u64, _durable: bool, _may_unmap: bool) -> Result<()> {
        read_only("write zeroes")
    }

    async fn discard(&self, _offset_bytes: u64, _length_bytes: u64) -> Result<()> {
        read_only("discard")
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    async fn contexts(&self) -> Vec<Context> {
        self.facts.contexts().await
    }

    async fn block_status(
        &self,
        subject: Subject,
        offset_bytes: u64,
        length_bytes: u64,
        extents_max: usize,
    ) -> Result<Vec<Extent>> {
        self.facts.block_status(subject, offset_bytes..offset_bytes + length_bytes, extents_max).await
    }
}

impl<D: Disk> Export for NamedExport<D> {
    fn size_bytes(&self) -> u64 {
        match self {
            NamedExport::Volume(export) => export.size_bytes(),
            NamedExport::Snapshot(export) => export.size_bytes(),
        }
    }

    fn sector_bytes(&self) -> u32 {
        match self {
            NamedExport::Volume(export) => export.sector_bytes(),
            NamedExport::Snapshot(export) => export.sector_bytes(),
        }
    }

    fn read_only(&self) -> bool {
        match self {
            NamedExport::Volume(export) => export.read_only(),
            NamedExport::Snapshot(export) => export.read_only(),
        }
    }

    fn can_discard(&self) -> bool {
        match self {
            NamedExport::Volume(export) => export.can_discard(),
            NamedExport::Snapshot(export) => export.can_discard(),
        }
    }

    async fn read(&self, offset_bytes: u64, buffer: &mut [u8]) -> Result<()> {
        match self {
            NamedExport::Volume(export) => export.read(offset_bytes, buffer).await,
            NamedExport::Snapshot(export) => export.read(offset_bytes, buffer).await,
        }
    }

    async fn write(&self, offset_bytes: u64, data: &[u8], durable: bool) -> Result<()> {
        match self {
            NamedExport::Volume(export) => export.write(offset_bytes, data, durable).await,
            NamedExport::Snapshot(export) => export.write(offset_bytes, data, durable).await,
        }
    }

    async fn write_zeroes(&self, offset_bytes: u64, length_bytes: u64, durable: bool, may_unmap: bool) -> Result<()> {
        match self {
            NamedExport::Volume(export) => export.write_zeroes(offset_bytes, length_bytes, durable, may_unmap).await,
            NamedExport::Snapshot(export) => export.write_zeroes(offset_bytes, length_bytes, durable, may_unmap).await,
        }
    }

    async fn discard(&self, offset_bytes: u64, length_bytes: u64) -> Result<()> {
        match self {
            NamedExport::Volume(export) => export.discard(offset_bytes, length_bytes).await,
            NamedExport::Snapshot(export) => export.discard(offset_bytes, length_bytes).await,
        }
    }

    async fn flush(&self) -> Result<()> {
        match self {
            NamedExport::Volume(export) => export.flush().await,
            NamedExport::Snapshot(export) => export.flush().await,
        }
    }

    async fn contexts(&self) -> Vec<Context> {
        match self {
            NamedExport::Volume(export) => export.contexts().await,
            NamedExport::Snapshot(export) => export.contexts().await,
        }
    }

    async fn block_status(
        &self,
        subject: Subject,
        offset_bytes: u64,
        length_bytes: u64,
        extents_max: usize,
    ) -> Result<Vec<Extent>> {
        match self {
            NamedExport::Volume(export) => export.block_status(subject, offset_bytes, length_bytes, extents_max).await,
            NamedExport::Snapshot(export) => {
                export.block_status(subject, offset_bytes, length_bytes, extents_max).await
            }
        }
    }
}
