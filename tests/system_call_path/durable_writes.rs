//! What a durable write of the target's disk is when it reaches the device.

use super::chain::{is_possible, Chain, Fault, Filter, Target};
use super::write_log::WriteLog;
use cairn_engine::disk::{aligned_buffer, Disk};
use cairn_engine::error::ErrorKind;
use cairn_target::device::{Access, Device};
use cairn_target::own_ring::{self, OwnRing, RingDisk};
use std::fs::{self, File};
use std::path::PathBuf;
use tempfile::TempDir;

const SIZE_BYTES: u64 = 1 << 20;

fn start(filter: &Filter) -> (TempDir, Chain) {
    let directory = tempfile::tempdir().expect("a directory");
    let image: PathBuf = directory.path().join("image");
    File::create(&image).and_then(|file| file.set_len(SIZE_BYTES)).expect("an image");
    let chain = Chain::start(&directory.path().join("chain"), &image, filter);
    (directory, chain)
}

/// With RWF_DSYNC alone there would be no flush here: FUSE drops it from asynchronous direct writes.
#[test]
fn a_durable_write_has_reached_the_device_as_one_when_it_completes() {
    if !is_possible("a_durable_write_has_reached_the_device_as_one_when_it_completes") {
        return;
    }
    let (_directory, chain) = start(&Filter::Log);
    let device = Device::open(&chain.file(), Access::Exclusive { wait_ms: 0 }).expect("opens");
    own_ring::run(async |ring: OwnRing| {
        let disk = RingDisk::new(device, ring);
        for block in 0..8 {
            disk.write_durable(block * 4096, &aligned_buffer(4096)).await.expect("writes");
            let log = WriteLog::parse(fs::read(chain.log()).expect("a log")).expect("a whole log");
            let place = log.entries().iter().rposition(|entry| entry.write.is_some()).expect("a write");
            let is_durable = log.entries()[place].write.is_some_and(|write| write.is_durable);
            let is_flushed = log.entries()[place..].iter().any(|entry| entry.is_flush);
            assert!(is_durable || is_flushed, "write {block} may still be lost: {:?}", log.entries());
        }
    })
    .expect("a ring");
}

/// The flush inside a durable write is a flush: where it fails, what others wrote may be lost.
#[test]
fn a_durable_write_whose_flush_fails_is_a_failed_flush() {
    if !is_possible("a_durable_write_whose_flush_fails_is_a_failed_flush") {
        return;
    }
    let fault = Fault { target: Target::Flush, number: 1, is_persistent: false, errno: libc::EIO };
    let (_directory, chain) = start(&Filter::Fault(fault));
    let device = Device::open(&chain.file(), Access::Exclusive { wait_ms: 0 }).expect("opens");
    own_ring::run(async |ring: OwnRing| {
        let disk = RingDisk::new(device, ring);
        let error = disk.write_durable(0, &aligned_buffer(4096)).await.expect_err("its flush fails");
        assert_eq!((error.kind(), disk.flush_failures()), (ErrorKind::FlushFailed, 1));
        disk.flush().await.expect("the device itself has forgotten the failure");
    })
    .expect("a ring");
}
