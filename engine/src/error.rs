//! Errors: a small kind for control flow, a context for people, a source, and an errno.
//!
//! Invariants:
//! - Every error names the operation and the device it happened on.
//! - `errno()` is what a frontend completes the request with; it is never zero.

use std::fmt;

/// What went wrong, as far as control flow cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The device failed a read, a write or a discard.
    Io,
    /// The device failed a flush, now or earlier; the latch stands until the owner clears it.
    FlushFailed,
    /// No space left on the store.
    NoSpace,
    /// Bytes on the store are not what was written there.
    Corrupt,
    /// The store has no Cairn signature.
    NotAStore,
    /// The store was written by a newer format that this program must not touch.
    TooNew,
    /// The store belongs to another origin, or the origin has another size.
    WrongOrigin,
    /// The origin was written while Cairn was away.
    OriginChanged,
    /// The store was last used by another host and not detached cleanly.
    OtherHost,
    /// The named snapshot does not exist.
    NotFound,
    /// A snapshot with that name exists already.
    Exists,
    /// The snapshot is broken; its content is not known.
    Broken,
    /// Another operation is under way, or the object is in use.
    Busy,
    /// The deadline passed before the operation could be done; nothing was changed.
    TimedOut,
    /// The request is outside the volume, misaligned, or otherwise wrong.
    Invalid,
    /// The device or the volume is read-only.
    ReadOnly,
    /// The volume is being closed.
    Closed,
}

impl ErrorKind {
    /// The errno a block device reports for this kind, as a positive number.
    pub fn errno(self) -> i32 {
        match self {
            ErrorKind::Io | ErrorKind::FlushFailed | ErrorKind::Corrupt | ErrorKind::Broken => 5, // EIO
            ErrorKind::NoSpace => 28,                                                             // ENOSPC
            ErrorKind::NotFound => 2,                                                             // ENOENT
            ErrorKind::Exists => 17,                                                              // EEXIST
            ErrorKind::Busy => 16,                                                                // EBUSY
            ErrorKind::TimedOut => 110,                                                           // ETIMEDOUT
            ErrorKind::ReadOnly => 30,                                                            // EROFS
            ErrorKind::Closed => 108,                                                             // ESHUTDOWN
            ErrorKind::Invalid
            | ErrorKind::NotAStore
            | ErrorKind::TooNew
            | ErrorKind::WrongOrigin
            | ErrorKind::OriginChanged
            | ErrorKind::OtherHost => 22, // EINVAL
        }
    }
}

/// An error with its context. A pointer wide: results are handed on with every request, and errors are rare.
pub struct Error(Box<Parts>);

/// What an error says. `message` is a sentence for people: what happened and what to do.
struct Parts {
    kind: ErrorKind,
    operation: &'static str,
    device: String,
    offset_bytes: Option<u64>,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The engine's result.
pub type Result<T> = std::result::Result<T, Error>;

const _: () = assert!(size_of::<Result<()>>() == size_of::<usize>());

impl Error {
    /// An error of `kind` while doing `operation` on `device` ("origin", "store", or a path).
    pub fn new(kind: ErrorKind, operation: &'static str, device: impl Into<String>) -> Error {
        let device = device.into();
        Error(Box::new(Parts { kind, operation, device, offset_bytes: None, message: String::new(), source: None }))
    }

    /// Adds the byte offset on the device.
    pub fn at(mut self, offset_bytes: u64) -> Error {
        self.0.offset_bytes = Some(offset_bytes);
        self
    }

    /// Adds what a person should know or do.
    pub fn saying(mut self, message: impl Into<String>) -> Error {
        self.0.message = message.into();
        self
    }

    /// Adds what caused it.
    pub fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        self.0.source = Some(source.into());
        self
    }

    /// Names the device, for code that knows it better than the layer that failed.
    pub fn on(mut self, device: impl Into<String>) -> Error {
        self.0.device = device.into();
        self
    }

    /// The kind, for control flow.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The positive errno a frontend completes the request with.
    pub fn errno(&self) -> i32 {
        self.0.kind.errno()
    }

    /// The sentence for people, without operation and device; may be empty.
    pub fn message(&self) -> &str {
        &self.0.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.0.device, self.0.operation)?;
        if let Some(offset_bytes) = self.0.offset_bytes {
            write!(formatter, " at byte {offset_bytes}")?;
        }
        if self.0.message.is_empty() {
            write!(formatter, " failed ({:?})", self.0.kind)?;
        } else {
            write!(formatter, ": {}", self.0.message)?;
        }
        if let Some(source) = &self.0.source {
            write!(formatter, ": {source}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "[{:?}] {self}", self.0.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_where_and_why() {
        let error = Error::new(ErrorKind::Io, "read", "origin").at(4096).caused_by("disk on fire");
        assert_eq!(error.to_string(), "origin: read at byte 4096 failed (Io): disk on fire");
        assert_eq!(error.errno(), 5);
    }
}
