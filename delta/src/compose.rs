//! Two deltas that follow each other, made one: `compose(X->Y, Y->Z) = X->Z`. Where both say something, the later wins.
//!
//! Invariants:
//! - Memory: one frame of each, however long they are, because both are sorted.
//! - Nothing counts before the end record, and that is written only when both inputs were whole and fit together.

use crate::error::{ErrorKind, Result};
use crate::extent::{Extent, ExtentKind, Frame};
use crate::header::{Compression, StreamHeader};
use crate::reader::Reader;
use crate::writer::{Writer, WriterOptions};
use std::io::{Read, Write};

/// Writes the composition of two streams, which both were just opened.
pub fn compose<A: Read, B: Read, W: Write>(
    first: &mut Reader<A>,
    second: &mut Reader<B>,
    output: W,
    compression: Compression,
    options: WriterOptions,
) -> Result<W> {
    let header = joined(first.header(), second.header(), compression).map_err(|kind| kind.at(0))?;
    let mut writer = Writer::new(output, &header, options)?;
    let size_bytes = header.size_after_bytes;
    let (mut earlier, mut later) = (Cursor::of(first)?, Cursor::of(second)?);
    while let Some(new) = later.extent {
        // What the earlier one says in front of it stays, what it says beneath it goes.
        earlier.give(first, &mut writer, new.offset_bytes)?;
        earlier.drop_up_to(first, new.offset_bytes + new.length_bytes)?;
        writer.write(later.frame(new.length_bytes))?;
        later.refill(second)?;
    }
    earlier.give(first, &mut writer, size_bytes)?;
    earlier.drop_up_to(first, u64::MAX)?;
    let (Some(middle), Some(end)) = (first.end(), second.end()) else {
        unreachable!("a reader without a further frame has read the end record");
    };
    if let (Some(result), Some(base)) = (middle.fingerprint, second.header().base_fingerprint) {
        if result != base {
            return Err(not_adjacent("the first delta ends with another fingerprint than the second begins with").at(0));
        }
    }
    writer.finish(end.fingerprint).map(|(output, _)| output)
}

fn not_adjacent(sentence: &'static str) -> ErrorKind {
    ErrorKind::NotAdjacent(sentence)
}

fn joined(
    first: &StreamHeader,
    second: &StreamHeader,
    compression: Compression,
) -> std::result::Result<StreamHeader, ErrorKind> {
    if first.volume_id != second.volume_id {
        return Err(not_adjacent("the two deltas are of different volumes"));
    }
    if second.base.as_ref() != Some(&first.target) {
        return Err(not_adjacent("the second delta does not begin at the snapshot that the first ends at"));
    }
    if second.size_before_bytes != first.size_after_bytes {
        return Err(not_adjacent("the second delta begins with another size than the first ends with"));
    }
    if first.block_bytes != second.block_bytes {
        return Err(not_adjacent("the two deltas have blocks of different size"));
    }
    Ok(StreamHeader {
        base: first.base.clone(),
        size_before_bytes: first.size_before_bytes,
        base_fingerprint: first.base_fingerprint,
        compression,
        ..second.clone()
    })
}

/// The frame that one of the two is at, or what is left of it.
struct Cursor {
    extent: Option<Extent>,
    /// The content of the whole frame; what is left of it is its end.
    content: Vec<u8>,
}

impl Cursor {
    fn of<R: Read>(reader: &mut Reader<R>) -> Result<Cursor> {
        let mut cursor = Cursor { extent: None, content: Vec::new() };
        cursor.refill(reader)?;
        Ok(cursor)
    }

    /// Goes on to the next frame.
    fn refill<R: Read>(&mut self, reader: &mut Reader<R>) -> Result<()> {
        let frame = reader.next_frame()?;
        self.extent = frame.map(|frame| frame.extent());
        self.content.clear();
        if let Some(Frame::Data { content, .. }) = frame {
            self.content.extend_from_slice(content);
        }
        Ok(())
    }

    /// The first `length_bytes` of what is left.
    fn frame(&self, length_bytes: u64) -> Frame<'_> {
        let extent = self.extent.expect("a frame is asked for only where one is left");
        let offset_bytes = extent.offset_bytes;
        match extent.kind {
            ExtentKind::Data => {
                let start = self.content.len() - extent.length_bytes as usize;
                Frame::Data { offset_bytes, content: &self.content[start..start + length_bytes as usize] }
            }
            ExtentKind::Zero => Frame::Zero { offset_bytes, length_bytes },
            ExtentKind::NotInUse => Frame::NotInUse { offset_bytes, length_bytes },
        }
    }

    /// Writes what lies before `end_bytes`.
    fn give<R: Read, W: Write>(
        &mut self,
        reader: &mut Reader<R>,
        writer: &mut Writer<W>,
        end_bytes: u64,
    ) -> Result<()> {
        while let Some(extent) = self.extent.filter(|extent| extent.offset_bytes < end_bytes) {
            let length_bytes = extent.length_bytes.min(end_bytes - extent.offset_bytes);
            writer.write(self.frame(length_bytes))?;
            self.advance(reader, length_bytes)?;
        }
        Ok(())
    }

    /// Forgets what lies before `end_bytes`.
    fn drop_up_to<R: Read>(&mut self, reader: &mut Reader<R>, end_bytes: u64) -> Result<()> {
        while let Some(extent) = self.extent.filter(|extent| extent.offset_bytes < end_bytes) {
            self.advance(reader, extent.length_bytes.min(end_bytes - extent.offset_bytes))?;
        }
        Ok(())
    }

    fn advance<R: Read>(&mut self, reader: &mut Reader<R>, length_bytes: u64) -> Result<()> {
        let extent = self.extent.as_mut().expect("an advance is within a frame");
        extent.offset_bytes += length_bytes;
        extent.length_bytes -= length_bytes;
        match extent.length_bytes {
            0 => self.refill(reader),
            _ => Ok(()),
        }
    }
}
