//! What disks are on this machine, and which are fit for which role (mission D7).
//!
//! Invariants:
//! - Nothing is written, and nothing is held longer than a look takes.
//! - A device is fit only when every reason against it was looked for; what cannot be looked at is a reason.

pub mod signature;
pub mod sysfs;

use cairn_target::device::{mount_points_of, users_of, DeviceNumber};
use serde::Serialize;
use signature::Content;
use std::fs::OpenOptions;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use sysfs::BlockDevice;

/// A store below this size cannot hold its own metadata and a few segments.
pub const STORE_BYTES_MIN: u64 = 16 << 20;
/// An origin below this size is no disk anyone puts a filesystem on.
pub const ORIGIN_BYTES_MIN: u64 = 4096;

/// How the reason begins that `--force` overrules.
const HAS_DATA: &str = "has data";

/// Whether a device may take a role, and why not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fitness {
    /// Nothing speaks against it.
    pub fit: bool,
    /// What speaks against it, in words for people; empty where it is fit.
    pub why_not: Vec<String>,
}

/// One disk, as `cairn devices` tells it.
#[derive(Clone, Debug, Serialize)]
pub struct Device {
    /// Path of its node.
    pub path: PathBuf,
    /// `disk`, `partition`, `loop`, `dm`, `md`, `ublk` ...
    pub kind: &'static str,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Logical sector in bytes.
    pub logical_sector_bytes: u32,
    /// It takes no writes.
    pub read_only: bool,
    /// It could be looked into; where not, nothing is known of its content.
    pub readable: bool,
    /// What was recognised on it; none where it is blank.
    pub content: Option<Content>,
    /// Somebody uses it now: it is mounted, swap, under another device, or held by a program.
    pub in_use: bool,
    /// Where it, or a part of it, is mounted.
    pub mounted_at: Vec<PathBuf>,
    /// Fit as origin.
    pub origin: Fitness,
    /// Fit as store.
    pub store: Fitness,
}

impl Device {
    /// What speaks against it as store even if all it holds may be lost.
    pub fn against_store_whatever_it_holds(&self) -> Vec<String> {
        let about_content = |reason: &&String| !reason.starts_with(HAS_DATA);
        self.store.why_not.iter().filter(about_content).cloned().collect()
    }
}

/// What is known of roles that devices have in configured volumes: path of the device, and the role in words.
pub type Roles = Vec<(PathBuf, String)>;

/// Every disk of this machine that has a size, ordered by name.
pub fn devices(roles: &Roles) -> std::io::Result<Vec<Device>> {
    Ok(sysfs::block_devices()?.iter().map(|block| judge(block, roles)).collect())
}

/// One disk by the path of its node. None where it is no block device.
pub fn device(path: &Path, roles: &Roles) -> std::io::Result<Option<Device>> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.file_type().is_block_device() {
        return Ok(None);
    }
    let block = sysfs::block_device(DeviceNumber::from_raw(metadata.rdev()))?;
    Ok(Some(judge(&block, roles)))
}

fn judge(block: &BlockDevice, roles: &Roles) -> Device {
    let probed = signature::probe(&block.path, block.size_bytes);
    let in_use = in_use(block);
    let is_in_use = !in_use.is_empty();
    let mut against_both = in_use;
    against_both.extend(roles_of(block, roles));
    if block.read_only {
        against_both.push("read-only".to_owned());
    }
    if block.kind == "ublk" {
        against_both.push("served by a process of this machine (ublk): it may be a Cairn volume itself".to_owned());
    }
    let mut against_origin = against_both.clone();
    let mut against_store = against_both;
    if block.size_bytes < ORIGIN_BYTES_MIN {
        against_origin.push("too small".to_owned());
    }
    if block.size_bytes < STORE_BYTES_MIN {
        against_store.push(format!("too small: a store needs {} MiB", STORE_BYTES_MIN >> 20));
    }
    let readable = probed.is_ok();
    let content = match probed {
        Ok(content) => content,
        Err(error) => {
            let why = format!("cannot be read: {error}");
            against_origin.push(why.clone());
            against_store.push(why);
            None
        }
    };
    match &content {
        Some(content) if content.kind == signature::CAIRN_STORE => {
            against_origin.push("is a Cairn store".to_owned());
            against_store.push(format!("{HAS_DATA}: a Cairn store"));
        }
        Some(content) => against_store.push(format!("{HAS_DATA}: {content}")),
        None => {}
    }
    Device {
        path: block.path.clone(),
        kind: block.kind,
        size_bytes: block.size_bytes,
        logical_sector_bytes: block.logical_sector_bytes,
        read_only: block.read_only,
        readable,
        content,
        in_use: is_in_use,
        mounted_at: mount_points_of(block.number),
        origin: fitness(against_origin),
        store: fitness(against_store),
    }
}

fn fitness(why_not: Vec<String>) -> Fitness {
    Fitness { fit: why_not.is_empty(), why_not }
}

/// Who uses the device or a part of it now: mounts, swap, devices built on it, and whoever holds it exclusively.
fn in_use(block: &BlockDevice) -> Vec<String> {
    let mut reasons = users_of(block.number);
    if reasons.is_empty() && held_exclusively(&block.path) {
        reasons.push("held by another program".to_owned());
    }
    reasons
}

/// Whether somebody has claimed the device, as mounts, swap, md, dm and Cairn do.
fn held_exclusively(path: &Path) -> bool {
    let exclusive = OpenOptions::new().read(true).custom_flags(libc::O_EXCL | libc::O_NONBLOCK).open(path);
    exclusive.is_err_and(|error| error.kind() == std::io::ErrorKind::ResourceBusy)
}

fn roles_of(block: &BlockDevice, roles: &Roles) -> Vec<String> {
    let same = |path: &Path| {
        std::fs::metadata(path)
            .is_ok_and(|m| m.file_type().is_block_device() && DeviceNumber::from_raw(m.rdev()) == block.number)
    };
    roles.iter().filter(|(path, _)| same(path)).map(|(_, role)| format!("is {role}")).collect()
}
