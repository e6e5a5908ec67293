//! A run: an immutable sorted index of entries, a static tree of pages on the store (mission A5).
//!
//! Invariants:
//! - A run is written once, front to back, and never changed; its id is never used again.
//! - The root is the last page; a page's children lie before it.
//! - Every page names its run and its number and carries a checksum salted with its own store address, so that a page
//!   is either exactly what was written there for this run or is reported as corrupt.
//! - A lookup reads at most `height` pages, and none that the cache holds.

mod cache;
mod cursor;
mod layout;
mod merge;
mod page;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub use cache::PageCache;
pub use cursor::Cursor;
pub use layout::{pages_for, RunLayout, RunMeta, RunShape, ENTRIES_MAX, HEIGHT_MAX, PAGE_BYTES};
pub use merge::{Merge, Merged};
pub use page::Page;
pub use reader::Run;
pub use writer::{RunWriter, WrittenRun};
