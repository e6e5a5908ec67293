//! `cairn send`: a snapshot, or what changed since an older one, as a stream to standard output.

use crate::arguments::Send;
use crate::context::Context;
use crate::exit::{ExitCode, Failure, Outcome};
use crate::fingerprints::Fingerprints;
use crate::names::VolumeName;
use crate::output::bytes::format_bytes;
use crate::points::Moment;
use crate::rate::{Limited, Progress};
use crate::sending::{self, Plan};
use crate::source::{self, SnapshotSource};
use crate::stream::refused;
use cairn_delta::{Compression, Resume, StreamLength, Writer, WriterOptions};
use serde::Serialize;
use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::sync::Arc;

/// Threads that compress; without compression the caller's does what is left to do.
const COMPRESSION_WORKERS: usize = 4;

#[derive(Serialize)]
struct DryRun {
    snapshot: String,
    /// Null: all of the snapshot would be sent.
    from: Option<String>,
    /// Length of the stream, uncompressed.
    stream_bytes: u64,
    data_bytes: u64,
    not_in_use_bytes: u64,
}

pub fn run(context: &Context, arguments: &Send) -> Outcome {
    if !arguments.dry_run && std::io::stdout().is_terminal() {
        let message = "a stream is not for a terminal: write it to a file, or to `cairn receive` (`| ssh host ...`)";
        return Err(Failure::new(ExitCode::Usage, message));
    }
    let volume = &arguments.snapshot.volume;
    let source = source::open(context, volume)?;
    let token = arguments.token.as_deref().map(parse_token).transpose()?;
    let fingerprints = Fingerprints::new(&context.paths, source.facts());
    let from = older_word(volume, arguments)?;
    let mut plan = Plan::new(source.clone(), from.as_deref(), &arguments.snapshot.snapshot)?;
    plan.compression = if arguments.compress.is_some() { Compression::Zstd } else { Compression::None };
    let _holds = plan.hold()?;
    plan.with_fingerprints = !arguments.no_fingerprint;
    if !arguments.no_fingerprint {
        plan.base_fingerprint = fingerprints.of(plan.base.as_ref());
        if arguments.fingerprint && plan.base_fingerprint.is_none() {
            plan.base_fingerprint = read_base(context, arguments, &plan)?;
        }
    }
    if let Some(token) = &token {
        plan.resume_at(token)?;
    }
    match arguments.dry_run {
        true => dry_run(context, arguments, &plan),
        false => send(context, arguments, &source, &plan, &fingerprints),
    }
}

fn parse_token(text: &str) -> Result<Resume, Failure> {
    text.parse().map_err(|error| Failure::new(ExitCode::Usage, format!("--token: {error}")))
}

/// The base as the control API writes it.
fn older_word(volume: &VolumeName, arguments: &Send) -> Result<Option<String>, Failure> {
    let Some(older) = &arguments.incremental else { return Ok(None) };
    sending::same_volume(volume, older)?;
    match &older.moment {
        Moment::Now => unreachable!("an older point has a name"),
        named => Ok(named.word()),
    }
}

/// The fingerprint of a base that is a snapshot, from its content.
fn read_base(context: &Context, arguments: &Send, plan: &Plan) -> Result<Option<cairn_delta::Fingerprint>, Failure> {
    let Some(base) = plan.base.as_ref().filter(|_| !plan.base_is_bookmark()) else { return Ok(None) };
    if arguments.verbose {
        context.output.warn(&format!("reading all of {} once, for its fingerprint", base.name));
    }
    sending::fingerprint_of(&plan.source, &base.name).map(Some)
}

fn dry_run(context: &Context, arguments: &Send, plan: &Plan) -> Outcome {
    let header = plan.header();
    let mut length = StreamLength::new(&header, plan.resume.as_ref());
    let (mut data_bytes, mut not_in_use_bytes) = (0, 0);
    for extent in plan.extents_to_send() {
        let extent = extent?;
        match extent.kind {
            cairn_delta::ExtentKind::NotInUse => not_in_use_bytes += extent.length_bytes,
            cairn_delta::ExtentKind::Data | cairn_delta::ExtentKind::Zero => data_bytes += extent.length_bytes,
        }
        length.add(extent);
    }
    let stream_bytes = length.finish(plan.knows_result());
    let answer = DryRun {
        snapshot: arguments.snapshot.to_string(),
        from: plan.from.clone(),
        stream_bytes,
        data_bytes,
        not_in_use_bytes,
    };
    context.output.answer(&answer, |answer| {
        let kind = if answer.from.is_some() { "incremental" } else { "full" };
        match (arguments.parsable, &answer.from) {
            (true, from) => {
                let from = from.as_ref().map(|from| format!("{from}\t")).unwrap_or_default();
                format!("{kind}\t{from}{}\t{stream_bytes}\nsize\t{stream_bytes}\n", answer.snapshot)
            }
            (false, _) => format!(
                "{kind} stream of {}: {stream_bytes} bytes ({}); {} of data, {} not in use\n",
                answer.snapshot,
                format_bytes(stream_bytes),
                format_bytes(data_bytes),
                format_bytes(not_in_use_bytes)
            ),
        }
    })
}

fn send(
    context: &Context,
    arguments: &Send,
    source: &Arc<dyn SnapshotSource>,
    plan: &Plan,
    fingerprints: &Fingerprints,
) -> Outcome {
    let mut progress = Progress::new(arguments.verbose, &format!("sending {}", arguments.snapshot));
    let failed = |error| Failure::new(ExitCode::Failed, format!("standard output: {error}"));
    // Not through the standard library's own buffer, which looks for line ends in what is no text.
    let output = File::from(std::io::stdout().as_fd().try_clone_to_owned().map_err(failed)?);
    let output = Limited::new(output, arguments.limit_rate);
    let options = WriterOptions {
        zstd_level: arguments.compress.unwrap_or_default(),
        workers: if arguments.compress.is_some() { COMPRESSION_WORKERS } else { 1 },
    };
    let header = plan.header();
    let writer = match &plan.resume {
        Some(resume) => Writer::resume(output, &header, resume, options),
        None => Writer::new(output, &header, options),
    };
    let mut writer = writer.map_err(|error| refused("standard output", &error))?;
    let result = plan.run(|frame| {
        writer.write(frame).map_err(|error| refused("standard output", &error))?;
        progress.at(writer.written_bytes());
        Ok(())
    })?;
    let sent = writer.finish(result).map_err(|error| refused("standard output", &error))?;
    progress.end();
    if let Some(result) = result {
        let snapshot = source.facts().whole(&arguments.snapshot.snapshot)?;
        if let Err(failure) = fingerprints.keep(snapshot, &result) {
            context.output.warn(&format!("the fingerprint could not be kept for the next send: {failure}"));
        }
    }
    if arguments.verbose {
        let totals = sent.1.totals;
        context.output.warn(&format!("sent {}: {}", arguments.snapshot, crate::stream::totals_text(&totals)));
    }
    Ok(())
}
