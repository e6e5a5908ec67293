//! The buffers of a queue's tags: one piece of memory, so that whose buffer an address lies in is arithmetic.
//!
//! Invariants:
//! - A buffer is touched only when a request fills it: memory that no request was long enough for is never there.
//! - Of each buffer the first [`KNOWN_BYTES`] can be told to a ring, which keeps them in memory for good.

#![allow(unsafe_code)]

use libublk::helpers::IoBuf;
use std::ops::Range;

/// Of each tag's buffer so much is told to the ring: it stays in memory for good, so it is not all of it.
pub const KNOWN_BYTES: usize = 64 << 10;

/// A buffer for each tag.
pub struct Buffers {
    memory: IoBuf<u8>,
    places: Places,
}

/// Where the buffers lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    base: usize,
    each_bytes: usize,
    tags: u16,
}

impl Buffers {
    /// Memory for so many tags.
    pub fn new(tags: u16, each_bytes: usize) -> Buffers {
        assert!(tags > 0 && each_bytes > 0, "a queue has tags, and they have buffers");
        let length = usize::from(tags) * each_bytes;
        let memory = IoBuf::new(length);
        let start: *mut u8 = memory.as_mut_ptr();
        assert!(!start.is_null(), "there are no {length} bytes of memory for the buffers of a queue");
        // A huge page in the front of one buffer would be all of it and its neighbours.
        // SAFETY: advice changes no content, and the memory is ours.
        let advised = unsafe { rustix::mm::madvise(start.cast(), length, rustix::mm::Advice::LinuxNoHugepage) };
        if let Err(error) = advised {
            tracing::debug!(%error, "this kernel has no huge pages to be asked not to use");
        }
        let places = Places { base: start as usize, each_bytes, tags };
        Buffers { memory, places }
    }

    /// Where they lie.
    pub fn places(&self) -> Places {
        self.places
    }

    /// Length of one.
    pub fn each_bytes(&self) -> usize {
        self.places.each_bytes
    }

    /// The tags that have one.
    pub fn tags(&self) -> Range<u16> {
        0..self.places.tags
    }

    /// Where a tag's buffer begins.
    pub fn start(&self, tag: u16) -> *mut u8 {
        assert!(tag < self.places.tags, "there is a buffer for each tag");
        // SAFETY: the memory has room for all tags.
        unsafe { self.memory.as_mut_ptr().add(usize::from(tag) * self.places.each_bytes) }
    }

    /// A tag's buffer.
    ///
    /// # Safety
    /// Nobody else uses the tag's buffer while the slice exists.
    // SAFETY: a declaration; who calls it keeps the sentence above.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn of(&self, tag: u16) -> &mut [u8] {
        // SAFETY: it lies in the memory, which stays as long as `self`; nobody else uses it, as the caller says.
        unsafe { std::slice::from_raw_parts_mut(self.start(tag), self.places.each_bytes) }
    }
}

impl Places {
    /// The tag in whose known front all of this memory lies.
    pub fn known(&self, start: usize, length: usize) -> Option<u16> {
        let behind_base = start.checked_sub(self.base)?;
        let (tag, within) = (behind_base / self.each_bytes, behind_base % self.each_bytes);
        (tag < usize::from(self.tags) && within + length <= KNOWN_BYTES.min(self.each_bytes)).then_some(tag as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_known_only_where_all_of_it_lies_in_one_front() {
        let places = Places { base: 1 << 20, each_bytes: 1 << 19, tags: 2 };
        let second = (1 << 20) + (1 << 19);
        assert_eq!(places.known((1 << 20) - 1, 1), None);
        assert_eq!(places.known(1 << 20, KNOWN_BYTES), Some(0));
        assert_eq!(places.known(1 << 20, KNOWN_BYTES + 1), None);
        assert_eq!(places.known((1 << 20) + 4096, KNOWN_BYTES - 4096), Some(0));
        assert_eq!(places.known((1 << 20) + 4096, KNOWN_BYTES), None);
        assert_eq!(places.known(second + KNOWN_BYTES - 512, 512), Some(1));
        assert_eq!(places.known(second + (1 << 19), 512), None, "behind the last one");
        assert_eq!(places.known(usize::MAX - 511, 511), None);
        let small = Places { base: 0, each_bytes: 4096, tags: 2 };
        assert_eq!((small.known(0, 4096), small.known(4096, 4096), small.known(0, 8192)), (Some(0), Some(1), None));
    }

    #[test]
    fn every_tag_has_a_buffer_of_its_own() {
        let buffers = Buffers::new(3, 4096);
        for tag in buffers.tags() {
            // SAFETY: the slice is gone before the next one is made.
            unsafe { buffers.of(tag) }.fill(tag as u8 + 1);
        }
        for tag in buffers.tags() {
            // SAFETY: as above.
            assert_eq!(unsafe { buffers.of(tag) }, [tag as u8 + 1; 4096]);
            assert_eq!(buffers.places().known(buffers.start(tag) as usize, 4096), Some(tag));
        }
    }
}
