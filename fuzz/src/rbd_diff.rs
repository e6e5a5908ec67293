//! Any bytes as an `rbd diff` stream.
//!
//! Input: the stream. What must hold: a typed error, or a stream that, written again in either version, says the same.

use crate::memory::bounded;
use cairn_delta::rbd::{Header, Reader, Version, Writer};
use cairn_delta::{Extent, ExtentKind};

/// A piece for each of two readers, and what is written.
const MEMORY_BYTES_MAX: usize = 16 << 20;

/// Reads the stream in `data`.
pub fn run(data: &[u8]) {
    bounded(MEMORY_BYTES_MAX, || {
        for version in [Version::V1, Version::V2] {
            if let Some(again) = write_again(data, version) {
                assert_same(data, &again);
            }
        }
    });
}

fn write_again(stream: &[u8], version: Version) -> Option<Vec<u8>> {
    let mut reader = Reader::new(stream).ok()?;
    let header = Header { version, ..reader.header().clone() };
    let mut writer = Writer::new(Vec::new(), &header).expect("a header that was read");
    let mut end_bytes = 0;
    while let Some(frame) = reader.next_frame().ok()? {
        let Extent { offset_bytes, length_bytes, kind } = frame.extent();
        assert!(offset_bytes >= end_bytes && length_bytes > 0 && kind != ExtentKind::NotInUse, "extents out of order");
        end_bytes = offset_bytes + length_bytes;
        assert!(end_bytes <= header.size_bytes, "an extent beyond the image");
        writer.write(frame).expect("what a reader gives out can be written");
    }
    assert!(reader.is_whole() && reader.read_bytes() <= stream.len() as u64);
    Some(writer.finish().expect("memory takes everything"))
}

fn assert_same(stream: &[u8], again: &[u8]) {
    let (mut one, mut other) = (Reader::new(stream).expect("read before"), Reader::new(again).expect("just written"));
    assert_eq!(Header { version: Version::V1, ..one.header().clone() }, {
        Header { version: Version::V1, ..other.header().clone() }
    });
    loop {
        let (frame, same) = (one.next_frame().expect("read before"), other.next_frame().expect("just written"));
        assert!(frame == same, "written again, the stream says something else");
        if frame.is_none() {
            return;
        }
    }
}
