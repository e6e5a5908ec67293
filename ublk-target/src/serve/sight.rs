//! What is seen of a volume whose store may not answer: space and snapshots as they were last, where they cannot be
//! asked.
//!
//! Invariants:
//! - Whoever asks how a volume is gets an answer, however stuck the store is.
//! - What broke because the store was late is shown as broken, also where the list is older.

use super::worker::Worker;
use cairn_engine::snapshot::Snapshot;
use cairn_engine::stats::Stats;
use cairn_engine::volume::Volume;
use std::time::Duration;

/// How long an answer waits for the ledger, whose holder may wait for the store.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// What the ledger knows.
#[derive(Clone)]
pub(super) struct Sight {
    pub stats: Stats,
    /// Oldest first.
    pub snapshots: Vec<Snapshot>,
    /// Oldest first.
    pub bookmarks: Vec<Snapshot>,
}

impl Sight {
    /// As it is now. Waits for the ledger.
    pub async fn of(volume: &Volume) -> Sight {
        let (stats, snapshots) = (volume.stats().await, volume.snapshots().await);
        Sight { stats, snapshots, bookmarks: volume.bookmarks().await }
    }
}

impl Worker {
    /// Looks now, whenever snapshots have come or gone. False where the ledger is not to be had.
    pub(super) async fn look(&self) -> bool {
        let sight = tokio::time::timeout(ANSWER_LIMIT, Sight::of(&self.volume)).await;
        sight.map(|sight| self.last_seen.replace(sight)).is_ok()
    }

    /// As it is now or, where the ledger is not to be had, as it was last.
    pub(super) async fn sight(&self) -> Sight {
        if self.look().await {
            return self.last_seen.borrow().clone();
        }
        tracing::warn!("the store does not answer; what is said of its space and its snapshots is older");
        let Sight { stats, snapshots, bookmarks } = self.last_seen.borrow().clone();
        let as_decided = |list: Vec<Snapshot>| list.into_iter().map(|one| self.volume.as_decided(one)).collect();
        Sight { stats, snapshots: as_decided(snapshots), bookmarks: as_decided(bookmarks) }
    }
}
