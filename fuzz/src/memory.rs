//! How much memory a run takes: an allocator that counts, and a bound that is asserted.
//!
//! Invariants:
//! - Every allocation of the process is counted, also those of the standard library and of dependencies.
//! - One allocation above [`ALLOCATION_BYTES_MAX`] ends the process at once, before the memory is touched.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The most that anybody may ask for at once.
pub const ALLOCATION_BYTES_MAX: usize = 256 << 20;

static LIVE_BYTES: AtomicUsize = AtomicUsize::new(0);
static PEAK_BYTES: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

impl Counting {
    fn add(&self, bytes: usize) {
        if bytes > ALLOCATION_BYTES_MAX {
            // Not a panic: those allocate. The fuzzer reports an abort like any other finding.
            let _ = std::io::stderr().write_all(b"an allocation larger than any input may cause\n");
            std::process::abort();
        }
        let live = LIVE_BYTES.fetch_add(bytes, Ordering::Relaxed) + bytes;
        PEAK_BYTES.fetch_max(live, Ordering::Relaxed);
    }

    fn subtract(&self, bytes: usize) {
        LIVE_BYTES.fetch_sub(bytes, Ordering::Relaxed);
    }
}

// SAFETY: every call goes to the system's allocator with the caller's own arguments; counting touches nothing of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.add(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`, which is that of the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.add(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        self.add(new_size);
        self.subtract(layout.size());
        // SAFETY: the pointer came from the system's allocator, through one of these functions.
        unsafe { System.realloc(pointer, layout, new_size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        self.subtract(layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Runs `action`; panics where it takes more than `bytes_max` at any moment beyond what was there before.
pub fn bounded<T>(bytes_max: usize, action: impl FnOnce() -> T) -> T {
    let before = LIVE_BYTES.load(Ordering::Relaxed);
    PEAK_BYTES.store(before, Ordering::Relaxed);
    let result = action();
    let taken = PEAK_BYTES.load(Ordering::Relaxed).saturating_sub(before);
    assert!(taken <= bytes_max, "the input made the engine take {taken} bytes of memory; the bound is {bytes_max}");
    result
}
