//! What loom and shuttle lack, made of what they have, with the contract of the original and nothing more.
//!
//! Invariants:
//! - [`AsyncMutex`] is the lock of futures-util: not fair; unlocking wakes one waiter and hands it nothing; a waiter
//!   that was woken and goes away wakes another.
//! - [`OnceLock`] is the standard library's: whoever finds the value sees what its maker did.
//! - [`AtomicWaker`] is futures-util's: a wake after a registration reaches the waker registered last.

use super::atomic::{AtomicBool, Ordering};
use super::Mutex;
use std::collections::BTreeMap;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::sync::TryLockError;
use std::task::{Context, Poll, Waker};

const NEVER_POISONED: &str = "no holder of this lock panics";

/// A value that is made once.
#[derive(Debug)]
pub struct OnceLock<T> {
    /// Stored with release when the value is there.
    is_made: AtomicBool,
    making: Mutex<()>,
    value: std::sync::OnceLock<T>,
}

impl<T> Default for OnceLock<T> {
    fn default() -> Self {
        OnceLock::new()
    }
}

impl<T> OnceLock<T> {
    /// Without a value.
    pub fn new() -> OnceLock<T> {
        OnceLock { is_made: AtomicBool::new(false), making: Mutex::new(()), value: std::sync::OnceLock::new() }
    }

    /// The value, if it was made.
    pub fn get(&self) -> Option<&T> {
        if self.is_made.load(Ordering::Acquire) {
            return self.value.get();
        }
        None
    }

    /// The value; made by one of those who ask.
    pub fn get_or_init(&self, make: impl FnOnce() -> T) -> &T {
        if let Some(value) = self.get() {
            return value;
        }
        let _making = self.making.lock().expect(NEVER_POISONED);
        let value = self.value.get_or_init(make);
        self.is_made.store(true, Ordering::Release);
        value
    }

    /// Sets the value; gives it back where there is one.
    pub fn set(&self, value: T) -> Result<(), T> {
        let _making = self.making.lock().expect(NEVER_POISONED);
        self.value.set(value)?;
        self.is_made.store(true, Ordering::Release);
        Ok(())
    }
}

/// One task's waker, set by the task and woken by anybody.
#[derive(Debug, Default)]
pub struct AtomicWaker {
    waker: Mutex<Option<Waker>>,
}

impl AtomicWaker {
    /// Without a waker.
    pub fn new() -> AtomicWaker {
        AtomicWaker::default()
    }

    /// From now on a wake reaches `waker`.
    pub fn register(&self, waker: &Waker) {
        *self.waker.lock().expect(NEVER_POISONED) = Some(waker.clone());
    }

    /// Wakes the waker registered last, once.
    pub fn wake(&self) {
        let waker = self.waker.lock().expect(NEVER_POISONED).take();
        waker.into_iter().for_each(Waker::wake);
    }
}

#[derive(Debug, Default)]
struct LockState {
    is_locked: bool,
    next_key: u64,
    /// Who waits, in the order they came; without a waker once it was woken.
    waiters: BTreeMap<u64, Option<Waker>>,
}

impl LockState {
    fn first_waker(&mut self) -> Option<Waker> {
        self.waiters.values_mut().next().and_then(Option::take)
    }
}

/// A lock that tasks wait for.
#[derive(Debug, Default)]
pub struct AsyncMutex<T> {
    state: Mutex<LockState>,
    /// Locked only by whoever set `is_locked`, so nobody ever blocks on it.
    value: std::sync::Mutex<T>,
}

impl<T> AsyncMutex<T> {
    /// An unlocked lock.
    pub fn new(value: T) -> AsyncMutex<T> {
        AsyncMutex { state: Mutex::default(), value: std::sync::Mutex::new(value) }
    }

    /// Resolves when the caller holds it.
    pub fn lock(&self) -> AsyncLock<'_, T> {
        AsyncLock { mutex: self, key: None, is_done: false }
    }

    /// Holds it if nobody does.
    pub fn try_lock(&self) -> Option<AsyncMutexGuard<'_, T>> {
        let mut state = self.state.lock().expect(NEVER_POISONED);
        (!std::mem::replace(&mut state.is_locked, true)).then(|| self.guard())
    }

    fn guard(&self) -> AsyncMutexGuard<'_, T> {
        let value = match self.value.try_lock() {
            Ok(value) => value,
            // Like the original, it does not mind that a holder panicked.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => panic!("one holder at a time"),
        };
        AsyncMutexGuard { mutex: self, value: Some(value) }
    }
}

/// Waiting for an [`AsyncMutex`].
#[derive(Debug)]
pub struct AsyncLock<'a, T> {
    mutex: &'a AsyncMutex<T>,
    key: Option<u64>,
    is_done: bool,
}

impl<'a, T> Future for AsyncLock<'a, T> {
    type Output = AsyncMutexGuard<'a, T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.mutex.state.lock().expect(NEVER_POISONED);
        let key = self.key.unwrap_or(state.next_key);
        if !std::mem::replace(&mut state.is_locked, true) {
            state.waiters.remove(&key);
            drop(state);
            self.is_done = true;
            return Poll::Ready(self.mutex.guard());
        }
        state.next_key += u64::from(self.key.is_none());
        state.waiters.insert(key, Some(context.waker().clone()));
        drop(state);
        self.key = Some(key);
        Poll::Pending
    }
}

impl<T> Drop for AsyncLock<'_, T> {
    fn drop(&mut self) {
        if let Some(key) = self.key.filter(|_| !self.is_done) {
            let mut state = self.mutex.state.lock().expect(NEVER_POISONED);
            let was_woken = state.waiters.remove(&key).is_some_and(|waker| waker.is_none());
            let next = if was_woken { state.first_waker() } else { None };
            drop(state);
            next.into_iter().for_each(Waker::wake);
        }
    }
}

/// Holding an [`AsyncMutex`].
#[derive(Debug)]
pub struct AsyncMutexGuard<'a, T> {
    mutex: &'a AsyncMutex<T>,
    value: Option<std::sync::MutexGuard<'a, T>>,
}

impl<T> Deref for AsyncMutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_ref().expect("held until the guard goes")
    }
}

impl<T> DerefMut for AsyncMutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_mut().expect("held until the guard goes")
    }
}

impl<T> Drop for AsyncMutexGuard<'_, T> {
    fn drop(&mut self) {
        self.value = None;
        let mut state = self.mutex.state.lock().expect(NEVER_POISONED);
        state.is_locked = false;
        let next = state.first_waker();
        drop(state);
        next.into_iter().for_each(Waker::wake);
    }
}
