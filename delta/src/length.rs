//! How long a stream will be that is not compressed, to the byte, without reading any content.
//!
//! Invariants:
//! - Every extent counts as one call of the writer with that extent; the writer cuts data at 4 MiB.

use crate::chain::CHAIN_BYTES;
use crate::end::End;
use crate::extent::{Extent, ExtentKind, Totals};
use crate::header::StreamHeader;
use crate::record::{DESCRIPTION_BYTES, FRAME_BYTES_MAX, HEAD_BYTES, PREAMBLE_BYTES, RANGE_BYTES};
use crate::resume::Resume;

/// The length of a stream whose extents are being told.
#[derive(Clone, Copy, Debug)]
pub struct StreamLength {
    bytes: u64,
}

impl StreamLength {
    /// Of a stream with this header; `continuation` where it begins in the middle.
    pub fn new(header: &StreamHeader, continuation: Option<&Resume>) -> StreamLength {
        let header_bytes = header.to_bytes(header.stream_id(), continuation).len();
        StreamLength { bytes: (PREAMBLE_BYTES + HEAD_BYTES + header_bytes) as u64 }
    }

    /// Counts one more extent.
    pub fn add(&mut self, extent: Extent) {
        self.bytes += match extent.kind {
            ExtentKind::Data => {
                let frames = extent.length_bytes.div_ceil(FRAME_BYTES_MAX as u64);
                extent.length_bytes + frames * (HEAD_BYTES + DESCRIPTION_BYTES) as u64
            }
            ExtentKind::Zero | ExtentKind::NotInUse => (HEAD_BYTES + RANGE_BYTES) as u64,
        };
    }

    /// The length with the end record, which may tell the fingerprint of the result.
    pub fn finish(self, with_fingerprint: bool) -> u64 {
        let fingerprint = with_fingerprint.then_some(crate::Fingerprint::EMPTY);
        let end = End { totals: Totals::default(), fingerprint }.to_bytes(&[0; CHAIN_BYTES]);
        self.bytes + (HEAD_BYTES + end.len()) as u64
    }
}
