//! What is mounted where, and what is swap.

use super::sysfs::DeviceNumber;
use std::io::Result;
use std::path::{Path, PathBuf};

struct Mount {
    number: Option<DeviceNumber>,
    point: PathBuf,
    source: PathBuf,
}

/// The mounts and swap areas of this machine at one moment.
pub struct Mounts {
    mounts: Vec<Mount>,
    swaps: Vec<PathBuf>,
}

impl Mounts {
    /// Reads /proc.
    pub fn read() -> Result<Mounts> {
        // A kernel without swap has no /proc/swaps.
        let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
        Ok(Mounts::parse(&std::fs::read_to_string("/proc/self/mountinfo")?, &swaps))
    }

    fn parse(mountinfo: &str, swaps: &str) -> Mounts {
        let mounts = mountinfo.lines().filter_map(parse_mount).collect();
        let swaps = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next());
        Mounts { mounts, swaps: swaps.map(|path| resolved(Path::new(&unescape(path)))).collect() }
    }

    /// Where the device is mounted. Filesystems over several devices (btrfs) have a number of their own, so that the
    /// source is compared as well.
    pub fn points_of(&self, number: DeviceNumber, path: &Path) -> Vec<PathBuf> {
        let path = resolved(path);
        self.mounts
            .iter()
            .filter(|mount| mount.number == Some(number) || resolved(&mount.source) == path)
            .map(|mount| mount.point.clone())
            .collect()
    }

    /// Whether the device is in use as swap.
    pub fn is_swap(&self, path: &Path) -> bool {
        self.swaps.contains(&resolved(path))
    }
}

/// Nodes have several names (/dev/mapper, /dev/disk/by-id, /dev/cairn): the real one is compared.
fn resolved(path: &Path) -> PathBuf {
    if path.is_absolute() {
        std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
    } else {
        path.to_owned()
    }
}

/// `27 1 254:0 / /mnt rw,relatime shared:1 - ext4 /dev/vda rw`
fn parse_mount(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ');
    let number = DeviceNumber::parse(left.nth(2)?);
    let point = left.nth(1)?;
    let source = right.split(' ').nth(1)?;
    Some(Mount { number, point: unescape(point).into(), source: unescape(source).into() })
}

/// The kernel writes blanks, tabs, newlines and backslashes as three octal digits.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if first == b'\\' => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_number_and_by_source() {
        let mountinfo = "27 1 254:0 / / rw - ext4 /dev/vda rw\n\
                         31 27 0:40 / /mnt/with\\040blank rw shared:1 - btrfs /dev/none1 rw\n";
        let mounts = Mounts::parse(mountinfo, "Filename Type\n/dev/none2 partition 1 0 -2\n");
        let number = |major, minor| DeviceNumber { major, minor };
        assert_eq!(mounts.points_of(number(254, 0), Path::new("/dev/other")), [Path::new("/")]);
        assert_eq!(mounts.points_of(number(8, 1), Path::new("/dev/none1")), [Path::new("/mnt/with blank")]);
        assert!(mounts.points_of(number(8, 2), Path::new("/dev/none2")).is_empty());
        assert!(mounts.is_swap(Path::new("/dev/none2")) && !mounts.is_swap(Path::new("/dev/none1")));
    }
}
