//! What is in use in a snapshot and what changed between two, page by page, with the specification's errors.
//!
//! Invariants:
//! - Every reason to refuse is looked at before the first message; later ones end the stream with a status.
//! - Ranges ascend over the whole answer, and each page begins behind the last: a stream comes to its end.
//! - A page is asked for when the client takes it: memory is one page a call.

use crate::control::{Changes, Snapshot, Target};
use crate::messages::{
    BlockMetadata, BlockMetadataType, GetMetadataAllocatedRequest, GetMetadataDeltaRequest, GetMetadataResponse,
};
use crate::snapshot_id::SnapshotId;
use cairn_engine::error::ErrorKind;
use cairn_target::config::VolumeConfig;
use cairn_target::paths::Paths;
use futures_util::stream::try_unfold;
use tonic::codegen::BoxStream;
use tonic::{Response, Status};

/// The most ranges in one message, whatever a client asks for.
const RESULTS_MAX: u32 = 4096;

/// The answer to either call.
pub type Answer = Result<Response<BoxStream<GetMetadataResponse>>, Status>;

/// The service: knows where volumes are, and nothing else.
#[derive(Clone, Debug)]
pub struct SnapshotMetadata {
    paths: Paths,
}

/// One call, checked, and how far it is.
struct Walk {
    target: Target,
    from: Option<String>,
    to: String,
    capacity_bytes: i64,
    results_max: u32,
    /// None once the last page was given.
    next_offset_bytes: Option<u64>,
}

impl SnapshotMetadata {
    /// Of the volumes that are configured and attached in `paths`.
    pub fn new(paths: Paths) -> SnapshotMetadata {
        SnapshotMetadata { paths }
    }

    /// `GetMetadataAllocated`.
    pub async fn allocated(&self, request: GetMetadataAllocatedRequest) -> Answer {
        let snapshot = refuse_bookmark("snapshot_id", SnapshotId::parse("snapshot_id", &request.snapshot_id)?)?;
        self.walk(None, snapshot, request.starting_offset, request.max_results).await
    }

    /// `GetMetadataDelta`.
    pub async fn delta(&self, request: GetMetadataDeltaRequest) -> Answer {
        let base = SnapshotId::parse("base_snapshot_id", &request.base_snapshot_id)?;
        let target = SnapshotId::parse("target_snapshot_id", &request.target_snapshot_id)?;
        let target = refuse_bookmark("target_snapshot_id", target)?;
        if base.volume != target.volume {
            return Err(Status::invalid_argument("the two snapshots are of different volumes"));
        }
        self.walk(Some(base), target, request.starting_offset, request.max_results).await
    }

    async fn walk(&self, from: Option<SnapshotId>, to: SnapshotId, starting_offset: i64, max_results: i32) -> Answer {
        let offset_bytes = u64::try_from(starting_offset)
            .map_err(|_| Status::invalid_argument("starting_offset must not be negative"))?;
        let results_max =
            u32::try_from(max_results).map_err(|_| Status::invalid_argument("max_results must not be negative"))?;
        let target = self.target(&to.volume)?;
        let snapshots = target.snapshots().await?;
        let found = find(&snapshots, "target", &to)?;
        if let Some(base) = from.as_ref().filter(|base| !base.is_bookmark) {
            if find(&snapshots, "base", base)?.epoch >= found.epoch {
                return Err(Status::invalid_argument("the base must be older than the target"));
            }
        }
        if offset_bytes >= found.size_bytes {
            let sentence = format!("starting_offset must be below the volume's size of {} bytes", found.size_bytes);
            return Err(Status::out_of_range(sentence));
        }
        let walk = Walk {
            target,
            from: from.map(|from| from.in_query()),
            to: to.in_query(),
            capacity_bytes: signed(found.size_bytes)?,
            results_max: if results_max == 0 { RESULTS_MAX } else { results_max.min(RESULTS_MAX) },
            next_offset_bytes: Some(offset_bytes),
        };
        walk.into_stream().await
    }

    /// The target of a volume. One that is not configured has no snapshots that could be found.
    fn target(&self, volume: &str) -> Result<Target, Status> {
        match VolumeConfig::load(&self.paths, volume) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(Status::not_found(error.to_string())),
            Err(error) => return Err(Status::internal(error.to_string())),
        }
        let paths = self.paths.volume(volume).map_err(|error| Status::not_found(error.to_string()))?;
        Ok(Target::new(paths.control_socket()))
    }
}

impl Walk {
    /// The first page is asked for at once, so that its refusal is the call's.
    async fn into_stream(mut self) -> Answer {
        let first = self.next_page().await?;
        let pages = try_unfold((self, first), |(mut walk, page)| async move {
            let Some(page) = page else { return Ok(None) };
            let next = walk.next_page().await?;
            Ok(Some((page, (walk, next))))
        });
        Ok(Response::new(Box::pin(pages)))
    }

    async fn next_page(&mut self) -> Result<Option<GetMetadataResponse>, Status> {
        let Some(offset_bytes) = self.next_offset_bytes else { return Ok(None) };
        let changes = self.target.changes(self.from.as_deref(), &self.to, offset_bytes, self.results_max).await?;
        if changes.next_offset_bytes.is_some_and(|next| next <= offset_bytes) {
            return Err(Status::internal("the target's answer does not get on"));
        }
        self.next_offset_bytes = changes.next_offset_bytes;
        let block_metadata_type = BlockMetadataType::VariableLength.into();
        let block_metadata = ranges(&changes)?;
        Ok(Some(GetMetadataResponse {
            block_metadata_type,
            volume_capacity_bytes: self.capacity_bytes,
            block_metadata,
        }))
    }
}

/// A block that is not in use any more changed, too: whoever applies the delta must know.
fn ranges(changes: &Changes) -> Result<Vec<BlockMetadata>, Status> {
    let range = |extent: &crate::control::Extent| {
        Ok(BlockMetadata { byte_offset: signed(extent.offset_bytes)?, size_bytes: signed(extent.length_bytes)? })
    };
    changes.extents.iter().map(range).collect()
}

fn signed(bytes: u64) -> Result<i64, Status> {
    i64::try_from(bytes).map_err(|_| Status::internal("the target's answer is beyond what the interface can say"))
}

fn find<'a>(snapshots: &'a [Snapshot], role: &str, id: &SnapshotId) -> Result<&'a Snapshot, Status> {
    let found = snapshots.iter().find(|snapshot| snapshot.name == id.name);
    found.ok_or_else(|| Status::not_found(format!("the {role} snapshot {}@{} does not exist", id.volume, id.name)))
}

fn refuse_bookmark(field: &str, id: SnapshotId) -> Result<SnapshotId, Status> {
    if id.is_bookmark {
        return Err(Status::invalid_argument(format!("{field}: a bookmark has no content, it is a base only")));
    }
    Ok(id)
}
