//! Disks that complete every request at once and write down each, in one order for both devices.
//!
//! Invariants:
//! - What is read is what was written last, whatever a crash would leave of it.
//! - A tape lists every request that changes what a crash may leave: writes, discards, flushes.
//! - The disks give a lie only where a test asks for one.

use super::pages::{Image, Page, PageId, Pages, WHOLE_PAGE, ZERO_PAGE};
use crate::disk::Disk;
use crate::error::Result;
use crate::units::{BLOCK_BYTES, TEAR_BYTES};
use std::cell::RefCell;
use std::rc::Rc;

/// Which disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Device {
    Origin,
    Store,
}

/// The part of a write that falls into one page.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    /// The page, counted over both devices.
    pub(super) index: u32,
    /// Its sectors that are written.
    pub(super) mask: u8,
    /// What they are written with, at their own place.
    pub(super) content: PageId,
}

/// What was asked of a disk.
#[derive(Clone, Debug)]
pub(super) enum Request {
    Write { pieces: Vec<Piece>, durable: bool },
    Flush,
}

/// A request on the tape.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) device: Device,
    pub(super) request: Request,
    /// What the volume's user knew when it was submitted.
    pub(super) phase: usize,
}

/// A disk that does not do what it says: tests show with them that the enumeration sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// The origin's flushes do nothing.
    OriginFlushIgnored,
    /// The store's flushes do nothing.
    StoreFlushIgnored,
    /// The store reports durable writes while they are still volatile.
    StoreDurableTooEarly,
}

/// How the two disks are made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// All that the origin may grow to.
    pub(super) origin_pages: usize,
    pub(super) store_pages: usize,
    pub(super) lie: Option<Lie>,
}

/// Both disks.
pub(super) struct Tape {
    pub(super) shape: Shape,
    /// Pages that the origin has now.
    pub(super) origin_size_pages: usize,
    /// A durable write is one command; else it is a write and a flush.
    pub(super) has_fua: bool,
    pub(super) pages: Pages,
    pub(super) image: Image,
    /// Requests so far, where they are written down.
    pub(super) events: Option<Vec<Event>>,
    pub(super) phase: usize,
}

impl Tape {
    pub(super) fn new(shape: Shape) -> Tape {
        let image = Image::zeroes(shape.origin_pages + shape.store_pages);
        Tape {
            shape,
            origin_size_pages: shape.origin_pages,
            has_fua: true,
            pages: Pages::new(),
            image,
            events: None,
            phase: 0,
        }
    }

    /// The machine holds this image; nothing is written down.
    pub(super) fn load(&mut self, image: &Image) {
        self.pages.clear_scratch();
        self.image.copy_from(image);
        self.events = None;
    }

    fn base(&self, device: Device) -> usize {
        match device {
            Device::Origin => 0,
            Device::Store => self.shape.origin_pages,
        }
    }

    fn read(&self, device: Device, offset_bytes: u64, buffer: &mut [u8]) {
        let base = self.base(device);
        for (index, within, span) in spans(offset_bytes, buffer.len()) {
            let id = self.image.get(base + index);
            let target = &mut buffer[span];
            if id == ZERO_PAGE {
                target.fill(0);
            } else {
                target.copy_from_slice(&self.pages.get(id)[within..within + target.len()]);
            }
        }
    }

    /// Writes `data`, or zeroes.
    fn write(&mut self, device: Device, offset_bytes: u64, length: usize, data: Option<&[u8]>, durable: bool) {
        let base = self.base(device);
        let mut pieces = Vec::new();
        for (index, within, span) in spans(offset_bytes, length) {
            let (index, part) = (base + index, data.map_or(&ZEROES[..span.len()], |data| &data[span]));
            let below = self.image.get(index);
            if self.events.is_none() {
                let above = self.pages.scribble(below, within, part);
                self.image.set(index, above);
                continue;
            }
            let mut page = [0; BLOCK_BYTES];
            page[within..within + part.len()].copy_from_slice(part);
            let content = self.pages.keep(&page);
            let mask = sectors(within, part.len());
            let above = self.pages.merge(below, content, mask);
            self.image.set(index, above);
            pieces.push(Piece { index: index as u32, mask, content });
        }
        let durable = durable && !(device == Device::Store && self.shape.lie == Some(Lie::StoreDurableTooEarly));
        self.note(device, Request::Write { pieces, durable });
    }

    fn flush(&mut self, device: Device) {
        let ignored = match self.shape.lie {
            Some(Lie::OriginFlushIgnored) => device == Device::Origin,
            Some(Lie::StoreFlushIgnored) => device == Device::Store,
            _ => false,
        };
        if !ignored {
            self.note(device, Request::Flush);
        }
    }

    fn note(&mut self, device: Device, request: Request) {
        let phase = self.phase;
        if let Some(events) = &mut self.events {
            events.push(Event { device, request, phase });
        }
    }
}

static ZEROES: Page = [0; BLOCK_BYTES];

fn sectors(within: usize, length: usize) -> u8 {
    let (from, to) = (within / TEAR_BYTES, (within + length) / TEAR_BYTES);
    (from..to).fold(0, |mask, sector| mask | 1 << sector)
}

/// The pages that a range touches: index, offset within the page, span within the range.
fn spans(offset_bytes: u64, length: usize) -> impl Iterator<Item = (usize, usize, std::ops::Range<usize>)> {
    let start = offset_bytes as usize;
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == length {
            return None;
        }
        let (at, from) = (start + done, done);
        let within = at % BLOCK_BYTES;
        done = length.min(done + BLOCK_BYTES - within);
        Some((at / BLOCK_BYTES, within, from..done))
    })
}

/// A handle on one of the disks of a tape.
#[derive(Clone)]
pub(super) struct TapeDisk {
    tape: Rc<RefCell<Tape>>,
    device: Device,
}

impl TapeDisk {
    pub(super) fn new(tape: &Rc<RefCell<Tape>>, device: Device) -> TapeDisk {
        TapeDisk { tape: Rc::clone(tape), device }
    }

    fn assert_within(&self, offset_bytes: u64, length_bytes: u64) {
        assert!(offset_bytes + length_bytes <= self.size_bytes(), "a request behind the end of {:?}", self.device);
        assert_eq!((offset_bytes | length_bytes) % TEAR_BYTES as u64, 0, "a misaligned request to {:?}", self.device);
    }
}

impl Disk for TapeDisk {
    fn size_bytes(&self) -> u64 {
        let tape = self.tape.borrow();
        let pages = if self.device == Device::Origin { tape.origin_size_pages } else { tape.shape.store_pages };
        (pages * BLOCK_BYTES) as u64
    }

    fn sector_bytes(&self) -> u32 {
        TEAR_BYTES as u32
    }

    fn discard_bytes_max(&self) -> u64 {
        1 << 30
    }

    async fn read(&self, offset_bytes: u64, buffer: &mut [u8]) -> Result<()> {
        self.assert_within(offset_bytes, buffer.len() as u64);
        self.tape.borrow().read(self.device, offset_bytes, buffer);
        Ok(())
    }

    async fn write(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.assert_within(offset_bytes, data.len() as u64);
        self.tape.borrow_mut().write(self.device, offset_bytes, data.len(), Some(data), false);
        Ok(())
    }

    async fn write_durable(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.assert_within(offset_bytes, data.len() as u64);
        let mut tape = self.tape.borrow_mut();
        let has_fua = tape.has_fua;
        tape.write(self.device, offset_bytes, data.len(), Some(data), has_fua);
        if !has_fua {
            tape.flush(self.device);
        }
        Ok(())
    }

    async fn write_zeroes(&self, offset_bytes: u64, length_bytes: u64, _may_unmap: bool) -> Result<()> {
        self.assert_within(offset_bytes, length_bytes);
        self.tape.borrow_mut().write(self.device, offset_bytes, length_bytes as usize, None, false);
        Ok(())
    }

    /// What was discarded reads as anything: here as bytes that nobody wrote.
    async fn discard(&self, offset_bytes: u64, length_bytes: u64) -> Result<()> {
        self.assert_within(offset_bytes, length_bytes);
        let junk = vec![0xd1; length_bytes as usize];
        self.tape.borrow_mut().write(self.device, offset_bytes, junk.len(), Some(&junk), false);
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        self.tape.borrow_mut().flush(self.device);
        Ok(())
    }

    fn flush_failures(&self) -> u64 {
        0
    }
}

/// The sectors that a mask names.
pub(super) fn sector_count(pieces: &[Piece]) -> u32 {
    pieces.iter().map(|piece| piece.mask.count_ones()).sum()
}

/// The sectors of a write for which `landed` holds, counted from its first.
pub(super) fn part_of(pieces: &[Piece], mut landed: impl FnMut(u32) -> bool) -> Vec<Piece> {
    let mut sector = 0;
    let mut part = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let mut mask = 0;
        for bit in (0..8).filter(|bit| piece.mask & (1 << bit) != 0) {
            mask |= u8::from(landed(sector)) << bit;
            sector += 1;
        }
        if mask != 0 {
            part.push(Piece { mask, ..piece.clone() });
        }
    }
    part
}

const _: () = assert!(WHOLE_PAGE.count_ones() as usize == BLOCK_BYTES / TEAR_BYTES);
