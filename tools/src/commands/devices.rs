//! `cairn devices`: what disks are here, and which are fit for what (mission D7).

use crate::arguments::Devices;
use crate::context::Context;
use crate::discovery::{self, Device, Fitness, Roles};
use crate::exit::{ExitCode, Failure, Outcome};
use crate::output::bytes::format_bytes;
use crate::output::table::table;
use cairn_target::config::VolumeConfig;
use serde::Serialize;
use std::path::Path;

#[derive(Serialize)]
struct Answer {
    devices: Vec<Device>,
}

pub fn run(context: &Context, arguments: &Devices) -> Outcome {
    let roles = roles(context)?;
    let devices = match arguments.devices.is_empty() {
        true => discovery::devices(&roles).map_err(|error| Failure::io("list devices", Path::new("/sys"), error))?,
        false => arguments.devices.iter().map(|path| one(path, &roles)).collect::<Result<_, Failure>>()?,
    };
    context.output.answer(&Answer { devices }, text)
}

/// The roles that devices have in the volumes configured here.
pub fn roles(context: &Context) -> Result<Roles, Failure> {
    let mut roles = Roles::new();
    for (name, config) in VolumeConfig::load_all(&context.paths)? {
        match config {
            Ok(config) => {
                roles.push((config.origin, format!("the origin of volume {name}")));
                roles.push((config.store, format!("the store of volume {name}")));
            }
            Err(error) => context.output.warn(&error.to_string()),
        }
    }
    Ok(roles)
}

fn one(path: &Path, roles: &Roles) -> Result<Device, Failure> {
    discovery::device(path, roles).map_err(|error| Failure::io("look at", path, error))?.ok_or_else(|| {
        Failure::new(ExitCode::NotFound, format!("{}: is no block device; see `cairn devices`", path.display()))
    })
}

fn text(answer: &Answer) -> String {
    if answer.devices.is_empty() {
        return "No disks are visible here.\n".to_owned();
    }
    let word = |fitness: &Fitness| if fitness.fit { "fit" } else { "no" }.to_owned();
    let rows: Vec<[String; 6]> = answer
        .devices
        .iter()
        .map(|device| {
            [
                device.path.display().to_string(),
                format_bytes(device.size_bytes),
                content(device).to_owned(),
                word(&device.origin),
                word(&device.store),
                why_not(device),
            ]
        })
        .collect();
    table(["DEVICE", "SIZE", "CONTENT", "ORIGIN", "STORE", "WHY NOT"], &rows)
}

fn content(device: &Device) -> &'static str {
    match &device.content {
        Some(content) => content.kind,
        None if device.readable => "blank",
        None => "?",
    }
}

/// Each reason once; those that concern one role only say so.
fn why_not(device: &Device) -> String {
    let mut reasons: Vec<String> = Vec::new();
    for reason in &device.origin.why_not {
        let both = device.store.why_not.contains(reason);
        reasons.push(if both { reason.clone() } else { format!("origin: {reason}") });
    }
    for reason in &device.store.why_not {
        if !device.origin.why_not.contains(reason) {
            reasons.push(format!("store: {reason}"));
        }
    }
    reasons.join("; ")
}
