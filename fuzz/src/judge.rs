//! What a volume must do, whatever its store holds.
//!
//! Invariants:
//! - `Strict`: nothing was done that checksums cannot tell. Then a snapshot that is said to be whole shows exactly what
//!   it showed when it was taken, or an error; none is missing, none is new, none that was broken is whole again.
//! - Otherwise nothing may panic, hang or take memory without bound; what it shows is not judged.

use crate::machine::{assert_typed, Machine};
use crate::scenario::{Expected, VOLUME_BYTES};
use cairn_engine::error::ErrorKind;
use std::collections::BTreeMap;

/// The most that is read of a snapshot or of the volume: damage may make them claim any size.
const READ_BYTES_MAX: usize = 64 * 4096;

/// What is held against what the volume shows.
pub struct Judge {
    /// Nothing was done that checksums cannot tell.
    pub strict: bool,
    /// Part of the volume may be unreadable: a restore is under way.
    pub restoring: bool,
    /// What the snapshots must show.
    pub snapshots: BTreeMap<String, Expected>,
    /// What the volume must show.
    pub volume: Vec<u8>,
}

/// What the volume showed: each snapshot whole or not, and what of it could be read.
pub type Shown = BTreeMap<String, (Option<String>, Option<Vec<u8>>)>;

impl Judge {
    /// Reads everything and says what it was.
    pub fn look(&self, machine: &mut Machine) -> Shown {
        let listed = machine.snapshots();
        let mut shown = Shown::new();
        for (name, reason) in listed {
            let content = self.look_at(machine, &name, reason.is_some());
            shown.insert(name, (reason, content));
        }
        if self.strict {
            let missing = self.snapshots.keys().find(|name| !shown.contains_key(*name));
            assert!(missing.is_none(), "snapshot {missing:?} is missing");
        }
        self.look_at_volume(machine);
        shown
    }

    fn look_at(&self, machine: &mut Machine, name: &str, broken: bool) -> Option<Vec<u8>> {
        let result = machine.read_snapshot(name, 0, READ_BYTES_MAX);
        let expected = self.snapshots.get(name);
        if self.strict {
            let expected = expected.unwrap_or_else(|| panic!("snapshot {name} was never taken"));
            assert!(broken || !expected.broken, "snapshot {name} was broken and is said to be whole");
        }
        match result {
            Ok((size_bytes, content)) => {
                assert!(!broken, "snapshot {name} is broken and can be read");
                if self.strict {
                    let expected = &expected.expect("it was just found").content;
                    assert_eq!(size_bytes, expected.len() as u64, "snapshot {name} has another size");
                    assert_same(&format!("snapshot {name}"), &content, expected);
                }
                Some(content)
            }
            Err(error) if broken => {
                let kinds = [ErrorKind::Broken, ErrorKind::Invalid];
                assert!(kinds.contains(&error.kind()), "snapshot {name}: {error:?}");
                None
            }
            Err(error) => {
                assert_typed(name, &error);
                None
            }
        }
    }

    fn look_at_volume(&self, machine: &mut Machine) {
        let size_bytes = machine.volume.size_bytes();
        assert!(!self.strict || size_bytes == VOLUME_BYTES, "the volume has another size");
        for at in (0..size_bytes.min(READ_BYTES_MAX as u64)).step_by(4096) {
            let length = (size_bytes - at).min(4096) as usize;
            match machine.read(at, length) {
                Ok(content) if self.strict => {
                    let expected = &self.volume[at as usize..at as usize + length];
                    assert_same(&format!("the volume at byte {at}"), &content, expected);
                }
                Ok(_) => {}
                Err(error) => {
                    assert!(self.restoring || !self.strict, "the volume at byte {at}: {error:?}");
                    assert_typed("read of the volume", &error);
                }
            }
        }
    }
}

fn assert_same(what: &str, found: &[u8], expected: &[u8]) {
    assert_eq!(found.len(), expected.len(), "{what} has another length");
    let differs = found.iter().zip(expected).position(|(found, expected)| found != expected);
    assert!(differs.is_none(), "{what} shows something else from byte {differs:?} of it on");
}

/// Does everything that a volume can do, where nothing is known of what it shows.
pub fn exercise(machine: &mut Machine) {
    let judge = Judge { strict: false, restoring: true, snapshots: BTreeMap::new(), volume: Vec::new() };
    judge.look(machine);
    for at in [0, 3 * 4096, 4096 + 512] {
        if let Err(error) = machine.write(0, at, 4096, 0x77) {
            assert_typed("write", &error);
        }
    }
    machine.settle();
    if let Err(error) = machine.snapshot("fuzz") {
        assert!(error.kind() != ErrorKind::TimedOut, "{error:?}");
    }
    machine.settle();
    judge.look(machine);
    if let Err(error) = machine.check() {
        assert_typed("check", &error);
    }
}
