//! How many clients have which export open; whoever wants to delete, restore or detach asks here, on any thread.
//!
//! Invariants:
//! - A name is counted from before its client learns that the export is open until the client's last request is done.
//! - A name is open or reserved, never both.

use cairn_engine::error::{Error, ErrorKind, Result};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a name that is in use is used for.
enum Use {
    /// Clients have it open.
    Open { clients: u32 },
    /// Somebody keeps clients away.
    Reserved,
}

type Uses = BTreeMap<String, Use>;

/// Which exports are in use, by name.
#[derive(Clone, Default)]
pub struct Sessions {
    uses: Arc<Mutex<Uses>>,
}

/// One client's presence, until it is dropped.
pub struct Session {
    sessions: Sessions,
    name: String,
}

/// Keeps clients away from one export until it is dropped.
pub struct Reservation {
    sessions: Sessions,
    name: String,
}

impl Sessions {
    /// Clients that have the export `name` open.
    pub fn count(&self, name: &str) -> u32 {
        match self.lock().get(name) {
            Some(Use::Open { clients }) => *clients,
            Some(Use::Reserved) | None => 0,
        }
    }

    /// Clients in all.
    pub fn total(&self) -> u32 {
        let uses = self.lock();
        let clients = |one: &Use| if let Use::Open { clients } = one { *clients } else { 0 };
        uses.values().map(clients).sum()
    }

    /// Keeps clients away from the export `name`. Fails with `Busy` where one has it open.
    pub fn reserve(&self, name: &str) -> Result<Reservation> {
        let mut uses = self.lock();
        if uses.contains_key(name) {
            let error = Error::new(ErrorKind::Busy, "reserve", name);
            return Err(error.saying("NBD clients have it open; disconnect them first"));
        }
        uses.insert(name.to_owned(), Use::Reserved);
        Ok(Reservation { sessions: self.clone(), name: name.to_owned() })
    }

    /// Counts one more client. Fails with `Busy` where the name is reserved.
    pub fn enter(&self, name: &str) -> Result<Session> {
        match self.lock().entry(name.to_owned()).or_insert(Use::Open { clients: 0 }) {
            Use::Open { clients } => *clients += 1,
            Use::Reserved => {
                let error = Error::new(ErrorKind::Busy, "open the NBD export", name);
                return Err(error.saying("an operation on it is under way; try again when it is done"));
            }
        }
        Ok(Session { sessions: self.clone(), name: name.to_owned() })
    }

    fn lock(&self) -> MutexGuard<'_, Uses> {
        // A use is changed in one step, so a panic elsewhere cannot leave it half changed.
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut uses = self.sessions.lock();
        let Some(Use::Open { clients }) = uses.get_mut(&self.name) else {
            unreachable!("a session is counted while it exists");
        };
        *clients -= 1;
        if *clients == 0 {
            uses.remove(&self.name);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let removed = self.sessions.lock().remove(&self.name);
        assert!(matches!(removed, Some(Use::Reserved)), "a reservation is there while it is held");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_open_or_reserved_never_both() {
        let sessions = Sessions::default();
        let (first, second) = (sessions.enter("vol").expect("free"), sessions.enter("vol").expect("shared"));
        assert_eq!((sessions.count("vol"), sessions.total()), (2, 2));
        assert_eq!(sessions.reserve("vol").err().expect("open").kind(), ErrorKind::Busy);
        drop((first, second));
        let reserved = sessions.reserve("vol").expect("free again");
        assert_eq!(sessions.enter("vol").err().expect("reserved").kind(), ErrorKind::Busy);
        assert!(sessions.reserve("vol").is_err());
        assert!(sessions.enter("vol@snap").is_ok(), "other names are free");
        assert_eq!((sessions.count("vol"), sessions.total()), (0, 0));
        drop(reserved);
        assert!(sessions.enter("vol").is_ok());
    }
}
