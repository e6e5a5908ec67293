//! How fast streams are written and read, in memory: `cargo run --release -p cairn-delta --example throughput`.

use cairn_delta::{Compression, Fingerprint, Frame, Reader, SnapshotIdentity, StreamHeader, Writer, WriterOptions};
use std::time::Instant;

const SIZE_BYTES: usize = 256 << 20;
const READ_BYTES: usize = 4 << 20;

fn header(compression: Compression) -> StreamHeader {
    let target = SnapshotIdentity { store_id: [0; 16], epoch: 1, created_unix_ms: 0, name: "now".to_owned() };
    StreamHeader {
        volume_id: [0; 16],
        base: None,
        target,
        size_before_bytes: 0,
        size_after_bytes: SIZE_BYTES as u64,
        block_bytes: 4096,
        base_fingerprint: None,
        compression,
    }
}

/// Half noise, half words that come again.
fn content() -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(1);
    let mut content = vec![0; SIZE_BYTES];
    for block in content.chunks_mut(4096) {
        let (noise, words) = block.split_at_mut(2048);
        random.fill(noise);
        words.chunks_mut(8).for_each(|word| word.copy_from_slice(&u64::from(random.u8(..)).to_le_bytes()));
    }
    content
}

fn timed<T>(what: &str, action: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let result = action();
    let mib_per_second = (SIZE_BYTES >> 20) as f64 / begun.elapsed().as_secs_f64();
    println!("{what:<34} {mib_per_second:>8.0} MiB/s");
    result
}

fn main() {
    let content = content();
    timed("copy in memory", || std::hint::black_box(content.clone()));
    timed("fingerprint", || Fingerprint::of_content(0, &content));
    for (name, compression) in [("raw", Compression::None), ("zstd", Compression::Zstd)] {
        let mut stream = Vec::with_capacity(SIZE_BYTES + (1 << 20));
        for workers in [0, 1, 2] {
            stream.clear();
            timed(&format!("write {name}, {workers} workers"), || {
                let options = WriterOptions { workers, ..WriterOptions::default() };
                let mut writer = Writer::new(&mut stream, &header(compression), options).expect("a header");
                for (number, content) in content.chunks(READ_BYTES).enumerate() {
                    let offset_bytes = (number * READ_BYTES) as u64;
                    writer.write(Frame::Data { offset_bytes, content }).expect("memory takes everything");
                }
                writer.finish(None).expect("memory takes everything");
            });
        }
        println!("{:<34} {:>8} MiB", format!("length {name}"), stream.len() >> 20);
        timed(&format!("read {name}"), || {
            let mut reader = Reader::new(&stream[..]).expect("just written");
            while reader.next_frame().expect("just written").is_some() {}
        });
    }
}
