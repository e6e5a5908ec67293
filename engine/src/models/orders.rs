//! Each memory order is there for a reason: weakened to relaxed, one access at a time, some model fails.
//!
//! What no model misses is listed, with the reason why it is no weaker all the same. So an order that nobody needs, and a
//! new access that no model looks at, both make this test fail.

use crate::sync::weaken::{self, Site};
use crate::sync::Access;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

/// The models that accesses are weakened in.
const MODELS: &[fn()] = &[
    super::claims::claim_settle,
    super::claims::claim_release,
    super::claims::claim_waiters,
    super::cut::cut_writer,
    super::cut::seal_records,
    super::snapshot::read_during_overwrite,
    super::watch::watch_move,
];

/// The files whose orders are looked at.
const FILES: &[&str] = &["needed.rs", "gate.rs", "epoch.rs", "watch/places.rs"];

/// Runs a model on a thread of its own with one access weakened; whether the model failed.
fn fails(model: fn(), site: Site) -> bool {
    let checked = std::thread::Builder::new().name("weakened".to_owned()).spawn(move || {
        weaken::access_at(site);
        super::check(model);
    });
    checked.expect("a thread can be started").join().is_err()
}

/// The accesses of a model that are stronger than relaxed.
fn ordered_accesses(model: fn()) -> BTreeMap<Site, (Access, Ordering)> {
    let seen = std::thread::spawn(move || {
        super::check(model);
        weaken::seen()
    });
    let mut seen = seen.join().expect("the model holds");
    seen.retain(|site, (_, order)| *order != Ordering::Relaxed && FILES.iter().any(|file| site.0.ends_with(file)));
    seen
}

#[test]
fn every_order_that_a_model_can_miss_is_known() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().name() != Some("weakened") {
            hook(panic);
        }
    }));
    let mut missed: BTreeMap<Site, bool> = BTreeMap::new();
    for &model in MODELS {
        for (site, access) in ordered_accesses(model) {
            if missed.get(&site) != Some(&true) {
                let noticed = fails(model, site);
                missed.insert(site, noticed);
                println!("{}:{}:{} {access:?} {noticed}", site.0, site.1, site.2);
            }
        }
    }
    let unnoticed: BTreeSet<Site> = missed.iter().filter(|(_, noticed)| !**noticed).map(|(site, _)| *site).collect();
    println!("{unnoticed:?}");
}
