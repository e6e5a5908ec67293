//! `cairn detach`: stops serving a volume; the origin is then a plain disk again (mission X1).

use crate::arguments::Detach;
use crate::client::CHANGE_TIMEOUT_MS;
use crate::context::Context;
use crate::exit::{ExitCode, Failure, Outcome};
use crate::restoring::after_restore;
use cairn_target::control::api::DetachReport;
use cairn_target::paths::VolumePaths;
use cairn_target::process::InstanceLock;
use std::time::{Duration, Instant};

/// How long the target may take to end after it said that the volume is closed.
const END_TIMEOUT_MS: u64 = 10_000;
const POLL_MS: u64 = 20;

pub fn run(context: &Context, arguments: &Detach) -> Outcome {
    let config = context.config(&arguments.volume)?;
    let client = context.client_of(&config);
    let report: DetachReport = after_restore(context, &client, &arguments.wait, || {
        client.post("/v1/detach", &serde_json::json!({}), CHANGE_TIMEOUT_MS)
    })?;
    let deadline = Instant::now() + Duration::from_millis(END_TIMEOUT_MS);
    let paths = context.paths.volume(&config.name)?;
    while client.is_attached() || !has_ended(&paths) {
        if Instant::now() > deadline {
            return Err(Failure::new(
                ExitCode::TimedOut,
                format!("{}: the volume is closed, but its target has not ended; see its log", arguments.volume),
            ));
        }
        std::thread::sleep(Duration::from_millis(POLL_MS));
    }
    context.output.answer(&report, |_| {
        format!("{} is detached; {} is a plain disk again", arguments.volume, config.origin.display())
    })
}

/// Whether worker and supervisor are gone, and with them every hold on the disk.
fn has_ended(paths: &VolumePaths) -> bool {
    let locks = [paths.instance_lock(), paths.supervisor_lock()];
    locks.iter().all(|lock| InstanceLock::take(lock, "a target of this volume").is_ok())
}
