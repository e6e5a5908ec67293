//! A picture of a volume: what it holds, and where it may hold anything because nothing is in use there.

use crate::holes::Holes;
use crate::units::{BLOCK_BYTES, TEAR_BYTES};

/// All of a volume or snapshot at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture {
    /// The content, whole sectors.
    pub content: Vec<u8>,
    /// The blocks that are not in use.
    pub holes: Holes,
}

impl Picture {
    /// Whether this sector is not in use.
    pub fn is_hole(&self, sector: u64) -> bool {
        self.holes.contains(sector * TEAR_BYTES as u64 / BLOCK_BYTES as u64)
    }

    /// Whether a volume that shows the picture may hold this in a sector.
    pub fn permits(&self, sector: u64, content: &[u8]) -> bool {
        self.is_hole(sector) || self.content.chunks(TEAR_BYTES).nth(sector as usize) == Some(content)
    }

    /// Whether a volume that shows the picture may hold all of this.
    pub fn permits_all(&self, content: &[u8]) -> bool {
        let mut sectors = (0..).zip(content.chunks(TEAR_BYTES));
        content.len() == self.content.len() && sectors.all(|(sector, content)| self.permits(sector, content))
    }
}
