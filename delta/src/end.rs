//! The end record: what came, and what the receiver must have now.
//!
//! Invariants:
//! - Its last 32 bytes are the chain over every record and over its own fields.

use crate::chain::{Chain, Link, CHAIN_BYTES};
use crate::error::ErrorKind;
use crate::extent::Totals;
use crate::fields::{self, FieldsOut};
use crate::fingerprint::Fingerprint;

mod number {
    pub(super) const TOTALS: u16 = 1;
    pub(super) const FINGERPRINT: u16 = 2;
}

/// What a stream says of itself behind its frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Extents and bytes of the whole stream, with what came before a continuation.
    pub totals: Totals,
    /// Fingerprint of the target, where the sender knows it.
    pub fingerprint: Option<Fingerprint>,
}

impl End {
    /// The end record behind its head.
    pub(crate) fn to_bytes(self, chain: &Chain) -> Vec<u8> {
        let mut fields = FieldsOut::default();
        fields.add(number::TOTALS, &self.totals.to_bytes());
        if let Some(fingerprint) = &self.fingerprint {
            fields.add(number::FINGERPRINT, &fingerprint.to_bytes());
        }
        let mut bytes = fields.finish();
        let value = Link::after(chain).add(&bytes).value();
        bytes.extend_from_slice(&value);
        bytes
    }

    /// The same read, behind records with this chain and these totals.
    pub(crate) fn parse(bytes: &[u8], chain: &Chain, totals: &Totals) -> Result<End, ErrorKind> {
        let Some((content, value)) = bytes.split_last_chunk::<CHAIN_BYTES>() else {
            return Err(ErrorKind::Malformed("the end record is too short"));
        };
        if Link::after(chain).add(content).value() != *value {
            return Err(ErrorKind::Checksum { of: "whole stream" });
        }
        let (mut said, mut fingerprint) = (None, None);
        for field in fields::parse(content)? {
            match field.number {
                number::TOTALS => said = Some(Totals::from_bytes(&field.array()?)),
                number::FINGERPRINT => fingerprint = Some(Fingerprint::from_bytes(field.array()?)),
                _ => field.unknown()?,
            }
        }
        match said {
            Some(said) if said == *totals => Ok(End { totals: said, fingerprint }),
            _ => Err(ErrorKind::Malformed("the end record counts other extents than came")),
        }
    }
}
