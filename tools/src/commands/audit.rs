//! `cairn audit`: proves by content that the deltas of a volume leave nothing out (mission X6).

use crate::arguments::Audit;
use crate::auditing;
use crate::context::Context;
use crate::exit::{ExitCode, Failure, Outcome};
use crate::output::bytes::format_bytes;
use crate::rate::Pace;
use crate::source;
use cairn_target::control::api::AuditReport;

pub fn run(context: &Context, arguments: &Audit) -> Outcome {
    let source = source::open(context, &arguments.volume)?;
    let percent = if arguments.full { 100 } else { arguments.sample };
    let report = auditing::audit(context, &source, percent, Pace::new(arguments.rate))?;
    context.output.answer(&report, text)?;
    match report.wrong_extents {
        0 => Ok(()),
        wrong => {
            let message = format!("{}: {wrong} extents changed without a delta that says so", arguments.volume);
            Err(Failure::new(ExitCode::Damaged, message))
        }
    }
}

fn text(report: &AuditReport) -> String {
    let compared = match &report.since {
        Some(since) => format!("{} compared with {since}", format_bytes(report.compared_bytes)),
        None => "nothing to compare with yet".to_owned(),
    };
    let found = match report.first_wrong_bytes {
        None => "nothing changed without being reported".to_owned(),
        Some(first) => {
            format!("WRONG: {} extents differ and are not reported, the first at {first}", report.wrong_extents)
        }
    };
    format!("{}: {compared}; {found}. Known for the next audit: {}.", report.snapshot, format_bytes(report.known_bytes))
}
