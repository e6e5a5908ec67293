//! Flushes that fail, against those whose data they lose.
//!
//! The disk fails one flush, as disks do: what was not durable is lost, whoever wrote it; whoever asked for that flush is
//! told, and the next one goes well.

use super::{block_on, explore};
use crate::disk::{flush_since, Disk};
use crate::error::{Error, ErrorKind, Result};
use crate::flushes::Flushes;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::Mutex;
use ::loom::thread;
use std::sync::Arc;

/// How failed flushes are counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counting {
    /// By [`Flushes`].
    BeforeOthersAreDone,
    /// The mistake: by whoever was told, when it gets to it.
    WhenTold,
}

/// Content of the device, a bit for each writer.
#[derive(Default)]
struct Medium {
    cached: u64,
    durable: u64,
    flushes: u64,
}

struct FailingDisk {
    medium: Mutex<Medium>,
    flushes: Flushes,
    told: AtomicU64,
    counting: Counting,
}

impl FailingDisk {
    fn device_flush(&self) -> Result<()> {
        let mut medium = self.medium.lock().expect("nobody panics");
        medium.flushes += 1;
        let cached = std::mem::take(&mut medium.cached);
        if medium.flushes == 1 {
            return Err(Error::new(ErrorKind::FlushFailed, "flush", "model"));
        }
        medium.durable |= cached;
        Ok(())
    }
}

impl Disk for FailingDisk {
    fn size_bytes(&self) -> u64 {
        4096
    }

    fn sector_bytes(&self) -> u32 {
        512
    }

    fn discard_bytes_max(&self) -> u64 {
        0
    }

    async fn read(&self, _offset_bytes: u64, _buffer: &mut [u8]) -> Result<()> {
        unreachable!("nothing is read")
    }

    /// The offset names the writer.
    async fn write(&self, offset_bytes: u64, _data: &[u8]) -> Result<()> {
        self.medium.lock().expect("nobody panics").cached |= 1 << offset_bytes;
        Ok(())
    }

    async fn write_durable(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        let failures_before = self.flush_failures();
        self.write(offset_bytes, data).await?;
        flush_since(self, failures_before).await
    }

    async fn write_zeroes(&self, _offset_bytes: u64, _length_bytes: u64, _may_unmap: bool) -> Result<()> {
        unreachable!("nothing is zeroed")
    }

    async fn discard(&self, _offset_bytes: u64, _length_bytes: u64) -> Result<()> {
        unreachable!("nothing is discarded")
    }

    async fn flush(&self) -> Result<()> {
        if self.counting == Counting::BeforeOthersAreDone {
            return self.flushes.run(async { self.device_flush() }).await;
        }
        self.device_flush().inspect_err(|_| {
            self.told.fetch_add(1, Ordering::SeqCst);
        })
    }

    fn flush_failures(&self) -> u64 {
        match self.counting {
            Counting::BeforeOthersAreDone => self.flushes.failed(),
            Counting::WhenTold => self.told.load(Ordering::SeqCst),
        }
    }
}

fn durable_writes(counting: Counting) {
    let disk = Arc::new(FailingDisk {
        medium: Mutex::default(),
        flushes: Flushes::default(),
        told: AtomicU64::new(0),
        counting,
    });
    let write = |disk: &FailingDisk, writer: u64| {
        let result = block_on(disk.write_durable(writer, &[]));
        let durable = disk.medium.lock().expect("nobody panics").durable;
        assert!(result.is_err() || durable & (1 << writer) != 0, "what was reported as durable is");
    };
    let other = disk.clone();
    let thread = thread::spawn(move || write(&other, 1));
    write(&disk, 0);
    thread.join().expect("the other writer ends");
}

#[test]
fn a_flush_that_failed_is_known_to_everybody_whose_data_it_lost() {
    explore("flush-failures", || durable_writes(Counting::BeforeOthersAreDone));
}

#[test]
#[should_panic(expected = "what was reported as durable is")]
fn a_failure_that_is_counted_when_its_thread_gets_to_it_is_noticed() {
    explore("flush-planted", || durable_writes(Counting::WhenTold));
}
