//! Applying a delta to a disk, a file or a volume (mission X7).
//!
//! Invariants:
//! - All or nothing: what fails is rolled back; what was killed is gone on with, or taken back, and refused until then.
//! - A target that is not exactly the base is not written.
//! - A receive has succeeded only when its result was read back and is what the sender said.

mod apply;
mod base;
mod destination;
mod identity;
mod input;
mod place;
mod plain;
#[cfg(test)]
mod plain_histories;
mod served;
#[cfg(test)]
mod simulated;
#[cfg(test)]
mod simulated_stream;
mod target;
mod undo_log;
mod volume;
#[cfg(test)]
mod volume_histories;

pub use destination::Destination;
pub use input::{nothing_follows, Announced, Base, Input, NativeInput};

use crate::block_io;
use crate::context::Context;
use crate::exit::{ExitCode, Failure, Outcome};
use crate::rate::Progress as Shown;
use apply::{Applier, Pace};
use cairn_delta::Fingerprint;
use destination::Site;
use identity::{SnapshotRecord, TargetIdentity};
use place::{Place, Progress, Stage};
use serde::Serialize;
use std::path::{Path, PathBuf};
use target::Target;
use uuid::Uuid;

/// How to receive.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Keep what came of a stream that breaks off.
    pub resumable: bool,
    /// Where old content is kept; none: in the state directory.
    pub undo_file: Option<PathBuf>,
    /// Believe what was recorded of a disk.
    pub trust_identity: bool,
    /// Say how far it is.
    pub verbose: bool,
    /// When to write, and when to record how far it is.
    pub pace: Pace,
}

/// What was received.
#[derive(Clone, Debug, Serialize)]
pub struct Received {
    /// The target.
    pub target: String,
    /// The snapshot that it is a copy of now.
    pub snapshot: String,
    /// Size of it.
    pub size_bytes: u64,
    /// Bytes that were written.
    pub written_bytes: u64,
    /// Fingerprint of the target; null where the base's was not known.
    pub fingerprint: Option<String>,
    /// The sender knew the fingerprint, and it is that of what was read back.
    pub verified: bool,
}

/// Receives all of `input`.
pub fn receive(
    context: &Context,
    destination: &Destination,
    input: &mut dyn Input,
    options: &Options,
) -> Result<Received, Failure> {
    receive_at(context, &destination.site(context, options.undo_file.clone())?, input, options)
}

fn receive_at(
    context: &Context,
    site: &Site<'_>,
    input: &mut dyn Input,
    options: &Options,
) -> Result<Received, Failure> {
    let Site { name, place, open } = site;
    let kept = place.progress()?;
    let interrupted = kept.as_ref().filter(|progress| progress.stage != Stage::Done);
    match interrupted {
        Some(progress) => refuse_other(progress, input)?,
        None if input.is_continuation() => {
            let message = format!("{name}: the stream goes on in the middle, and nothing is there of it");
            return Err(refusal("wrong-continuation", message));
        }
        None => {}
    }
    let may_create = input.announced().base == Base::Anything;
    let mut target = open(may_create)?;
    let mut progress = match interrupted {
        Some(progress) => {
            let mut progress = progress.clone();
            target.reopen(place, &mut progress, input.announced().size_after_bytes)?;
            go_on(progress, input)?
        }
        None => {
            let older_before = kept.and_then(|kept| kept.before);
            begin(context, place, target.as_mut(), input.announced(), older_before, options.trust_identity)?
        }
    };
    target.forget(&progress)?;
    let outcome = transfer(context, place, target.as_mut(), input, &mut progress, options);
    match outcome {
        Ok(received) => Ok(received),
        Err(failure) => {
            let keep = options.resumable && failure.kind == "stream-truncated" && progress.token.is_some();
            Err(give_up(context, place, target, progress, failure, keep))
        }
    }
}

fn refusal(kind: &str, message: String) -> Failure {
    Failure { code: ExitCode::Refused, kind: kind.to_owned(), message }
}

fn refuse_other(progress: &Progress, input: &dyn Input) -> Outcome {
    let Progress { target, snapshot, .. } = progress;
    if progress.stage == Stage::Undoing {
        let message = format!("{target}: taking back {snapshot} was interrupted: cairn receive {target} --undo");
        return Err(refusal("receive-interrupted", message));
    }
    if progress.stream_id == input.announced().stream_id {
        return Ok(());
    }
    let message = format!(
        "{target}: a receive of {snapshot} was interrupted, and it is neither the old nor the new. Go on: \
         cairn send -t $(cairn receive {target} --token) ... | cairn receive {target}; or take it back: \
         cairn receive {target} --undo"
    );
    Err(refusal("receive-interrupted", message))
}

/// Goes on where it stopped, or with the same stream from its beginning: what was kept of old content stays.
fn go_on(mut progress: Progress, input: &mut dyn Input) -> Result<Progress, Failure> {
    match (input.is_continuation(), &progress.token) {
        (true, Some(token)) => input.continue_from(token)?,
        (true, None) => {
            let message =
                format!("{}: nothing is there yet of the stream; send it from its beginning", progress.target);
            return Err(refusal("wrong-continuation", message));
        }
        (false, _) => progress.token = None,
    }
    Ok(progress)
}

fn begin(
    context: &Context,
    place: &Place,
    target: &mut dyn Target,
    announced: &Announced,
    older_before: Option<String>,
    trust_identity: bool,
) -> Result<Progress, Failure> {
    target.check(announced)?;
    let identity = target.identity(place)?;
    let base = base::check(context, target, identity.as_ref(), announced, trust_identity)?;
    let mut progress = Progress::new(target.name(), &announced.stream_id, &announced.target.name);
    progress.size_before_bytes = announced.size_before_bytes.unwrap_or(announced.size_after_bytes);
    progress.identity_before = identity;
    progress.older_before = older_before;
    progress.base_fingerprint = base.map(|fingerprint| fingerprint.to_string());
    target.begin(place, &mut progress, announced)?;
    Ok(progress)
}

/// From the first frame to a target that was read back and is what it should be.
fn transfer(
    context: &Context,
    place: &Place,
    target: &mut dyn Target,
    input: &mut dyn Input,
    progress: &mut Progress,
    options: &Options,
) -> Result<Received, Failure> {
    let announced = input.announced().clone();
    let mut shown = Shown::new(options.verbose, &format!("receiving {}", announced.target.name));
    let written_bytes = Applier::new(place, target, progress, &announced, options.pace).run(input, &mut shown)?;
    shown.end();
    target.io().make_durable()?;
    target.io().forget();
    let expected = input.result();
    let found = result_fingerprint(context, target, progress, &announced, expected.is_some())?;
    if let (Some(expected), Some(found)) = (expected, found) {
        if expected != found {
            let message = format!(
                "{}: what was read back is not {}: the fingerprint is {found}, and {expected} is expected. The \
                 target was \
                 not exactly the base, or the disk gives back other bytes than were written",
                target.name(),
                announced.target.name
            );
            return Err(Failure { code: ExitCode::TargetModified, kind: "target-modified".to_owned(), message });
        }
    }
    let fingerprint = found.map(|fingerprint| fingerprint.to_string());
    let identity = TargetIdentity {
        volume_id: announced.volume_id.map(Uuid::from_bytes),
        snapshot: SnapshotRecord::from(&announced.target),
        size_bytes: announced.size_after_bytes,
        fingerprint: fingerprint.clone(),
        stamp: None,
        local_snapshot: None,
    };
    target.commit(place, progress, identity)?;
    Ok(Received {
        target: target.name().to_owned(),
        snapshot: announced.target.name,
        size_bytes: announced.size_after_bytes,
        written_bytes,
        fingerprint,
        verified: expected.is_some() && found.is_some(),
    })
}

/// The fingerprint of what was read back: from what was overwritten where that suffices, else from everything.
fn result_fingerprint(
    context: &Context,
    target: &mut dyn Target,
    progress: &Progress,
    announced: &Announced,
    is_expected: bool,
) -> Result<Option<Fingerprint>, Failure> {
    let base = progress.base_fingerprint.as_ref().and_then(|text| text.parse::<Fingerprint>().ok());
    if let Some(base) = base.filter(|_| announced.base != Base::Anything) {
        if let Some((old, new)) = target.difference(progress, announced)? {
            return Ok(Some(base - old + new));
        }
    }
    if announced.base != Base::Anything && !is_expected {
        return Ok(None);
    }
    context.output.progress(&format!("Reading all of {} back", target.name()));
    block_io::fingerprint(target.io(), 0, announced.size_after_bytes).map(Some)
}

/// Rolls back, or keeps what came; what to tell.
fn give_up(
    context: &Context,
    place: &Place,
    target: Box<dyn Target + '_>,
    mut progress: Progress,
    mut failure: Failure,
    keep: bool,
) -> Failure {
    let name = target.name().to_owned();
    if keep {
        failure.message =
            format!("{}. What came is kept: cairn send -t $(cairn receive {name} --token) ...", failure.message);
        return failure;
    }
    context.output.progress(&format!("Rolling {name} back"));
    failure.message = match target.roll_back(place, &mut progress) {
        Ok(()) => format!("{}. {name} is what it was", failure.message),
        Err(second) => format!(
            "{}. Rolling back failed ({}): {name} is neither the old nor the new; cairn receive {name} --undo",
            failure.message, second.message
        ),
    };
    failure
}

/// Takes back the last receive; the snapshot that had come.
pub fn undo(context: &Context, destination: &Destination) -> Result<String, Failure> {
    undo_at(context, &destination.site(context, None)?)
}

fn undo_at(context: &Context, site: &Site<'_>) -> Result<String, Failure> {
    let Site { name, place, open } = site;
    let Some(mut progress) = place.progress()? else {
        let message = format!("{name}: nothing was received into it that could be taken back");
        return Err(Failure::new(ExitCode::NotFound, message));
    };
    if progress.created && progress.stage == Stage::Undoing && !Path::new(&progress.target).exists() {
        place.clear()?;
        return Ok(progress.snapshot);
    }
    let mut target = open(false)?;
    if progress.stage == Stage::Done {
        refuse_touched(context, place, target.as_mut())?;
    }
    if progress.undo_file.is_some() {
        // For going back it does not matter how long it would have become.
        target.reopen(place, &mut progress, 0)?;
    }
    target.roll_back(place, &mut progress)?;
    Ok(progress.snapshot)
}

/// What was written since a receive would be lost, or mixed with what is put back.
fn refuse_touched(context: &Context, place: &Place, target: &mut dyn Target) -> Outcome {
    let Some(identity) = target.identity(place)? else { return Ok(()) };
    let untouched = match target.is_untouched(&identity)? {
        Some(untouched) => untouched,
        None => match identity.fingerprint() {
            Some(expected) => {
                context.output.progress(&format!("Reading all of {}", target.name()));
                block_io::fingerprint(target.io(), 0, identity.size_bytes)? == expected
            }
            None => true,
        },
    };
    match untouched {
        true => Ok(()),
        false => {
            let name = target.name();
            context
                .output
                .confirm(&format!("{name} was written since; taking the receive back mixes old and new content."))
        }
    }
}

/// Where an interrupted receive goes on.
pub fn token(context: &Context, destination: &Destination) -> Result<String, Failure> {
    let Site { name, place, .. } = destination.site(context, None)?;
    let progress = place.progress()?.filter(|progress| progress.stage == Stage::Receiving);
    progress.and_then(|progress| progress.token).ok_or_else(|| {
        let message = format!("{name}: no receive into it was interrupted");
        Failure::new(ExitCode::NotFound, message)
    })
}
