//! How `cairn` speaks: one place that knows whether to print JSON or text.
//!
//! Invariants:
//! - With `--json` standard output carries exactly one JSON document, and nothing else ever goes there.
//! - Progress and questions go to standard error, and only where it is a terminal.

pub mod bytes;
pub mod table;

use crate::exit::{ExitCode, Failure, Outcome};
use serde::Serialize;
use std::io::{BufRead, IsTerminal, Write};

/// Where a verb's answer goes.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// Print JSON.
    pub json: bool,
    /// Agree to every question.
    pub yes: bool,
}

impl Output {
    /// Prints `value` as JSON, or what `text` makes of it.
    pub fn answer<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) -> Outcome {
        let answer = match self.json {
            true => serde_json::to_string_pretty(value).expect("answers are plain data"),
            false => text(value),
        };
        let mut stdout = std::io::stdout().lock();
        match writeln!(stdout, "{}", answer.trim_end()).and_then(|()| stdout.flush()) {
            // A reader that went away (`cairn list | head`) has seen what it wanted.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            Err(error) => Err(Failure::new(ExitCode::Failed, format!("standard output: {error}"))),
            Ok(()) => Ok(()),
        }
    }

    /// Tells a person at a terminal what is going on; silent otherwise.
    pub fn progress(&self, what: &str) {
        let mut stderr = std::io::stderr();
        if !self.json && stderr.is_terminal() {
            // Progress that cannot be shown is not worth failing for.
            let _ = writeln!(stderr, "{what}");
        }
    }

    /// Warns, whoever reads.
    pub fn warn(&self, what: &str) {
        let _ = writeln!(std::io::stderr(), "cairn: {what}");
    }

    /// Asks before something is destroyed. `what` is a sentence that says what will be lost.
    pub fn confirm(&self, what: &str) -> Outcome {
        if self.yes {
            return Ok(());
        }
        if !std::io::stdin().is_terminal() {
            return Err(Failure::new(
                ExitCode::Refused,
                format!("{what} Nothing was done: say --yes to agree (there is no terminal to ask at)."),
            ));
        }
        eprint!("{what} Go on? [y/N] ");
        let mut line = String::new();
        let read = std::io::stdin().lock().read_line(&mut line);
        match (read, line.trim()) {
            (Ok(_), "y" | "Y" | "yes") => Ok(()),
            _ => Err(Failure::new(ExitCode::Refused, "Nothing was done.")),
        }
    }
}
