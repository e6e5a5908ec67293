//! The inputs that fuzzing begins with, one module a target.

mod frontends;
mod images;
mod metadata;
mod streams;

pub use images::wrong_content;

/// Seeds of one target, by name.
pub type Seeds = Vec<(String, Vec<u8>)>;

/// The seeds of every target.
pub fn all() -> Vec<(&'static str, Seeds)> {
    vec![
        ("superblock", metadata::superblock()),
        ("catalog", metadata::catalog()),
        ("segment", metadata::segment()),
        ("store_image", images::store_image()),
        ("ops_crash", images::ops_crash()),
        ("nbd", frontends::nbd()),
        ("control", frontends::control()),
        ("delta", streams::delta()),
        ("rbd_diff", streams::rbd_diff()),
    ]
}
