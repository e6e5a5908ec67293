//! A read of a snapshot that is overtaken by a cut and by a write behind it.

use cairn_engine::disk::{aligned_buffer, Disk, Disks};
use cairn_engine::error::Result;
use cairn_engine::signal::yield_now;
use cairn_engine::sim::rig::{snapshot_name, Rig};
use cairn_engine::sim::{Scheduler, SimDisk, SimDiskOptions};
use cairn_engine::volume::Limits;
use std::rc::Rc;

/// A disk whose reads take so many turns before they see anything.
struct Slow {
    disk: SimDisk,
    turns: usize,
}

impl Disk for Slow {
    fn size_bytes(&self) -> u64 {
        self.disk.size_bytes()
    }

    fn sector_bytes(&self) -> u32 {
        self.disk.sector_bytes()
    }

    fn discard_bytes_max(&self) -> u64 {
        self.disk.discard_bytes_max()
    }

    async fn read(&self, offset_bytes: u64, buffer: &mut [u8]) -> Result<()> {
        for _ in 0..self.turns {
            yield_now().await;
        }
        self.disk.read(offset_bytes, buffer).await
    }

    async fn write(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.disk.write(offset_bytes, data).await
    }

    async fn write_durable(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.disk.write_durable(offset_bytes, data).await
    }

    async fn write_zeroes(&self, offset_bytes: u64, length_bytes: u64, may_unmap: bool) -> Result<()> {
        self.disk.write_zeroes(offset_bytes, length_bytes, may_unmap).await
    }

    async fn discard(&self, offset_bytes: u64, length_bytes: u64) -> Result<()> {
        self.disk.discard(offset_bytes, length_bytes).await
    }

    async fn flush(&self) -> Result<()> {
        self.disk.flush().await
    }

    fn flush_failures(&self) -> u64 {
        self.disk.flush_failures()
    }
}

#[test]
fn a_read_looks_again_in_the_index_as_it_is_after_a_cut_and_a_save() {
    let limits = Limits {
        spill_entries: 16,
        entries_max: 64,
        cache_pages: 8,
        reserve_segments: 4,
        restore_step_blocks: 8,
        ..Limits::default()
    };
    for turns in 0..40 {
        let origin = SimDiskOptions::new("origin", 48 * 4096);
        let rig = Rc::new(Rig::new(origin, SimDiskOptions::new("store", 8 << 20), 64 << 10, limits));
        rig.snapshot("a").expect("cut");
        let mut scheduler = Scheduler::new(turns as u64);
        let reader = Rc::clone(&rig);
        let read = scheduler.spawn("read", async move {
            let slow = |disk: &SimDisk, turns| Slow { disk: disk.clone(), turns };
            let disks = Disks { origin: slow(&reader.disks.origin, turns), store: slow(&reader.disks.store, 0) };
            let handle = reader.volume.snapshot_handle(&reader.disks, &snapshot_name("a")).await.expect("it is whole");
            let mut content = aligned_buffer(4096);
            reader.volume.read_snapshot(&disks, &handle, 20 * 4096, &mut content).await.expect("read");
            content[0]
        });
        let writer = Rc::clone(&rig);
        scheduler.spawn("cut and write", async move {
            // The reader looks into the index first.
            for _ in 0..10 {
                yield_now().await;
            }
            writer.snapshot("b").expect("cut");
            writer.write(20 * 4096, 4096, 7).expect("write");
        });
        scheduler.run_all();
        assert_eq!(read.take(), Some(0), "{turns} turns: the snapshot shows what was written behind it");
    }
}
