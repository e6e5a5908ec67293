//! `cairn receive`: applies a stream from standard input to a volume, a disk or a file.

use crate::arguments::Receive;
use crate::context::Context;
use crate::exit::{ExitCode, Failure, Outcome};
use crate::output::bytes::format_bytes;
use crate::receive::{self, Destination, NativeInput, Options, Received};
use serde::Serialize;
use std::fs::File;
use std::io::{BufReader, IsTerminal};
use std::os::fd::AsFd;

/// What is read of standard input at once.
const BUFFER_BYTES: usize = 1 << 20;

#[derive(Serialize)]
struct Undone {
    target: String,
    undone: String,
}

#[derive(Serialize)]
struct Token {
    target: String,
    token: String,
}

pub fn run(context: &Context, arguments: &Receive) -> Outcome {
    let destination = Destination::parse(context, &arguments.target);
    let target = arguments.target.clone();
    if arguments.undo {
        let answer = Undone { undone: receive::undo(context, &destination)?, target };
        return context.output.answer(&answer, |answer| {
            format!("{} is what it was before {} was received.", answer.target, answer.undone)
        });
    }
    if arguments.token {
        let answer = Token { token: receive::token(context, &destination)?, target };
        return context.output.answer(&answer, |answer| answer.token.clone());
    }
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        let message = "a stream does not come from a terminal: `cairn send ... | cairn receive ...`";
        return Err(Failure::new(ExitCode::Usage, message));
    }
    let failed = |error| Failure::new(ExitCode::Failed, format!("standard input: {error}"));
    let input = BufReader::with_capacity(BUFFER_BYTES, File::from(stdin.as_fd().try_clone_to_owned().map_err(failed)?));
    let mut input = NativeInput::new("standard input", input)?;
    let options = Options {
        resumable: arguments.resumable,
        undo_file: arguments.undo_file.clone(),
        trust_identity: arguments.trust_identity,
        verbose: arguments.verbose,
        ..Options::default()
    };
    let received = receive::receive(context, &destination, &mut input, &options)?;
    context.output.answer(&received, text)
}

/// What was received, for people.
pub fn text(received: &Received) -> String {
    let proof = match received.verified {
        true => "read back, and its fingerprint is the sender's",
        false => "the sender knew no fingerprint to compare with",
    };
    format!(
        "{} is a copy of {} now ({}, {} written); {proof}.",
        received.target,
        received.snapshot,
        format_bytes(received.size_bytes),
        format_bytes(received.written_bytes)
    )
}
