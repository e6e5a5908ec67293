//! `cairn delete`: deletes any snapshot, oldest, middle or youngest (mission A6), or a bookmark.

use crate::arguments::Delete;
use crate::context::Context;
use crate::exit::{ExitCode, Failure, Outcome};
use crate::points::Moment;
use crate::restoring::after_restore;
use cairn_target::control::api::DeleteReport;

pub fn run(context: &Context, arguments: &Delete) -> Outcome {
    let point = &arguments.snapshot;
    let usage = |message: String| Err(Failure::new(ExitCode::Usage, message));
    let (name, keep, lost) = match (&point.moment, arguments.keep_bookmark) {
        (Moment::Now, _) => return usage(format!("a snapshot is written VOL@SNAP, for example \"{point}@monday\"")),
        (Moment::Bookmark(_), true) => return usage(format!("{point} is a bookmark already")),
        (Moment::Snapshot(name), true) => (name, "?keep=bookmark", "what changed since stays known"),
        (Moment::Snapshot(name) | Moment::Bookmark(name), false) => {
            (name, "", "the volume and other snapshots stay as they are")
        }
    };
    let client = context.client(&point.volume)?;
    context.output.confirm(&format!("{point} is deleted for ever; {lost}."))?;
    let report: DeleteReport =
        after_restore(context, &client, &arguments.wait, || client.delete(&format!("/v1/snapshots/{name}{keep}")))?;
    context.output.answer(&report, |_| format!("{point} is deleted; its space is returned in the background"))
}
