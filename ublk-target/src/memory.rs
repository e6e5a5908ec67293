//! What the process does with memory that was freed.
#![allow(unsafe_code)]

/// Buffers up to this size come from memory that was used before.
const MAPPED_FROM_BYTES: i32 = 32 << 20;
/// Free memory at the end of the heap that is kept.
const KEPT_BYTES: i32 = 32 << 20;

/// Keeps some freed memory for the next buffers, instead of giving it back. Buffers of some MiB come and go with every
/// request of a stream; to have their pages mapped and cleared each time takes longer than to fill them. Called once,
/// before there are threads.
pub fn keep_freed_memory() {
    // SAFETY: mallopt changes two numbers of the allocator, and no other thread uses it yet.
    let accepted = unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM_BYTES) & libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES)
    };
    assert_eq!(accepted, 1, "both thresholds are within what the allocator allows");
}
