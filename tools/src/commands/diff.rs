//! `cairn diff`: what is different at one point in the life of a volume from what it was at an older one.

use crate::arguments::{Diff, DiffFormat};
use crate::change_map::ChangeMap;
use crate::context::Context;
use crate::exit::{ExitCode, Failure, Outcome};
use crate::output::bytes::format_bytes;
use crate::output::table::fields;
use crate::points::{Moment, Point};
use crate::source::{self, Changes, SnapshotSource};
use crate::verify;
use cairn_target::control::api::{ChangeKind, ExtentReport};
use serde::Serialize;
use std::io::{BufWriter, Write};
use std::sync::Arc;

/// Extents and bytes by kind.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Totals {
    data_extents: u64,
    data_bytes: u64,
    not_in_use_extents: u64,
    not_in_use_bytes: u64,
}

#[derive(Serialize)]
struct Answer {
    volume: String,
    from: Option<String>,
    /// Null: the volume as it is.
    to: Option<String>,
    size_bytes: u64,
    extents: Vec<ExtentReport>,
    totals: Totals,
    /// What a comparison of the content found; null where none was asked for.
    verified: Option<verify::Report>,
}

impl Totals {
    fn add(&mut self, extent: &ExtentReport) {
        let (extents, bytes) = match extent.kind {
            ChangeKind::Data => (&mut self.data_extents, &mut self.data_bytes),
            ChangeKind::NotInUse => (&mut self.not_in_use_extents, &mut self.not_in_use_bytes),
        };
        *extents += 1;
        *bytes += extent.length_bytes;
    }
}

pub fn run(context: &Context, arguments: &Diff) -> Outcome {
    let (from, to) = (&arguments.from, &arguments.to);
    refuse_nonsense(from, to)?;
    if arguments.verify {
        refuse_unreadable(from, to)?;
    }
    let source = source::open(context, &to.volume)?;
    let (from_word, to_word) = (from.moment.word(), to.moment.word());
    let older = source.facts().base(&from_word.clone().unwrap_or_default())?.clone();
    let younger = to_word.as_ref().map(|name| source.facts().whole(name).cloned()).transpose()?;
    let _holds = hold(&source, from, to)?;
    let first = source.changes(from_word.as_deref(), to_word.as_deref(), 0, 1)?;
    let extents = Changes::new(source.clone(), from_word.clone(), to_word.clone());
    let mut map = arguments.whole_device_map.as_ref().map(|_| ChangeMap::new(first.size_bytes));
    let mut totals = Totals::default();
    let mut kept = Vec::new();
    let mut printer = Printer::new(arguments, context.output.json, first.size_bytes);
    for extent in extents {
        let extent = extent?;
        totals.add(&extent);
        if let Some(map) = &mut map {
            map.add(&extent);
        }
        if context.output.json {
            kept.push(extent);
        }
        printer.extent(&extent)?;
    }
    if let (Some(map), Some(path)) = (map, &arguments.whole_device_map) {
        map.save(path, &format!("{from} to {to}"))?;
    }
    let verified = match &younger {
        Some(younger) if arguments.verify => Some(verify::compare(&source, &older, younger, &context.output)?),
        _ => None,
    };
    let size_bytes = first.size_bytes;
    let volume = source.facts().volume.clone();
    let wrong = verified.as_ref().is_some_and(|report| report.unreported_bytes > 0);
    let answer = Answer { volume, from: from_word, to: to_word, size_bytes, extents: kept, totals, verified };
    printer.end(context, &answer)?;
    match wrong {
        true => Err(Failure::new(ExitCode::Damaged, "content differs where the delta says that nothing changed")),
        false => Ok(()),
    }
}

fn invalid(message: String) -> Outcome {
    let mut failure = Failure::new(ExitCode::Failed, message);
    failure.kind = "invalid".to_owned();
    Err(failure)
}

fn refuse_nonsense(from: &Point, to: &Point) -> Outcome {
    if from.volume != to.volume {
        return invalid(format!("{from} and {to} are of different volumes; a delta lies between two points of one"));
    }
    if from.moment == Moment::Now {
        return invalid(format!("{from} is the volume as it is; name the older point first: a snapshot or a bookmark"));
    }
    if let Moment::Bookmark(_) = to.moment {
        return invalid(format!(
            "{to} is a bookmark, which has no content; the younger point is a snapshot or a volume"
        ));
    }
    Ok(())
}

/// What is compared has to be there as it was, at both ends.
fn refuse_unreadable(from: &Point, to: &Point) -> Outcome {
    if let Moment::Bookmark(_) = from.moment {
        return invalid(format!("--verify: {from} is a bookmark, which has no content; compare two snapshots"));
    }
    if to.moment == Moment::Now {
        return invalid(format!("--verify: {to} changes while it is read; take a snapshot, and compare with that"));
    }
    Ok(())
}

fn hold(source: &Arc<dyn SnapshotSource>, from: &Point, to: &Point) -> Result<Vec<Box<dyn source::Hold>>, Failure> {
    let snapshots = [&from.moment, &to.moment].into_iter().filter_map(|moment| match moment {
        Moment::Snapshot(name) => Some(name),
        Moment::Now | Moment::Bookmark(_) => None,
    });
    snapshots.map(|name| source.hold(name)).collect()
}

/// Prints extents as they come, in the form that was asked for.
struct Printer {
    format: DiffFormat,
    json: bool,
    output: BufWriter<std::io::Stdout>,
    /// Digits of the largest number.
    width: usize,
    printed: u64,
    gone: bool,
}

/// More lines than this are for programs, not for people.
const LINES_MAX: u64 = 10_000;

impl Printer {
    fn new(arguments: &Diff, json: bool, size_bytes: u64) -> Printer {
        let format = if arguments.ndjson { DiffFormat::Ndjson } else { arguments.format };
        let width = size_bytes.to_string().len().max("Length".len());
        Printer { format, json, output: BufWriter::new(std::io::stdout()), width, printed: 0, gone: false }
    }

    fn line(&mut self, line: &str) -> Outcome {
        match self.output.write_all(line.as_bytes()).and_then(|()| self.output.write_all(b"\n")) {
            // A reader that went away (`cairn diff ... | head`) has seen what it wanted.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                self.gone = true;
                Ok(())
            }
            Err(error) => Err(Failure::new(ExitCode::Failed, format!("standard output: {error}"))),
            Ok(()) => Ok(()),
        }
    }

    fn extent(&mut self, extent: &ExtentReport) -> Outcome {
        let ExtentReport { offset_bytes, length_bytes, kind } = *extent;
        let width = self.width;
        if self.gone || self.json {
            return Ok(());
        }
        self.printed += 1;
        match self.format {
            DiffFormat::Ndjson => self.line(&serde_json::to_string(extent).expect("plain data")),
            DiffFormat::Rbd => {
                if self.printed == 1 {
                    self.line(&format!("{:<width$}  {:<width$}  Type", "Offset", "Length"))?;
                }
                let word = if kind == ChangeKind::Data { "data" } else { "zero" };
                self.line(&format!("{offset_bytes:<width$}  {length_bytes:<width$}  {word}"))
            }
            DiffFormat::Table => {
                if self.printed == 1 {
                    self.line(&format!("{:<width$}  {:<width$}  KIND", "OFFSET", "LENGTH"))?;
                }
                match self.printed {
                    1..=LINES_MAX => {
                        self.line(&format!("{offset_bytes:<width$}  {length_bytes:<width$}  {}", kind_word(kind)))
                    }
                    _ => Ok(()),
                }
            }
        }
    }

    fn end(mut self, context: &Context, answer: &Answer) -> Outcome {
        if self.json {
            return match self.format {
                DiffFormat::Rbd => context.output.answer(&rbd_json(&answer.extents), |_| String::new()),
                DiffFormat::Table | DiffFormat::Ndjson => context.output.answer(answer, |_| String::new()),
            };
        }
        if self.format == DiffFormat::Table {
            if self.printed > LINES_MAX {
                self.line(&format!("... and {} more; --ndjson lists them all", self.printed - LINES_MAX))?;
            }
            let text = summary(answer);
            let lead = if self.printed > 0 { "\n" } else { "" };
            self.line(format!("{lead}{text}").trim_end())?;
        }
        match self.output.flush() {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(Failure::new(ExitCode::Failed, format!("standard output: {error}")))
            }
            _ => Ok(()),
        }
    }
}

fn kind_word(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Data => "data",
        ChangeKind::NotInUse => "not in use",
    }
}

/// As `rbd diff --format json` prints it.
fn rbd_json(extents: &[ExtentReport]) -> Vec<serde_json::Value> {
    let line = |extent: &ExtentReport| {
        let exists = if extent.kind == ChangeKind::Data { "true" } else { "false" };
        serde_json::json!({ "offset": extent.offset_bytes, "length": extent.length_bytes, "exists": exists })
    };
    extents.iter().map(line).collect()
}

fn summary(answer: &Answer) -> String {
    let totals = &answer.totals;
    let percent = |bytes: u64| bytes as f64 * 100.0 / answer.size_bytes.max(1) as f64;
    let line = |extents: u64, bytes: u64| {
        format!(
            "{} in {extents} extents, {:.2} % of {}",
            format_bytes(bytes),
            percent(bytes),
            format_bytes(answer.size_bytes)
        )
    };
    let mut lines = vec![
        ("changed", line(totals.data_extents, totals.data_bytes)),
        ("not in use", line(totals.not_in_use_extents, totals.not_in_use_bytes)),
    ];
    if let Some(verified) = &answer.verified {
        lines.push(("verified", verified.sentence()));
    }
    fields(&lines)
}
