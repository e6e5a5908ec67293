//! Buffers for payloads: aligned for direct I/O, kept for reuse, bounded.
//!
//! Invariants:
//! - The pool keeps at most [`KEPT_BYTES_MAX`]; how much is in use at once is bounded by each connection's budget.
//! - A buffer taken from the pool holds old data: whoever takes it fills it before anything of it is sent.

use cairn_engine::disk::{aligned_buffer, AlignedBuffer};
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

/// Bytes kept for reuse by all connections of a server.
const KEPT_BYTES_MAX: usize = 16 << 20;
/// Buffers come in powers of two, from this size.
const BUFFER_BYTES_MIN: usize = 4096;

/// Free buffers, smallest class first.
#[derive(Default)]
struct Free {
    classes: Vec<Vec<AlignedBuffer>>,
    kept_bytes: usize,
}

/// The buffers that all connections of one thread share.
#[derive(Clone, Default)]
pub(super) struct BufferPool {
    free: Rc<RefCell<Free>>,
}

/// A buffer that goes back to its pool when dropped; derefs to the length that was asked for.
pub(super) struct PooledBuffer {
    memory: Option<AlignedBuffer>,
    length_bytes: usize,
    pool: BufferPool,
}

fn class_of(capacity_bytes: usize) -> usize {
    debug_assert!(capacity_bytes.is_power_of_two());
    (capacity_bytes / BUFFER_BYTES_MIN).trailing_zeros() as usize
}

impl BufferPool {
    /// A buffer of `length_bytes`, holding anything.
    pub fn take(&self, length_bytes: usize) -> PooledBuffer {
        let capacity_bytes = length_bytes.max(BUFFER_BYTES_MIN).next_power_of_two();
        let class = class_of(capacity_bytes);
        let mut free = self.free.borrow_mut();
        let kept = free.classes.get_mut(class).and_then(Vec::pop);
        if kept.is_some() {
            free.kept_bytes -= capacity_bytes;
        }
        let memory = Some(kept.unwrap_or_else(|| aligned_buffer(capacity_bytes)));
        PooledBuffer { memory, length_bytes, pool: self.clone() }
    }

    fn give_back(&self, memory: AlignedBuffer) {
        let mut free = self.free.borrow_mut();
        if free.kept_bytes + memory.len() > KEPT_BYTES_MAX {
            return;
        }
        let class = class_of(memory.len());
        free.kept_bytes += memory.len();
        if free.classes.len() <= class {
            free.classes.resize_with(class + 1, Vec::new);
        }
        free.classes[class].push(memory);
    }
}

impl Deref for PooledBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.memory.as_ref().expect("the memory leaves only on drop")[..self.length_bytes]
    }
}

impl DerefMut for PooledBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory.as_mut().expect("the memory leaves only on drop")[..self.length_bytes]
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            self.pool.give_back(memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_reused_and_what_is_kept_is_bounded() {
        let pool = BufferPool::default();
        let address = {
            let buffer = pool.take(5000);
            assert_eq!(buffer.len(), 5000);
            assert_eq!(buffer.as_ptr() as usize % 4096, 0);
            buffer.as_ptr()
        };
        assert_eq!(pool.take(8192).as_ptr(), address);
        let many: Vec<_> = (0..8).map(|_| pool.take(4 << 20)).collect();
        drop(many);
        assert!(pool.free.borrow().kept_bytes <= KEPT_BYTES_MAX);
        assert_eq!(pool.take(0).len(), 0);
    }
}
