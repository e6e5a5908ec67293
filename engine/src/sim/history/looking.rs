//! Looking at everything: the model follows what is there, after it has judged it.
//!
//! Invariants:
//! - Nothing is under way while the volume is looked at as a whole.

use super::History;
use crate::sim::picture::Picture;
use crate::units::{BLOCK_BYTES, TEAR_BYTES};

impl History {
    pub(super) fn inspect(&mut self) {
        self.drain();
        let context = self.context();
        self.launch("inspect", context.inspect());
        self.drain();
        self.observe(false);
    }

    /// All of the volume, if all of it can be read.
    pub(super) fn readable_volume(&mut self) -> Option<Picture> {
        let blocks: Option<Vec<Vec<u8>>> = self.whole_volume().into_iter().collect();
        let holes = self.context().volume.holes_now();
        blocks.map(|blocks| Picture { content: blocks.concat(), holes })
    }

    pub(super) fn whole_volume(&mut self) -> Vec<Option<Vec<u8>>> {
        let context = self.context();
        let handle = self.machine().host.scheduler.spawn("read all", async move { context.volume_content().await });
        self.wait(&handle)
    }

    /// The model follows what is there. `durable` where power was lost and nothing was written since.
    pub(super) fn observe(&mut self, durable: bool) {
        let content = self.whole_volume();
        for (index, block) in content.iter().enumerate() {
            let Some(block) = block else { continue };
            let first_sector = (index * BLOCK_BYTES / TEAR_BYTES) as u64;
            let verdict = self.shared.oracle.borrow_mut().observe_sectors(first_sector, block, durable);
            self.shared.require(verdict);
        }
        self.shared.assert_right(self.seed);
    }

    pub(super) fn inspect_after_attach(&mut self) {
        let context = self.context();
        let thorough = self.random.bool();
        let inspection = async move { context.inspect_snapshots(thorough).await };
        let handle = self.machine().host.scheduler.spawn("inspect snapshots", inspection);
        self.wait(&handle);
        self.shared.assert_right(self.seed);
    }

    /// The model's volume becomes as large as the engine's: growing may or may not have happened.
    pub(super) fn follow_size(&mut self) {
        let known = self.shared.oracle.borrow().sectors() * TEAR_BYTES as u64;
        let size_bytes = self.context().volume.size_bytes();
        assert!(size_bytes >= known && size_bytes <= self.plan.origin.size_bytes, "a volume of {size_bytes} bytes");
        self.shared.oracle.borrow_mut().extend(&vec![0; (size_bytes - known) as usize]);
    }
}
