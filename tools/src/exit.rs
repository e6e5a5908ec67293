//! How `cairn` ends: documented exit codes, and the failure that carries one with a sentence for people.
//!
//! Invariants:
//! - A code means the same for every verb, and never changes its meaning.
//! - Every failure says what happened, to which device or volume, and what to do next.

use cairn_engine::error::{Error, ErrorKind};
use cairn_target::control::error::kind_word;
use std::fmt;

/// The exit codes other than 0, as the help of `cairn` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// I/O error or any failure without a code of its own.
    Failed = 1,
    /// Wrong usage; what the parser gives too.
    Usage = 2,
    /// No such volume, snapshot or device.
    NotFound = 3,
    /// It exists already.
    Exists = 4,
    /// Mounted, open, held, or another operation is under way.
    Busy = 5,
    /// The volume is not attached.
    NotAttached = 6,
    /// The time limit passed.
    TimedOut = 7,
    /// Damage was found, or what was asked for is broken.
    Damaged = 8,
    /// Not agreed to, or not safe without a flag.
    Refused = 9,
    /// What a delta begins with is not there.
    BaseMissing = 10,
    /// The disk was written behind Cairn's back.
    TargetModified = 11,
    /// The store is full.
    StoreFull = 12,
}

impl ExitCode {
    /// A stable word for programs, where no error of the engine gives a better one.
    pub fn word(self) -> &'static str {
        match self {
            ExitCode::Failed => "failed",
            ExitCode::Usage => "usage",
            ExitCode::NotFound => "not-found",
            ExitCode::Exists => "exists",
            ExitCode::Busy => "busy",
            ExitCode::NotAttached => "not-attached",
            ExitCode::TimedOut => "timed-out",
            ExitCode::Damaged => "damaged",
            ExitCode::Refused => "refused",
            ExitCode::BaseMissing => "base-missing",
            ExitCode::TargetModified => "origin-changed",
            ExitCode::StoreFull => "store-full",
        }
    }

    /// The code for an engine error.
    pub fn of_kind(kind: ErrorKind) -> ExitCode {
        match kind {
            ErrorKind::NotFound => ExitCode::NotFound,
            ErrorKind::Exists => ExitCode::Exists,
            ErrorKind::Busy => ExitCode::Busy,
            ErrorKind::Closed => ExitCode::NotAttached,
            ErrorKind::TimedOut => ExitCode::TimedOut,
            ErrorKind::Corrupt | ErrorKind::Broken | ErrorKind::NotAStore => ExitCode::Damaged,
            ErrorKind::TooNew | ErrorKind::WrongOrigin | ErrorKind::OtherHost | ErrorKind::FlushFailed => {
                ExitCode::Refused
            }
            ErrorKind::OriginChanged => ExitCode::TargetModified,
            ErrorKind::NoSpace => ExitCode::StoreFull,
            ErrorKind::Io | ErrorKind::Invalid | ErrorKind::ReadOnly => ExitCode::Failed,
        }
    }
}

/// Why a verb failed.
#[derive(Debug)]
pub struct Failure {
    /// What the process exits with.
    pub code: ExitCode,
    /// A stable word for programs, as in the `error.kind` of JSON output.
    pub kind: String,
    /// Sentences for people.
    pub message: String,
}

/// What a verb gives.
pub type Outcome = std::result::Result<(), Failure>;

impl Failure {
    /// A failure with a message of its own.
    pub fn new(code: ExitCode, message: impl Into<String>) -> Failure {
        Failure { code, kind: code.word().to_owned(), message: message.into() }
    }

    /// A failure of a system call on `path` while doing `operation`.
    pub fn io(operation: &str, path: &std::path::Path, error: impl Into<std::io::Error>) -> Failure {
        let error = error.into();
        let code = match error.kind() {
            std::io::ErrorKind::NotFound => ExitCode::NotFound,
            std::io::ErrorKind::AlreadyExists => ExitCode::Exists,
            std::io::ErrorKind::ResourceBusy => ExitCode::Busy,
            _ => ExitCode::Failed,
        };
        Failure::new(code, format!("{}: {operation}: {error}", path.display()))
    }

    /// The failure as the JSON that `--json` prints on standard error.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "error": { "kind": self.kind, "message": self.message, "exit_code": self.code as u8 }
        })
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure {
            code: ExitCode::of_kind(error.kind()),
            kind: kind_word(error.kind()).to_owned(),
            message: error.to_string(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.message.fmt(formatter)
    }
}
