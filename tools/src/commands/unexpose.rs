//! `cairn unexpose`: ends what `cairn expose` began; the block device goes away.

use crate::arguments::Unexpose;
use crate::context::Context;
use crate::exit::Outcome;
use cairn_target::control::api::UnexposeReport;

pub fn run(context: &Context, arguments: &Unexpose) -> Outcome {
    let client = context.client(&arguments.snapshot.volume)?;
    let report: UnexposeReport = client.delete(&format!("/v1/snapshots/{}/expose", arguments.snapshot.snapshot))?;
    context.output.answer(&report, |_| format!("{} is not exposed any more", arguments.snapshot))
}
