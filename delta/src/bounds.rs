//! Where extents may lie: ascending, apart from each other, made of whole blocks, inside the volume.
//!
//! Invariants:
//! - No sum of what a stream says overflows: it is refused before.

use crate::error::ErrorKind;
use crate::extent::Extent;

/// The volume that the extents of a stream lie in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Extents begin and end at multiples of this, or at the volume's end.
    pub(crate) block_bytes: u64,
    /// The volume's end.
    pub(crate) size_bytes: u64,
}

impl Bounds {
    /// Checks the extent that follows one ending at `previous_end_bytes`; returns where it ends.
    pub(crate) fn check(&self, previous_end_bytes: u64, extent: Extent) -> Result<u64, ErrorKind> {
        let Extent { offset_bytes, length_bytes, .. } = extent;
        if length_bytes == 0 {
            return Err(ErrorKind::Malformed("an extent is empty"));
        }
        if offset_bytes < previous_end_bytes {
            return Err(ErrorKind::Order { previous_end_bytes, offset_bytes });
        }
        let end_bytes = match offset_bytes.checked_add(length_bytes) {
            Some(end_bytes) if end_bytes <= self.size_bytes => end_bytes,
            _ => return Err(ErrorKind::BeyondSize { offset_bytes, length_bytes, size_bytes: self.size_bytes }),
        };
        let ends_well = end_bytes.is_multiple_of(self.block_bytes) || end_bytes == self.size_bytes;
        if !offset_bytes.is_multiple_of(self.block_bytes) || !ends_well {
            return Err(ErrorKind::Misaligned { offset_bytes, length_bytes });
        }
        Ok(end_bytes)
    }
}
