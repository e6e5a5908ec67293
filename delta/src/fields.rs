//! Fields of header and end record: a number, a length, a value.
//!
//! Invariants:
//! - Numbers ascend, so no field comes twice.
//! - A field with the highest bit of its number set must be understood; another is skipped where it is not.

use crate::error::ErrorKind;
use crate::record::number_u16;

/// Marks a field that must be understood.
pub(crate) const CRITICAL: u16 = 1 << 15;
/// Bytes before a field's value.
pub(crate) const FIELD_HEAD_BYTES: usize = 4;

/// Fields being written.
#[derive(Default)]
pub(crate) struct FieldsOut {
    bytes: Vec<u8>,
}

impl FieldsOut {
    /// Adds a field that must be understood.
    pub(crate) fn add(&mut self, number: u16, value: &[u8]) {
        let length = u16::try_from(value.len()).expect("fields are shorter than 64 KiB");
        self.bytes.extend_from_slice(&(number | CRITICAL).to_le_bytes());
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(value);
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// One field.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field<'a> {
    /// Its number without the critical bit.
    pub(crate) number: u16,
    pub(crate) critical: bool,
    pub(crate) value: &'a [u8],
}

impl<'a> Field<'a> {
    /// The value, which has a fixed length.
    pub(crate) fn array<const LENGTH: usize>(&self) -> Result<[u8; LENGTH], ErrorKind> {
        self.value.try_into().map_err(|_| ErrorKind::Malformed("a field has a wrong length"))
    }

    /// What happens to a field that is not known.
    pub(crate) fn unknown(&self) -> Result<(), ErrorKind> {
        match self.critical {
            true => Err(ErrorKind::UnknownField { number: self.number }),
            false => Ok(()),
        }
    }
}

/// The fields in `bytes`.
pub(crate) fn parse(mut bytes: &[u8]) -> Result<Vec<Field<'_>>, ErrorKind> {
    let mut fields: Vec<Field<'_>> = Vec::new();
    while !bytes.is_empty() {
        if bytes.len() < FIELD_HEAD_BYTES {
            return Err(ErrorKind::Malformed("a field is cut short"));
        }
        let (head, rest) = bytes.split_at(FIELD_HEAD_BYTES);
        let length = usize::from(number_u16(&head[2..]));
        if rest.len() < length {
            return Err(ErrorKind::Malformed("a field is cut short"));
        }
        let (value, rest) = rest.split_at(length);
        let number = number_u16(head);
        let field = Field { number: number & !CRITICAL, critical: number & CRITICAL != 0, value };
        if fields.last().is_some_and(|before| before.number >= field.number) {
            return Err(ErrorKind::Malformed("the numbers of fields do not ascend"));
        }
        fields.push(field);
        bytes = rest;
    }
    Ok(fields)
}
