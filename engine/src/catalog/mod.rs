//! The catalog: what exists on the store, as a log of small records in one of two areas.
//!
//! Invariants:
//! - An append is atomic and durable when it returns; the state changes only then.
//! - A generation and sequence are never written twice with different items that could both be believed: after a
//!   failed append the next write is a checkpoint of a fresh generation.
//! - The superblock points to a checkpoint only after all of it is durable.
//! - An append costs what its items name, not what exists, but where it has to write a checkpoint.
//! - Nothing is appended while the two copies of the superblock may differ: a damaged copy can never bring back an
//!   older state.

pub mod apply;
mod checkpoint;
pub mod log;
#[cfg(test)]
pub(crate) mod memory_disk;
pub mod record;
mod repair;
mod replay;
pub mod restoring;
pub mod state;
#[cfg(test)]
mod tests;

use crate::disk::{aligned_buffer, rewrite, Disk};
use crate::error::{Error, ErrorKind, Result};
use crate::format::item::Item;
use crate::format::superblock::{self, CatalogPlace, Superblock};
use checkpoint::Checkpoint;
use record::{LogIdentity, Role, RECORD_ITEMS_BYTES_MAX};
use state::State;
use std::ops::Range;

/// Most snapshots of one volume.
pub const SNAPSHOTS_MAX: usize = 4096;
/// Bytes of records behind a checkpoint before the next one is written, where that is not twice its size.
const LOG_BYTES_MAX: u64 = 1 << 20;
/// What a segment takes of a checkpoint at worst, in both copies.
const SEGMENT_CHECKPOINT_BYTES: u64 = 2 * 32;

/// Superblock, state, and the place where the next record goes.
#[derive(Debug)]
pub struct Catalog {
    superblock: Superblock,
    state: State,
    /// Where the next record goes.
    position_bytes: u64,
    /// Its sequence.
    sequence: u64,
    /// What was read at open may still be volatile; a flush comes before the first write.
    settled: bool,
    /// The superblock names this session. It does before the first append: see [`LogReader::with_own_from`].
    session_begun: bool,
    /// The copies of the superblock may differ, or one is damaged.
    superblock_stale: bool,
    /// A record has lost one of its copies; the next append writes a checkpoint first.
    worn: bool,
    /// The checkpoint of the current area cannot be read; the log it was made of stands in for it.
    checkpoint_lost: bool,
    /// The log may hold items that the state lacks, or lack items that it has.
    doubt: bool,
    /// Where the last record of the log lay when it was read; none where there is only a checkpoint.
    last_record: Option<Range<u64>>,
    /// That record was read and could not be written again: it may be lost in a crash.
    last_record_volatile: bool,
    failed: bool,
    read_only: bool,
    repairs: u64,
}

impl Catalog {
    /// Makes a store: lays down the catalog and then the superblock. Until the last step the device is no store.
    pub async fn create<D: Disk>(store: &D, mut superblock: Superblock, items: &[Item]) -> Result<Catalog> {
        let mut state = State::new(superblock.geometry.segment_count);
        for item in items {
            state.apply(item)?;
        }
        superblock::erase(store).await?;
        let generation = 1;
        let log = LogIdentity { store_id: superblock.store_id, generation, session: superblock.session };
        let area = superblock.geometry.areas[0];
        let written = Checkpoint::of(&state).write(store, area, log).await?;
        superblock.catalog = CatalogPlace {
            area_current: 0,
            generation,
            generation_reserved: generation,
            checkpoint_records: written.records,
            checkpoint_bytes: written.length_bytes,
            records_min: written.records,
            records_found: written.records,
            previous_generation: 0,
            previous_records: 0,
        };
        superblock::write_both(store, &mut superblock).await?;
        Ok(Catalog {
            position_bytes: area.offset_bytes + written.length_bytes,
            sequence: written.records,
            superblock,
            state,
            settled: true,
            session_begun: true,
            superblock_stale: false,
            worn: false,
            checkpoint_lost: false,
            doubt: false,
            failed: false,
            read_only: false,
            last_record: None,
            last_record_volatile: false,
            repairs: 0,
        })
    }

    /// Reads superblock and catalog; writes nothing. What it returns may still be volatile on the device: the caller
    /// flushes the store before it acts on it.
    pub async fn open<D: Disk>(store: &D) -> Result<Catalog> {
        let found = superblock::read(store).await?;
        let mut catalog = Catalog {
            position_bytes: found.superblock.area().offset_bytes,
            sequence: 0,
            state: State::new(found.superblock.geometry.segment_count),
            superblock: found.superblock,
            settled: false,
            session_begun: false,
            superblock_stale: found.damaged_copy.is_some(),
            worn: false,
            checkpoint_lost: false,
            doubt: false,
            failed: false,
            read_only: found.read_only,
            last_record: None,
            last_record_volatile: false,
            repairs: u64::from(found.damaged_copy.is_some()),
        };
        catalog.replay(store).await?;
        Ok(catalog)
    }

    /// The superblock as it is on the store.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// What exists.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The last append could not be made durable, or items were applied in memory only. A later append that succeeds
    /// clears it.
    pub fn failed(&self) -> bool {
        self.failed
    }

    /// The store uses a feature that this program may read but not write beside.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// How many damaged copies `open` found; the next append replaces them.
    pub fn repairs(&self) -> u64 {
        self.repairs
    }

    /// Would the catalog take these items? `Corrupt` where they contradict the state, `NoSpace` where it is full.
    /// Costs what the items name, whatever else exists. New snapshots stop at half an area: what they bring along later
    /// (runs, marks, hashes of the origin) goes on to the end of it.
    pub fn admit(&mut self, items: &[Item]) -> Result<()> {
        let (entries, snapshots) = (self.state.entries(), self.state.snapshots.len());
        let undo = self.state.apply_all(items)?;
        let area_bytes = self.superblock.area_other().length_bytes;
        let grows = self.state.entries() > entries;
        let too_many = self.state.snapshots.len() > SNAPSHOTS_MAX.max(snapshots);
        let full = match self.state.snapshots.len() > snapshots {
            true => {
                self.state.checkpoint_bytes(false) > area_bytes / 2 || self.state.checkpoint_bytes(true) > area_bytes
            }
            false => self.state.checkpoint_bytes(false) > area_bytes,
        };
        self.state.take_back(undo);
        if too_many || (grows && full) {
            return Err(Error::new(ErrorKind::NoSpace, "append to the catalog", "store").saying(format!(
                "the catalog is full with {} snapshots and {} runs; delete snapshots, or use a larger store",
                self.state.snapshots.len(),
                self.state.runs.len()
            )));
        }
        Ok(())
    }

    /// Does now whatever would make an append of these items take long: refuses what [`Catalog::append`] would refuse,
    /// and writes the checkpoint that it would have to write first.
    pub async fn prepare_append<D: Disk>(&mut self, store: &D, items: &[Item]) -> Result<()> {
        self.admit(items)?;
        self.prepare(store, true).await?;
        let length_bytes = 2 * record::record_bytes(record::encode_items(items).len()) as u64;
        if self.doubt || self.must_compact(length_bytes) {
            self.compact(store).await?;
        }
        Ok(())
    }

    /// Makes `items` durable, all or none, and applies them. What does not fit in a record goes out as a checkpoint.
    ///
    /// `Corrupt` or `NoSpace` as of [`Catalog::admit`], or `ReadOnly`: nothing was written.
    /// Any other error leaves them in doubt: they are not in the state, but a crash may bring them back. A caller for
    /// whom that is not harmless (the cut) applies them by [`Catalog::apply_in_memory`]. The next append settles
    /// the doubt.
    pub async fn append<D: Disk>(&mut self, store: &D, items: &[Item]) -> Result<()> {
        assert!(!items.is_empty(), "an empty record says nothing");
        let encoded = record::encode_items(items);
        self.admit(items)?;
        let result = self.append_admitted(store, items, &encoded).await;
        self.failed = result.is_err();
        result
    }

    /// Applies items that could not be made durable. The next append, or [`Catalog::compact`], writes them.
    pub fn apply_in_memory(&mut self, items: &[Item]) -> Result<()> {
        let _final = self.state.apply_all(items)?;
        self.doubt = true;
        self.failed = true;
        Ok(())
    }

    /// Changes the superblock, durably. On an error the change is in doubt on the store and not made in memory.
    pub async fn superblock_update<D: Disk>(&mut self, store: &D, change: impl FnOnce(&mut Superblock)) -> Result<()> {
        self.prepare(store, false).await?;
        self.write_superblock(store, change).await
    }

    /// Durably keeps programs away that do not know this incompatible feature; for ever, because what it brings may stay
    /// in the store longer than anybody keeps account of.
    pub async fn require_feature<D: Disk>(&mut self, store: &D, feature: u64) -> Result<()> {
        if self.superblock.incompatible & feature == feature {
            return Ok(());
        }
        self.superblock_update(store, |superblock| superblock.incompatible |= feature).await
    }

    /// Gives the store more segments behind its last.
    pub async fn grow_store<D: Disk>(&mut self, store: &D, store_bytes: u64, segment_count: u32) -> Result<()> {
        assert!(segment_count as usize >= self.state.segments.len(), "a store only grows");
        self.superblock_update(store, |superblock| {
            superblock.geometry.store_bytes = store_bytes;
            superblock.geometry.segment_count = segment_count;
        })
        .await?;
        self.state.segments.resize(segment_count as usize, Default::default());
        Ok(())
    }

    /// The most segments that the store may be grown to: their worst case takes a third of a catalog area.
    pub fn segments_max(&self) -> u32 {
        let areas = &self.superblock.geometry.areas;
        let area_bytes = areas[0].length_bytes.min(areas[1].length_bytes);
        u32::try_from(area_bytes / (3 * SEGMENT_CHECKPOINT_BYTES)).unwrap_or(u32::MAX)
    }

    /// Writes the whole state as a checkpoint to the other area and makes that the current one.
    pub async fn compact<D: Disk>(&mut self, store: &D) -> Result<()> {
        self.prepare(store, true).await?;
        let result = self.switch_area(store, !self.doubt).await;
        self.failed &= result.is_err();
        result
    }

    fn log(&self) -> LogIdentity {
        let Superblock { store_id, session, catalog, .. } = &self.superblock;
        LogIdentity { store_id: *store_id, generation: catalog.generation, session: *session }
    }

    /// An append of so many bytes has to write a checkpoint first.
    fn must_compact(&self, length_bytes: u64) -> bool {
        let (area, checkpoint_bytes) = (self.superblock.area(), self.superblock.catalog.checkpoint_bytes);
        // An attach reads the log: it is kept short, so that what it costs does not grow with what was done.
        let log_bytes_max = checkpoint_bytes + LOG_BYTES_MAX.max(2 * checkpoint_bytes);
        let end_bytes = self.position_bytes + length_bytes;
        self.worn || end_bytes > area.end_bytes().min(area.offset_bytes + log_bytes_max)
    }

    async fn append_admitted<D: Disk>(&mut self, store: &D, items: &[Item], encoded: &[u8]) -> Result<()> {
        self.prepare(store, true).await?;
        if self.doubt || encoded.len() > RECORD_ITEMS_BYTES_MAX {
            return self.append_by_checkpoint(store, items).await;
        }
        let length_bytes = 2 * record::record_bytes(encoded.len()) as u64;
        if self.must_compact(length_bytes) {
            self.compact(store).await?;
        }
        let mut buffer = aligned_buffer(length_bytes as usize);
        record::encode(self.log(), self.sequence, Role::Appended, encoded, self.position_bytes, &mut buffer);
        let (at, data) = (self.position_bytes, &buffer[..]);
        let result = planted!("append-left-volatile", store.write(at, data).await, store.write_durable(at, data).await);
        let Err(error) = result else {
            self.position_bytes += length_bytes;
            self.sequence += 1;
            let _final = self.state.apply_all(items).expect("the items were admitted");
            return Ok(());
        };
        planted!("failed-append-forgotten", return Err(error));
        // Whether the record is on the store cannot be known. A checkpoint of a fresh generation decides it.
        self.doubt = true;
        self.append_by_checkpoint(store, items).await.map_err(|_| error)
    }

    async fn append_by_checkpoint<D: Disk>(&mut self, store: &D, items: &[Item]) -> Result<()> {
        let undo = self.state.apply_all(items).expect("the items were admitted");
        let result = self.switch_area(store, false).await;
        if result.is_err() {
            self.state.take_back(undo);
        }
        result
    }

    /// What must hold before anything is written: permission, durability of what was read, a superblock without doubt.
    async fn prepare<D: Disk>(&mut self, store: &D, superblock_too: bool) -> Result<()> {
        if self.read_only {
            return Err(Error::new(ErrorKind::ReadOnly, "write the catalog", "store")
                .saying("the store uses features that this program may only read; use a newer Cairn"));
        }
        planted!("attach-trusts-volatile", self.settled = true);
        if !self.settled {
            store.flush().await?;
            if let Some(range) = self.last_record.take() {
                // Its append may have failed in a flush, and then no later flush makes it durable: only writing does.
                self.last_record_volatile = rewrite(store, range).await.is_err();
                self.doubt |= self.last_record_volatile;
            }
            self.settled = true;
        }
        if (self.superblock_stale || !self.session_begun) && superblock_too {
            self.write_superblock(store, |_| {}).await?;
        }
        if self.checkpoint_lost {
            self.restore_checkpoint(store).await;
        }
        Ok(())
    }

    async fn write_superblock<D: Disk>(&mut self, store: &D, change: impl FnOnce(&mut Superblock)) -> Result<()> {
        let mut next = self.superblock.clone();
        next.catalog.records_min = self.sequence - u64::from(self.last_record_volatile);
        if !self.session_begun {
            next.session += 1;
            next.catalog.records_found = self.sequence;
        }
        change(&mut next);
        self.superblock_stale = true;
        let result = superblock::write_both(store, &mut next).await;
        // The sequence counts the attempt: the next one must win over what this one may have left behind.
        self.superblock.sequence = next.sequence;
        result?;
        self.superblock = next;
        self.superblock_stale = false;
        self.session_begun = true;
        Ok(())
    }

    /// Writes the state to the other area and points the superblock there. `repeats_log`: the current log adds up to
    /// exactly this state, and may stand in for the checkpoint.
    async fn switch_area<D: Disk>(&mut self, store: &D, repeats_log: bool) -> Result<()> {
        let generation = self.superblock.catalog.generation_reserved + 1;
        self.write_superblock(store, |superblock| superblock.catalog.generation_reserved = generation).await?;
        let log = LogIdentity { generation, ..self.log() };
        let area = self.superblock.area_other();
        let written = Checkpoint::of(&self.state).write(store, area, log).await?;
        let before = self.superblock.catalog;
        let previous = if repeats_log { (before.generation, self.sequence) } else { (0, 0) };
        let place = CatalogPlace {
            area_current: 1 - before.area_current,
            generation,
            generation_reserved: generation,
            checkpoint_records: written.records,
            checkpoint_bytes: written.length_bytes,
            records_min: written.records,
            records_found: written.records,
            previous_generation: previous.0,
            previous_records: previous.1,
        };
        self.write_superblock(store, |superblock| superblock.catalog = place).await?;
        self.position_bytes = area.offset_bytes + written.length_bytes;
        self.sequence = written.records;
        self.doubt = false;
        self.last_record_volatile = false;
        self.worn = false;
        self.checkpoint_lost = false;
        Ok(())
    }
}
