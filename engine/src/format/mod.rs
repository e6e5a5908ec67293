//! What lies on the store, byte by byte. docs/FORMAT.md has the maps; the sizes are proven at compile time.

pub mod checksum;
pub mod geometry;
pub mod item;
pub mod record;
pub mod superblock;
