//! Reading the catalog: the current log, and the previous one in place of a checkpoint that cannot be read.
//!
//! Invariants:
//! - The state that comes out is the one that was acknowledged last, or reading fails; never an older one.
//! - Reading writes nothing.

use crate::catalog::log::{LogReader, Record};
use crate::catalog::record::{LogIdentity, Role};
use crate::catalog::state::State;
use crate::catalog::Catalog;
use crate::disk::Disk;
use crate::error::{Error, ErrorKind, Result};

impl Catalog {
    /// Reads the current area, the previous one in place of a checkpoint that cannot be read.
    pub(super) async fn replay<D: Disk>(&mut self, store: &D) -> Result<()> {
        let (area, place) = (self.superblock.area(), self.superblock.catalog);
        let checkpoint_end_bytes = area.offset_bytes + place.checkpoint_bytes;
        let reader = LogReader::new(store, area, self.log(), area.offset_bytes, 0);
        let mut reader = reader.with_own_from(place.records_found);
        match self.replay_records(&mut reader, place.checkpoint_records).await {
            Ok(Role::CheckpointLast) if reader.position_bytes == checkpoint_end_bytes => {}
            Ok(_) => return Err(reader.lost("the checkpoint ends in another place than it should")),
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Io) => {
                self.replay_previous(store, error).await?;
                reader = LogReader::new(store, area, self.log(), checkpoint_end_bytes, place.checkpoint_records)
                    .with_own_from(place.records_found);
            }
            Err(error) => return Err(error),
        }
        let mut start_bytes = reader.position_bytes;
        while let Some(record) = reader.next().await? {
            if record.role != Role::Appended {
                return Err(reader.lost("a record of a checkpoint follows the checkpoint's last"));
            }
            self.take(&record)?;
            self.last_record = Some(start_bytes..reader.position_bytes);
            start_bytes = reader.position_bytes;
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
        self.state = read_previous(store, self).await.ok_or(error)?;
        self.repairs += 1;
        self.worn = false;
        self.checkpoint_lost = true;
        Ok(())
    }

    fn take(&mut self, record: &Record) -> Result<()> {
        for item in &record.items {
            self.state.apply(item)?;
        }
        self.worn |= record.damaged;
        self.repairs += u64::from(record.damaged);
        Ok(())
    }
}

/// The state that the checkpoint of the current area repeats, from the log it was made of; none where there is no such
/// log or it cannot be read.
pub(super) async fn read_previous<D: Disk>(store: &D, catalog: &Catalog) -> Option<State> {
    let place = catalog.superblock.catalog;
    if place.previous_generation == 0 {
        return None;
    }
    let area = catalog.superblock.area_other();
    let log = LogIdentity { generation: place.previous_generation, ..catalog.log() };
    let mut state = State::new(catalog.superblock.geometry.segment_count);
    let mut reader = LogReader::new(store, area, log, area.offset_bytes, 0);
    for _ in 0..place.previous_records {
        for item in reader.next().await.ok()??.items {
            state.apply(&item).ok()?;
        }
    }
    Some(state)
}
