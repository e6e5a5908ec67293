//! The bytes of an input, read as numbers and pieces; and the same written, for seeds.
//!
//! Invariants:
//! - Reading past the end gives zeroes and empty pieces, so that every prefix of an input is an input.
//! - What a [`Script`] wrote, [`Bytes`] reads back in the same order.

/// What is left of an input.
#[derive(Clone, Debug)]
pub struct Bytes<'a> {
    rest: &'a [u8],
}

impl<'a> Bytes<'a> {
    /// All of `data`.
    pub fn new(data: &'a [u8]) -> Bytes<'a> {
        Bytes { rest: data }
    }

    /// Nothing is left.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next bytes, at most `length`.
    pub fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(length.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// A piece that says its own length in its first two bytes.
    pub fn piece(&mut self) -> &'a [u8] {
        let length = usize::from(self.u16());
        self.take(length)
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        self.take(usize::MAX)
    }

    /// The next byte.
    pub fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    /// The next two bytes, as a number.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// The next four bytes, as a number.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    /// The next eight bytes, as a number.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    fn array<const LENGTH: usize>(&mut self) -> [u8; LENGTH] {
        let mut array = [0; LENGTH];
        let taken = self.take(LENGTH);
        array[..taken.len()].copy_from_slice(taken);
        array
    }
}

/// An input under way.
#[derive(Clone, Debug, Default)]
pub struct Script {
    bytes: Vec<u8>,
}

impl Script {
    /// Adds a byte.
    pub fn u8(mut self, number: u8) -> Script {
        self.bytes.push(number);
        self
    }

    /// Adds a number of two bytes.
    pub fn u16(self, number: u16) -> Script {
        self.raw(&number.to_le_bytes())
    }

    /// Adds a number of four bytes.
    pub fn u32(self, number: u32) -> Script {
        self.raw(&number.to_le_bytes())
    }

    /// Adds a number of eight bytes.
    pub fn u64(self, number: u64) -> Script {
        self.raw(&number.to_le_bytes())
    }

    /// Adds bytes as they are.
    pub fn raw(mut self, bytes: &[u8]) -> Script {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Adds a piece with its length in front.
    pub fn piece(self, bytes: &[u8]) -> Script {
        let length = u16::try_from(bytes.len()).expect("pieces are short");
        self.u16(length).raw(bytes)
    }

    /// The input.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}
