//! The simulated disk: what the engine sees of it, and what a test does to it.
//!
//! Invariants:
//! - Handles are cheap and any number of them share one device; each keeps the contract of [`Disk`].
//! - Without a scheduler a request completes at once; with one it completes when the scheduler says so.
//! - A future dropped with a request under way is a broken contract and panics, unless the whole machine was killed.

use super::device::{Device, Outcome, Request};
use super::faults::{Fault, Strike};
use super::image::Content;
use crate::disk::{flush_since, Disk};
use crate::error::{Error, Result};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

pub use super::device::Written;

/// How a simulated disk is built.
#[derive(Clone, Debug)]
pub struct SimDiskOptions {
    /// What errors call it: "origin", "store".
    pub name: &'static str,
    /// Size in bytes, a multiple of the sector.
    pub size_bytes: u64,
    /// Logical sector in bytes: 512 or 4096.
    pub sector_bytes: u32,
    /// Whether durable writes are one command; else each is a write and a flush.
    pub has_fua: bool,
    /// Largest discard in bytes; 0 for none.
    pub discard_bytes_max: u64,
    /// Decides everything the device leaves open.
    pub seed: u64,
}

impl SimDiskOptions {
    /// A disk with 512-byte sectors, FUA and discard.
    pub fn new(name: &'static str, size_bytes: u64) -> SimDiskOptions {
        SimDiskOptions { name, size_bytes, sector_bytes: 512, has_fua: true, discard_bytes_max: 1 << 30, seed: 1 }
    }
}

/// How a machine stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Crash {
    /// The process is killed: completed writes are there (volatile as before), those in flight may be.
    Process,
    /// Power fails: any subset of what was not durable is there, in any order, torn at 512 bytes.
    Power,
}

/// What a device was asked to do. Requests are counted when they are submitted, failed ones too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoCounts {
    /// Reads.
    pub reads: u64,
    /// Writes that a flush has to make durable, of zeroes too.
    pub writes: u64,
    /// Writes that are durable by themselves; without FUA there are none, but writes and flushes.
    pub durable_writes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Discards.
    pub discards: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes of `writes`.
    pub written_bytes: u64,
    /// Bytes of `durable_writes`.
    pub durable_bytes: u64,
    /// Bytes of `discards`.
    pub discarded_bytes: u64,
}

/// A handle on a simulated device.
#[derive(Clone)]
pub struct SimDisk {
    device: Arc<Mutex<Device>>,
}

impl SimDisk {
    /// A new device full of zeroes.
    pub fn new(options: SimDiskOptions) -> SimDisk {
        assert!(options.sector_bytes == 512 || options.sector_bytes == 4096);
        assert_eq!(options.size_bytes % u64::from(options.sector_bytes), 0);
        SimDisk { device: Arc::new(Mutex::new(Device::new(options))) }
    }

    pub(super) fn device(&self) -> MutexGuard<'_, Device> {
        self.device.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The device as it is found after a crash now. This one is not touched; whoever still uses it reaches nobody.
    pub fn crash(&self, seed: u64, crash: Crash) -> SimDisk {
        SimDisk { device: Arc::new(Mutex::new(self.device().crashed(seed, crash))) }
    }

    /// What was asked of it since it was made or the counters were reset.
    pub fn counts(&self) -> IoCounts {
        self.device().counts
    }

    /// Starts counting anew; returns what was counted.
    pub fn reset_counts(&self) -> IoCounts {
        std::mem::take(&mut self.device().counts)
    }

    /// Gives the device a fault.
    pub fn inject(&self, fault: Fault) {
        self.device().faults.inject(fault);
    }

    /// Repairs the device.
    pub fn clear_faults(&self) {
        self.device().faults.clear();
    }

    /// Nothing hangs any more, and what hung goes on.
    pub fn release(&self) {
        self.device().release();
    }

    /// How many requests hang.
    pub fn hanging(&self) -> usize {
        self.device().hanging()
    }

    /// Takes away the faults that nobody would hear of.
    pub fn clear_silent_faults(&self) {
        self.device().faults.clear_silent();
    }

    /// How many requests faults have struck.
    pub fn faults_struck(&self) -> u64 {
        self.device().faults.struck()
    }

    /// What faults did since the device was made, from the `from`-th strike on.
    pub fn strikes(&self, from: u64) -> Vec<Strike> {
        self.device().faults.strikes()[from as usize..].to_vec()
    }

    /// The faults that may still strike.
    pub fn faults(&self) -> Vec<Fault> {
        self.device().faults.active().to_vec()
    }

    /// From now on writes that are reported as done are noted.
    pub fn keep_journal(&self) {
        self.device().journal.get_or_insert_default();
    }

    /// What was noted since the last call.
    pub fn take_journal(&self) -> Vec<Written> {
        self.device().journal.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Whether a power cut could still take a write of the journal.
    pub fn is_volatile(&self, id: u64) -> bool {
        self.device().is_volatile(id)
    }

    /// What a reader would see, without a request.
    pub fn peek(&self, offset_bytes: u64, length_bytes: u64) -> Vec<u8> {
        self.device().peek(offset_bytes..offset_bytes + length_bytes)
    }

    /// Changes content without a request, durably: somebody else wrote to the disk.
    pub fn poke(&self, offset_bytes: u64, data: &[u8]) {
        self.device().poke(offset_bytes, data);
    }

    /// Flips the bits of `mask` in one byte.
    pub fn flip(&self, offset_bytes: u64, mask: u8) {
        self.device().flip(offset_bytes, mask);
    }

    /// Gives the device another size; nothing is cleared.
    pub fn resize(&self, size_bytes: u64) {
        let mut device = self.device();
        assert_eq!(size_bytes % u64::from(device.options.sector_bytes), 0);
        device.options.size_bytes = size_bytes;
    }

    /// A number that depends on every request and completion so far and on their order.
    pub fn event_hash(&self) -> u64 {
        self.device().event_hash()
    }

    /// Memory that the content takes, in bytes.
    pub fn stored_bytes(&self) -> u64 {
        self.device().stored_bytes()
    }

    async fn transfer(&self, operation: &'static str, request: Request) -> Result<Vec<u8>> {
        let range_bytes = request.range_bytes();
        let sector_bytes = u64::from(self.sector_bytes());
        let name = self.device().options.name;
        assert_eq!(range_bytes.start % sector_bytes, 0, "{name}: {operation} at {range_bytes:?} is misaligned");
        assert_eq!(range_bytes.end % sector_bytes, 0, "{name}: {operation} at {range_bytes:?} is misaligned");
        let id = self.device().submit(request);
        let outcome = Transfer { disk: self, id, finished: false }.await;
        outcome.map_err(|kind| Error::new(kind, operation, name).at(range_bytes.start).saying("simulated failure"))
    }

    fn assert_memory(&self, memory: &[u8]) {
        let misalignment_bytes = memory.as_ptr() as usize % self.sector_bytes() as usize;
        assert_eq!(misalignment_bytes, 0, "memory is not aligned for direct I/O");
    }

    async fn store(&self, operation: &'static str, offset_bytes: u64, content: Content, durable: bool) -> Result<()> {
        let fua = durable && self.device().options.has_fua;
        let failures_before = self.flush_failures();
        self.transfer(operation, Request::Write { offset_bytes, content, durable: fua }).await?;
        if durable && !fua {
            flush_since(self, failures_before).await?;
        }
        Ok(())
    }
}

impl Disk for SimDisk {
    fn size_bytes(&self) -> u64 {
        self.device().options.size_bytes
    }

    fn sector_bytes(&self) -> u32 {
        self.device().options.sector_bytes
    }

    fn discard_bytes_max(&self) -> u64 {
        self.device().options.discard_bytes_max
    }

    async fn read(&self, offset_bytes: u64, buffer: &mut [u8]) -> Result<()> {
        self.assert_memory(buffer);
        let length_bytes = buffer.len() as u64;
        let content = self.transfer("read", Request::Read { offset_bytes, length_bytes }).await?;
        buffer.copy_from_slice(&content);
        Ok(())
    }

    async fn write(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.assert_memory(data);
        self.store("write", offset_bytes, Content::of(data), false).await
    }

    async fn write_durable(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.assert_memory(data);
        self.store("durable write", offset_bytes, Content::of(data), true).await
    }

    async fn write_zeroes(&self, offset_bytes: u64, length_bytes: u64, _may_unmap: bool) -> Result<()> {
        self.store("write of zeroes", offset_bytes, Content::Zeroes(length_bytes), false).await
    }

    async fn discard(&self, offset_bytes: u64, length_bytes: u64) -> Result<()> {
        assert!(length_bytes <= self.discard_bytes_max(), "a discard larger than the device takes");
        self.transfer("discard", Request::Discard { offset_bytes, length_bytes }).await.map(drop)
    }

    async fn flush(&self) -> Result<()> {
        self.transfer("flush", Request::Flush).await.map(drop)
    }

    fn flush_failures(&self) -> u64 {
        self.device().flush_failures
    }
}

/// A request that was submitted.
struct Transfer<'a> {
    disk: &'a SimDisk,
    id: u64,
    finished: bool,
}

impl Future for Transfer<'_> {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let outcome = self.disk.device().poll(self.id, context.waker());
        self.finished = outcome.is_some();
        outcome.map_or(Poll::Pending, Poll::Ready)
    }
}

impl Drop for Transfer<'_> {
    fn drop(&mut self) {
        if self.finished || std::thread::panicking() {
            return;
        }
        let mut device = self.disk.device();
        let done = device.forget(self.id) || device.dead;
        let name = device.options.name;
        drop(device);
        assert!(done, "{name}: a future was dropped with a request under way");
    }
}

#[cfg(test)]
mod tests {
    use super::super::executor::{block_on, Scheduler};
    use super::super::faults::FaultTarget;
    use super::*;
    use crate::disk::{aligned_buffer, AlignedBuffer};

    fn page(value: u8) -> AlignedBuffer {
        let mut buffer = aligned_buffer(4096);
        buffer.fill(value);
        buffer
    }

    fn disk() -> SimDisk {
        SimDisk::new(SimDiskOptions::new("disk", 1 << 20))
    }

    #[test]
    fn flushed_and_durable_writes_survive_power_loss_and_others_may_not() {
        let disk = disk();
        block_on(async {
            disk.write(0, &page(1)).await.unwrap();
            disk.flush().await.unwrap();
            disk.write_durable(4096, &page(2)).await.unwrap();
            disk.write(8192, &page(3)).await.unwrap();
        });
        let mut found = [false; 3];
        for seed in 0..100 {
            let after = disk.crash(seed, Crash::Power).peek(0, 12288);
            assert!(after[..4096].iter().all(|byte| *byte == 1));
            assert!(after[4096..8192].iter().all(|byte| *byte == 2));
            let sectors_landed = after[8192..].chunks(512).filter(|sector| sector[0] == 3).count();
            found[usize::from(sectors_landed > 0) + usize::from(sectors_landed == 8)] = true;
            assert!(disk.crash(seed, Crash::Process).peek(8192, 4096).iter().all(|byte| *byte == 3));
        }
        assert_eq!(found, [true; 3], "lost, torn and landed all happen");
    }

    #[test]
    fn a_write_readable_after_a_process_crash_can_still_be_lost_to_power() {
        let disk = disk();
        block_on(disk.write(0, &page(1))).unwrap();
        let restarted = disk.crash(1, Crash::Process);
        let lost = (0..20).any(|seed| restarted.crash(seed, Crash::Power).peek(0, 1)[0] == 0);
        assert!(lost);
        block_on(restarted.flush()).unwrap();
        assert!((0..20).all(|seed| restarted.crash(seed, Crash::Power).peek(0, 1)[0] == 1));
    }

    #[test]
    fn a_durable_write_is_not_overtaken_by_an_older_one() {
        let disk = disk();
        block_on(disk.write(0, &page(1))).unwrap();
        let mut newer = page(2);
        newer.truncate(512);
        block_on(disk.write_durable(1024, &newer)).unwrap();
        for seed in 0..100 {
            let after = disk.crash(seed, Crash::Power).peek(0, 4096);
            assert!(after[1024..1536].iter().all(|byte| *byte == 2));
            assert!(after[..1024].iter().chain(&after[1536..]).all(|byte| *byte < 2));
        }
    }

    #[test]
    fn a_later_flush_does_not_keep_what_a_failed_one_dropped() {
        let lost = (0..50).any(|seed| {
            let disk = SimDisk::new(SimDiskOptions { seed, ..SimDiskOptions::new("disk", 1 << 20) });
            disk.inject(Fault::once(FaultTarget::Flush, 0));
            block_on(async {
                disk.write(0, &page(1)).await.unwrap();
                assert!(disk.flush().await.is_err());
                disk.flush().await.unwrap();
            });
            disk.crash(seed, Crash::Power).peek(0, 1)[0] == 0
        });
        assert!(lost);
    }

    #[test]
    fn a_flush_keeps_only_what_completed_before_it_was_submitted() {
        let mut lost = false;
        for seed in 0..200 {
            let disk = disk();
            let mut scheduler = Scheduler::new(seed);
            scheduler.drive(&disk);
            let (writer, flusher) = (disk.clone(), disk.clone());
            scheduler.spawn("write", async move { writer.write(0, &page(1)).await.unwrap() });
            let flush = scheduler.spawn("flush", async move { flusher.flush().await.unwrap() });
            scheduler.run_until(&flush);
            lost |= disk.crash(seed, Crash::Power).peek(0, 1)[0] == 0;
            scheduler.kill();
        }
        assert!(lost);
    }

    #[test]
    fn without_fua_a_durable_write_is_a_write_and_a_flush() {
        let with = disk();
        let without = SimDisk::new(SimDiskOptions { has_fua: false, ..SimDiskOptions::new("disk", 1 << 20) });
        block_on(with.write_durable(0, &page(1))).unwrap();
        block_on(without.write_durable(0, &page(1))).unwrap();
        let expected = IoCounts { durable_writes: 1, durable_bytes: 4096, ..IoCounts::default() };
        assert_eq!(with.reset_counts(), expected);
        let expected = IoCounts { writes: 1, written_bytes: 4096, flushes: 1, ..IoCounts::default() };
        assert_eq!(without.counts(), expected);
        assert!((0..20).all(|seed| without.crash(seed, Crash::Power).peek(0, 1)[0] == 1));
    }
}
