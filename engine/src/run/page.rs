//! One page of a run: its bytes, and the checks they pass before anything in them is believed.
//!
//! Invariants:
//! - A page that passed `check` has the checksum of its own store address and run, the expected run, page number and
//!   first epoch, a count within bounds, and strictly ascending keys.
//! - An inner page holds the *last* key of each child: the first child whose last key is not below a wanted key holds
//!   that key's successor, so a descent never has to step aside.
//! - A child's page number is smaller than its parent's, so every descent ends.

use crate::disk::AlignedBuffer;
use crate::entry::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::format::checksum::{salted, Kind};
use crate::run::layout::PAGE_BYTES;
use crate::units::{BlockIndex, Epoch, BLOCK_MAX};
use std::mem::size_of;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Entries in a full leaf.
pub(super) const LEAF_ENTRIES_MAX: usize = (PAGE_BYTES - HEADER_BYTES) / size_of::<RawEntry>();
/// Children of a full inner page.
pub(super) const INNER_CHILDREN_MAX: usize = (PAGE_BYTES - HEADER_BYTES) / size_of::<RawChild>();
/// Block numbers and store addresses are 48 bits wide on the store.
pub(super) const NUMBER_MAX: u64 = BLOCK_MAX;

const HEADER_BYTES: usize = 32;
const MAGIC: u32 = u32::from_le_bytes(*b"CrnR");
/// The checksum covers everything from here on; the magic before it is compared as it is.
const CHECKED_FROM: usize = 8;

const _: () = assert!(size_of::<RawHeader>() == HEADER_BYTES);
const _: () = assert!(size_of::<RawEntry>() == 20);
const _: () = assert!(size_of::<RawChild>() == 14);
const _: () = assert!(LEAF_ENTRIES_MAX == 203 && INNER_CHILDREN_MAX == 290);

/// The order of entries.
pub(super) type Key = (BlockIndex, Epoch);

/// Bytes 0..32 of every page. docs/FORMAT.md, "Runs".
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: U32,       // 0
    checksum: U32,    // 4: CRC32C of bytes 8..4096, salted with the page's store byte and the run
    run: U64,         // 8
    first_epoch: U64, // 16: epochs in the page are relative to it
    page: U32,        // 24
    count: U16,       // 28: entries or children
    level: u8,        // 30: 0 for a leaf
    reserved: u8,     // 31: zero
}

/// An entry in a leaf; 203 of them start at byte 32.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawEntry {
    block: RawNumber,   // 0
    address: RawNumber, // 6: in 4 KiB blocks of the store; 0 for an unreadable block
    epoch: U32,         // 12: minus the run's first epoch
    checksum: U32,      // 16: of the image
}

/// A child in an inner page; 290 of them start at byte 32.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawChild {
    last_block: RawNumber, // 0
    last_epoch: U32,       // 6: minus the run's first epoch
    page: U32,             // 10
}

/// 48 bits, little endian.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(transparent)]
struct RawNumber([u8; 6]);

impl RawNumber {
    fn new(number: u64) -> RawNumber {
        assert!(number <= NUMBER_MAX, "{number} is wider than 48 bits");
        let mut bytes = [0; 6];
        bytes.copy_from_slice(&number.to_le_bytes()[..6]);
        RawNumber(bytes)
    }

    fn get(self) -> u64 {
        let mut bytes = [0; 8];
        bytes[..6].copy_from_slice(&self.0);
        u64::from_le_bytes(bytes)
    }
}

/// Which page of which run, and where on the store it lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct PageIdentity {
    pub run: u64,
    pub first_epoch: Epoch,
    pub page: u64,
    pub address_bytes: u64,
}

impl PageIdentity {
    /// The error for a page that is not what was written there.
    pub fn corrupt(&self, what: &str) -> Error {
        let (run, page) = (self.run, self.page);
        Error::new(ErrorKind::Corrupt, "read of an index page", "store").at(self.address_bytes).saying(format!(
            "page {page} of index run {run} {what}; snapshots that need it cannot be read: run `cairn check`, and \
             check the store device"
        ))
    }
}

/// A child of an inner page: its number and the last key under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Child {
    pub last: Key,
    pub page: u64,
}

/// Writes a leaf of `entries` (1..=[`LEAF_ENTRIES_MAX`], ascending) into `bytes`, one page.
pub(super) fn encode_leaf(identity: &PageIdentity, entries: &[Entry], bytes: &mut [u8]) {
    bytes.fill(0);
    let (slots, _) = <[RawEntry]>::mut_from_prefix_with_elems(&mut bytes[HEADER_BYTES..], entries.len())
        .expect("the entries of a leaf fit in it");
    for (slot, entry) in slots.iter_mut().zip(entries) {
        *slot = RawEntry {
            block: RawNumber::new(entry.block),
            address: RawNumber::new(entry.address),
            epoch: epoch_to_raw(identity, entry.epoch),
            checksum: entry.checksum.into(),
        };
    }
    seal(identity, 0, entries.len(), bytes);
}

/// Writes an inner page of `level` (from 1) over `children` (1..=[`INNER_CHILDREN_MAX`], ascending) into `bytes`.
pub(super) fn encode_inner(identity: &PageIdentity, level: u8, children: &[Child], bytes: &mut [u8]) {
    assert!(level > 0);
    bytes.fill(0);
    let (slots, _) = <[RawChild]>::mut_from_prefix_with_elems(&mut bytes[HEADER_BYTES..], children.len())
        .expect("the children of a page fit in it");
    for (slot, child) in slots.iter_mut().zip(children) {
        *slot = RawChild {
            last_block: RawNumber::new(child.last.0),
            last_epoch: epoch_to_raw(identity, child.last.1),
            page: u32::try_from(child.page).expect("a run has fewer than 2^32 pages").into(),
        };
    }
    seal(identity, level, children.len(), bytes);
}

fn epoch_to_raw(identity: &PageIdentity, epoch: Epoch) -> U32 {
    let delta = epoch.0.checked_sub(identity.first_epoch.0).expect("no entry is older than its run's first epoch");
    u32::try_from(delta).expect("the epochs of a run span fewer than 2^32").into()
}

fn seal(identity: &PageIdentity, level: u8, count: usize, bytes: &mut [u8]) {
    assert!(bytes.len() == PAGE_BYTES && count > 0);
    let mut header = RawHeader {
        magic: MAGIC.into(),
        checksum: 0.into(),
        run: identity.run.into(),
        first_epoch: identity.first_epoch.0.into(),
        page: u32::try_from(identity.page).expect("a run has fewer than 2^32 pages").into(),
        count: u16::try_from(count).expect("a page holds a few hundred slots").into(),
        level,
        reserved: 0,
    };
    bytes[..HEADER_BYTES].copy_from_slice(header.as_bytes());
    header.checksum = salted(Kind::RunPage, identity.address_bytes, identity.run, &bytes[CHECKED_FROM..]).into();
    bytes[..HEADER_BYTES].copy_from_slice(header.as_bytes());
}

/// A page in memory that passed every check when it was read.
pub struct Page {
    bytes: AlignedBuffer,
}

impl Page {
    /// Checks `bytes`, one page, against `identity` and keeps them; [`ErrorKind::Corrupt`] where they do not match.
    pub(super) fn check(bytes: AlignedBuffer, identity: &PageIdentity) -> Result<Page> {
        PageView::check(&bytes, identity)?;
        Ok(Page { bytes })
    }

    pub(super) fn view(&self) -> PageView<'_> {
        PageView::checked_before(&self.bytes)
    }
}

/// The content of a page that passed every check.
#[derive(Clone, Copy)]
pub(super) struct PageView<'a> {
    first_epoch: Epoch,
    level: u8,
    slots: Slots<'a>,
}

#[derive(Clone, Copy)]
enum Slots<'a> {
    Leaf(&'a [RawEntry]),
    Inner(&'a [RawChild]),
}

impl<'a> PageView<'a> {
    /// Checks `bytes`, one page, against `identity`; [`ErrorKind::Corrupt`] where they do not match.
    pub fn check(bytes: &'a [u8], identity: &PageIdentity) -> Result<PageView<'a>> {
        assert_eq!(bytes.len(), PAGE_BYTES);
        let header = header_of(bytes);
        if header.magic.get() != MAGIC {
            return Err(identity.corrupt("is not an index page"));
        }
        let checksum = salted(Kind::RunPage, identity.address_bytes, identity.run, &bytes[CHECKED_FROM..]);
        if header.checksum.get() != checksum {
            return Err(identity.corrupt("fails its checksum"));
        }
        let named = (header.run.get(), header.first_epoch.get(), u64::from(header.page.get()));
        if named != (identity.run, identity.first_epoch.0, identity.page) || header.reserved != 0 {
            return Err(identity.corrupt("names another run, page or epoch"));
        }
        let slots_max = if header.level == 0 { LEAF_ENTRIES_MAX } else { INNER_CHILDREN_MAX };
        if !(1..=slots_max).contains(&usize::from(header.count.get())) {
            return Err(identity.corrupt("has an impossible count"));
        }
        let view = PageView::checked_before(bytes);
        if !view.ascending() {
            return Err(identity.corrupt("is not in ascending order"));
        }
        if !view.children_precede(identity.page) {
            return Err(identity.corrupt("refers to a page that does not precede it"));
        }
        Ok(view)
    }

    /// The content of `bytes` that passed [`PageView::check`] earlier and have not changed since.
    pub fn checked_before(bytes: &'a [u8]) -> PageView<'a> {
        let header = header_of(bytes);
        let count = usize::from(header.count.get());
        let body = &bytes[HEADER_BYTES..];
        let fits = "the count was checked";
        let slots = if header.level == 0 {
            Slots::Leaf(<[RawEntry]>::ref_from_prefix_with_elems(body, count).expect(fits).0)
        } else {
            Slots::Inner(<[RawChild]>::ref_from_prefix_with_elems(body, count).expect(fits).0)
        };
        PageView { first_epoch: Epoch(header.first_epoch.get()), level: header.level, slots }
    }

    /// 0 for a leaf.
    pub fn level(&self) -> u8 {
        self.level
    }

    /// Entries of a leaf, children of an inner page; never 0.
    pub fn count(&self) -> usize {
        match self.slots {
            Slots::Leaf(entries) => entries.len(),
            Slots::Inner(children) => children.len(),
        }
    }

    /// The key of an entry, or the last key under a child.
    pub fn key(&self, slot: usize) -> Key {
        let (block, epoch) = match self.slots {
            Slots::Leaf(entries) => (entries[slot].block, entries[slot].epoch),
            Slots::Inner(children) => (children[slot].last_block, children[slot].last_epoch),
        };
        (block.get(), self.epoch(epoch))
    }

    /// The largest key in or under the page.
    pub fn last_key(&self) -> Key {
        self.key(self.count() - 1)
    }

    /// The first slot whose key is not below `key`; `None` where all are.
    pub fn successor_slot(&self, key: Key) -> Option<usize> {
        let (mut low, mut high) = (0, self.count());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.key(middle) < key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        (low < self.count()).then_some(low)
    }

    /// An entry of a leaf.
    pub fn entry(&self, slot: usize) -> Entry {
        let Slots::Leaf(entries) = self.slots else { panic!("entries lie in leaves, not on level {}", self.level) };
        let raw = &entries[slot];
        Entry {
            block: raw.block.get(),
            epoch: self.epoch(raw.epoch),
            address: raw.address.get(),
            checksum: raw.checksum.get(),
        }
    }

    /// A child of an inner page.
    pub fn child(&self, slot: usize) -> Child {
        let Slots::Inner(children) = self.slots else { panic!("a leaf has no children") };
        Child { last: self.key(slot), page: u64::from(children[slot].page.get()) }
    }

    /// The sum may not wrap: a damaged first epoch could, if it ever passed the checksum.
    fn epoch(&self, raw: U32) -> Epoch {
        Epoch(self.first_epoch.0.saturating_add(u64::from(raw.get())))
    }

    fn ascending(&self) -> bool {
        (1..self.count()).all(|slot| self.key(slot - 1) < self.key(slot))
    }

    fn children_precede(&self, page: u64) -> bool {
        let Slots::Inner(children) = self.slots else { return true };
        let numbers_ascend = children.windows(2).all(|pair| pair[0].page.get() < pair[1].page.get());
        numbers_ascend && children.last().is_some_and(|last| u64::from(last.page.get()) < page)
    }
}

fn header_of(bytes: &[u8]) -> &RawHeader {
    RawHeader::ref_from_prefix(bytes).expect("a page is longer than its header").0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::aligned_buffer;

    const IDENTITY: PageIdentity = PageIdentity { run: 7, first_epoch: Epoch(100), page: 3, address_bytes: 1 << 20 };

    fn entry(block: u64, epoch: u64) -> Entry {
        Entry { block, epoch: Epoch(epoch), address: NUMBER_MAX - block, checksum: !(block as u32) }
    }

    fn corrupt(bytes: &[u8], identity: &PageIdentity) -> bool {
        PageView::check(bytes, identity).is_err_and(|error| error.kind() == ErrorKind::Corrupt)
    }

    #[test]
    fn a_full_leaf_comes_back_exact() {
        let entries: Vec<Entry> = (0..LEAF_ENTRIES_MAX as u64).map(|number| entry(number / 2, 100 + number)).collect();
        let mut bytes = aligned_buffer(PAGE_BYTES);
        encode_leaf(&IDENTITY, &entries, &mut bytes);
        let view = PageView::check(&bytes, &IDENTITY).unwrap();
        let back: Vec<Entry> = (0..view.count()).map(|slot| view.entry(slot)).collect();
        assert_eq!(back, entries);
    }

    #[test]
    fn a_page_of_another_run_place_number_or_epoch_is_corrupt() {
        let mut bytes = aligned_buffer(PAGE_BYTES);
        encode_leaf(&IDENTITY, &[entry(1, 100)], &mut bytes);
        assert!(!corrupt(&bytes, &IDENTITY));
        assert!(corrupt(&bytes, &PageIdentity { run: 8, ..IDENTITY }));
        assert!(corrupt(&bytes, &PageIdentity { page: 4, ..IDENTITY }));
        assert!(corrupt(&bytes, &PageIdentity { first_epoch: Epoch(99), ..IDENTITY }));
        assert!(corrupt(&bytes, &PageIdentity { address_bytes: 0, ..IDENTITY }));
    }

    #[test]
    fn a_page_out_of_order_is_corrupt_even_with_a_valid_checksum() {
        let mut bytes = aligned_buffer(PAGE_BYTES);
        encode_leaf(&IDENTITY, &[entry(2, 100), entry(1, 100)], &mut bytes);
        assert!(corrupt(&bytes, &IDENTITY));
        let loops = [Child { last: (1, Epoch(100)), page: 3 }];
        encode_inner(&IDENTITY, 1, &loops, &mut bytes);
        assert!(corrupt(&bytes, &IDENTITY), "a page that is its own child");
    }
}
