//! `cairn export`: a snapshot, or what changed, as a file that other programs read.

use crate::arguments::{Export, ExportFormat};
use crate::block_io::{self, BlockIo, PlainIo};
use crate::context::Context;
use crate::exit::{ExitCode, Failure, Outcome};
use crate::new_file::NewFile;
use crate::output::bytes::format_bytes;
use crate::qemu::Image;
use crate::rate::Progress;
use crate::sending::{self, Plan};
use crate::source;
use crate::stream_file;
use cairn_delta::{runs, Fingerprint, Frame};
use serde::Serialize;
use std::io::IsTerminal;
use std::path::Path;

/// Zeroes shorter than this are written like anything else.
const HOLE_BYTES: usize = 64 << 10;

#[derive(Serialize)]
struct Answer {
    snapshot: String,
    /// Null: all of it.
    base: Option<String>,
    file: String,
    size_bytes: u64,
    data_bytes: u64,
    /// What was read back is what was read of the snapshot.
    verified: bool,
}

/// What was copied.
#[derive(Default)]
struct Copied {
    data_bytes: u64,
    sum: Fingerprint,
    ranges: Vec<(u64, u64)>,
}

pub fn run(context: &Context, arguments: &Export) -> Outcome {
    refuse_nonsense(arguments)?;
    if !arguments.force && arguments.file.exists() {
        let message = format!("{}: it exists; say --force to replace it", arguments.file.display());
        return Err(Failure::new(ExitCode::Exists, message));
    }
    let volume = &arguments.snapshot.volume;
    let source = source::open(context, volume)?;
    if let Some(base) = &arguments.base {
        sending::same_volume(volume, base)?;
    }
    let base = arguments.base.as_ref().and_then(|base| base.moment.word());
    let mut plan = Plan::new(source, base.as_deref(), &arguments.snapshot.snapshot)?;
    plan.with_fingerprints = false;
    let _holds = plan.hold()?;
    let shown = !context.output.json && std::io::stderr().is_terminal();
    let total_bytes = if shown { data_bytes_of(&plan)? } else { 0 };
    let mut progress = Progress::of(shown, &format!("exporting {}", arguments.snapshot), total_bytes);
    let data_bytes = match arguments.format {
        ExportFormat::Raw => raw(&arguments.file, &plan, &mut progress)?,
        ExportFormat::Qcow2 => image(context, arguments, "qcow2", &plan, &mut progress)?,
        ExportFormat::Vhdx => image(context, arguments, "vhdx", &plan, &mut progress)?,
        ExportFormat::Rbd => stream_file::rbd(&arguments.file, &plan, cairn_delta::rbd::Version::V1, &mut progress)?,
        ExportFormat::RbdV2 => stream_file::rbd(&arguments.file, &plan, cairn_delta::rbd::Version::V2, &mut progress)?,
        ExportFormat::Native => stream_file::native(&arguments.file, &mut plan, &mut progress)?,
    };
    progress.end();
    let answer = Answer {
        snapshot: arguments.snapshot.to_string(),
        base,
        file: arguments.file.display().to_string(),
        size_bytes: plan.target.size_bytes,
        data_bytes,
        verified: true,
    };
    context.output.answer(&answer, |answer| {
        format!(
            "{} is {} ({}, {} of data); it was read back and is the same.",
            answer.file,
            answer.snapshot,
            format_bytes(answer.size_bytes),
            format_bytes(answer.data_bytes)
        )
    })
}

fn data_bytes_of(plan: &Plan) -> Result<u64, Failure> {
    plan.extents_to_send().map(|extent| extent.map(|extent| extent.length_bytes)).sum()
}

fn refuse_nonsense(arguments: &Export) -> Outcome {
    let usage = |message: &str| Err(Failure::new(ExitCode::Usage, message));
    match (arguments.format, &arguments.base, &arguments.backing_file) {
        (ExportFormat::Raw | ExportFormat::Vhdx, Some(_), _) => {
            usage("--base: this format holds whole disks; take qcow2 with --backing-file, or rbd, or native")
        }
        (ExportFormat::Qcow2, Some(_), None) => usage("--base: say with --backing-file where the image of the base is"),
        (ExportFormat::Qcow2, _, _) => Ok(()),
        (_, _, Some(_)) => usage("--backing-file is for --format qcow2"),
        _ => Ok(()),
    }
}

fn raw(path: &Path, plan: &Plan, progress: &mut Progress) -> Result<u64, Failure> {
    let file = NewFile::create(path)?;
    let mut io = PlainIo::of_new_file(file.file(), path, plan.target.size_bytes)?;
    let copied = copy(&mut io, plan, false, progress)?;
    verify(&mut io, plan, &copied)?;
    file.appear()?;
    Ok(copied.data_bytes)
}

fn image(
    context: &Context,
    arguments: &Export,
    format: &str,
    plan: &Plan,
    progress: &mut Progress,
) -> Result<u64, Failure> {
    let file = NewFile::create(&arguments.file)?;
    let backing = arguments.backing_file.as_deref();
    let mut image = Image::create(&context.paths.run_dir, file.temporary(), format, plan.target.size_bytes, backing)?;
    let copied = copy(image.io(), plan, backing.is_some(), progress)?;
    verify(image.io(), plan, &copied)?;
    image.close()?;
    file.appear()?;
    Ok(copied.data_bytes)
}

/// Writes all frames. `over_backing`: what is not written shows something else than zeroes.
fn copy(io: &mut dyn BlockIo, plan: &Plan, over_backing: bool, progress: &mut Progress) -> Result<Copied, Failure> {
    let mut copied = Copied::default();
    plan.run(|frame| {
        let extent = frame.extent();
        if over_backing {
            copied.ranges.push((extent.offset_bytes, extent.offset_bytes + extent.length_bytes));
        }
        match frame {
            Frame::Data { offset_bytes, content } => {
                copied.sum += Fingerprint::of_content(offset_bytes, content);
                copied.data_bytes += content.len() as u64;
                progress.add(content.len() as u64);
                runs(content, HOLE_BYTES).try_for_each(|run| {
                    let (at, piece) = (offset_bytes + run.range.start as u64, &content[run.range.clone()]);
                    match (run.zero, over_backing) {
                        (false, _) => io.write(at, piece),
                        (true, true) => io.write_zeroes(at, piece.len() as u64),
                        (true, false) => Ok(()),
                    }
                })
            }
            Frame::Zero { .. } | Frame::NotInUse { .. } if over_backing => {
                io.write_zeroes(extent.offset_bytes, extent.length_bytes)
            }
            Frame::Zero { .. } | Frame::NotInUse { .. } => Ok(()),
        }
    })?;
    io.make_durable()?;
    io.forget();
    Ok(copied)
}

/// Reads back what was written; of a whole disk also what was not.
fn verify(io: &mut dyn BlockIo, plan: &Plan, copied: &Copied) -> Outcome {
    let whole = [(0, plan.target.size_bytes)];
    let ranges = if plan.base.is_none() { &whole[..] } else { &copied.ranges };
    let mut found = Fingerprint::EMPTY;
    for &(offset_bytes, end_bytes) in ranges {
        found += block_io::fingerprint(io, offset_bytes, end_bytes)?;
    }
    match found == copied.sum {
        true => Ok(()),
        false => {
            let message = format!("{}: what was read back is not what was written; nothing was kept", io.name());
            Err(Failure::new(ExitCode::Damaged, message))
        }
    }
}
