//! The catalog: what exists on the store, as a log of small records in one of two areas.
//!
//! Invariants:
//! - An append is atomic and durable when it returns; the state changes only then.
//! - A generation and sequence are never written twice with different items that could both be believed: after a
//!   failed append the next write is a checkpoint of a fresh generation.
//! - The superblock points to a checkpoint only after all of it is durable.
//! - Nothing is appended while the two copies of the superblock may differ: a damaged copy can never bring back an
//!   older state.

pub mod log;
#[cfg(test)]
pub(crate) mod memory_disk;
pub mod record;
pub mod state;
#[cfg(test)]
mod tests;

use crate::disk::{aligned_buffer, Disk};
use crate::error::{Error, ErrorKind, Result};
use crate::format::geometry::Area;
use crate::format::item::Item;
use crate::format::superblock::{self, CatalogPlace, Superblock};
use log::LogReader;
use record::{LogIdentity, Role, RECORD_BYTES_MAX, RECORD_ITEMS_BYTES_MAX};
use state::State;

/// Most snapshots of one volume.
pub const SNAPSHOTS_MAX: usize = 4096;

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
    /// The copies of the superblock may differ, or one is damaged.
    superblock_stale: bool,
    /// A record has lost one of its copies; the next append writes a checkpoint first.
    worn: bool,
    /// The log may hold items that the state lacks, or lack items that it has.
    doubt: bool,
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
        let log = LogIdentity { store_id: superblock.store_id, generation };
        let area = superblock.geometry.areas[0];
        let written = write_checkpoint(store, area, log, &state).await?;
        superblock.catalog = CatalogPlace {
            area_current: 0,
            generation,
            generation_reserved: generation,
            checkpoint_records: written.records,
            checkpoint_bytes: written.length_bytes,
            records_min: written.records,
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
            superblock_stale: false,
            worn: false,
            doubt: false,
            failed: false,
            read_only: false,
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
            superblock_stale: found.damaged_copy.is_some(),
            worn: false,
            doubt: false,
            failed: false,
            read_only: found.read_only,
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

    /// Makes `items` durable in one record, all or none, and applies them.
    ///
    /// `Corrupt` where they contradict the state and `NoSpace` where the catalog is full: nothing was written. Any
    /// other error leaves them in doubt: they are not in the state, but a crash may bring them back. A caller for whom
    /// that is not harmless (the cut) applies them by [`Catalog::apply_in_memory`]. The next append settles the doubt.
    pub async fn append<D: Disk>(&mut self, store: &D, items: &[Item]) -> Result<()> {
        assert!(!items.is_empty(), "an empty record says nothing");
        let encoded = record::encode_items(items);
        let next = self.state_after(items)?;
        let result = self.append_encoded(store, &encoded, next).await;
        self.failed = result.is_err();
        result
    }

    /// Applies items that could not be made durable. The next append, or [`Catalog::compact`], writes them.
    pub fn apply_in_memory(&mut self, items: &[Item]) -> Result<()> {
        for item in items {
            self.state.apply(item)?;
        }
        self.doubt = true;
        self.failed = true;
        Ok(())
    }

    /// Changes the superblock, durably. On an error the change is in doubt on the store and not made in memory.
    pub async fn superblock_update<D: Disk>(&mut self, store: &D, change: impl FnOnce(&mut Superblock)) -> Result<()> {
        self.prepare(store, false).await?;
        self.write_superblock(store, change).await
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

    /// Writes the whole state as a checkpoint to the other area and makes that the current one.
    pub async fn compact<D: Disk>(&mut self, store: &D) -> Result<()> {
        self.prepare(store, true).await?;
        let state = std::mem::take(&mut self.state);
        let result = self.switch_area(store, &state).await;
        self.state = state;
        self.failed &= result.is_err();
        result
    }

    fn log(&self) -> LogIdentity {
        LogIdentity { store_id: self.superblock.store_id, generation: self.superblock.catalog.generation }
    }

    /// The state with `items` applied, if they make sense and leave room for the checkpoint.
    fn state_after(&self, items: &[Item]) -> Result<State> {
        let mut next = self.state.clone();
        for item in items {
            next.apply(item)?;
        }
        let area_bytes = self.superblock.area_other().length_bytes;
        let grows = next.entries() > self.state.entries();
        let too_many = next.snapshots.len() > SNAPSHOTS_MAX.max(self.state.snapshots.len());
        let full = next.checkpoint_bytes(false) > area_bytes / 2 || next.checkpoint_bytes(true) > area_bytes;
        if too_many || (grows && full) {
            return Err(Error::new(ErrorKind::NoSpace, "append to the catalog", "store").saying(format!(
                "the catalog is full with {} snapshots and {} runs; delete snapshots, or use a larger store",
                self.state.snapshots.len(),
                self.state.runs.len()
            )));
        }
        Ok(next)
    }

    async fn append_encoded<D: Disk>(&mut self, store: &D, encoded: &[u8], next: State) -> Result<()> {
        self.prepare(store, true).await?;
        if self.doubt {
            return self.replace_state(store, next).await;
        }
        let length_bytes = 2 * record::record_bytes(encoded.len()) as u64;
        if self.worn || self.position_bytes + length_bytes > self.superblock.area().end_bytes() {
            self.compact(store).await?;
        }
        let mut buffer = aligned_buffer(length_bytes as usize);
        record::encode(self.log(), self.sequence, Role::Appended, encoded, self.position_bytes, &mut buffer);
        let Err(error) = store.write_durable(self.position_bytes, &buffer).await else {
            self.position_bytes += length_bytes;
            self.sequence += 1;
            self.state = next;
            return Ok(());
        };
        // Whether the record is on the store cannot be known. A checkpoint of a fresh generation decides it.
        self.doubt = true;
        self.replace_state(store, next).await.map_err(|_| error)
    }

    async fn replace_state<D: Disk>(&mut self, store: &D, next: State) -> Result<()> {
        self.switch_area(store, &next).await?;
        self.state = next;
        Ok(())
    }

    /// What must hold before anything is written: permission, durability of what was read, a superblock without doubt.
    async fn prepare<D: Disk>(&mut self, store: &D, superblock_too: bool) -> Result<()> {
        if self.read_only {
            return Err(Error::new(ErrorKind::ReadOnly, "write the catalog", "store")
                .saying("the store uses features that this program may only read; use a newer Cairn"));
        }
        if !self.settled {
            store.flush().await?;
            self.settled = true;
        }
        if self.superblock_stale && superblock_too {
            self.write_superblock(store, |_| {}).await?;
        }
        Ok(())
    }

    async fn write_superblock<D: Disk>(&mut self, store: &D, change: impl FnOnce(&mut Superblock)) -> Result<()> {
        let mut next = self.superblock.clone();
        next.catalog.records_min = self.sequence;
        change(&mut next);
        self.superblock_stale = true;
        let result = superblock::write_both(store, &mut next).await;
        // The sequence counts the attempt: the next one must win over what this one may have left behind.
        self.superblock.sequence = next.sequence;
        result?;
        self.superblock = next;
        self.superblock_stale = false;
        Ok(())
    }

    /// Writes `state` to the other area and points the superblock there.
    async fn switch_area<D: Disk>(&mut self, store: &D, state: &State) -> Result<()> {
        let generation = self.superblock.catalog.generation_reserved + 1;
        self.write_superblock(store, |superblock| superblock.catalog.generation_reserved = generation).await?;
        let log = LogIdentity { store_id: self.superblock.store_id, generation };
        let area = self.superblock.area_other();
        let written = write_checkpoint(store, area, log, state).await?;
        let before = self.superblock.catalog;
        let previous = if self.doubt { (0, 0) } else { (before.generation, self.sequence) };
        let place = CatalogPlace {
            area_current: 1 - before.area_current,
            generation,
            generation_reserved: generation,
            checkpoint_records: written.records,
            checkpoint_bytes: written.length_bytes,
            records_min: written.records,
            previous_generation: previous.0,
            previous_records: previous.1,
        };
        self.write_superblock(store, |superblock| superblock.catalog = place).await?;
        self.position_bytes = area.offset_bytes + written.length_bytes;
        self.sequence = written.records;
        self.doubt = false;
        self.worn = false;
        Ok(())
    }

    /// Reads the current area, the previous one in place of a checkpoint that cannot be read.
    async fn replay<D: Disk>(&mut self, store: &D) -> Result<()> {
        let (area, place) = (self.superblock.area(), self.superblock.catalog);
        let checkpoint_end_bytes = area.offset_bytes + place.checkpoint_bytes;
        let mut reader = LogReader::new(store, area, self.log(), area.offset_bytes, 0);
        match self.replay_records(&mut reader, place.checkpoint_records).await {
            Ok(Role::CheckpointLast) if reader.position_bytes == checkpoint_end_bytes => {}
            Ok(_) => return Err(reader.lost("the checkpoint ends in another place than it should")),
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Io) => {
                self.replay_previous(store, error).await?;
                reader = LogReader::new(store, area, self.log(), checkpoint_end_bytes, place.checkpoint_records);
            }
            Err(error) => return Err(error),
        }
        while let Some(record) = reader.next().await? {
            if record.role != Role::Appended {
                return Err(reader.lost("a record of a checkpoint follows the checkpoint's last"));
            }
            self.take(&record)?;
        }
        if reader.sequence < place.records_min {
            return Err(reader.lost(&format!("only {} of {} records are left", reader.sequence, place.records_min)));
        }
        self.position_bytes = reader.position_bytes;
        self.sequence = reader.sequence;
        Ok(())
    }

    /// Applies the next `count` records, which must all be there; returns the role of the last.
    async fn replay_records<D: Disk>(&mut self, reader: &mut LogReader<'_, D>, count: u64) -> Result<Role> {
        let mut role = Role::Appended;
        for _ in 0..count {
            let Some(record) = reader.next().await? else {
                return Err(reader.lost(&format!("record {} of {count} is lost", reader.sequence)));
            };
            self.take(&record)?;
            role = record.role;
        }
        Ok(role)
    }

    /// Rebuilds the state that the unreadable checkpoint repeated from the log it was made of. That log stays where it
    /// is until the current one is full, so the catalog can be opened this way again and again.
    async fn replay_previous<D: Disk>(&mut self, store: &D, error: Error) -> Result<()> {
        let place = self.superblock.catalog;
        if place.previous_generation == 0 {
            return Err(error);
        }
        let area = self.superblock.area_other();
        let log = LogIdentity { store_id: self.superblock.store_id, generation: place.previous_generation };
        self.state = State::new(self.superblock.geometry.segment_count);
        let mut reader = LogReader::new(store, area, log, area.offset_bytes, 0);
        self.replay_records(&mut reader, place.previous_records).await.map_err(|_| error)?;
        self.repairs += 1;
        self.worn = false;
        Ok(())
    }

    fn take(&mut self, record: &log::Record) -> Result<()> {
        for item in &record.items {
            self.state.apply(item)?;
        }
        self.worn |= record.damaged;
        self.repairs += u64::from(record.damaged);
        Ok(())
    }
}

/// How much a checkpoint took.
struct Written {
    records: u64,
    length_bytes: u64,
}

/// Writes a state as the first records of an area, durable on return.
async fn write_checkpoint<D: Disk>(store: &D, area: Area, log: LogIdentity, state: &State) -> Result<Written> {
    let chunks = pack(&state.checkpoint());
    let length_bytes: usize = chunks.iter().map(|chunk| 2 * record::record_bytes(chunk.len())).sum();
    if length_bytes as u64 > area.length_bytes {
        return Err(Error::new(ErrorKind::NoSpace, "write a catalog checkpoint", "store")
            .saying(format!("{length_bytes} bytes do not fit in {}; delete snapshots", area.length_bytes)));
    }
    let mut buffer = aligned_buffer(2 * RECORD_BYTES_MAX);
    let mut position_bytes = area.offset_bytes;
    for (sequence, chunk) in chunks.iter().enumerate() {
        let role = if sequence + 1 == chunks.len() { Role::CheckpointLast } else { Role::Checkpoint };
        let length_bytes = record::encode(log, sequence as u64, role, chunk, position_bytes, &mut buffer);
        store.write(position_bytes, &buffer[..length_bytes]).await?;
        position_bytes += length_bytes as u64;
    }
    store.flush().await?;
    Ok(Written { records: chunks.len() as u64, length_bytes: length_bytes as u64 })
}

/// The bytes of the items in pieces that fit in a record each; at least one piece.
fn pack(items: &[Item]) -> Vec<Vec<u8>> {
    let mut chunks = vec![Vec::new()];
    for item in items {
        let encoded = record::encode_items(std::slice::from_ref(item));
        let last = chunks.last_mut().expect("there is always one");
        if last.len() + encoded.len() > RECORD_ITEMS_BYTES_MAX {
            chunks.push(encoded);
        } else {
            last.extend_from_slice(&encoded);
        }
    }
    chunks
}
