//! The kernel's own snapshots: dm-snapshot with chunks of 4 KiB, dm-thin with blocks of 64 KiB, as LVM makes them.
//!
//! Invariants:
//! - Each dm-snapshot has a store of its own, which no other contender can count on.
//! - A thin volume is provisioned before it is snapshotted, so that a first write copies.

use super::contender::{fill, open_direct};
use super::disk::Disk;
use super::run;
use crate::turns::{device_target, Stack};
use anyhow::{Context, Result};
use cairn_engine::disk::aligned_buffer;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Sectors of a chunk of dm-snapshot: LVM's default, 4 KiB.
const CHUNK_SECTORS: u64 = 8;
/// Sectors of a block of dm-thin: LVM's default, 64 KiB.
const THIN_BLOCK_SECTORS: u64 = 128;

fn create(name: &str, table: &str) -> Result<PathBuf> {
    run("dmsetup", &["create", name, "--table", table])?;
    run("dmsetup", &["mknodes"])?;
    Ok(Path::new("/dev/mapper").join(name))
}

/// What a store says of itself is gone.
fn wipe(store: &Disk) -> Result<()> {
    let (file, zeroes) = (open_direct(&store.path())?, aligned_buffer(4096));
    file.write_all_at(&zeroes, 0).with_context(|| format!("{} cannot be wiped", store.path().display()))
}

/// Does what has to see a device that nobody writes to.
fn while_suspended(name: &str, change: impl FnOnce() -> Result<()>) -> Result<()> {
    run("dmsetup", &["suspend", name])?;
    change()?;
    run("dmsetup", &["resume", name])?;
    Ok(())
}

/// A disk with persistent dm-snapshots.
pub struct DmSnapshot {
    name: String,
    sectors: u64,
    path: PathBuf,
    origin: [Disk; 1],
    stores: Vec<Disk>,
    taken: bool,
}

impl DmSnapshot {
    /// As many snapshots as there are stores.
    pub fn new(name: &str, size_mib: u64, origin: Disk, stores: Vec<Disk>) -> Result<DmSnapshot> {
        let sectors = size_mib * 2048;
        let path = create(name, &format!("0 {sectors} snapshot-origin {}", origin.path().display()))?;
        Ok(DmSnapshot { name: name.to_owned(), sectors, path, origin: [origin], stores, taken: false })
    }

    fn snapshot_name(&self, index: usize) -> String {
        format!("{}-{index}", self.name)
    }
}

impl Stack for DmSnapshot {
    fn target(&self) -> Vec<String> {
        device_target(&self.path)
    }
    fn origin(&self) -> &[Disk] {
        &self.origin
    }
    fn stores(&self) -> &[Disk] {
        &self.stores
    }
    fn renew_snapshots(&mut self) -> Result<()> {
        while_suspended(&self.name, || {
            for (index, store) in self.stores.iter().enumerate() {
                let name = self.snapshot_name(index);
                if self.taken {
                    run("dmsetup", &["remove", &name])?;
                }
                wipe(store)?;
                let (origin, store) = (self.origin[0].path(), store.path());
                let (sectors, origin, store) = (self.sectors, origin.display(), store.display());
                create(&name, &format!("0 {sectors} snapshot {origin} {store} P {CHUNK_SECTORS}"))?;
            }
            Ok(())
        })?;
        self.taken = true;
        Ok(())
    }
}

/// A thin volume with snapshots of it.
pub struct DmThin {
    name: String,
    path: PathBuf,
    data: [Disk; 1],
    metadata: [Disk; 1],
    snapshots: u32,
    taken: bool,
}

impl DmThin {
    /// A provisioned thin volume that is going to have so many snapshots.
    pub fn new(name: &str, size_mib: u64, data: Disk, metadata: Disk, snapshots: u32) -> Result<DmThin> {
        wipe(&metadata)?;
        let data_sectors: u64 = run("blockdev", &["--getsz", &data.path().display().to_string()])?.trim().parse()?;
        let (metadata_path, data_path) = (metadata.path(), data.path());
        let (metadata_path, data_path) = (metadata_path.display(), data_path.display());
        let pool = format!("{name}-pool");
        let table = format!(
            "0 {data_sectors} thin-pool {metadata_path} {data_path} {THIN_BLOCK_SECTORS} 0 1 skip_block_zeroing"
        );
        let pool_path = create(&pool, &table)?;
        run("dmsetup", &["message", &pool, "0", "create_thin 0"])?;
        let path = create(name, &format!("0 {} thin {} 0", size_mib * 2048, pool_path.display()))?;
        fill(&path, size_mib << 20)?;
        Ok(DmThin { name: name.to_owned(), path, data: [data], metadata: [metadata], snapshots, taken: false })
    }
}

impl Stack for DmThin {
    fn target(&self) -> Vec<String> {
        device_target(&self.path)
    }
    fn origin(&self) -> &[Disk] {
        &self.data
    }
    fn stores(&self) -> &[Disk] {
        &self.metadata
    }
    fn renew_snapshots(&mut self) -> Result<()> {
        let pool = format!("{}-pool", self.name);
        while_suspended(&self.name, || {
            for number in 1..=self.snapshots {
                if self.taken {
                    run("dmsetup", &["message", &pool, "0", &format!("delete {number}")])?;
                }
                run("dmsetup", &["message", &pool, "0", &format!("create_snap {number} 0")])?;
            }
            Ok(())
        })?;
        self.taken = true;
        Ok(())
    }
}
