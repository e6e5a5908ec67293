//! Recognises what a disk holds by the marks that filesystems and volume managers leave.
//!
//! Invariants:
//! - Reads only; at most two mebibytes.
//! - A disk is blank only where no mark is known **and** its first mebibyte is all zeroes: when in doubt, it has data.

use serde::Serialize;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Result};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// The kind of a Cairn store.
pub const CAIRN_STORE: &str = "cairn-store";
/// The kind of content that no entry of the table names.
pub const UNKNOWN: &str = "unknown";

/// How much of a disk's start is looked at for anything but zeroes.
const HEAD_BYTES: u64 = 1 << 20;

/// What a disk holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Content {
    /// `ext4`, `xfs`, `LVM2`, `gpt`, `cairn-store` ..., or `unknown`.
    pub kind: &'static str,
    /// The filesystem's label, where it has one and we know where it is.
    pub label: Option<String>,
}

struct Mark {
    kind: &'static str,
    /// From the start, or from the end where negative.
    offset_bytes: i64,
    magic: &'static [u8],
    /// Where the label is: offset and length in bytes.
    label: Option<(u64, usize)>,
}

const fn mark(kind: &'static str, offset_bytes: i64, magic: &'static [u8]) -> Mark {
    Mark { kind, offset_bytes, magic, label: None }
}

const fn labelled(kind: &'static str, offset_bytes: i64, magic: &'static [u8], at: u64, length: usize) -> Mark {
    Mark { kind, offset_bytes, magic, label: Some((at, length)) }
}

/// Ordered: what is more specific, or covers the rest, comes first.
const MARKS: [Mark; 29] = [
    mark(CAIRN_STORE, 0, b"CAIRNSTO"),
    mark("LUKS", 0, b"LUKS\xba\xbe"),
    mark("LVM2", 512, b"LABELONE"),
    mark("LVM2", 0, b"LABELONE"),
    mark("LVM2", 1024, b"LABELONE"),
    mark("LVM2", 1536, b"LABELONE"),
    mark("linux-raid", 4096, b"\xfc\x4e\x2b\xa9"),
    mark("linux-raid", 0, b"\xfc\x4e\x2b\xa9"),
    mark("linux-raid", -8192, b"\xfc\x4e\x2b\xa9"),
    mark("bcache", 4096 + 24, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca"),
    labelled("xfs", 0, b"XFSB", 108, 12),
    labelled("ext4", 1024 + 56, b"\x53\xef", 1024 + 120, 16),
    labelled("btrfs", 65_536 + 64, b"_BHRfS_M", 65_536 + 299, 64),
    labelled("f2fs", 1024, b"\x10\x20\xf5\xf2", 0, 0),
    mark("bcachefs", 4096 + 24, b"\xc6\x85\x73\xf6\x66\xce\x90\xa9"),
    mark("swap", 4086, b"SWAPSPACE2"),
    mark("swap", 4086, b"SWAP-SPACE"),
    mark("jfs", 32_768, b"JFS1"),
    mark("reiserfs", 65_536 + 52, b"ReIsEr"),
    mark("gfs2", 65_536, b"\x01\x16\x19\x70"),
    mark("ocfs2", 8192, b"OCFSV2"),
    mark("nilfs2", 1024 + 6, b"\x34\x34"),
    mark("erofs", 1024, b"\xe2\xe1\xf5\xe0"),
    mark("squashfs", 0, b"hsqs"),
    mark("ntfs", 3, b"NTFS    "),
    mark("exfat", 3, b"EXFAT   "),
    mark("iso9660", 32_769, b"CD001"),
    mark("gpt", 512, b"EFI PART"),
    mark("gpt", 4096, b"EFI PART"),
];

/// Marks looked for after those above: they are short, and code or data may look like them.
const WEAK_MARKS: [Mark; 4] = [
    labelled("vfat", 82, b"FAT32   ", 71, 11),
    labelled("vfat", 54, b"FAT", 43, 11),
    mark("zfs", 131_072, b"\x0c\xb1\xba\x00"),
    mark("partition table", 510, b"\x55\xaa"),
];

/// What the disk at `path`, `size_bytes` long, holds; none where it is blank.
pub fn probe(path: &Path, size_bytes: u64) -> Result<Option<Content>> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    for mark in MARKS.iter().chain(&WEAK_MARKS) {
        let offset_bytes = match mark.offset_bytes {
            from_end @ ..0 => size_bytes.saturating_sub(from_end.unsigned_abs()),
            from_start => from_start.unsigned_abs(),
        };
        if read_at(&file, offset_bytes, mark.magic.len())?.as_deref() == Some(mark.magic) {
            return Ok(Some(Content { kind: mark.kind, label: label_of(&file, mark)? }));
        }
    }
    let blank = is_zero(&file, HEAD_BYTES.min(size_bytes))?;
    Ok(if blank { None } else { Some(Content { kind: UNKNOWN, label: None }) })
}

fn label_of(file: &File, mark: &Mark) -> Result<Option<String>> {
    let Some((offset_bytes, length_bytes)) = mark.label else {
        return Ok(None);
    };
    let Some(bytes) = read_at(file, offset_bytes, length_bytes)? else {
        return Ok(None);
    };
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let label = String::from_utf8_lossy(&bytes[..end]).trim().to_owned();
    Ok(if label.is_empty() || label.chars().any(char::is_control) { None } else { Some(label) })
}

/// None where the disk ends before.
fn read_at(file: &File, offset_bytes: u64, length_bytes: usize) -> Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; length_bytes];
    match file.read_exact_at(&mut bytes, offset_bytes) {
        Ok(()) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_zero(file: &File, length_bytes: u64) -> Result<bool> {
    let mut bytes = vec![0; 64 << 10];
    let mut offset_bytes = 0;
    while offset_bytes < length_bytes {
        let want = bytes.len().min((length_bytes - offset_bytes) as usize);
        let got = file.read_at(&mut bytes[..want], offset_bytes)?;
        if bytes[..got].iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        if got == 0 {
            break;
        }
        offset_bytes += got as u64;
    }
    Ok(true)
}

impl fmt::Display for Content {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.label, self.kind) {
            (Some(label), kind) => write!(formatter, "{kind} {label:?}"),
            (None, UNKNOWN) => formatter.write_str("not blank, and of a kind Cairn does not know"),
            (None, kind) => formatter.write_str(kind),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(size_bytes: u64) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(size_bytes).unwrap();
        file
    }

    #[test]
    fn every_mark_of_the_table_is_recognised() {
        for mark in MARKS.iter().chain(&WEAK_MARKS) {
            let size_bytes = 4 << 20;
            let file = image(size_bytes);
            let at = if mark.offset_bytes < 0 { size_bytes as i64 + mark.offset_bytes } else { mark.offset_bytes };
            file.as_file().write_all_at(mark.magic, at as u64).unwrap();
            let content = probe(file.path(), size_bytes).unwrap().expect("not blank");
            assert_eq!(content.kind, mark.kind);
        }
    }

    #[test]
    fn zeroes_are_blank_and_anything_else_is_data() {
        let file = image(4 << 20);
        assert_eq!(probe(file.path(), 4 << 20).unwrap(), None);
        file.as_file().write_all_at(b"x", HEAD_BYTES - 1).unwrap();
        assert_eq!(probe(file.path(), 4 << 20).unwrap().unwrap().kind, UNKNOWN);
        let tiny = image(100);
        assert_eq!(probe(tiny.path(), 100).unwrap(), None);
    }

    #[test]
    fn the_label_of_a_filesystem_is_read() {
        let file = image(1 << 20);
        file.as_file().write_all_at(b"\x53\xef", 1024 + 56).unwrap();
        file.as_file().write_all_at(b"photos\0\0", 1024 + 120).unwrap();
        let content = probe(file.path(), 1 << 20).unwrap().unwrap();
        assert_eq!(content.to_string(), "ext4 \"photos\"");
    }
}
