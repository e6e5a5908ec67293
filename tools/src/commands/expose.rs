//! `cairn expose`: a snapshot as a block device of its own, or where there is no ublk as an NBD export (mission A6).

use crate::arguments::Expose;
use crate::client::CHANGE_TIMEOUT_MS;
use crate::context::Context;
use crate::exit::Outcome;
use cairn_target::control::api::{ExposeReport, ExposeRequest};

pub fn run(context: &Context, arguments: &Expose) -> Outcome {
    let client = context.client(&arguments.snapshot.volume)?;
    let path = format!("/v1/snapshots/{}/expose", arguments.snapshot.snapshot);
    let request = ExposeRequest { scratch: arguments.scratch };
    let report: ExposeReport = client.post(&path, &request, CHANGE_TIMEOUT_MS)?;
    context.output.answer(&report, |report| text(arguments, report))
}

fn text(arguments: &Expose, report: &ExposeReport) -> String {
    let mut text = String::new();
    if let Some(device) = &report.device {
        let options = if report.scratch { "" } else { "-o ro " };
        text.push_str(&format!("Device: {device}\nMount it: mount {options}{device} /mnt\n"));
    }
    if let Some(uri) = &report.nbd_uri {
        text.push_str(&format!("NBD:    {uri}\n"));
        if report.device.is_none() {
            text.push_str(&format!(
                "A device from it: nbdfuse --readonly /some/file '{uri}' & \
                 losetup --find --show --direct-io=on --read-only /some/file\n"
            ));
        }
    }
    if report.scratch {
        text.push_str(&format!("What is written to it is thrown away by: cairn unexpose {}\n", arguments.snapshot));
    }
    text
}
