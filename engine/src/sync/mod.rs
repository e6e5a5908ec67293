//! What threads share state with, in one place, so that the model checkers can take its place.
//!
//! Three worlds, by cfg. Production: the standard library, and the lock and the waker of futures-util. `--cfg loom`:
//! loom's types, which try every interleaving and every value that the memory orders allow (`engine/src/models`).
//! `--cfg shuttle`: shuttle's types, which try interleavings at random, on whole volumes (`engine/tests/shuttle.rs`).
//!
//! Invariants:
//! - Every file of the engine takes its atomics and locks from here; only the simulator's own, which is no part of what
//!   is checked, are the standard library's.
//! - What loom or shuttle lack is modelled in `model.rs` by its contract, from their primitives.

#[cfg(loom)]
mod loom;
#[cfg(any(loom, shuttle))]
mod model;

pub use std::sync::{Arc, Weak};

#[cfg(not(any(loom, shuttle)))]
pub use futures_util::task::AtomicWaker;
#[cfg(not(any(loom, shuttle)))]
pub use std::sync::{Mutex, MutexGuard, OnceLock, RwLock};

#[cfg(any(loom, shuttle))]
pub use self::model::{AtomicWaker, OnceLock};
#[cfg(loom)]
pub use ::loom::sync::{Mutex, MutexGuard, RwLock};
#[cfg(shuttle)]
pub use ::shuttle::sync::{Mutex, MutexGuard, RwLock};

/// Atomic types and fences.
pub mod atomic {
    #[cfg(loom)]
    pub use super::loom::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize};
    #[cfg(loom)]
    pub use ::loom::sync::atomic::fence;
    #[cfg(shuttle)]
    pub use ::shuttle::sync::atomic::{fence, AtomicBool, AtomicU32, AtomicU64, AtomicUsize};
    pub use std::sync::atomic::Ordering;
    #[cfg(not(any(loom, shuttle)))]
    pub use std::sync::atomic::{fence, AtomicBool, AtomicU32, AtomicU64, AtomicUsize};
}

/// The lock that tasks wait for without blocking their thread.
pub mod lock {
    #[cfg(any(loom, shuttle))]
    pub use super::model::{AsyncMutex as Mutex, AsyncMutexGuard as MutexGuard};
    #[cfg(not(any(loom, shuttle)))]
    pub use futures_util::lock::{Mutex, MutexGuard};
}

/// Shared ownership whose count is itself looked at by a protocol. Elsewhere an [`Arc`] only keeps things alive.
pub mod counted {
    #[cfg(loom)]
    pub use super::loom::{Arc, Weak};
    #[cfg(not(loom))]
    pub use std::sync::{Arc, Weak};
}

/// Who is running.
pub mod thread {
    #[cfg(loom)]
    pub use ::loom::thread::{current, ThreadId};
    #[cfg(shuttle)]
    pub use ::shuttle::thread::{current, ThreadId};
    #[cfg(not(any(loom, shuttle)))]
    pub use std::thread::{current, ThreadId};
}

/// What orders a loom model may weaken, to show that it can fail.
#[cfg(loom)]
pub use self::loom::{weaken, Access};
