//! `cairn check`: everything that is wrong with a store, through its target where it is attached, else by itself.

use crate::arguments::Check;
use crate::client::CHECK_TIMEOUT_MS;
use crate::context::Context;
use crate::exit::{ExitCode, Failure, Outcome};
use crate::offline;
use crate::output::table::table;
use cairn_target::control::api::{CheckReport, CheckRequest, Severity};

pub fn run(context: &Context, arguments: &Check) -> Outcome {
    let (what, report) = match (&arguments.store, &arguments.volume) {
        (Some(store), _) => (store.display().to_string(), offline::check_store(store)?),
        (None, Some(name)) => {
            let config = context.config(name)?;
            let client = context.client_of(&config);
            let report = match client.is_attached() {
                true => client.post("/v1/check", &CheckRequest { data: arguments.data }, CHECK_TIMEOUT_MS)?,
                false => offline::check(&config, arguments.data)?,
            };
            (name.to_string(), report)
        }
        (None, None) => return Err(Failure::new(ExitCode::Usage, "name a volume, or a store with --store")),
    };
    context.output.answer(&report, |report| text(&what, report))?;
    let errors = report.findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    match errors {
        0 => Ok(()),
        errors => Err(Failure::new(
            ExitCode::Damaged,
            format!("{what}: {errors} errors. The origin is not concerned: it holds the current content by itself."),
        )),
    }
}

fn text(what: &str, report: &CheckReport) -> String {
    let depth = if report.data { "metadata and before-images" } else { "metadata" };
    if report.findings.is_empty() {
        return format!("{what}: nothing is wrong ({depth})\n");
    }
    let rows: Vec<[String; 3]> = report
        .findings
        .iter()
        .map(|finding| {
            let severity = match finding.severity {
                Severity::Warning => "warning",
                Severity::Error => "error",
            };
            [severity.to_owned(), finding.subject.clone(), finding.message.clone()]
        })
        .collect();
    table(["SEVERITY", "WHERE", "WHAT"], &rows)
}
