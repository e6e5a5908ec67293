//! Runs of the workload: on devices that log, or on plain files as the control.
//!
//! Invariants:
//! - A log, applied whole, gives byte for byte what the image below it holds; a recording for which it does not is
//!   never judged.

use super::chain::{Chain, Filter};
use super::replay::{Recorded, Recording};
use super::timeline::{Model, Timeline};
use super::workload::{Workload, SECTORS};
use super::write_log::WriteLog;
use super::SECTOR_BYTES;
use cairn_engine::sim::disk::SimDiskOptions;
use cairn_engine::sim::stamp::stamp;
use cairn_engine::sim::SimDisk;
use std::fs;
use std::path::{Path, PathBuf};

/// Size of the store.
const STORE_BYTES: u64 = 8 << 20;

/// Makes the images of a run: an origin that write 0 has stamped, and a store of zeroes.
pub fn make_images(directory: &Path) -> (Vec<u8>, [PathBuf; 2]) {
    let mut content = vec![0; SECTORS as usize * SECTOR_BYTES];
    stamp(0, 0, &mut content);
    let paths = ["origin.img", "store.img"].map(|name| directory.join(name));
    fs::write(&paths[0], &content).expect("an origin");
    fs::File::create(&paths[1]).and_then(|file| file.set_len(STORE_BYTES)).expect("a store");
    (content, paths)
}

/// A simulated disk with this content, durably.
pub fn load(name: &'static str, content: &[u8]) -> SimDisk {
    let disk = SimDisk::new(SimDiskOptions::new(name, content.len() as u64));
    disk.poke(0, content);
    disk
}

/// Runs a workload on logging devices.
pub fn record(workload: Workload) -> Recording {
    let directory = tempfile::tempdir().expect("a directory");
    let (content, images) = make_images(directory.path());
    let chains = [0, 1]
        .map(|device| Chain::start(&directory.path().join(format!("chain{device}")), &images[device], &Filter::Log));
    let [origin_log, store_log] = [chains[0].log(), chains[1].log()];
    let timeline = Timeline::new(&content, Some([origin_log.clone(), store_log.clone()]));
    let first = workload.run(&chains[0].file(), &chains[1].file(), &timeline);
    drop(chains);
    let recorded = |name, initial: &[u8], log: &Path, image: &Path| {
        let log = WriteLog::parse(fs::read(log).expect("a log")).expect("a whole log");
        let recorded = Recorded { initial: load(name, initial), log };
        let image = fs::read(image).expect("an image");
        let replayed = recorded.whole().peek(0, image.len() as u64);
        assert!(replayed == image, "the log of the {name}, applied whole, must give what its image holds");
        recorded
    };
    let origin = recorded("origin", &content, &origin_log, &images[0]);
    let store = recorded("store", &vec![0; STORE_BYTES as usize], &store_log, &images[1]);
    Recording { content, origin, store, steps: timeline.take_steps(), first }
}

/// Runs a workload on plain files. Gives the model of it and the files as the end of the process leaves them.
pub fn run_on_plain_files(workload: Workload) -> (Model, [SimDisk; 2]) {
    let directory = tempfile::tempdir().expect("a directory");
    let (content, images) = make_images(directory.path());
    let timeline = Timeline::new(&content, None);
    workload.run(&images[0], &images[1], &timeline);
    let read = |name, path: &Path| load(name, &fs::read(path).expect("an image"));
    (timeline.model(), [read("origin", &images[0]), read("store", &images[1])])
}
