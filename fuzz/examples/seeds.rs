//! Writes the seeds: `cargo run --manifest-path fuzz/Cargo.toml --example seeds` puts those of target T into `fuzz/corpus/T`.
//!
//! Each is an input that a person would think of; what fuzzing found beyond them lies beside them under its hash.

use cairn_fuzz::seeds::all;
use std::path::Path;

fn main() {
    for (target, seeds) in all() {
        for (name, bytes) in seeds {
            write(&Path::new("corpus").join(target).join(name), &bytes);
        }
    }
}

fn write(path: &Path, bytes: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::create_dir_all(path.parent().expect("a file lies in a directory")).expect("the directory can be made");
    std::fs::write(path, bytes).expect("the seed can be written");
}
