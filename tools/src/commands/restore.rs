//! `cairn restore`: takes the volume back to a snapshot; undoable (mission A6).

use crate::arguments::Restore;
use crate::client::CHANGE_TIMEOUT_MS;
use crate::context::Context;
use crate::exit::Outcome;
use crate::restoring::after_restore;
use cairn_target::control::api::{RestoreReport, RestoreRequest};

pub fn run(context: &Context, arguments: &Restore) -> Outcome {
    let path = &arguments.snapshot;
    let client = context.client(&path.volume)?;
    context
        .output
        .confirm(&format!("{} is taken back to {path}. What it holds now is kept as a snapshot.", path.volume))?;
    let request = RestoreRequest { snapshot: path.snapshot.clone(), before: arguments.before.clone() };
    let report: RestoreReport =
        after_restore(context, &client, &arguments.wait, || client.post("/v1/restore", &request, CHANGE_TIMEOUT_MS))?;
    context.output.answer(&report, |report| {
        format!("{} shows {path} now. Undo it: cairn restore {}@{}", path.volume, path.volume, report.before)
    })
}
