//! What the tools say of streams.
//!
//! Invariants:
//! - Every refusal of a stream says where in it, and ends with an exit code that tells damage from a missing base.

use crate::exit::{ExitCode, Failure};
use crate::output::bytes::format_bytes;
use cairn_delta::{Error, ErrorKind, SnapshotIdentity, Totals};

/// The failure for an error of a stream that comes from, or goes to, `place`.
pub fn refused(place: &str, error: &Error) -> Failure {
    let code = match error.kind() {
        ErrorKind::Io(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            return Failure::new(ExitCode::Failed, format!("{place}: the receiver went away before the end"));
        }
        ErrorKind::Io(_) => ExitCode::Failed,
        ErrorKind::WrongContinuation(_) | ErrorKind::Version { .. } => ExitCode::Refused,
        _ => ExitCode::Damaged,
    };
    let mut failure = Failure::new(code, format!("{place}: {error}"));
    failure.kind = kind_word(error.kind()).to_owned();
    failure
}

fn kind_word(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Io(_) => "io",
        ErrorKind::Truncated => "stream-truncated",
        ErrorKind::NotAStream => "not-a-stream",
        ErrorKind::Version { .. } => "stream-too-new",
        ErrorKind::WrongContinuation(_) => "wrong-continuation",
        _ => "stream-corrupt",
    }
}

/// `1.5 GiB of data, 4 KiB not in use`.
pub fn totals_text(totals: &Totals) -> String {
    format!(
        "{} of data in {} extents, {} of zeroes, {} not in use",
        format_bytes(totals.data_bytes),
        totals.data_extents,
        format_bytes(totals.zero_bytes),
        format_bytes(totals.not_in_use_bytes)
    )
}

/// Which snapshot it is, for people: the name alone may be used again.
pub fn identity_text(snapshot: &SnapshotIdentity) -> String {
    let created = cairn_target::control::api::Timestamp::from_unix_ms(snapshot.created_unix_ms);
    format!("{} of {created}", snapshot.name)
}
