//! Sparse content of a simulated device.
//!
//! Invariants:
//! - A page that is all zeroes does not exist, so a device of many GiB costs what was written to it.
//! - Copies share pages until one of them is written.

use std::collections::BTreeMap;
use std::sync::Arc;

const PAGE_BYTES: usize = 4096;
type Page = [u8; PAGE_BYTES];
static ZERO_PAGE: Page = [0; PAGE_BYTES];

/// The bytes of one transfer; zeroes are not stored.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Bytes(Arc<[u8]>),
    Zeroes(u64),
}

impl Content {
    pub(super) fn of(data: &[u8]) -> Content {
        if is_zero(data) {
            Content::Zeroes(data.len() as u64)
        } else {
            Content::Bytes(Arc::from(data))
        }
    }

    pub(super) fn length_bytes(&self) -> u64 {
        match self {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Zeroes(length_bytes) => *length_bytes,
        }
    }

    /// The part of it that starts `skip_bytes` in.
    pub(super) fn part(&self, skip_bytes: u64, length_bytes: u64) -> Content {
        assert!(skip_bytes + length_bytes <= self.length_bytes());
        match self {
            Content::Bytes(bytes) => Content::of(&bytes[skip_bytes as usize..(skip_bytes + length_bytes) as usize]),
            Content::Zeroes(_) => Content::Zeroes(length_bytes),
        }
    }
}

/// What a device holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    pages: BTreeMap<u64, Arc<Page>>,
}

impl Image {
    pub(super) fn read(&self, offset_bytes: u64, buffer: &mut [u8]) {
        for (index, within, span) in spans(offset_bytes, buffer.len() as u64) {
            let target = &mut buffer[span];
            match self.pages.get(&index) {
                Some(page) => target.copy_from_slice(&page[within..within + target.len()]),
                None => target.fill(0),
            }
        }
    }

    pub(super) fn write(&mut self, offset_bytes: u64, content: &Content) {
        for (index, within, span) in spans(offset_bytes, content.length_bytes()) {
            match content {
                Content::Bytes(bytes) => self.write_page(index, within, &bytes[span]),
                Content::Zeroes(_) if span.len() == PAGE_BYTES => drop(self.pages.remove(&index)),
                Content::Zeroes(_) => {
                    if self.pages.contains_key(&index) {
                        self.write_page(index, within, &ZERO_PAGE[..span.len()]);
                    }
                }
            }
        }
    }

    fn write_page(&mut self, index: u64, within: usize, data: &[u8]) {
        let page = self.pages.entry(index).or_insert_with(|| Arc::new(ZERO_PAGE));
        let page = Arc::make_mut(page);
        page[within..within + data.len()].copy_from_slice(data);
        if is_zero(page) {
            self.pages.remove(&index);
        }
    }

    pub(super) fn flip(&mut self, offset_bytes: u64, mask: u8) {
        let mut byte = [0];
        self.read(offset_bytes, &mut byte);
        self.write(offset_bytes, &Content::Bytes(Arc::from([byte[0] ^ mask])));
    }

    /// Bytes that are stored, not zero pages.
    pub(super) fn stored_bytes(&self) -> u64 {
        (self.pages.len() * PAGE_BYTES) as u64
    }
}

fn is_zero(data: &[u8]) -> bool {
    data.chunks(PAGE_BYTES).all(|chunk| chunk == &ZERO_PAGE[..chunk.len()])
}

/// The pages that a range touches: index, offset within the page, span within the range.
fn spans(offset_bytes: u64, length_bytes: u64) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let end_bytes = offset_bytes + length_bytes;
    let mut position = offset_bytes;
    std::iter::from_fn(move || {
        if position == end_bytes {
            return None;
        }
        let index = position / PAGE_BYTES as u64;
        let within = (position % PAGE_BYTES as u64) as usize;
        let length = ((PAGE_BYTES - within) as u64).min(end_bytes - position);
        let start = (position - offset_bytes) as usize;
        position += length;
        Some((index, within, start..start + length as usize))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_reads_back_across_pages_and_zero_pages_cost_nothing() {
        let mut image = Image::default();
        image.write(100 << 30, &Content::of(&[0; 1 << 20]));
        assert_eq!(image.stored_bytes(), 0);
        image.write(4096 + 512, &Content::of(&[7; 8192]));
        let mut buffer = vec![1; 16384];
        image.read(0, &mut buffer);
        assert!(buffer[4608..12800].iter().all(|byte| *byte == 7));
        assert!(buffer[..4608].iter().chain(&buffer[12800..]).all(|byte| *byte == 0));
        image.write(4096, &Content::Zeroes(12288));
        assert_eq!(image.stored_bytes(), 0);
    }
}
