//! Who uses a device: mounts, swap, device-mapper, software RAID, loop devices.
//!
//! Invariants:
//! - Looking never opens the device.
//! - Mounts are looked for in the namespace of the first process too, because a target lives in its own.

use super::limits::read_text;
use super::DeviceNumber;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Where a block device, or one of its partitions, is mounted; sorted.
pub fn mount_points_of(number: DeviceNumber) -> Vec<PathBuf> {
    let numbers = with_partitions(number);
    let mut points = BTreeSet::new();
    for table in ["/proc/self/mountinfo", "/proc/1/mountinfo"] {
        let text = std::fs::read_to_string(table).unwrap_or_default();
        for mount in text.lines().filter_map(Mount::parse) {
            if numbers.contains(&mount.number) || mount.is_of(&numbers) {
                points.insert(mount.point);
            }
        }
    }
    points.into_iter().collect()
}

/// Everything known to use a block device or one of its partitions, as phrases for people.
pub fn users_of(number: DeviceNumber) -> Vec<String> {
    let mut users: Vec<String> =
        mount_points_of(number).iter().map(|point| format!("mounted on {}", point.display())).collect();
    for member in with_partitions(number) {
        let directory = PathBuf::from(format!("/sys/dev/block/{member}"));
        for holder in directory_names(&directory.join("holders")) {
            let name = read_text(&PathBuf::from(format!("/sys/block/{holder}/dm/name"))).unwrap_or(holder);
            users.push(format!("part of {name}"));
        }
    }
    for line in std::fs::read_to_string("/proc/swaps").unwrap_or_default().lines().skip(1) {
        let Some(path) = line.split_whitespace().next() else { continue };
        let swap = rustix::fs::stat(path).map(|stat| DeviceNumber::from_raw(stat.st_rdev));
        if swap.is_ok_and(|swap| with_partitions(number).contains(&swap)) {
            users.push("swap space".to_owned());
        }
    }
    users
}

/// The loop device attached to a file, if there is one.
pub(super) fn loop_device_over(path: &Path) -> Option<String> {
    let path = std::fs::canonicalize(path).ok()?;
    directory_names(Path::new("/sys/block")).into_iter().find_map(|name| {
        let backing = read_text(&PathBuf::from(format!("/sys/block/{name}/loop/backing_file")))?;
        (Path::new(&backing) == path).then(|| format!("/dev/{name}"))
    })
}

/// One line of mountinfo.
pub(super) struct Mount {
    /// The device mounted; of major 0 for filesystems without one.
    pub number: DeviceNumber,
    /// Where.
    pub point: PathBuf,
    /// What was mounted, as it was named.
    pub source: String,
}

impl Mount {
    /// Parses `36 35 98:0 /root /point options - type source super`.
    pub fn parse(line: &str) -> Option<Mount> {
        let (fixed, rest) = line.split_once(" - ")?;
        let mut fields = fixed.split(' ');
        let (major, minor) = fields.nth(2)?.split_once(':')?;
        let point = unescape(fields.nth(1)?);
        let source = unescape(rest.split(' ').nth(1)?);
        let number = DeviceNumber { major: major.parse().ok()?, minor: minor.parse().ok()? };
        Some(Mount { number, point: PathBuf::from(point), source })
    }

    /// Whether a filesystem with a number of its own (btrfs) was mounted from one of these devices.
    fn is_of(&self, numbers: &[DeviceNumber]) -> bool {
        let is_named = self.number.major == 0 && self.source.starts_with("/dev/");
        is_named
            && rustix::fs::stat(&self.source).is_ok_and(|stat| numbers.contains(&DeviceNumber::from_raw(stat.st_rdev)))
    }
}

/// The mount point in one line of mountinfo.
pub fn mount_point_in(line: &str) -> Option<PathBuf> {
    Mount::parse(line).map(|mount| mount.point)
}

/// The names in a directory, sorted; none when it does not exist.
pub(super) fn directory_names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .map(|entries| entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
        .unwrap_or_default();
    names.sort();
    names
}

fn with_partitions(number: DeviceNumber) -> Vec<DeviceNumber> {
    let directory = PathBuf::from(format!("/sys/dev/block/{number}"));
    let mut numbers = vec![number];
    for name in directory_names(&directory) {
        let entry = directory.join(name);
        if entry.join("partition").exists() {
            numbers.extend(read_text(&entry.join("dev")).and_then(|text| parse_number(&text)));
        }
    }
    numbers
}

/// Parses `major:minor`.
pub(super) fn parse_number(text: &str) -> Option<DeviceNumber> {
    let (major, minor) = text.trim().split_once(':')?;
    Some(DeviceNumber { major: major.parse().ok()?, minor: minor.parse().ok()? })
}

/// Space, tab, newline and backslash are written in octal there.
fn unescape(field: &str) -> String {
    let mut text = field.to_owned();
    for (escaped, character) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        text = text.replace(escaped, character);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_line_is_understood() {
        let mount = Mount::parse("36 35 98:1 /sub /mnt/my\\040disk rw,noatime shared:1 - ext4 /dev/vdb1 rw")
            .expect("a line as the kernel writes it");
        assert_eq!(mount.number, DeviceNumber { major: 98, minor: 1 });
        assert_eq!(mount.point, Path::new("/mnt/my disk"));
        assert_eq!(mount.source, "/dev/vdb1");
        assert!(Mount::parse("nonsense").is_none());
    }
}
