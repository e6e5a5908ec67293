//! `cairn version`: this command, and the targets that run.

use crate::context::Context;
use crate::exit::Outcome;
use cairn_target::config::VolumeConfig;
use cairn_target::control::api::{VersionReport, API_VERSION};
use serde::Serialize;

#[derive(Serialize)]
struct Answer {
    program: &'static str,
    version: &'static str,
    api: u32,
    /// The targets that run now. An older one keeps its version until the volume is attached anew.
    targets: Vec<Target>,
}

#[derive(Serialize)]
struct Target {
    volume: String,
    version: String,
    api: u32,
}

pub fn run(context: &Context) -> Outcome {
    let mut targets = Vec::new();
    // Volumes that cannot be listed do not keep anyone from learning the version of the command.
    for (volume, config) in VolumeConfig::load_all(&context.paths).unwrap_or_default() {
        let report = config.ok().and_then(|config| context.client_of(&config).get::<VersionReport>("/v1/version").ok());
        targets.extend(report.map(|report| Target { volume, version: report.version, api: report.api }));
    }
    let answer = Answer { program: "cairn", version: env!("CARGO_PKG_VERSION"), api: API_VERSION, targets };
    context.output.answer(&answer, |answer| {
        let mut text = format!("cairn {}, control API {}\n", answer.version, answer.api);
        for target in &answer.targets {
            text.push_str(&format!(
                "{}: served by cairn-target {}, control API {}\n",
                target.volume, target.version, target.api
            ));
        }
        text
    })
}
