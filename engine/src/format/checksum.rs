//! CRC32C, salted so that a structure read from the wrong place or an older life of the place never verifies.
//!
//! Invariants:
//! - The salt (kind of structure, its own byte address, incarnation) is part of every structure's checksum.
//! - Images are plain: their checksum moves with them when they are copied.

/// What is checksummed; different kinds never verify as each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A superblock.
    Superblock,
    /// A record of the catalog.
    CatalogRecord,
    /// A record of before-images inside a segment.
    SegmentRecord,
    /// A page of an index run.
    RunPage,
}

impl Kind {
    fn salt(self) -> &'static [u8; 8] {
        match self {
            Kind::Superblock => b"superblk",
            Kind::CatalogRecord => b"catalog ",
            Kind::SegmentRecord => b"segment ",
            Kind::RunPage => b"run page",
        }
    }
}

/// The checksum of `bytes` as a structure of `kind` that lies at byte `self_address` in its `incarnation`.
pub fn salted(kind: Kind, self_address: u64, incarnation: u64, bytes: &[u8]) -> u32 {
    let mut salt = [0u8; 24];
    salt[..8].copy_from_slice(kind.salt());
    salt[8..16].copy_from_slice(&self_address.to_le_bytes());
    salt[16..].copy_from_slice(&incarnation.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&salt), bytes)
}

/// The checksum of one image.
pub fn image(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kind_address_and_incarnation_are_part_of_the_checksum() {
        let base = salted(Kind::RunPage, 4096, 7, b"page");
        assert_ne!(base, salted(Kind::SegmentRecord, 4096, 7, b"page"));
        assert_ne!(base, salted(Kind::RunPage, 8192, 7, b"page"));
        assert_ne!(base, salted(Kind::RunPage, 4096, 8, b"page"));
        assert_ne!(base, salted(Kind::RunPage, 4096, 7, b"pagf"));
    }
}
