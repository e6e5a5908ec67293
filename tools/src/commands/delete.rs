//! `cairn delete`: deletes any snapshot, oldest, middle or youngest (mission A6).

use crate::arguments::Delete;
use crate::context::Context;
use crate::exit::Outcome;
use crate::restoring::after_restore;
use cairn_target::control::api::DeleteReport;

pub fn run(context: &Context, arguments: &Delete) -> Outcome {
    let path = &arguments.snapshot;
    let client = context.client(&path.volume)?;
    context.output.confirm(&format!("{path} is deleted for ever. The volume and other snapshots stay as they are."))?;
    let report: DeleteReport = after_restore(context, &client, &arguments.wait, || {
        client.delete(&format!("/v1/snapshots/{}", path.snapshot))
    })?;
    context.output.answer(&report, |_| format!("{path} is deleted; its space is returned in the background"))
}
