//! `cairn grow`: follows an origin or a store that has grown (mission A7).

use crate::arguments::Grow;
use crate::client::CHANGE_TIMEOUT_MS;
use crate::context::Context;
use crate::exit::Outcome;
use crate::output::bytes::format_bytes;
use cairn_target::control::api::{GrowReport, GrowRequest};

pub fn run(context: &Context, arguments: &Grow) -> Outcome {
    let client = context.client(&arguments.volume)?;
    let request = GrowRequest { volume: arguments.store_size.is_none(), store_bytes: arguments.store_size };
    let report: GrowReport = client.post("/v1/grow", &request, CHANGE_TIMEOUT_MS)?;
    context.output.answer(&report, |report| {
        let (volume, store) = (format_bytes(report.size_bytes), format_bytes(report.store_bytes));
        let notice = report.notice.as_ref().map_or(String::new(), |notice| format!("\n{notice}"));
        format!("{}: the volume has {volume}, its store {store}{notice}", arguments.volume)
    })
}
