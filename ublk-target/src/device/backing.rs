//! What a path ultimately lies on, so that Cairn never stands on itself.
//!
//! Invariants:
//! - A store, state directory or log is never placed on the volume it serves, nor on that volume's origin.
//! - What cannot be followed ends the chain; it is never guessed.

use super::limits::read_text;
use super::mounts::{directory_names, parse_number, Mount};
use super::{kind_of, DeviceKind, DeviceNumber};
use cairn_engine::error::{Error, ErrorKind, Result};
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// One thing a path lies on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Backing {
    /// A block device.
    Device(DeviceNumber),
    /// A file, by its canonical path.
    File(PathBuf),
}

/// Everything `path` lies on, itself included: partitions to their disk, device-mapper and RAID to their members, loop
/// devices to their files, files and directories to the device of their filesystem. A path that does not exist yet
/// counts as lying where its closest existing parent does.
pub fn backing_chain(path: &Path) -> Result<Vec<Backing>> {
    let existing = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    let failed = |source: std::io::Error| {
        Error::new(ErrorKind::Io, "find what it lies on", path.display().to_string()).caused_by(source)
    };
    let canonical = std::fs::canonicalize(existing).map_err(failed)?;
    let metadata = std::fs::metadata(&canonical).map_err(failed)?;
    let mut pending = if metadata.is_dir() {
        vec![Backing::Device(DeviceNumber::from_raw(metadata.dev()))]
    } else {
        match kind_of(&canonical)? {
            DeviceKind::Block { number } => vec![Backing::Device(number)],
            DeviceKind::File => vec![Backing::File(canonical)],
        }
    };
    let mut found = BTreeSet::new();
    while let Some(backing) = pending.pop() {
        if found.insert(backing.clone()) {
            pending.extend(lies_on(&backing));
        }
    }
    Ok(found.into_iter().collect())
}

/// Refuses `path` (called `what` in the error) when it lies on one of the `forbidden` paths or on what those lie
/// directly on: the origin, the volume's own device.
pub fn refuse_recursion(what: &'static str, path: &Path, forbidden: &[&Path]) -> Result<()> {
    let chain = backing_chain(path)?;
    for target in forbidden {
        if !target.exists() {
            continue;
        }
        let canonical = std::fs::canonicalize(target).unwrap_or_else(|_| target.to_path_buf());
        let target_backing = match kind_of(&canonical)? {
            DeviceKind::Block { number } => Backing::Device(number),
            DeviceKind::File => Backing::File(canonical),
        };
        if chain.contains(&target_backing) {
            return Err(Error::new(ErrorKind::Invalid, "place", path.display().to_string()).saying(format!(
                "the {what} would lie on {}, which it serves: every write would cause another. Put it on another disk",
                target.display()
            )));
        }
    }
    Ok(())
}

fn lies_on(backing: &Backing) -> Vec<Backing> {
    match backing {
        Backing::File(path) => {
            let Ok(metadata) = std::fs::metadata(path) else { return Vec::new() };
            vec![Backing::Device(DeviceNumber::from_raw(metadata.dev()))]
        }
        Backing::Device(number) if number.major == 0 => mounted_sources(*number),
        Backing::Device(number) => below_block_device(*number),
    }
}

fn below_block_device(number: DeviceNumber) -> Vec<Backing> {
    let Ok(directory) = std::fs::canonicalize(format!("/sys/dev/block/{number}")) else { return Vec::new() };
    let mut below = Vec::new();
    if directory.join("partition").exists() {
        let disk = directory.parent().and_then(|disk| read_text(&disk.join("dev")));
        below.extend(disk.and_then(|text| parse_number(&text)).map(Backing::Device));
    }
    for member in directory_names(&directory.join("slaves")) {
        let text = read_text(&directory.join("slaves").join(member).join("dev"));
        below.extend(text.and_then(|text| parse_number(&text)).map(Backing::Device));
    }
    below.extend(read_text(&directory.join("loop/backing_file")).map(|file| Backing::File(PathBuf::from(file))));
    below
}

/// A filesystem without a device number of its own (btrfs, overlay ...): the block devices it was mounted from.
fn mounted_sources(number: DeviceNumber) -> Vec<Backing> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounts = text.lines().filter_map(Mount::parse).filter(|mount| mount.number == number);
    let sources = mounts.map(|mount| PathBuf::from(mount.source)).filter(|source| source.is_absolute());
    sources
        .filter_map(|source| match kind_of(&source) {
            Ok(DeviceKind::Block { number }) => Some(Backing::Device(number)),
            _ => None,
        })
        .collect()
}
