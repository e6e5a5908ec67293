//! Makes a frame ready to be written: hashed, compressed where that helps, summed.
//!
//! Invariants:
//! - A compressed frame is shorter than its content; a frame that would not be is written as it is.

use crate::extent::{Extent, ExtentKind};
use crate::record::{Description, Encoding};
use std::io;
use zstd::bulk::Compressor;

/// A data frame that is to be sealed.
pub(super) struct Job {
    pub(super) offset_bytes: u64,
    pub(super) plain: Vec<u8>,
    /// Room for the compressed content; only its memory counts.
    pub(super) scratch: Vec<u8>,
}

/// A data frame that only lacks its head.
pub(super) struct Sealed {
    pub(super) description: Description,
    /// As it is written.
    pub(super) content: Vec<u8>,
    /// The other buffer of the job, not needed any more.
    pub(super) spare: Vec<u8>,
    /// CRC32C of description and content.
    pub(super) checksum: u32,
}

impl Sealed {
    pub(super) fn extent(&self) -> Extent {
        Extent {
            offset_bytes: self.description.offset_bytes,
            length_bytes: u64::from(self.description.length_bytes),
            kind: ExtentKind::Data,
        }
    }
}

/// Seals frames, one after the other.
pub(super) struct Sealer {
    compressor: Option<Compressor<'static>>,
}

impl Sealer {
    /// Compresses only with a level.
    pub(super) fn new(zstd_level: Option<i32>) -> io::Result<Sealer> {
        Ok(Sealer { compressor: zstd_level.map(Compressor::new).transpose()? })
    }

    pub(super) fn seal(&mut self, job: Job) -> Sealed {
        let Job { offset_bytes, plain, mut scratch } = job;
        let digest = *blake3::hash(&plain).as_bytes();
        let length_bytes = u32::try_from(plain.len()).expect("a frame is at most 4 MiB");
        let (encoding, content, spare) = match self.compress(&plain, &mut scratch) {
            true => (Encoding::Zstd, scratch, plain),
            false => (Encoding::Raw, plain, scratch),
        };
        let description = Description { offset_bytes, length_bytes, encoding, digest };
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&description.to_bytes()), &content);
        Sealed { description, content, spare, checksum }
    }

    /// Puts the compressed content into `scratch` and says true, where that is shorter.
    fn compress(&mut self, plain: &[u8], scratch: &mut Vec<u8>) -> bool {
        let Some(compressor) = &mut self.compressor else { return false };
        // Room for one byte less than there is: what does not fit would not be shorter.
        scratch.resize(plain.len() - 1, 0);
        match compressor.compress_to_buffer(plain, &mut scratch[..]) {
            Ok(length) => {
                scratch.truncate(length);
                true
            }
            Err(_) => false,
        }
    }
}
