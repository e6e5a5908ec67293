//! Deltas in histories with faults and crashes: whatever differs between two snapshots is in their delta.

use super::operations::Context;
use crate::delta::DeltaPoint;
use crate::disk::aligned_buffer;
use crate::error::Result;
use crate::sim::rig::snapshot_name;
use crate::units::TEAR_BYTES;

impl Context {
    /// Asks for the delta between two snapshots of which the first is the older, and compares it with what they hold.
    /// Snapshots that cannot be read were judged before.
    pub(super) async fn inspect_delta(&self, older: &str, newer: &str) {
        let began = self.began();
        let (Ok(was), Ok(is)) = (self.whole_content(older).await, self.whole_content(newer).await) else { return };
        let extents = match self.delta(older, newer).await {
            Ok(extents) => extents,
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
            let at = (sector * TEAR_BYTES) as u64;
            let is_told = || extents.iter().any(|one| (one.0..one.1).contains(&at));
            if was != Some(is) && !is_told() {
                self.shared.fail(format!("sector {sector} differs from {older} to {newer}; the delta does not say so"));
                return;
            }
        }
    }

    async fn whole_content(&self, name: &str) -> Result<Vec<u8>> {
        let handle = self.volume.snapshot_handle(&self.disks, &snapshot_name(name)).await?;
        let mut content = aligned_buffer(handle.size_bytes() as usize);
        self.volume.read_snapshot(&self.disks, &handle, 0, &mut content).await?;
        Ok(content.to_vec())
    }

    /// Where the extents of a delta begin and end.
    async fn delta(&self, older: &str, newer: &str) -> Result<Vec<(u64, u64)>> {
        let older: DeltaPoint = self.volume.delta_point(&self.disks, &snapshot_name(older)).await?;
        let newer = self.volume.delta_point(&self.disks, &snapshot_name(newer)).await?;
        let found = self.volume.changes(&self.disks, Some(&older), &newer, 0, usize::MAX).await?;
        Ok(found.iter().map(|extent| (extent.offset_bytes, extent.offset_bytes + extent.length_bytes)).collect())
    }
}
