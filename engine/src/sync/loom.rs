//! loom's atomics as the engine uses them.
//!
//! Invariants:
//! - Loom regards a sequentially consistent access as acquire-release, and would find mistakes that are none. So here
//!   such an access has a sequentially consistent fence beside it, in either of the two ways in which compilers do that
//!   on weak processors: before every access, or after every one that writes.
//! - An access can be weakened by [`weaken`] for one model, so that the model can show that it notices.

pub use ::loom::sync::atomic::Ordering;

use ::loom::sync::atomic as checked;
use std::ops::Deref;
use std::panic::Location;

/// What kind of access it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// Reads.
    Load,
    /// Writes.
    Store,
    /// Does both at once.
    Update,
}

/// Weakening the memory order of accesses, for the thread that checks a model.
pub mod weaken {
    use super::{Access, Location, Ordering};
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeMap;

    /// One access in the source: file, line and column.
    pub type Site = (&'static str, u32, u32);

    thread_local! {
        static WEAKENED: Cell<Option<(Site, Ordering)>> = const { Cell::new(None) };
        static FENCES_AFTER: Cell<bool> = const { Cell::new(false) };
        static SEEN: RefCell<BTreeMap<Site, (Access, Ordering)>> = const { RefCell::new(BTreeMap::new()) };
    }

    /// From now on the access there has this order, in models that this thread checks.
    pub fn access_at(site: Site, order: Ordering) {
        WEAKENED.set(Some((site, order)));
    }

    /// From now on the fences of sequentially consistent accesses stand after those that write.
    pub fn fences_after_writes() {
        FENCES_AFTER.set(true);
    }

    /// The accesses that this thread has seen, with the orders that the source gives them.
    pub fn seen() -> BTreeMap<Site, (Access, Ordering)> {
        SEEN.with_borrow(Clone::clone)
    }

    pub(super) fn order(access: Access, order: Ordering, caller: &'static Location<'static>) -> Ordering {
        let site = (caller.file(), caller.line(), caller.column());
        SEEN.with_borrow_mut(|seen| seen.insert(site, (access, order)));
        match WEAKENED.get() {
            Some((weakened, order)) if weakened == site => order,
            _ => order,
        }
    }

    pub(super) fn fences_are_after() -> bool {
        FENCES_AFTER.get()
    }
}

/// Makes the access with the order that it has in the model, and with a fence where loom needs one.
#[track_caller]
fn ordered<T>(access: Access, order: Ordering, make: impl FnOnce(Ordering) -> T) -> T {
    let order = weaken::order(access, order, Location::caller());
    let (is_consistent, is_after) = (order == Ordering::SeqCst, weaken::fences_are_after());
    if is_consistent && !is_after {
        checked::fence(Ordering::SeqCst);
    }
    let result = make(order);
    if is_consistent && is_after && access != Access::Load {
        checked::fence(Ordering::SeqCst);
    }
    result
}

macro_rules! atomic {
    ($name:ident, $value:ty) => {
        /// See [`std::sync::atomic`].
        #[derive(Debug, Default)]
        pub struct $name(checked::$name);

        impl $name {
            /// An atomic with this value.
            pub fn new(value: $value) -> $name {
                $name(checked::$name::new(value))
            }

            /// Reads.
            #[track_caller]
            pub fn load(&self, order: Ordering) -> $value {
                ordered(Access::Load, order, |order| self.0.load(order))
            }

            /// Writes.
            #[track_caller]
            pub fn store(&self, value: $value, order: Ordering) {
                ordered(Access::Store, order, |order| self.0.store(value, order));
            }

            /// Writes; gives what was there.
            #[track_caller]
            pub fn swap(&self, value: $value, order: Ordering) -> $value {
                ordered(Access::Update, order, |order| self.0.swap(value, order))
            }
        }
    };
}

macro_rules! atomic_integer {
    ($name:ident, $value:ty, $($operation:ident),+) => {
        atomic!($name, $value);

        impl $name {
            $(
                /// Changes; gives what was there.
                #[track_caller]
                pub fn $operation(&self, value: $value, order: Ordering) -> $value {
                    ordered(Access::Update, order, |order| self.0.$operation(value, order))
                }
            )+
        }
    };
}

atomic!(AtomicBool, bool);
atomic_integer!(AtomicU32, u32, fetch_add, fetch_sub, fetch_max);
atomic_integer!(AtomicU64, u64, fetch_add, fetch_sub, fetch_max, fetch_or, fetch_and);
atomic_integer!(AtomicUsize, usize, fetch_add, fetch_sub, fetch_max);

/// The standard library's, with its memory orders, as far as the engine's protocols look at counts.
#[derive(Debug, Default)]
pub struct Arc<T> {
    value: std::sync::Arc<T>,
    strong: std::sync::Arc<Strong>,
}

/// See [`Arc`].
#[derive(Debug)]
pub struct Weak<T> {
    value: std::sync::Weak<T>,
    strong: std::sync::Arc<Strong>,
}

#[derive(Debug)]
struct Strong(checked::AtomicUsize);

impl Default for Strong {
    fn default() -> Self {
        Strong(checked::AtomicUsize::new(1))
    }
}

impl<T> Arc<T> {
    /// The first owner.
    pub fn new(value: T) -> Arc<T> {
        Arc { value: std::sync::Arc::new(value), strong: Default::default() }
    }

    /// Somebody who looks without owning.
    pub fn downgrade(this: &Arc<T>) -> Weak<T> {
        Weak { value: std::sync::Arc::downgrade(&this.value), strong: this.strong.clone() }
    }
}

impl<T> Clone for Arc<T> {
    fn clone(&self) -> Self {
        self.strong.0.fetch_add(1, Ordering::Relaxed);
        Arc { value: self.value.clone(), strong: self.strong.clone() }
    }
}

impl<T> Deref for Arc<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Drop for Arc<T> {
    fn drop(&mut self) {
        self.strong.0.fetch_sub(1, Ordering::Release);
    }
}

impl<T> Weak<T> {
    /// How many own it.
    pub fn strong_count(&self) -> usize {
        self.strong.0.load(Ordering::Relaxed)
    }

    /// Becomes an owner while there is one.
    pub fn upgrade(&self) -> Option<Arc<T>> {
        let grow = |count: usize| (count > 0).then_some(count + 1);
        self.strong.0.fetch_update(Ordering::Acquire, Ordering::Relaxed, grow).ok()?;
        let value = self.value.upgrade().expect("the count says that there is an owner");
        Some(Arc { value, strong: self.strong.clone() })
    }
}
