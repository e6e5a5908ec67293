//! Each memory order is there for a reason: made one step weaker, one access at a time, some model fails.
//!
//! What no model notices is listed, with the reason why it is no weaker all the same. So an order that nobody needs, and a
//! new access that no model looks at, both make this test fail.

use crate::sync::weaken::{self, Site};
use crate::sync::Access;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

/// The models that accesses are weakened in.
const MODELS: &[fn()] = &[
    super::claims::claim_settle,
    super::claims::claim_release,
    super::claims::claim_waiters,
    super::forgo::forgo_writer,
    super::forgo::forgo_late_record,
    super::forgo::forgo_release,
    super::late::late_give_up,
    super::cut::cut_writer,
    super::cut::seal_records,
    super::snapshot::read_during_overwrite,
    super::watch::watch_move,
];

/// The files whose orders are looked at, with their text.
const FILES: &[(&str, &str)] = &[
    ("src/needed.rs", include_str!("../needed.rs")),
    ("src/gate.rs", include_str!("../gate.rs")),
    ("src/epoch.rs", include_str!("../epoch.rs")),
    ("src/watch/places.rs", include_str!("../watch/places.rs")),
];

/// Accesses that could be weaker, by file and line: all in the gate, whose few accesses in one order are easier to
/// believe than each in its own.
const STRONGER_THAN_NEEDED: &[(&str, &str)] = &[
    // Looked at between taking a listener and waiting: the signal's lock orders it.
    ("gate.rs", "if !self.closed.load(Ordering::SeqCst) {"),
    // Releases to who enters; nothing is read after it.
    ("gate.rs", "let was_closed = self.closed.swap(false, Ordering::SeqCst);"),
    // Releases to the sealer; nothing is read after it.
    ("epoch.rs", "let before = self.records_in_flight.fetch_sub(1, Ordering::SeqCst);"),
];

/// One step weaker.
fn weaker(access: Access, order: Ordering) -> Ordering {
    match (order, access) {
        (Ordering::SeqCst, Access::Load) => Ordering::Acquire,
        (Ordering::SeqCst, Access::Store) => Ordering::Release,
        (Ordering::SeqCst, Access::Update) => Ordering::AcqRel,
        _ => Ordering::Relaxed,
    }
}

/// Checks a model on a thread of its own; gives the ordered accesses it made, or nothing if it failed.
fn check(model: fn(), fences_after_writes: bool, weakened: Option<(Site, Ordering)>) -> Option<Accesses> {
    let checked = std::thread::Builder::new().name("weakened".to_owned()).spawn(move || {
        if fences_after_writes {
            weaken::fences_after_writes();
        }
        if let Some((site, order)) = weakened {
            weaken::access_at(site, order);
        }
        super::check(model);
        weaken::seen()
    });
    let mut seen = checked.expect("a thread can be started").join().ok()?;
    seen.retain(|site, (_, order)| *order != Ordering::Relaxed && file_of(*site).is_some());
    Some(seen)
}

type Accesses = BTreeMap<Site, (Access, Ordering)>;

/// Whether some model fails when the access is one step weaker.
fn is_noticed(site: Site, access: Access, order: Ordering, models: &[(fn(), Accesses)]) -> bool {
    let concerned = models.iter().filter(|(_, accesses)| accesses.contains_key(&site));
    let weakened = Some((site, weaker(access, order)));
    concerned
        .flat_map(|(model, _)| [(*model, false), (*model, true)])
        .any(|(model, after)| check(model, after, weakened).is_none())
}

fn file_of(site: Site) -> Option<(&'static str, &'static str)> {
    FILES.iter().copied().find(|(file, _)| site.0.ends_with(file))
}

/// The file and the text of the line of an access.
fn text_of(site: Site) -> (&'static str, &'static str) {
    let (file, text) = file_of(site).expect("only accesses in these files are looked at");
    (file, text.lines().nth(site.1 as usize - 1).expect("the compiler counts lines as we do").trim())
}

#[test]
fn an_order_that_is_weakened_is_noticed_by_a_model() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().name() != Some("weakened") {
            hook(panic);
        }
    }));
    let mut models = Vec::new();
    for &model in MODELS {
        check(model, true, None).expect("with fences after writes the model holds, too");
        models.push((model, check(model, false, None).expect("the model holds")));
    }
    let accesses: Accesses = models.iter().flat_map(|(_, accesses)| accesses.clone()).collect();
    assert!(accesses.len() >= 10, "the accesses are seen: {accesses:?}");
    let mut wrong = Vec::new();
    for (&site, &(access, order)) in &accesses {
        let (file, line) = text_of(site);
        let noticed = is_noticed(site, access, order, &models);
        println!("{file}:{} {order:?} noticed={noticed}: {line}", site.1);
        let listed = STRONGER_THAN_NEEDED.iter().any(|known| file.ends_with(known.0) && line == known.1);
        if noticed == listed {
            wrong.push(format!("{file}:{}: {line}", site.1));
        }
    }
    assert!(wrong.is_empty(), "either a model notices, or it is listed with the reason: {wrong:#?}");
}
