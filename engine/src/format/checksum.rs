//! Checksums: CRC32C, salted so that only the right block in the right place and life is valid.
//!
//! Invariants:
//! - A block of another kind, at another address, or of an older incarnation never passes for the one expected.
//! - Before-images carry a plain CRC32C of their 4096 bytes: they move between segments without being rewritten.

/// What a checksummed block is; every kind has its own salt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One copy of the superblock.
    Superblock,
    /// One copy of a catalog record.
    CatalogRecord,
    /// A batch of before-images inside a segment.
    SegmentRecord,
    /// A page of a run.
    RunPage,
}

impl Kind {
    fn salt(self) -> [u8; 8] {
        match self {
            Kind::Superblock => *b"cairn-sb",
            Kind::CatalogRecord => *b"cairn-ca",
            Kind::SegmentRecord => *b"cairn-se",
            Kind::RunPage => *b"cairn-ru",
        }
    }
}

/// CRC32C over the salt of `kind`, the block's own byte address on the store, its incarnation, and then `bytes`.
pub fn salted(kind: Kind, self_address: u64, incarnation: u64, bytes: &[u8]) -> u32 {
    let mut salt = [0u8; 24];
    salt[..8].copy_from_slice(&kind.salt());
    salt[8..16].copy_from_slice(&self_address.to_le_bytes());
    salt[16..].copy_from_slice(&incarnation.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&salt), bytes)
}

/// CRC32C of a before-image.
pub fn image(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kind_place_and_life_are_part_of_the_checksum() {
        let right = salted(Kind::RunPage, 4096, 7, b"page");
        assert_eq!(right, salted(Kind::RunPage, 4096, 7, b"page"));
        assert_ne!(right, salted(Kind::SegmentRecord, 4096, 7, b"page"));
        assert_ne!(right, salted(Kind::RunPage, 8192, 7, b"page"));
        assert_ne!(right, salted(Kind::RunPage, 4096, 8, b"page"));
        assert_ne!(right, salted(Kind::RunPage, 4096, 7, b"pagf"));
    }

    #[test]
    fn images_carry_the_standard_crc32c() {
        assert_eq!(image(b"123456789"), 0xe306_9283);
    }
}
