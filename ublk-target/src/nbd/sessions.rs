//! How many clients have which export open; whoever wants to delete or detach asks here, on any thread.
//!
//! Invariants:
//! - A name is counted from the end of its client's handshake until its last request is done.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Counts = BTreeMap<String, u32>;

/// Counts of clients by name of the export.
#[derive(Clone, Default)]
pub struct Sessions {
    counts: Arc<Mutex<Counts>>,
}

/// One client's presence, until it is dropped.
pub struct Session {
    sessions: Sessions,
    name: String,
}

impl Sessions {
    /// Clients that have the export `name` open.
    pub fn count(&self, name: &str) -> u32 {
        self.lock().get(name).copied().unwrap_or(0)
    }

    /// Clients in all.
    pub fn total(&self) -> u32 {
        self.lock().values().sum()
    }

    pub(super) fn enter(&self, name: &str) -> Session {
        *self.lock().entry(name.to_owned()).or_insert(0) += 1;
        Session { sessions: self.clone(), name: name.to_owned() }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        // A count is changed in one step, so a panic elsewhere cannot leave it half changed.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut counts = self.sessions.lock();
        let count = counts.get_mut(&self.name).expect("a session is counted while it exists");
        *count -= 1;
        if *count == 0 {
            counts.remove(&self.name);
        }
    }
}
