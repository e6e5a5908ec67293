//! The auditor: hashes of a past snapshot, extent by extent, against what the delta since claims.
//!
//! Invariants:
//! - An extent that no delta since its hash was taken has touched must have that hash still.
//! - Hashes of extents that a delta touched are forgotten; what is not known is not compared.
//! - The hashes are replaced only when an audit has come to its end.

use crate::context::Context;
use crate::exit::{ExitCode, Failure, Outcome};
use crate::output::bytes::format_bytes;
use crate::rate::Pace;
use crate::source::{Changes, ReadAhead, SnapshotSource};
use cairn_target::config::write_durably;
use cairn_target::control::api::{AuditReport, SnapshotReport, SnapshotState, Timestamp};
use cairn_target::paths::VolumePaths;
use cairn_target::process::now_unix_ms;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use uuid::Uuid;

/// Bytes that one hash stands for.
const EXTENT_BYTES: u64 = 1 << 20;
/// Reads side by side: production comes first.
const READERS: usize = 2;
const HASH_BYTES: usize = 32;
/// Of an extent whose hash is not known.
const UNKNOWN: [u8; HASH_BYTES] = [0; HASH_BYTES];
/// Spreads neighbouring extents over the rounds.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// What is kept from audit to audit, beside the hashes. `cairn_target::audit` reads a part of it.
#[derive(Serialize, Deserialize)]
struct State {
    store_id: Uuid,
    snapshot: String,
    epoch: u64,
    size_bytes: u64,
    round: u64,
    report: AuditReport,
}

/// The files of one volume.
struct Files {
    state: PathBuf,
    hashes: PathBuf,
}

impl Files {
    fn new(paths: VolumePaths) -> Files {
        Files { hashes: paths.audit.with_extension("hashes"), state: paths.audit }
    }

    /// The state with its hashes; none where either is missing or does not fit the other.
    fn load(&self) -> Option<(State, Vec<[u8; HASH_BYTES]>)> {
        let state: State = serde_json::from_slice(&std::fs::read(&self.state).ok()?).ok()?;
        let bytes = std::fs::read(&self.hashes).ok()?;
        let (content, checksum) = bytes.split_last_chunk::<HASH_BYTES>()?;
        let fits = content.len() as u64 == extents_of(state.size_bytes) * HASH_BYTES as u64;
        let intact = blake3::Hasher::new().update(content).update(&state.epoch.to_le_bytes()).finalize() == *checksum;
        let hashes = content.chunks_exact(HASH_BYTES).map(|hash| hash.try_into().expect("32 bytes"));
        (fits && intact).then(|| (state, hashes.collect()))
    }

    fn save(&self, state: &State, hashes: &[[u8; HASH_BYTES]]) -> Outcome {
        let mut bytes = hashes.concat();
        let checksum = blake3::Hasher::new().update(&bytes).update(&state.epoch.to_le_bytes()).finalize();
        bytes.extend_from_slice(checksum.as_bytes());
        write_durably(&self.hashes, &bytes)?;
        Ok(write_durably(&self.state, &serde_json::to_vec_pretty(state).expect("plain data"))?)
    }
}

/// Forgets the audits of a volume that is gone.
pub fn forget(paths: VolumePaths) {
    let files = Files::new(paths);
    for path in [files.state, files.hashes] {
        // Of another store they would count for nothing.
        let _ = std::fs::remove_file(path);
    }
}

/// What was found, for people.
pub fn sentence(report: &AuditReport) -> String {
    let compared = format_bytes(report.compared_bytes);
    match report.first_wrong_bytes {
        None => format!("{}, {compared} compared, deltas left nothing out", report.at),
        Some(first) => format!("{}, WRONG: {} extents, the first at {first}", report.at, report.wrong_extents),
    }
}

fn extents_of(size_bytes: u64) -> u64 {
    size_bytes.div_ceil(EXTENT_BYTES)
}

/// Whether an extent is looked at in this round; after 100 / `percent` rounds each was.
fn is_in_sample(extent: u64, round: u64, percent: u8) -> bool {
    let percent = u64::from(percent);
    let rounds = 100u64.div_ceil(percent);
    (extent.wrapping_mul(SPREAD) >> 32) % rounds == round % rounds
}

fn youngest(source: &Arc<dyn SnapshotSource>) -> Result<SnapshotReport, Failure> {
    let facts = source.facts();
    let whole =
        facts.snapshots.iter().rev().find(|snapshot| snapshot.state == SnapshotState::Whole && !snapshot.automatic);
    whole.cloned().ok_or_else(|| {
        let message = format!("{}: there is no snapshot to read; take one first: cairn snapshot", facts.volume);
        Failure::new(ExitCode::NotFound, message)
    })
}

/// Hashes from before that still stand for what `newest` has, by the word of the delta.
fn still_claimed(
    source: &Arc<dyn SnapshotSource>,
    state: &State,
    mut hashes: Vec<[u8; HASH_BYTES]>,
    newest: &SnapshotReport,
) -> Result<Option<Vec<[u8; HASH_BYTES]>>, Failure> {
    let facts = source.facts();
    let known = facts.snapshots.iter().any(|snapshot| snapshot.epoch == state.epoch && snapshot.name == state.snapshot);
    if state.store_id != facts.store_id || !known || state.size_bytes > newest.size_bytes {
        return Ok(None);
    }
    // A last extent that was cut short stands for less than it would now.
    if state.size_bytes < newest.size_bytes && !state.size_bytes.is_multiple_of(EXTENT_BYTES) {
        hashes.pop();
    }
    hashes.resize(extents_of(newest.size_bytes) as usize, UNKNOWN);
    if state.epoch == newest.epoch {
        return Ok(Some(hashes));
    }
    for extent in Changes::new(source.clone(), Some(state.snapshot.clone()), Some(newest.name.clone())) {
        let extent = extent?;
        let first = extent.offset_bytes / EXTENT_BYTES;
        let end = extents_of(extent.offset_bytes + extent.length_bytes);
        hashes[first as usize..end as usize].fill(UNKNOWN);
    }
    Ok(Some(hashes))
}

/// Reads a share of the youngest snapshot, compares it with what is known, and keeps what was read for the next time.
pub fn audit(
    context: &Context,
    source: &Arc<dyn SnapshotSource>,
    percent: u8,
    pace: Pace,
) -> Result<AuditReport, Failure> {
    let newest = youngest(source)?;
    let _hold = source.hold(&newest.name)?;
    let facts = source.facts();
    let files = Files::new(context.paths.volume(&facts.volume)?);
    let mut round = 0;
    let mut since = None;
    let mut hashes = vec![UNKNOWN; extents_of(newest.size_bytes) as usize];
    if let Some((state, kept)) = files.load() {
        if let Some(claimed) = still_claimed(source, &state, kept, &newest)? {
            (hashes, since) = (claimed, Some(state.snapshot));
        }
        round = state.round + 1;
    }
    let mut report = AuditReport {
        volume: facts.volume.clone(),
        at: Timestamp::from_unix_ms(now_unix_ms()),
        snapshot: newest.name.clone(),
        since,
        compared_bytes: 0,
        known_bytes: 0,
        wrong_extents: 0,
        first_wrong_bytes: None,
    };
    look(source, &newest, &mut hashes, |extent| is_in_sample(extent, round, percent), pace, &mut report)?;
    let known = hashes.iter().filter(|hash| **hash != UNKNOWN).count() as u64;
    report.known_bytes = (known * EXTENT_BYTES).min(newest.size_bytes);
    let state = State {
        store_id: facts.store_id,
        snapshot: newest.name.clone(),
        epoch: newest.epoch,
        size_bytes: newest.size_bytes,
        round,
        report: report.clone(),
    };
    files.save(&state, &hashes)?;
    Ok(report)
}

/// Reads what is in the sample, and as many of those that can be compared.
fn look(
    source: &Arc<dyn SnapshotSource>,
    newest: &SnapshotReport,
    hashes: &mut [[u8; HASH_BYTES]],
    in_sample: impl Fn(u64) -> bool,
    pace: Pace,
    report: &mut AuditReport,
) -> Outcome {
    let sampled = (0..hashes.len() as u64).filter(|extent| in_sample(*extent)).count();
    let mut known_left = sampled;
    let chosen: Vec<Result<u64, Failure>> = (0..hashes.len() as u64)
        .filter(|extent| {
            let can_compare = hashes[*extent as usize] != UNKNOWN && known_left > 0;
            known_left -= usize::from(can_compare);
            can_compare || in_sample(*extent)
        })
        .map(Ok)
        .collect();
    let (reader, name, size_bytes) = (source.clone(), newest.name.clone(), newest.size_bytes);
    let pace = Mutex::new(pace);
    let read = ReadAhead::start(chosen.into_iter(), READERS, 2 * READERS, move |extent: u64| {
        let offset_bytes = extent * EXTENT_BYTES;
        let mut content = vec![0; (size_bytes - offset_bytes).min(EXTENT_BYTES) as usize];
        pace.lock().unwrap_or_else(PoisonError::into_inner).spend(content.len() as u64);
        reader.read(&name, offset_bytes, &mut content)?;
        Ok((extent, content.len() as u64, *blake3::hash(&content).as_bytes()))
    });
    for result in read {
        let (extent, length_bytes, hash) = result?;
        let known = &mut hashes[extent as usize];
        if *known != UNKNOWN {
            report.compared_bytes += length_bytes;
            if *known != hash {
                report.wrong_extents += 1;
                report.first_wrong_bytes.get_or_insert(extent * EXTENT_BYTES);
            }
        }
        *known = hash;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_extent_is_looked_at_once_in_a_cycle_of_rounds() {
        for percent in [1, 5, 30, 100] {
            let rounds = 100u64.div_ceil(u64::from(percent));
            for extent in 0..1000 {
                let looked = (0..rounds).filter(|round| is_in_sample(extent, *round, percent)).count();
                assert_eq!(looked, 1, "extent {extent} at {percent} %");
            }
        }
    }
}
