//! Planted bugs: realistic mistakes, made one at a time, to prove that the tests see them.
//!
//! `planted!("name")` is true, `planted!("name", mistake)` does the mistake, and `planted!("name", mistake, right)` is
//! the mistake instead of what is right, in a build with the feature `planted` whose environment names the bug in
//! `CAIRN_PLANTED`. `engine/tests/planted_bugs.rs` runs the push tier's suites against each of them.
//!
//! Invariants:
//! - Without the feature nothing of it is left: the first form is the constant `false`, the second nothing at all, the
//!   third what is right.
//! - At most one bug is active in a process, from its start to its end.
//! - What is planted stands in [`BUGS`]; any other name does not compile.

#[cfg(feature = "planted")]
mod bugs;
#[cfg(feature = "planted")]
pub(crate) mod mistakes;

#[cfg(feature = "planted")]
pub use bugs::{Bug, BUGS, CANARY};

/// What the file's head says.
#[cfg(feature = "planted")]
macro_rules! planted {
    ($name:literal) => {
        $crate::planted::is_active(const { $crate::planted::known($name) })
    };
    ($name:literal, $mistake:expr) => {
        if planted!($name) {
            #[allow(unused_imports)]
            use $crate::planted::mistakes;
            $mistake;
        }
    };
    ($name:literal, $mistake:expr, $right:expr) => {
        if planted!($name) {
            $mistake
        } else {
            $right
        }
    };
}

/// What the file's head says.
#[cfg(not(feature = "planted"))]
macro_rules! planted {
    ($name:literal) => {
        $crate::planted::is_active($name)
    };
    ($name:literal, $mistake:expr) => {};
    ($name:literal, $mistake:expr, $right:expr) => {{
        $right
    }};
}

/// No bug is ever active.
#[cfg(not(feature = "planted"))]
pub(crate) const fn is_active(_name: &str) -> bool {
    false
}

/// Whether the environment names this bug. It is looked at once.
#[cfg(feature = "planted")]
pub(crate) fn is_active(name: &str) -> bool {
    static ACTIVE: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    let active = ACTIVE.get_or_init(|| {
        let named = std::env::var("CAIRN_PLANTED").ok();
        assert!(named.iter().all(|name| BUGS.iter().any(|bug| bug.name == name)), "no bug is called {named:?}");
        named
    });
    active.as_deref() == Some(name)
}

/// The name of a planted bug; any other stops the compiler.
#[cfg(feature = "planted")]
pub(crate) const fn known(name: &'static str) -> &'static str {
    let mut index = 0;
    while index < BUGS.len() {
        if is_same(BUGS[index].name.as_bytes(), name.as_bytes()) {
            return name;
        }
        index += 1;
    }
    panic!("the table of planted bugs lacks this name");
}

#[cfg(feature = "planted")]
const fn is_same(left: &[u8], right: &[u8]) -> bool {
    let mut index = 0;
    while index < left.len() && index < right.len() && left[index] == right[index] {
        index += 1;
    }
    index == left.len() && index == right.len()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_canary_is_silent() {
        assert!(!planted!("canary"), "the canary sings, as it was told to");
    }
}
