//! `cairn show`: a volume with its snapshots, or one snapshot.

use crate::arguments::Show;
use crate::auditing;
use crate::client::Client;
use crate::context::Context;
use crate::exit::{ExitCode, Failure, Outcome};
use crate::names::{SnapshotPath, Target, VolumeName};
use crate::offline;
use crate::output::bytes::format_bytes;
use crate::output::table::{fields, table};
use cairn_target::audit;
use cairn_target::config::VolumeConfig;
use cairn_target::control::api::{
    AuditReport, Consistency, OnLate, SaveDeadlineReport, SnapshotList, SnapshotReport, SnapshotState, VolumeReport,
    VolumeState,
};
use cairn_target::supervise::gave_up_mark;
use serde::Serialize;

#[derive(Serialize)]
struct Answer {
    name: String,
    attached: bool,
    config: VolumeConfig,
    /// Null where the volume is detached.
    volume: Option<VolumeReport>,
    /// Oldest first; null where the store cannot be read.
    snapshots: Option<Vec<SnapshotReport>>,
    /// Deleted snapshots that have left what changed since, oldest first; null where the store cannot be read.
    bookmarks: Option<Vec<SnapshotReport>>,
    /// Why the store of a detached volume cannot be read; null where it can.
    store_error: Option<String>,
    /// What the last audit found; null where there was none.
    audit: Option<AuditReport>,
    /// What the supervisor said when it gave up restarting the target; null where it did not.
    gave_up: Option<String>,
}

pub fn run(context: &Context, arguments: &Show) -> Outcome {
    match &arguments.target {
        Target::Volume(name) => show_volume(context, name),
        Target::Snapshot(path) => show_snapshot(context, path),
    }
}

fn show_volume(context: &Context, name: &VolumeName) -> Outcome {
    let config = context.config(name)?;
    let client = context.client_of(&config);
    let (volume, list, store_error) = match ask_target(&client) {
        Ok((volume, list)) => (Some(volume), Some(list), None),
        Err(failure) if failure.code == ExitCode::NotAttached => {
            match offline::snapshots(&config.name, &config.store) {
                Ok(list) => (None, Some(list), None),
                Err(failure) => (None, None, Some(failure.message)),
            }
        }
        Err(failure) => return Err(failure),
    };
    let paths = context.paths.volume(name.as_str())?;
    let mark = gave_up_mark(&paths);
    let gave_up = std::fs::read_to_string(mark).ok().filter(|_| volume.is_none()).map(|text| text.trim().to_owned());
    let name = config.name.clone();
    let store_id = config.store_id.as_deref().and_then(|text| text.parse().ok());
    let audit = store_id.and_then(|store_id| audit::last_report(&paths, store_id));
    let (snapshots, bookmarks) = list.map(|list| (list.snapshots, list.bookmarks)).unzip();
    let attached = volume.is_some();
    let answer = Answer { name, attached, config, volume, snapshots, bookmarks, store_error, audit, gave_up };
    context.output.answer(&answer, volume_text)
}

/// Both or neither: a target may be detached in between.
fn ask_target(client: &Client) -> Result<(VolumeReport, SnapshotList), Failure> {
    let volume = client.get("/v1/volume")?;
    Ok((volume, client.get("/v1/snapshots")?))
}

fn show_snapshot(context: &Context, path: &SnapshotPath) -> Outcome {
    let config = context.config(&path.volume)?;
    let snapshots = match context.client_of(&config).get::<SnapshotList>("/v1/snapshots") {
        Ok(list) => list.snapshots,
        Err(failure) if failure.code == ExitCode::NotAttached => {
            offline::snapshots(&config.name, &config.store)?.snapshots
        }
        Err(failure) => return Err(failure),
    };
    let found = snapshots.into_iter().find(|snapshot| snapshot.name == path.snapshot);
    let snapshot = found.ok_or_else(|| {
        Failure::new(ExitCode::NotFound, format!("{path}: no such snapshot; see `cairn show {}`", path.volume))
    })?;
    context.output.answer(&snapshot, |snapshot| snapshot_text(path, snapshot))
}

/// The state of a volume in a word.
pub fn state_word(state: VolumeState) -> &'static str {
    match state {
        VolumeState::Whole => "whole",
        VolumeState::Degraded => "degraded",
        VolumeState::Broken => "broken",
    }
}

fn volume_text(answer: &Answer) -> String {
    let mut text = match &answer.volume {
        Some(volume) => attached_text(volume),
        None => detached_text(answer),
    };
    if let Some(audit) = &answer.audit {
        text.push_str(&fields(&[("audit", auditing::sentence(audit))]));
    }
    let snapshots = answer.snapshots.as_deref().unwrap_or_default();
    let bookmarks = answer.bookmarks.as_deref().unwrap_or_default();
    if !snapshots.is_empty() || !bookmarks.is_empty() {
        let mut rows: Vec<[String; 5]> = snapshots.iter().map(snapshot_row).collect();
        rows.extend(bookmarks.iter().map(bookmark_row));
        text.push('\n');
        text.push_str(&table(["SNAPSHOT", "TAKEN", "SIZE", "CONSISTENCY", "STATE"], &rows));
    }
    text
}

fn detached_text(answer: &Answer) -> String {
    let store = answer.config.store.display();
    let state = match &answer.gave_up {
        Some(why) => format!("not served: {why}"),
        None => format!("detached; attach it: cairn attach {}", answer.name),
    };
    fields(&[
        ("volume", answer.name.clone()),
        ("state", state),
        ("origin", answer.config.origin.display().to_string()),
        ("store", answer.store_error.as_ref().map_or(store.to_string(), |error| format!("cannot be read: {error}"))),
    ])
}

fn attached_text(volume: &VolumeReport) -> String {
    let state = match &volume.state_reason {
        Some(reason) => format!("{}: {reason}", state_word(volume.state)),
        None => state_word(volume.state).to_owned(),
    };
    let store = &volume.store;
    let (size, used, free) =
        (format_bytes(store.size_bytes), format_bytes(store.used_bytes), format_bytes(store.free_bytes));
    let mut lines = vec![
        ("volume", volume.name.clone()),
        ("state", format!("attached since {}, {state}", volume.attached_at)),
        ("size", format_bytes(volume.size_bytes)),
        ("origin", volume.origin.path.clone()),
        ("store", format!("{}, {size}: {used} used, {free} free", store.path)),
    ];
    if let Some(deadline) = &volume.save_deadline {
        lines.extend(late_line(deadline));
        lines.push(("save deadline", format!("{} ms, then {}", deadline.deadline_ms, on_late_word(deadline.on_late))));
    }
    lines.extend(volume.device.clone().map(|device| ("device", device)));
    lines.extend(volume.nbd_uri.clone().map(|uri| ("nbd", uri)));
    if let Some(restore) = &volume.restore {
        let percent = restore.done_bytes * 100 / restore.total_bytes.max(1);
        lines.push(("restore", format!("to {}, {percent} % moved; undo: {}", restore.snapshot, restore.before)));
    }
    fields(&lines)
}

/// What an administrator has to know at once.
fn late_line(deadline: &SaveDeadlineReport) -> Option<(&'static str, String)> {
    if let Some(reason) = &deadline.given_up {
        return Some(("ALARM", format!("nothing is saved: {reason}")));
    }
    let late_for_ms = deadline.late_for_ms?;
    Some(("ALARM", format!("the store does not answer: a write has waited for it for {late_for_ms} ms")))
}

fn on_late_word(on_late: OnLate) -> &'static str {
    match on_late {
        OnLate::Wait => "writes wait",
        OnLate::Break => "snapshots break",
    }
}

fn snapshot_row(snapshot: &SnapshotReport) -> [String; 5] {
    [
        snapshot.name.clone(),
        snapshot.created_at.to_string(),
        format_bytes(snapshot.size_bytes),
        consistency_word(snapshot.consistency).to_owned(),
        snapshot_state(snapshot),
    ]
}

/// With the mark that tells a bookmark from a snapshot wherever one is named.
fn bookmark_row(bookmark: &SnapshotReport) -> [String; 5] {
    let [name, taken, size, consistency, state] = snapshot_row(bookmark);
    [format!("#{name}"), taken, size, consistency, format!("bookmark, {state}")]
}

fn snapshot_text(path: &SnapshotPath, snapshot: &SnapshotReport) -> String {
    let mut lines = vec![
        ("snapshot", path.to_string()),
        ("taken", snapshot.created_at.to_string()),
        ("size", format_bytes(snapshot.size_bytes)),
        ("consistency", consistency_word(snapshot.consistency).to_owned()),
        ("state", snapshot_state(snapshot)),
    ];
    if let Some(exposed) = &snapshot.exposed {
        lines.extend(exposed.device.clone().map(|device| ("device", device)));
        lines.extend(exposed.nbd_uri.clone().map(|uri| ("nbd", uri)));
    }
    fields(&lines)
}

fn consistency_word(consistency: Consistency) -> &'static str {
    match consistency {
        Consistency::Crash => "crash",
        Consistency::Filesystem => "filesystem",
        Consistency::Application => "application",
    }
}

fn snapshot_state(snapshot: &SnapshotReport) -> String {
    let mut state = match (snapshot.state, &snapshot.state_reason) {
        (SnapshotState::Whole, _) => "whole".to_owned(),
        (SnapshotState::Broken, Some(reason)) => format!("broken: {reason}"),
        (SnapshotState::Broken, None) => "broken".to_owned(),
    };
    if let Some(exposed) = &snapshot.exposed {
        state.push_str(if exposed.scratch { ", exposed for scratch writes" } else { ", exposed" });
    }
    if snapshot.automatic {
        state.push_str(", taken by a restore");
    }
    state
}
