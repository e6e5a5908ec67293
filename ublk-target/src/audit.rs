//! What the last audit of a volume found: `cairn audit` leaves it in the state directory, whoever asks for metrics gets it.
//!
//! Invariants:
//! - A report belongs to the store that was audited: that of an earlier volume of the same name counts for nothing.
//! - An audit that cannot be understood is none; metrics do not fail for it.

use crate::control::api::AuditReport;
use crate::paths::VolumePaths;
use serde::Deserialize;
use uuid::Uuid;

/// What `cairn audit` keeps, as far as it concerns others.
#[derive(Deserialize)]
struct Kept {
    store_id: Uuid,
    report: AuditReport,
}

/// What the last audit of this store found; none where there was none.
pub fn last_report(paths: &VolumePaths, store_id: Uuid) -> Option<AuditReport> {
    let text = std::fs::read(&paths.audit).ok()?;
    match serde_json::from_slice::<Kept>(&text) {
        Ok(kept) => (kept.store_id == store_id).then_some(kept.report),
        Err(error) => {
            tracing::warn!(%error, path = %paths.audit.display(), "the last audit cannot be understood");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::write_durably;
    use crate::paths::Paths;
    use serde_json::json;

    #[test]
    fn an_audit_of_another_store_or_a_damaged_one_counts_for_nothing() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let paths = Paths::resolve(Some(directory.path().into()), None, None).volume("web").expect("legal");
        let store_id = Uuid::from_u128(7);
        assert_eq!(last_report(&paths, store_id), None);
        let report = json!({
            "volume": "web", "at": "2026-11-21T12:00:00.000Z", "snapshot": "monday", "since": null,
            "compared_bytes": 0, "known_bytes": 4096, "wrong_extents": 0, "first_wrong_bytes": null,
        });
        let kept = json!({ "store_id": store_id, "snapshot": "monday", "round": 1, "report": report });
        write_durably(&paths.audit, kept.to_string().as_bytes()).expect("writes");
        assert_eq!(last_report(&paths, store_id).expect("it is there").snapshot, "monday");
        assert_eq!(last_report(&paths, Uuid::from_u128(8)), None);
        write_durably(&paths.audit, b"{").expect("writes");
        assert_eq!(last_report(&paths, store_id), None);
    }
}
