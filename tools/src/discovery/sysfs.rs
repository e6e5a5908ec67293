//! What /sys tells of the machine's block devices.

use cairn_target::device::DeviceNumber;
use std::io::Result;
use std::path::{Path, PathBuf};

/// One block device.
#[derive(Clone, Debug)]
pub struct BlockDevice {
    /// Path of its node.
    pub path: PathBuf,
    /// Its number.
    pub number: DeviceNumber,
    /// `disk`, `partition`, `loop`, `dm`, `md`, `ublk` ...
    pub kind: &'static str,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Logical sector in bytes.
    pub logical_sector_bytes: u32,
    /// It takes no writes.
    pub read_only: bool,
}

/// Every block device that has a size, ordered by name.
pub fn block_devices() -> Result<Vec<BlockDevice>> {
    let mut devices = Vec::new();
    for entry in std::fs::read_dir("/sys/class/block")? {
        // A device that disappears between the listing and the look is no error.
        if let Ok(device) = read(&entry?.path()) {
            let is_memory = device.path.to_string_lossy().starts_with("/dev/ram");
            if device.size_bytes > 0 && !is_memory {
                devices.push(device);
            }
        }
    }
    devices.sort_by_key(|device| natural_key(&device.path));
    Ok(devices)
}

/// The block device with this number.
pub fn block_device(number: DeviceNumber) -> Result<BlockDevice> {
    read(Path::new(&format!("/sys/dev/block/{}:{}", number.major, number.minor)))
}

fn read(directory: &Path) -> Result<BlockDevice> {
    let directory = std::fs::canonicalize(directory)?;
    let name = name_of(&directory);
    let is_partition = directory.join("partition").exists();
    // A partition has no queue of its own: its disk has.
    let queue = if is_partition { directory.join("../queue") } else { directory.join("queue") };
    let sectors: u64 = number_in(&directory.join("size"))?;
    Ok(BlockDevice {
        path: node_of(&name),
        number: device_number(&directory)?,
        kind: kind_of(&name, is_partition),
        size_bytes: sectors * 512,
        logical_sector_bytes: number_in(&queue.join("logical_block_size")).map(|bytes| bytes as u32).unwrap_or(512),
        read_only: number_in(&directory.join("ro"))? != 0,
    })
}

fn device_number(directory: &Path) -> Result<DeviceNumber> {
    let text = std::fs::read_to_string(directory.join("dev"))?;
    let numbers =
        text.trim().split_once(':').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    let (major, minor) = numbers.ok_or_else(|| std::io::Error::other(format!("{}: no number", directory.display())))?;
    Ok(DeviceNumber { major, minor })
}

fn number_in(path: &Path) -> Result<u64> {
    std::fs::read_to_string(path)?.trim().parse().map_err(std::io::Error::other)
}

fn name_of(directory: &Path) -> String {
    directory.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Names in /sys write `!` where the node is in a subdirectory.
fn node_of(name: &str) -> PathBuf {
    Path::new("/dev").join(name.replace('!', "/"))
}

fn kind_of(name: &str, is_partition: bool) -> &'static str {
    const KINDS: [(&str, &str); 8] = [
        ("loop", "loop"),
        ("dm-", "dm"),
        ("md", "md"),
        ("ublk", "ublk"),
        ("nbd", "nbd"),
        ("zram", "zram"),
        ("sr", "optical"),
        ("rbd", "rbd"),
    ];
    if is_partition {
        return "partition";
    }
    KINDS.iter().find(|(prefix, _)| name.starts_with(prefix)).map_or("disk", |(_, kind)| kind)
}

/// Orders `sda2` before `sda10`.
fn natural_key(path: &Path) -> (String, u64) {
    let text = path.to_string_lossy();
    let stem = text.trim_end_matches(|c: char| c.is_ascii_digit());
    (stem.to_owned(), text[stem.len()..].parse().unwrap_or(0))
}
