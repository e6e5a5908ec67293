//! Why a stream is refused, and where in it.
//!
//! Invariants:
//! - Every error says the offset in the stream at which the piece begins that is wrong; what was before it is sound.
//! - Input that ends too early is `Truncated`, never a success and never `Io`.

use std::fmt;
use std::io;

/// What is wrong.
#[derive(Debug)]
pub enum ErrorKind {
    /// The input or the output failed.
    Io(io::Error),
    /// The stream ends before its end record.
    Truncated,
    /// The first bytes are not those of such a stream.
    NotAStream,
    /// Written by a program with another version of the format.
    Version {
        /// The version the stream says.
        found: u32,
    },
    /// Bytes are not what was written.
    Checksum {
        /// What the checksum belongs to.
        of: &'static str,
    },
    /// A record is missing, doubled or moved.
    Sequence {
        /// The number that was due.
        expected: u64,
        /// The number that came.
        found: u64,
    },
    /// A record that must be understood, and is not.
    UnknownRecord {
        /// Its kind.
        kind: u16,
    },
    /// A field that must be understood, and is not.
    UnknownField {
        /// Its number.
        number: u16,
    },
    /// The stream breaks its own format; the sentence says which rule.
    Malformed(&'static str),
    /// An extent begins before the end of the one before it.
    Order {
        /// Where the previous extent ends.
        previous_end_bytes: u64,
        /// Where this one begins.
        offset_bytes: u64,
    },
    /// An extent does not begin and end at blocks.
    Misaligned {
        /// Where it begins.
        offset_bytes: u64,
        /// How long it is.
        length_bytes: u64,
    },
    /// An extent does not lie within the volume.
    BeyondSize {
        /// Where it begins.
        offset_bytes: u64,
        /// How long it is.
        length_bytes: u64,
        /// Size of the volume.
        size_bytes: u64,
    },
    /// The stream does not go on where the other one stopped.
    WrongContinuation(&'static str),
    /// Two streams do not follow each other.
    NotAdjacent(&'static str),
}

/// An error, and where it is.
#[derive(Debug)]
pub struct Error {
    offset_bytes: u64,
    kind: ErrorKind,
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// `kind`, at this offset in the stream.
    pub(crate) fn new(offset_bytes: u64, kind: ErrorKind) -> Error {
        Error { offset_bytes, kind }
    }

    /// What is wrong.
    pub fn kind(&self) -> &ErrorKind {
        &self.kind
    }

    /// Where in the stream the piece begins that is wrong.
    pub fn offset_bytes(&self) -> u64 {
        self.offset_bytes
    }
}

impl ErrorKind {
    pub(crate) fn at(self, offset_bytes: u64) -> Error {
        Error::new(offset_bytes, self)
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ErrorKind::Io(error) => write!(formatter, "{error}"),
            ErrorKind::Truncated => write!(formatter, "the stream ends too early; send it again, or resume"),
            ErrorKind::NotAStream => write!(formatter, "this is not such a stream: its first bytes are others"),
            ErrorKind::Version { found } => write!(
                formatter,
                "the stream has version {found} of the format and this program reads version {}; \
                 update the program that receives",
                crate::VERSION
            ),
            ErrorKind::Checksum { of } => write!(formatter, "the checksum of the {of} is wrong: the stream is damaged"),
            ErrorKind::Sequence { expected, found } => {
                write!(formatter, "record {found} comes where record {expected} is due")
            }
            ErrorKind::UnknownRecord { kind } => {
                write!(formatter, "a record of kind {kind} must be understood; update the program that receives")
            }
            ErrorKind::UnknownField { number } => {
                write!(formatter, "field {number} must be understood; update the program that receives")
            }
            ErrorKind::Malformed(sentence) => write!(formatter, "{sentence}"),
            ErrorKind::Order { previous_end_bytes, offset_bytes } => {
                write!(formatter, "the extent at byte {offset_bytes} comes after one that ends at {previous_end_bytes}")
            }
            ErrorKind::Misaligned { offset_bytes, length_bytes } => {
                write!(
                    formatter,
                    "the extent of {length_bytes} bytes at byte {offset_bytes} is not made of whole blocks"
                )
            }
            ErrorKind::BeyondSize { offset_bytes, length_bytes, size_bytes } => write!(
                formatter,
                "the extent of {length_bytes} bytes at byte {offset_bytes} does not fit into {size_bytes} bytes"
            ),
            ErrorKind::WrongContinuation(sentence) | ErrorKind::NotAdjacent(sentence) => {
                write!(formatter, "{sentence}")
            }
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "stream, byte {}: {}", self.offset_bytes, self.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.kind {
            ErrorKind::Io(error) => Some(error),
            _ => None,
        }
    }
}
