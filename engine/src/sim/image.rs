//! Sparse content of a simulated device.
//!
//! Invariants:
//! - A page that is all zeroes does not exist, so a device of many GiB costs what was written to it.
//! - Copies share pages until one of them is written.

use std::collections::BTreeMap;
use std::sync::Arc;

const PAGE_BYTES: usize = 4096;
pub(super) type Page = [u8; PAGE_BYTES];
static ZERO_PAGE: Page = [0; PAGE_BYTES];

/// The bytes of one transfer. Zeroes are not stored, and whole pages are shared by all who keep them.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Zeroes(u64),
    Pages(Arc<[Option<Arc<Page>>]>),
    Bytes(Arc<[u8]>),
}

impl Content {
    pub(super) fn of(data: &[u8]) -> Content {
        if is_zero(data) {
            return Content::Zeroes(data.len() as u64);
        }
        if !data.len().is_multiple_of(PAGE_BYTES) {
            return Content::Bytes(Arc::from(data));
        }
        let page = |page: &[u8]| (!is_zero(page)).then(|| Arc::new(Page::try_from(page).expect("a whole page")));
        Content::Pages(data.chunks_exact(PAGE_BYTES).map(page).collect())
    }

    pub(super) fn length_bytes(&self) -> u64 {
        match self {
            Content::Zeroes(length_bytes) => *length_bytes,
            Content::Pages(pages) => (pages.len() * PAGE_BYTES) as u64,
            Content::Bytes(bytes) => bytes.len() as u64,
        }
    }

    /// The part of it that starts `skip_bytes` in and lies within one page.
    fn within_page(&self, skip_bytes: u64, length: usize) -> &[u8] {
        let skip = skip_bytes as usize;
        match self {
            Content::Zeroes(_) => &ZERO_PAGE[..length],
            Content::Bytes(bytes) => &bytes[skip..skip + length],
            Content::Pages(pages) => match &pages[skip / PAGE_BYTES] {
                None => &ZERO_PAGE[..length],
                Some(page) => &page[skip % PAGE_BYTES..skip % PAGE_BYTES + length],
            },
        }
    }

    /// Copies its first bytes.
    pub(super) fn copy_to(&self, target: &mut [u8]) {
        for (_, _, span) in spans(0, target.len() as u64) {
            let source = self.within_page(span.start as u64, span.len());
            target[span].copy_from_slice(source);
        }
    }

    /// The part of it that starts `skip_bytes` in.
    pub(super) fn part(&self, skip_bytes: u64, length_bytes: u64) -> Content {
        assert!(skip_bytes + length_bytes <= self.length_bytes());
        let mut data = vec![0; length_bytes as usize];
        for (_, within, span) in spans(skip_bytes, length_bytes) {
            assert!(within < PAGE_BYTES);
            let source = self.within_page(skip_bytes + span.start as u64, span.len());
            data[span].copy_from_slice(source);
        }
        Content::of(&data)
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
        let aligned = offset_bytes.is_multiple_of(PAGE_BYTES as u64);
        match content {
            Content::Pages(pages) if aligned => {
                for (index, page) in (offset_bytes / PAGE_BYTES as u64..).zip(pages.iter()) {
                    self.set_page(index, page.clone());
                }
            }
            Content::Pages(pages) => {
                // Off the page grid nothing can be shared.
                let part = |page: &Option<Arc<Page>>| page.as_deref().copied().unwrap_or(ZERO_PAGE);
                for (position, page) in (offset_bytes..).step_by(PAGE_BYTES).zip(pages.iter().map(part)) {
                    self.write(position, &Content::Bytes(Arc::from(page)));
                }
            }
            _ => {
                for (index, within, span) in spans(offset_bytes, content.length_bytes()) {
                    if span.len() == PAGE_BYTES && matches!(content, Content::Zeroes(_)) {
                        self.set_page(index, None);
                    } else {
                        let data = match content {
                            Content::Bytes(bytes) => &bytes[span],
                            _ => &ZERO_PAGE[..span.len()],
                        };
                        self.write_page(index, within, data);
                    }
                }
            }
        }
    }

    fn set_page(&mut self, index: u64, page: Option<Arc<Page>>) {
        match page {
            Some(page) => drop(self.pages.insert(index, page)),
            None => drop(self.pages.remove(&index)),
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
