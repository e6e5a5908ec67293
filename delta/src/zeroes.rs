//! Which content is all zeroes.

use std::ops::Range;

/// Content is looked at in pieces of this length; short enough to stop early, long enough for vector instructions.
const PIECE_BYTES: usize = 64;

/// All of it is zero. Stops at the first piece that is not.
pub fn is_zero(content: &[u8]) -> bool {
    let pieces = content.chunks_exact(PIECE_BYTES);
    let rest = pieces.remainder();
    let any = |piece: &[u8]| piece.iter().fold(0, |seen, byte| seen | byte) != 0;
    !any(rest) && !pieces.into_iter().any(any)
}

/// A piece of some content that is all zeroes, or has no block that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Where in the content.
    pub range: Range<usize>,
    /// All of it is zero.
    pub zero: bool,
}

/// Takes content apart into runs of blocks that are zero and blocks that are not. The last block may be shorter.
pub fn runs(content: &[u8], block_bytes: usize) -> impl Iterator<Item = Run> + '_ {
    assert!(block_bytes > 0, "a block has bytes");
    let block_end = move |start: usize| content.len().min(start + block_bytes);
    let mut start = 0;
    std::iter::from_fn(move || {
        if start == content.len() {
            return None;
        }
        let mut end = block_end(start);
        let zero = is_zero(&content[start..end]);
        while end < content.len() && is_zero(&content[end..block_end(end)]) == zero {
            end = block_end(end);
        }
        let run = Run { range: start..end, zero };
        start = end;
        Some(run)
    })
}
