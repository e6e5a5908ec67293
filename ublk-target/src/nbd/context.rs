//! Metadata contexts: what a client can ask about every byte of an export, under names of the protocol.
//!
//! Invariants:
//! - A context knows its subject by identity: a name that comes to mean another snapshot changes no context.
//! - Extents are never empty, neighbours differ, and there are never more than were asked for.
//! - What does not exist is not found; only what is malformed is an error.

use std::collections::BTreeSet;
use std::ops::Range;

/// The most contexts one client may have at once.
pub(super) const CONTEXTS_MAX: usize = 64;
/// Queries that stand for more than one context, while a client lists them.
const WILDCARDS: [&str; 5] = ["base:", "qemu:", "qemu:dirty-bitmap:", "cairn:", "cairn:changed:"];

/// What a context tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// Which blocks are in use. Every export can tell.
    Allocation,
    /// Which blocks changed since the snapshot or bookmark that the export knows by this number, which it never gives
    /// to another.
    ChangedSince(u64),
}

/// A subject and a name under which clients ask for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// As in `base:allocation`.
    pub name: String,
    /// What it tells.
    pub subject: Subject,
}

impl Context {
    /// `base:allocation`.
    pub fn allocation() -> Context {
        Context { name: "base:allocation".to_owned(), subject: Subject::Allocation }
    }

    /// What changed from snapshot `since`, known as `number`, until `until`: the name that tools for qemu's bitmaps
    /// use, and our own.
    pub fn changed(since: &str, number: u64, until: &str) -> [Context; 2] {
        let subject = Subject::ChangedSince(number);
        [
            Context { name: format!("qemu:dirty-bitmap:since-{since}"), subject },
            Context { name: format!("cairn:changed:{since}..{until}"), subject },
        ]
    }
}

/// Bits of an extent's status.
pub mod status {
    /// [`super::Subject::Allocation`]: not in use.
    pub const HOLE: u32 = 1 << 0;
    /// [`super::Subject::Allocation`]: reads as zeroes.
    pub const ZERO: u32 = 1 << 1;
    /// [`super::Subject::ChangedSince`]: changed, or not in use any more.
    pub const DIRTY: u32 = 1 << 0;
}

/// A piece of an export, all of one status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Its length.
    pub length_bytes: u64,
    /// Bits of [`status`].
    pub status: u32,
}

/// Consecutive extents, up to a number.
#[derive(Debug)]
pub struct Extents {
    extents: Vec<Extent>,
    extents_max: usize,
}

impl Extents {
    /// None yet; `extents_max` is at least one.
    pub fn new(extents_max: usize) -> Extents {
        assert!(extents_max > 0, "an answer has an extent at least");
        Extents { extents: Vec::new(), extents_max }
    }

    /// Adds the next `length_bytes`. False where they found no room: then nothing after them may be added either.
    #[must_use]
    pub fn push(&mut self, length_bytes: u64, status: u32) -> bool {
        if length_bytes == 0 {
            return true;
        }
        let is_full = self.extents.len() == self.extents_max;
        match self.extents.last_mut() {
            Some(last) if last.status == status => last.length_bytes += length_bytes,
            _ if is_full => return false,
            _ => self.extents.push(Extent { length_bytes, status }),
        }
        true
    }

    /// The extents of `within`: `marked` ranges, ascending and disjoint, have the status `inside`, the rest `outside`.
    pub fn of_ranges(
        marked: impl IntoIterator<Item = Range<u64>>,
        inside: u32,
        outside: u32,
        within: Range<u64>,
        extents_max: usize,
    ) -> Extents {
        let mut extents = Extents::new(extents_max);
        let mut at = within.start;
        for range in marked {
            let (start, end) = (range.start.clamp(at, within.end), range.end.clamp(at, within.end));
            if !extents.push(start - at, outside) || !extents.push(end - start, inside) {
                return extents;
            }
            at = end;
        }
        // Where it finds no room the client asks again.
        let _ = extents.push(within.end - at, outside);
        extents
    }

    /// What was added.
    pub fn into_vec(self) -> Vec<Extent> {
        self.extents
    }
}

/// What `LIST_META_CONTEXT` and `SET_META_CONTEXT` carry.
#[derive(Debug)]
pub(super) struct ContextRequest {
    pub export: String,
    pub queries: BTreeSet<String>,
}

impl ContextRequest {
    /// None where lengths do not add up or a string is no text.
    pub fn parse(data: &[u8]) -> Option<ContextRequest> {
        let (export, rest) = take_string(data)?;
        let (count, mut rest) = rest.split_first_chunk::<4>()?;
        let mut queries = BTreeSet::new();
        for _ in 0..u32::from_be_bytes(*count) {
            let (query, after) = take_string(rest)?;
            queries.insert(query);
            rest = after;
        }
        rest.is_empty().then_some(ContextRequest { export, queries })
    }

    /// Whether a client that lists wants to hear of the context `name`.
    pub fn lists(&self, name: &str) -> bool {
        let wildcard = |query: &str| name.starts_with(query) && self.queries.contains(query);
        self.queries.is_empty() || self.selects(name) || WILDCARDS.into_iter().any(wildcard)
    }

    /// Whether a client that chooses wants the context `name`.
    pub fn selects(&self, name: &str) -> bool {
        self.queries.contains(name)
    }
}

fn take_string(data: &[u8]) -> Option<(String, &[u8])> {
    let (length_bytes, rest) = data.split_first_chunk::<4>()?;
    let (text, rest) = rest.split_at_checked(u32::from_be_bytes(*length_bytes) as usize)?;
    Some((std::str::from_utf8(text).ok()?.to_owned(), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(export: &str, queries: &[&str]) -> Vec<u8> {
        let string = |text: &str| [&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat();
        let mut data = string(export);
        data.extend((queries.len() as u32).to_be_bytes());
        queries.iter().for_each(|query| data.extend(string(query)));
        data
    }

    #[test]
    fn a_request_whose_lengths_do_not_add_up_is_refused() {
        let good = encoded("vol", &["base:", "qemu:x"]);
        let request = ContextRequest::parse(&good).expect("well formed");
        assert_eq!((request.export.as_str(), request.queries.len()), ("vol", 2));
        for length in 0..good.len() {
            assert!(ContextRequest::parse(&good[..length]).is_none(), "cut at {length}");
        }
        assert!(ContextRequest::parse(&[&good[..], &[0]].concat()).is_none());
        let many = [&encoded("vol", &[])[..7], &u32::MAX.to_be_bytes()].concat();
        assert!(ContextRequest::parse(&many).is_none());
        assert!(ContextRequest::parse(&[0, 0, 0, 1, 0xff, 0, 0, 0, 0]).is_none());
    }

    #[test]
    fn wildcards_list_a_namespace_and_select_nothing() {
        let [bitmap, changed] = Context::changed("one", 1, "two");
        let names = [Context::allocation().name, bitmap.name, changed.name];
        assert_eq!(names[1..], ["qemu:dirty-bitmap:since-one", "cairn:changed:one..two"]);
        for (query, listed) in [
            ("base:", [true, false, false]),
            ("qemu:", [false, true, false]),
            ("qemu:dirty-bitmap:", [false, true, false]),
            ("cairn:", [false, false, true]),
            ("cairn:changed:", [false, false, true]),
            ("qemu:dirty", [false; 3]),
            ("base", [false; 3]),
            ("", [false; 3]),
        ] {
            let request = ContextRequest::parse(&encoded("vol", &[query])).expect("well formed");
            assert_eq!(names.each_ref().map(|name| request.lists(name)), listed, "{query}");
            assert!(!names.iter().any(|name| request.selects(name)), "{query}");
        }
        for name in &names {
            let request = ContextRequest::parse(&encoded("vol", &["x:", name])).expect("well formed");
            assert!(request.lists(name) && request.selects(name));
        }
        let all = ContextRequest::parse(&encoded("vol", &[])).expect("well formed");
        assert!(names.iter().all(|name| all.lists(name) && !all.selects(name)));
    }

    #[test]
    fn marked_ranges_become_extents_of_what_was_asked_for() {
        let marked = [0..10, 20..30, 30..40, 90..200];
        let of = |within: Range<u64>, extents_max| {
            let extents = Extents::of_ranges(marked.clone(), 1, 0, within, extents_max).into_vec();
            extents.iter().map(|extent| (extent.length_bytes, extent.status)).collect::<Vec<_>>()
        };
        assert_eq!(of(0..100, 9), [(10, 1), (10, 0), (20, 1), (50, 0), (10, 1)]);
        assert_eq!(of(0..100, 3), [(10, 1), (10, 0), (20, 1)]);
        assert_eq!(of(0..100, 1), [(10, 1)]);
        assert_eq!(of(5..6, 9), [(1, 1)]);
        assert_eq!(of(10..15, 9), [(5, 0)]);
        assert_eq!(of(35..95, 9), [(5, 1), (50, 0), (5, 1)]);
        assert_eq!(of(200..300, 9), [(100, 0)]);
    }

    #[test]
    fn extents_merge_and_stop_at_their_number() {
        let mut extents = Extents::new(2);
        assert!(extents.push(1, 0) && extents.push(0, 7) && extents.push(2, 0) && extents.push(3, 1));
        assert!(extents.push(4, 1));
        assert!(!extents.push(1, 0));
        let extents: Vec<_> = extents.into_vec().iter().map(|extent| (extent.length_bytes, extent.status)).collect();
        assert_eq!(extents, [(3, 0), (7, 1)]);
    }
}
