//! Deltas in histories with faults and crashes: whatever differs between two snapshots is in their delta.

use super::operations::Context;
use crate::disk::aligned_buffer;
use crate::error::Result;
use crate::sim::rig::snapshot_name;
use crate::sim::told::told;
use crate::units::TEAR_BYTES;

impl Context {
    /// Asks for the delta between two snapshots of which the first is the older, and compares it with what they hold.
    /// Snapshots that cannot be read were judged before.
    pub(super) async fn inspect_delta(&self, older: &str, newer: &str) {
        let began = self.began();
        let (Ok(was), Ok(is)) = (self.whole_content(older).await, self.whole_content(newer).await) else { return };
        let told = match told(&self.volume, &self.disks, older, Some(newer)).await {
            Ok(told) => told,
            Err(error) => {
                if !self.struck_since(began) && !self.shared.trouble.ever() && !self.excused(error.kind()) {
                    self.shared.fail(format!("the delta from {older} to {newer} failed: {error:?}"));
                }
                return;
            }
        };
        self.shared.reached("deltas compared with contents", 1);
        let was = was.chunks_exact(TEAR_BYTES).map(Some).chain(std::iter::repeat(None));
        for (sector, (is, was)) in is.chunks_exact(TEAR_BYTES).zip(was).enumerate() {
            if was != Some(is) && !told[sector] {
                self.shared.fail(format!("sector {sector} differs from {older} to {newer}; the delta does not say so"));
                return;
            }
        }
    }

    pub(super) async fn whole_content(&self, name: &str) -> Result<Vec<u8>> {
        let handle = self.volume.snapshot_handle(&self.disks, &snapshot_name(name)).await?;
        let mut content = aligned_buffer(handle.size_bytes() as usize);
        self.volume.read_snapshot(&self.disks, &handle, 0, &mut content).await?;
        Ok(content.to_vec())
    }
}
