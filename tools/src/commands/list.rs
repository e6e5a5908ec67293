//! `cairn list`: the volumes configured here.

use crate::context::Context;
use crate::exit::Outcome;
use crate::output::bytes::format_bytes;
use crate::output::table::table;
use cairn_target::config::VolumeConfig;
use cairn_target::control::api::{VolumeReport, VolumeState};
use serde::Serialize;
use std::path::PathBuf;

#[derive(Serialize)]
struct Row {
    name: String,
    /// Null where the configuration cannot be read; `error` says why.
    origin: Option<PathBuf>,
    store: Option<PathBuf>,
    attached: bool,
    size_bytes: Option<u64>,
    snapshots: Option<u64>,
    state: Option<VolumeState>,
    device: Option<String>,
    nbd_uri: Option<String>,
    error: Option<String>,
}

#[derive(Serialize)]
struct Answer {
    volumes: Vec<Row>,
}

pub fn run(context: &Context) -> Outcome {
    let volumes = VolumeConfig::load_all(&context.paths)?;
    let volumes = volumes.into_iter().map(|(name, config)| row(context, name, config)).collect();
    context.output.answer(&Answer { volumes }, text)
}

fn row(context: &Context, name: String, config: cairn_engine::error::Result<VolumeConfig>) -> Row {
    let mut row = Row {
        name,
        origin: None,
        store: None,
        attached: false,
        size_bytes: None,
        snapshots: None,
        state: None,
        device: None,
        nbd_uri: None,
        error: None,
    };
    match config {
        Err(error) => row.error = Some(error.to_string()),
        Ok(config) => {
            if let Ok(report) = context.client_of(&config).get::<VolumeReport>("/v1/volume") {
                row.attached = true;
                row.size_bytes = Some(report.size_bytes);
                row.snapshots = Some(report.snapshots);
                row.state = Some(report.state);
                row.device = report.device;
                row.nbd_uri = report.nbd_uri;
            }
            row.origin = Some(config.origin);
            row.store = Some(config.store);
        }
    }
    row
}

fn text(answer: &Answer) -> String {
    if answer.volumes.is_empty() {
        return "There are no volumes yet. See `cairn devices`, then `cairn create`.\n".to_owned();
    }
    let rows: Vec<[String; 6]> = answer
        .volumes
        .iter()
        .map(|row| {
            let state = match (&row.error, row.state) {
                (Some(error), _) => error.clone(),
                (None, Some(state)) => format!("attached, {}", super::show::state_word(state)),
                (None, None) => "detached".to_owned(),
            };
            let path = |path: &Option<PathBuf>| path.as_ref().map_or(String::new(), |p| p.display().to_string());
            [
                row.name.clone(),
                row.size_bytes.map_or(String::new(), format_bytes),
                row.snapshots.map_or(String::new(), |count| count.to_string()),
                path(&row.origin),
                path(&row.store),
                state,
            ]
        })
        .collect();
    table(["VOLUME", "SIZE", "SNAPSHOTS", "ORIGIN", "STORE", "STATE"], &rows)
}
