//! Small deltas, the streams that hold them, and who receives those.

use super::apply::Pace;
use crate::context::Context;
use crate::output::Output;
use cairn_delta::{Compression, Fingerprint, Frame, Resume, SnapshotIdentity, StreamHeader, Writer, WriterOptions};
use cairn_target::paths::Paths;
use fastrand::Rng;
use std::path::Path;
use std::time::Duration;

/// Bytes in a block.
const BLOCK: usize = 4096;
const BLOCKS: usize = 48;

/// What a target holds at first.
pub fn first_content() -> Vec<u8> {
    (0..BLOCKS).flat_map(|block| [block as u8 % 5; BLOCK]).collect()
}

/// Writes and records how far it is as seldom or as often as chance will have it.
pub fn any_pace(random: &mut Rng) -> Pace {
    Pace {
        pending_bytes: random.usize(1..12 * BLOCK),
        checkpoint_interval: Duration::from_secs(if random.bool() { 0 } else { 3600 }),
        checkpoint_bytes: random.u64(1..12 * BLOCK as u64),
    }
}

/// A command that keeps everything in this directory.
pub fn context_in(directory: &Path) -> Context {
    let at = |name: &str| Some(directory.join(name));
    let paths = Paths::resolve(at("state"), at("run"), at("dev"));
    Context { paths, output: Output { json: true, yes: true } }
}

/// A delta, and both of its ends.
pub struct Source {
    /// What the stream says of itself.
    pub header: StreamHeader,
    /// What the target holds afterwards.
    pub result: Vec<u8>,
    /// First block, number of blocks, and whether there is anything.
    extents: Vec<(usize, usize, bool)>,
}

impl Source {
    /// A few changes of `base`.
    pub fn random(base: &[u8], round: u64, random: &mut Rng) -> Source {
        let identity = |round: u64| SnapshotIdentity {
            store_id: [7; 16],
            epoch: round,
            created_unix_ms: round,
            name: format!("m{round}"),
        };
        let (mut result, mut extents, mut block) = (base.to_vec(), Vec::new(), 0);
        loop {
            let (first, count) = (block + random.usize(1..10), random.usize(1..6));
            if first + count > BLOCKS {
                break;
            }
            let holds = random.u8(0..4) > 0;
            let fill = if holds { random.u8(1..) } else { 0 };
            result[first * BLOCK..(first + count) * BLOCK].fill(fill);
            extents.push((first, count, holds));
            block = first + count;
        }
        let size_bytes = base.len() as u64;
        let header = StreamHeader {
            volume_id: [8; 16],
            base: Some(identity(round)),
            target: identity(round + 1),
            size_before_bytes: size_bytes,
            size_after_bytes: size_bytes,
            block_bytes: BLOCK as u32,
            base_fingerprint: Some(Fingerprint::of_content(0, base)),
            compression: Compression::None,
        };
        Source { header, result, extents }
    }

    /// The stream, or what follows behind a place in it.
    pub fn stream(&self, token: Option<&str>) -> Vec<u8> {
        let kept: Option<Resume> = token.map(|token| token.parse().expect("a token that a receive kept"));
        let options = WriterOptions::default();
        let writer = match &kept {
            None => Writer::new(Vec::new(), &self.header, options),
            Some(kept) => Writer::resume(Vec::new(), &self.header, kept, options),
        };
        let mut writer = writer.expect("memory takes everything");
        let from = kept.map_or(0, |kept| kept.next_offset_bytes);
        for &(first, count, holds) in &self.extents {
            let (offset_bytes, length_bytes) = ((first * BLOCK) as u64, (count * BLOCK) as u64);
            let content = &self.result[first * BLOCK..(first + count) * BLOCK];
            let frame = match holds {
                true => Frame::Data { offset_bytes, content },
                false => Frame::NotInUse { offset_bytes, length_bytes },
            };
            if offset_bytes >= from {
                writer.write(frame).expect("memory takes everything");
            }
        }
        writer.finish(Some(Fingerprint::of_content(0, &self.result))).expect("memory takes everything").0
    }
}
