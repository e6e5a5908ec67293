//! The chain: a digest that grows record by record and in the end vouches for all of them, and for their order.
//!
//! Invariants:
//! - `next = BLAKE3(previous ‖ bytes)`. Of a data frame the bytes are its head and its description: these hold the
//!   digest of the plain content and the checksum of the compressed one, so no content is hashed twice.

/// The chain's value after some record.
pub(crate) type Chain = [u8; CHAIN_BYTES];

/// Bytes of a chain's value.
pub(crate) const CHAIN_BYTES: usize = 32;

/// A link under way, for what does not come in one piece.
pub(crate) struct Link(blake3::Hasher);

impl Link {
    /// The link that follows `previous`.
    pub(crate) fn after(previous: &Chain) -> Link {
        let mut hasher = blake3::Hasher::new();
        hasher.update(previous);
        Link(hasher)
    }

    /// Adds bytes.
    pub(crate) fn add(mut self, bytes: &[u8]) -> Link {
        self.0.update(bytes);
        self
    }

    /// The chain's new value.
    pub(crate) fn value(self) -> Chain {
        *self.0.finalize().as_bytes()
    }
}
