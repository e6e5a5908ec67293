//! The header: between which two snapshots of which volume a stream lies.
//!
//! Invariants:
//! - The stream's id follows from what it lies between: whoever sends the same delta again gets the same id, and can
//!   therefore go on where another process stopped, with nothing remembered.
//! - A stream without a base is full: it begins with an empty volume of no size.

use crate::bounds::Bounds;
use crate::error::ErrorKind;
use crate::fields::{self, Field, FieldsOut};
use crate::fingerprint::Fingerprint;
use crate::record::{number_u64, BLOCK_BYTES_MAX, BLOCK_BYTES_MIN};
use crate::resume::Resume;
use std::fmt;

/// The longest name of a snapshot in a stream.
pub const NAME_BYTES_MAX: usize = 255;

/// The numbers of the header's fields. All must be understood.
mod number {
    pub(super) const STREAM: u16 = 1;
    pub(super) const VOLUME: u16 = 2;
    pub(super) const BASE: u16 = 3;
    pub(super) const TARGET: u16 = 4;
    pub(super) const SIZES: u16 = 5;
    pub(super) const BLOCK: u16 = 6;
    pub(super) const BASE_FINGERPRINT: u16 = 7;
    pub(super) const COMPRESSION: u16 = 8;
    pub(super) const CONTINUATION: u16 = 9;
}

/// Which delta a stream holds; two streams with the same id hold the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamId(pub [u8; 16]);

impl fmt::Display for StreamId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

/// Which snapshot it is, also where names are used again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SnapshotIdentity {
    /// The store it was taken in.
    pub store_id: [u8; 16],
    /// The epoch it opened there.
    pub epoch: u64,
    /// When it was cut, in milliseconds since 1970 UTC.
    pub created_unix_ms: u64,
    /// Its name then.
    pub name: String,
}

impl SnapshotIdentity {
    const FIXED_BYTES: usize = 32;

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(SnapshotIdentity::FIXED_BYTES + self.name.len());
        bytes.extend_from_slice(&self.store_id);
        bytes.extend_from_slice(&self.epoch.to_le_bytes());
        bytes.extend_from_slice(&self.created_unix_ms.to_le_bytes());
        bytes.extend_from_slice(self.name.as_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Result<SnapshotIdentity, ErrorKind> {
        if bytes.len() < SnapshotIdentity::FIXED_BYTES {
            return Err(ErrorKind::Malformed("the identity of a snapshot is cut short"));
        }
        let (fixed, name) = bytes.split_at(SnapshotIdentity::FIXED_BYTES);
        let name =
            std::str::from_utf8(name).map_err(|_| ErrorKind::Malformed("the name of a snapshot is not UTF-8"))?;
        Ok(SnapshotIdentity {
            store_id: fixed[..16].try_into().expect("16 bytes are 16 bytes"),
            epoch: number_u64(&fixed[16..]),
            created_unix_ms: number_u64(&fixed[24..]),
            name: name.to_owned(),
        })
    }
}

/// Whether frames may be compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Every frame is as it is.
    None,
    /// A frame is compressed with zstd where that makes it shorter.
    #[default]
    Zstd,
}

/// What a stream says of itself before its frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamHeader {
    /// The volume: streams of different volumes do not follow each other.
    pub volume_id: [u8; 16],
    /// The snapshot that the receiver must have; a stream without one is full.
    pub base: Option<SnapshotIdentity>,
    /// The snapshot that the receiver will have.
    pub target: SnapshotIdentity,
    /// Size of the volume at the base; zero in a full stream.
    pub size_before_bytes: u64,
    /// Size of the volume at the target. No extent lies beyond it.
    pub size_after_bytes: u64,
    /// Extents begin and end at multiples of this, or at the end of the volume.
    pub block_bytes: u32,
    /// Fingerprint of the base, where the sender knows it.
    pub base_fingerprint: Option<Fingerprint>,
    /// Whether frames may be compressed.
    pub compression: Compression,
}

impl StreamHeader {
    /// The id of this delta: what it lies between decides, neither compression nor where a continuation begins.
    pub fn stream_id(&self) -> StreamId {
        let mut fields = FieldsOut::default();
        self.add_identity(&mut fields);
        let digest = blake3::hash(&fields.finish());
        StreamId(digest.as_bytes()[..16].try_into().expect("16 bytes are 16 bytes"))
    }

    pub(crate) fn bounds(&self) -> Bounds {
        Bounds { block_bytes: u64::from(self.block_bytes), size_bytes: self.size_after_bytes }
    }

    fn add_identity(&self, fields: &mut FieldsOut) {
        fields.add(number::VOLUME, &self.volume_id);
        if let Some(base) = &self.base {
            fields.add(number::BASE, &base.to_bytes());
        }
        fields.add(number::TARGET, &self.target.to_bytes());
        fields
            .add(number::SIZES, &[self.size_before_bytes.to_le_bytes(), self.size_after_bytes.to_le_bytes()].concat());
        fields.add(number::BLOCK, &self.block_bytes.to_le_bytes());
        if let Some(fingerprint) = &self.base_fingerprint {
            fields.add(number::BASE_FINGERPRINT, &fingerprint.to_bytes());
        }
    }

    /// The header record behind its head.
    pub(crate) fn to_bytes(&self, stream_id: StreamId, continuation: Option<&Resume>) -> Vec<u8> {
        let mut fields = FieldsOut::default();
        fields.add(number::STREAM, &stream_id.0);
        self.add_identity(&mut fields);
        let compression = match self.compression {
            Compression::None => 0,
            Compression::Zstd => 1,
        };
        fields.add(number::COMPRESSION, &[compression]);
        if let Some(resume) = continuation {
            fields.add(number::CONTINUATION, &resume.to_field());
        }
        fields.finish()
    }

    /// What must hold of any header, read or to be written.
    pub(crate) fn check(&self) -> Result<(), ErrorKind> {
        if !self.block_bytes.is_power_of_two() || !(BLOCK_BYTES_MIN..=BLOCK_BYTES_MAX).contains(&self.block_bytes) {
            return Err(ErrorKind::Malformed("the size of a block is not a power of two from 512 bytes to 4 MiB"));
        }
        if self.base.is_none() && (self.size_before_bytes != 0 || self.base_fingerprint.is_some()) {
            return Err(ErrorKind::Malformed("a full stream says something about a base"));
        }
        let names = self.base.iter().chain([&self.target]).map(|snapshot| &snapshot.name);
        if names.into_iter().any(|name| name.len() > NAME_BYTES_MAX) {
            return Err(ErrorKind::Malformed("the name of a snapshot is longer than 255 bytes"));
        }
        Ok(())
    }
}

/// A header as it was read.
pub(crate) struct Parsed {
    pub(crate) header: StreamHeader,
    pub(crate) stream_id: StreamId,
    pub(crate) continuation: Option<Resume>,
}

/// The fields, each where it was found.
#[derive(Default)]
struct Found {
    stream_id: Option<StreamId>,
    volume_id: Option<[u8; 16]>,
    base: Option<SnapshotIdentity>,
    target: Option<SnapshotIdentity>,
    sizes: Option<[u8; 16]>,
    block_bytes: Option<u32>,
    base_fingerprint: Option<Fingerprint>,
    compression: Option<Compression>,
    continuation: Option<[u8; Resume::FIELD_BYTES]>,
}

impl Found {
    fn take(&mut self, field: &Field<'_>) -> Result<(), ErrorKind> {
        match field.number {
            number::STREAM => self.stream_id = Some(StreamId(field.array()?)),
            number::VOLUME => self.volume_id = Some(field.array()?),
            number::BASE => self.base = Some(SnapshotIdentity::from_bytes(field.value)?),
            number::TARGET => self.target = Some(SnapshotIdentity::from_bytes(field.value)?),
            number::SIZES => self.sizes = Some(field.array()?),
            number::BLOCK => self.block_bytes = Some(u32::from_le_bytes(field.array()?)),
            number::BASE_FINGERPRINT => self.base_fingerprint = Some(Fingerprint::from_bytes(field.array()?)),
            number::COMPRESSION => {
                self.compression = Some(match field.array()? {
                    [0] => Compression::None,
                    [1] => Compression::Zstd,
                    _ => return Err(ErrorKind::Malformed("the compression is none that this version defines")),
                })
            }
            number::CONTINUATION => self.continuation = Some(field.array()?),
            _ => field.unknown()?,
        }
        Ok(())
    }

    fn finish(self) -> Result<Parsed, ErrorKind> {
        const MISSING: ErrorKind = ErrorKind::Malformed("the header lacks a field");
        let sizes = self.sizes.ok_or(MISSING)?;
        let header = StreamHeader {
            volume_id: self.volume_id.ok_or(MISSING)?,
            base: self.base,
            target: self.target.ok_or(MISSING)?,
            size_before_bytes: number_u64(&sizes),
            size_after_bytes: number_u64(&sizes[8..]),
            block_bytes: self.block_bytes.ok_or(MISSING)?,
            base_fingerprint: self.base_fingerprint,
            compression: self.compression.ok_or(MISSING)?,
        };
        header.check()?;
        let stream_id = self.stream_id.ok_or(MISSING)?;
        let continuation = self.continuation.map(|field| Resume::from_field(stream_id, &field));
        if let Some(resume) = &continuation {
            resume.check(&header)?;
        }
        Ok(Parsed { header, stream_id, continuation })
    }
}

/// The header record behind its head.
pub(crate) fn parse(bytes: &[u8]) -> Result<Parsed, ErrorKind> {
    let mut found = Found::default();
    for field in fields::parse(bytes)? {
        found.take(&field)?;
    }
    found.finish()
}
