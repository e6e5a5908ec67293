//! Whether a target is exactly what a stream begins with.
//!
//! Invariants:
//! - A target is taken for the base only where its identity says so and it is untouched since, or where its content has
//!   the fingerprint.

use super::identity::{SnapshotRecord, TargetIdentity};
use super::input::{Announced, Base};
use super::target::Target;
use crate::block_io;
use crate::context::Context;
use crate::exit::{ExitCode, Failure, Outcome};
use crate::stream::identity_text;
use cairn_delta::Fingerprint;

/// Checks the base; the fingerprint of the target as it is, where it is known.
pub fn check(
    context: &Context,
    target: &mut dyn Target,
    identity: Option<&TargetIdentity>,
    announced: &Announced,
    trust_identity: bool,
) -> Result<Option<Fingerprint>, Failure> {
    match &announced.base {
        Base::Anything => confirm_loss(context, target).map(|()| None),
        Base::Named(name) => {
            let matches = identity.filter(|identity| identity.snapshot.name == *name);
            match matches {
                Some(identity) => check_untouched(context, target, identity, announced, trust_identity),
                None if identity.is_none() && trust_identity => Ok(None),
                None => Err(missing(target, identity, name)),
            }
        }
        Base::Snapshot(base) => {
            let matches = identity.filter(|identity| identity.snapshot == SnapshotRecord::from(base));
            match (matches, announced.base_fingerprint) {
                (Some(identity), _) => check_untouched(context, target, identity, announced, trust_identity),
                (None, Some(expected)) => {
                    let found = read_fingerprint(context, target, announced)?;
                    if found == expected {
                        return Ok(Some(found));
                    }
                    Err(missing(target, identity, &identity_text(base)))
                }
                (None, None) => Err(missing(target, identity, &identity_text(base))),
            }
        }
    }
}

/// Whether a target that is a copy of the right snapshot is so still.
fn check_untouched(
    context: &Context,
    target: &mut dyn Target,
    identity: &TargetIdentity,
    announced: &Announced,
    trust_identity: bool,
) -> Result<Option<Fingerprint>, Failure> {
    let known = identity.fingerprint().or(announced.base_fingerprint);
    if announced.base_fingerprint.is_some_and(|base| identity.fingerprint().is_some_and(|own| own != base)) {
        let message = format!(
            "{}: it was recorded with another fingerprint than the stream's base has; one of the two is damaged",
            target.name()
        );
        return Err(Failure::new(ExitCode::BaseMissing, message));
    }
    match target.is_untouched(identity)? {
        Some(true) => Ok(known),
        Some(false) => Err(modified(target, identity)),
        None if trust_identity => Ok(known),
        None => match known {
            Some(expected) if read_fingerprint(context, target, announced)? == expected => Ok(known),
            Some(_) => Err(modified(target, identity)),
            None => {
                let message = format!(
                    "{}: it cannot be told whether it is still the copy of {} that it was, for no fingerprint is \
                     known. \
                     Send with --fingerprint, or say --trust-identity if nobody wrote to it",
                    target.name(),
                    identity.snapshot.text()
                );
                Err(Failure::new(ExitCode::TargetModified, message))
            }
        },
    }
}

fn read_fingerprint(context: &Context, target: &mut dyn Target, announced: &Announced) -> Result<Fingerprint, Failure> {
    context.output.progress(&format!("Reading all of {} to see whether it is the base", target.name()));
    let size_bytes = announced.size_before_bytes.unwrap_or(announced.size_after_bytes);
    let io = target.io();
    let end_bytes = size_bytes.min(io.size_bytes());
    block_io::fingerprint(io, 0, end_bytes)
}

fn modified(target: &dyn Target, identity: &TargetIdentity) -> Failure {
    let message = format!(
        "{}: it was a copy of {}, and was written since. Take it back to that, or send it everything",
        target.name(),
        identity.snapshot.text()
    );
    let mut failure = Failure::new(ExitCode::TargetModified, message);
    failure.kind = "target-modified".to_owned();
    failure
}

fn missing(target: &dyn Target, identity: Option<&TargetIdentity>, base: &str) -> Failure {
    let is = match identity {
        Some(identity) => format!("it is a copy of {}", identity.snapshot.text()),
        None => "it is not known to be a copy of anything".to_owned(),
    };
    let message =
        format!("{}: the stream begins with {base}, and {is}; send from what it is, or everything", target.name());
    Failure::new(ExitCode::BaseMissing, message)
}

fn confirm_loss(context: &Context, target: &mut dyn Target) -> Outcome {
    if !target.holds_data()? {
        return Ok(());
    }
    context.output.confirm(&format!("Everything on {} will be replaced.", target.name()))
}
