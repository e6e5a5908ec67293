//! Ceph's own `rbd merge-diff` agrees: merging our `L->K` and `K->M` gives what our `L->M` gives.

mod common;

use cairn_delta::rbd::{Header, Reader, Version, Writer};
use common::{apply, delta, random_image, random_successor, Piece, BLOCK_BYTES};
use std::io::Write;
use std::path::Path;
use std::process::Command;

const CASES: u64 = 200;

fn export(path: &Path, from: &str, to: &str, size_bytes: usize, pieces: &[Piece]) {
    let header = Header {
        version: Version::V1,
        from_snapshot: Some(from.to_owned()),
        to_snapshot: Some(to.to_owned()),
        size_bytes: size_bytes as u64,
    };
    let file = std::io::BufWriter::new(std::fs::File::create(path).expect("a new file"));
    let mut writer = Writer::new(file, &header).expect("a header that is right");
    pieces.iter().for_each(|piece| writer.write(piece.frame()).expect("extents that are right"));
    writer.finish().expect("the file can be written");
}

/// The header's size and what the delta makes of the image.
fn result(path: &Path, before: &[u8]) -> (u64, Vec<u8>) {
    let file = std::io::BufReader::new(std::fs::File::open(path).expect("the file is there"));
    let mut reader = Reader::new(file).expect("a stream");
    assert_eq!(reader.header().from_snapshot.as_deref(), Some("L"));
    assert_eq!(reader.header().to_snapshot.as_deref(), Some("M"));
    let mut pieces = Vec::new();
    while let Some(frame) = reader.next_frame().expect("a stream") {
        pieces.push(Piece::of(frame));
    }
    let size_bytes = reader.header().size_bytes;
    (size_bytes, apply(before, size_bytes as usize, &pieces))
}

#[test]
fn rbd_merge_diff_agrees_on_random_histories() {
    if Command::new("rbd").arg("--version").output().is_err() {
        // Past the harness's capture; in continuous integration it is a failure.
        let sentence = "rbd_merge_diff_agrees_on_random_histories: rbd is not installed (ceph-common)";
        writeln!(std::io::stderr(), "SKIPPED {sentence}").expect("standard error takes it");
        assert!(std::env::var_os("CI").is_none(), "{sentence}");
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    for seed in 0..CASES {
        let mut random = fastrand::Rng::with_seed(seed);
        // Sizes change in half of the cases, also by parts of a block.
        let first = random.usize(1..50) * BLOCK_BYTES;
        let mut size = || if random.bool() { first } else { random.usize(1..50 * BLOCK_BYTES) };
        let sizes = [first, size(), size()];
        let l = random_image(&mut random, sizes[0]);
        let k = random_successor(&mut random, &l, sizes[1]);
        let m = random_successor(&mut random, &k, sizes[2]);
        export(&path("l-k"), "L", "K", sizes[1], &delta(&mut random, &l, &k));
        export(&path("k-m"), "K", "M", sizes[2], &delta(&mut random, &k, &m));
        export(&path("l-m"), "L", "M", sizes[2], &delta(&mut random, &l, &m));
        let merged = Command::new("rbd")
            .args(["--no-progress", "merge-diff"])
            .args([path("l-k"), path("k-m"), path("merged")])
            .output()
            .expect("rbd runs");
        assert!(merged.status.success(), "seed {seed}: {}", String::from_utf8_lossy(&merged.stderr));
        let (ours, theirs) = (result(&path("l-m"), &l), result(&path("merged"), &l));
        assert_eq!((ours.0, theirs.0), (sizes[2] as u64, sizes[2] as u64), "seed {seed}");
        assert!(ours.1 == m, "seed {seed}: our L->M does not make M of L");
        assert!(theirs.1 == m, "seed {seed}: the merge does not make M of L");
        std::fs::remove_file(path("merged")).expect("rbd wrote it");
    }
    println!("rbd merge-diff agreed on {CASES} cases");
}
