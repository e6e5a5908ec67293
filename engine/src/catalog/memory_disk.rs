//! A disk in memory for the tests of the formats: it loses, tears and damages on demand.
//!
//! Invariants:
//! - A read sees every completed write; a crash keeps what was durable and any part of the rest.

use crate::disk::Disk;
use crate::error::{Error, ErrorKind, Result};
use crate::units::TEAR_BYTES;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::future::Future;

/// What was done to the disk.
#[derive(Clone)]
pub enum Step {
    /// A write; durable or not.
    Write { offset_bytes: usize, data: Vec<u8>, durable: bool },
    /// A flush.
    Flush,
}

/// The disk.
#[derive(Default)]
pub struct MemoryDisk {
    /// What reads see.
    pub bytes: RefCell<Vec<u8>>,
    /// Everything done since `record_from_here`.
    pub steps: RefCell<Vec<Step>>,
    /// Writes and flushes fail while this counts: the first number is how many succeed before, the second how many
    /// fail then.
    pub failing: Cell<(usize, usize)>,
    /// A failing write reaches the disk all the same.
    pub failing_writes_land: Cell<bool>,
    /// Blocks of 4 KiB that cannot be read.
    pub unreadable: RefCell<BTreeSet<u64>>,
    base: RefCell<Vec<u8>>,
}

impl MemoryDisk {
    /// A disk of zeroes.
    pub fn new(length_bytes: usize) -> MemoryDisk {
        MemoryDisk::with(vec![0; length_bytes])
    }

    /// A disk with content.
    pub fn with(bytes: Vec<u8>) -> MemoryDisk {
        MemoryDisk { bytes: RefCell::new(bytes), ..MemoryDisk::default() }
    }

    /// Takes the present content as durable and starts a new list of steps.
    pub fn record_from_here(&self) {
        self.base.replace(self.bytes.borrow().clone());
        self.steps.borrow_mut().clear();
    }

    /// The content after a crash in front of step `at`, or in it: what was durable is there, of the rest each sector
    /// for which `keep` says so.
    pub fn crashed(&self, at: usize, mut keep: impl FnMut() -> bool) -> Vec<u8> {
        let mut bytes = self.base.borrow().clone();
        let steps = self.steps.borrow();
        let flushed = steps[..at].iter().rposition(|step| matches!(step, Step::Flush)).unwrap_or(0);
        for (index, step) in steps[..(at + 1).min(steps.len())].iter().enumerate() {
            let Step::Write { offset_bytes, data, durable } = step else { continue };
            let safe = index < at && (*durable || index < flushed);
            for (sector, part) in data.chunks(TEAR_BYTES).enumerate() {
                if safe || keep() {
                    bytes[offset_bytes + sector * TEAR_BYTES..][..part.len()].copy_from_slice(part);
                }
            }
        }
        bytes
    }

    fn fails(&self) -> bool {
        let (good, bad) = self.failing.get();
        match (good, bad) {
            (0, 0) => false,
            (0, _) => {
                self.failing.set((0, bad - 1));
                true
            }
            _ => {
                self.failing.set((good - 1, bad));
                false
            }
        }
    }

    fn put(&self, offset_bytes: u64, data: &[u8], durable: bool) -> Result<()> {
        let fails = self.fails();
        let start = offset_bytes as usize;
        if !fails || self.failing_writes_land.get() {
            self.bytes.borrow_mut()[start..start + data.len()].copy_from_slice(data);
            self.steps.borrow_mut().push(Step::Write { offset_bytes: start, data: data.to_vec(), durable });
        }
        if fails {
            return Err(Error::new(ErrorKind::Io, "write", "store").at(offset_bytes));
        }
        Ok(())
    }
}

impl Disk for MemoryDisk {
    fn size_bytes(&self) -> u64 {
        self.bytes.borrow().len() as u64
    }

    fn sector_bytes(&self) -> u32 {
        512
    }

    fn discard_bytes_max(&self) -> u64 {
        0
    }

    async fn read(&self, offset_bytes: u64, buffer: &mut [u8]) -> Result<()> {
        let end_bytes = offset_bytes + buffer.len() as u64;
        if self.unreadable.borrow().range(offset_bytes / 4096..end_bytes.div_ceil(4096)).next().is_some() {
            return Err(Error::new(ErrorKind::Io, "read", "store").at(offset_bytes));
        }
        buffer.copy_from_slice(&self.bytes.borrow()[offset_bytes as usize..end_bytes as usize]);
        Ok(())
    }

    async fn write(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.put(offset_bytes, data, false)
    }

    async fn write_durable(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.put(offset_bytes, data, true)
    }

    async fn write_zeroes(&self, offset_bytes: u64, length_bytes: u64, _may_unmap: bool) -> Result<()> {
        self.put(offset_bytes, &vec![0; length_bytes as usize], false)
    }

    async fn discard(&self, _offset_bytes: u64, _length_bytes: u64) -> Result<()> {
        Ok(())
    }

    fn flush_failures(&self) -> u64 {
        0
    }

    async fn flush(&self) -> Result<()> {
        if self.fails() {
            return Err(Error::new(ErrorKind::Io, "flush", "store"));
        }
        self.steps.borrow_mut().push(Step::Flush);
        Ok(())
    }
}

/// Runs a future that never waits.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    futures_util::FutureExt::now_or_never(future).expect("a disk in memory never waits")
}
