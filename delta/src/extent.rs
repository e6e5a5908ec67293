//! Extents: what a delta says about a range of the volume, with or without the content.
//!
//! Invariants:
//! - What no extent covers is unchanged.
//! - *Not in use* says that nobody wrote there; it reads as zeroes, and so does *zero*, which somebody wrote.

/// What a delta says about a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExtentKind {
    /// The content is in the delta.
    Data,
    /// All zeroes.
    Zero,
    /// Not in use any more.
    NotInUse,
}

/// A range of the volume, and what a delta says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    /// Where it begins.
    pub offset_bytes: u64,
    /// How long it is.
    pub length_bytes: u64,
    /// What the delta says.
    pub kind: ExtentKind,
}

/// An extent with its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// New content.
    Data {
        /// Where it belongs.
        offset_bytes: u64,
        /// What it is.
        content: &'a [u8],
    },
    /// Zeroes.
    Zero {
        /// Where they begin.
        offset_bytes: u64,
        /// How many they are.
        length_bytes: u64,
    },
    /// Not in use any more.
    NotInUse {
        /// Where it begins.
        offset_bytes: u64,
        /// How long it is.
        length_bytes: u64,
    },
}

impl Frame<'_> {
    /// The extent without its content.
    pub fn extent(&self) -> Extent {
        match *self {
            Frame::Data { offset_bytes, content } => {
                Extent { offset_bytes, length_bytes: content.len() as u64, kind: ExtentKind::Data }
            }
            Frame::Zero { offset_bytes, length_bytes } => Extent { offset_bytes, length_bytes, kind: ExtentKind::Zero },
            Frame::NotInUse { offset_bytes, length_bytes } => {
                Extent { offset_bytes, length_bytes, kind: ExtentKind::NotInUse }
            }
        }
    }
}

/// How much of each kind there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Totals {
    /// Extents with content.
    pub data_extents: u64,
    /// Bytes of content.
    pub data_bytes: u64,
    /// Extents of zeroes.
    pub zero_extents: u64,
    /// Bytes that are zero.
    pub zero_bytes: u64,
    /// Extents that are not in use.
    pub not_in_use_extents: u64,
    /// Bytes that are not in use.
    pub not_in_use_bytes: u64,
}

impl Totals {
    /// Bytes that they take in a stream.
    pub(crate) const BYTES: usize = 48;

    /// Counts one more extent. The extents of one stream do not overlap, so no sum exceeds a volume's size.
    pub fn add(&mut self, extent: Extent) {
        let (extents, bytes) = match extent.kind {
            ExtentKind::Data => (&mut self.data_extents, &mut self.data_bytes),
            ExtentKind::Zero => (&mut self.zero_extents, &mut self.zero_bytes),
            ExtentKind::NotInUse => (&mut self.not_in_use_extents, &mut self.not_in_use_bytes),
        };
        *extents = extents.saturating_add(1);
        *bytes = bytes.saturating_add(extent.length_bytes);
    }

    /// Bytes of the volume that the extents cover.
    pub fn covered_bytes(&self) -> u64 {
        self.data_bytes.saturating_add(self.zero_bytes).saturating_add(self.not_in_use_bytes)
    }

    pub(crate) fn to_bytes(self) -> [u8; Totals::BYTES] {
        let numbers = [
            self.data_extents,
            self.data_bytes,
            self.zero_extents,
            self.zero_bytes,
            self.not_in_use_extents,
            self.not_in_use_bytes,
        ];
        let mut bytes = [0; Totals::BYTES];
        for (place, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8; Totals::BYTES]) -> Totals {
        let number = |index: usize| {
            u64::from_le_bytes(bytes[index * 8..index * 8 + 8].try_into().expect("eight bytes are eight bytes"))
        };
        Totals {
            data_extents: number(0),
            data_bytes: number(1),
            zero_extents: number(2),
            zero_bytes: number(3),
            not_in_use_extents: number(4),
            not_in_use_bytes: number(5),
        }
    }
}
