//! How the engine's errors travel: a stable word and an HTTP status for every kind.
//!
//! Invariants:
//! - Every kind has a word of its own, and the word leads back to the kind.
//! - No error is answered with a status of success.

use super::api::{ErrorDetail, ErrorReport};
use axum::http::StatusCode;
use cairn_engine::error::{Error, ErrorKind};

/// Every kind with its word and status. The words are part of the API and never change.
const KINDS: [(ErrorKind, &str, StatusCode); 17] = [
    (ErrorKind::Io, "io", StatusCode::INTERNAL_SERVER_ERROR),
    (ErrorKind::FlushFailed, "flush-failed", StatusCode::INTERNAL_SERVER_ERROR),
    (ErrorKind::NoSpace, "store-full", StatusCode::INSUFFICIENT_STORAGE),
    (ErrorKind::Corrupt, "corrupt", StatusCode::INTERNAL_SERVER_ERROR),
    (ErrorKind::NotAStore, "not-a-store", StatusCode::CONFLICT),
    (ErrorKind::TooNew, "too-new", StatusCode::CONFLICT),
    (ErrorKind::WrongOrigin, "wrong-origin", StatusCode::CONFLICT),
    (ErrorKind::OriginChanged, "origin-changed", StatusCode::CONFLICT),
    (ErrorKind::OtherHost, "other-host", StatusCode::CONFLICT),
    (ErrorKind::NotFound, "not-found", StatusCode::NOT_FOUND),
    (ErrorKind::Exists, "exists", StatusCode::CONFLICT),
    (ErrorKind::Broken, "broken", StatusCode::CONFLICT),
    (ErrorKind::Busy, "busy", StatusCode::CONFLICT),
    (ErrorKind::TimedOut, "timed-out", StatusCode::GATEWAY_TIMEOUT),
    (ErrorKind::Invalid, "invalid", StatusCode::BAD_REQUEST),
    (ErrorKind::ReadOnly, "read-only", StatusCode::FORBIDDEN),
    (ErrorKind::Closed, "closed", StatusCode::SERVICE_UNAVAILABLE),
];

fn row(kind: ErrorKind) -> &'static (ErrorKind, &'static str, StatusCode) {
    KINDS.iter().find(|row| row.0 == kind).expect("the table has a row for every kind; a test holds it")
}

/// The stable word for a kind.
pub fn kind_word(kind: ErrorKind) -> &'static str {
    row(kind).1
}

/// The kind a word stands for; none where the word is that of a newer version.
pub fn kind_of_word(word: &str) -> Option<ErrorKind> {
    KINDS.iter().find(|row| row.1 == word).map(|row| row.0)
}

/// The HTTP status a kind is answered with.
pub fn status(kind: ErrorKind) -> StatusCode {
    row(kind).2
}

impl From<&Error> for ErrorReport {
    fn from(error: &Error) -> ErrorReport {
        let kind = kind_word(error.kind()).to_owned();
        ErrorReport { error: ErrorDetail { kind, message: error.to_string(), errno: error.errno() } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails to compile when the engine gains a kind, so that the table is not forgotten.
    fn is_in_the_table(kind: ErrorKind) -> bool {
        use ErrorKind::*;
        match kind {
            Io | FlushFailed | NoSpace | Corrupt | NotAStore | TooNew | WrongOrigin | OriginChanged | OtherHost
            | NotFound | Exists | Broken | Busy | TimedOut | Invalid | ReadOnly | Closed => true,
        }
    }

    #[test]
    fn every_kind_has_a_word_of_its_own_and_a_status_of_failure() {
        for (index, (kind, word, status)) in KINDS.iter().enumerate() {
            assert!(is_in_the_table(*kind));
            assert_eq!(kind_of_word(word), Some(*kind), "{word} is used twice");
            assert_eq!(KINDS.iter().position(|row| row.0 == *kind), Some(index), "{kind:?} is there twice");
            assert!(status.is_client_error() || status.is_server_error());
        }
        assert_eq!(kind_of_word("no such word"), None);
    }
}
