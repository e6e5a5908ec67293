//! The messages of `csi.v1` that the service takes and gives, with the field numbers of the published definition.
//!
//! Invariants:
//! - A number is never changed: clients know fields by nothing else.

use std::collections::HashMap;

/// A range of a volume.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BlockMetadata {
    /// Where it begins.
    #[prost(int64, tag = "1")]
    pub byte_offset: i64,
    /// How long it is; never zero.
    #[prost(int64, tag = "2")]
    pub size_bytes: i64,
}

/// Whether all ranges of an answer have one length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum BlockMetadataType {
    /// Nobody said.
    Unknown = 0,
    /// All have.
    FixedLength = 1,
    /// Each has its own.
    VariableLength = 2,
}

/// Asks which ranges of a snapshot are in use.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GetMetadataAllocatedRequest {
    /// The snapshot.
    #[prost(string, tag = "1")]
    pub snapshot_id: String,
    /// Where to begin.
    #[prost(int64, tag = "2")]
    pub starting_offset: i64,
    /// The most ranges in one message; 0: as many as the service likes.
    #[prost(int32, tag = "3")]
    pub max_results: i32,
    /// Not used.
    #[prost(map = "string, string", tag = "4")]
    pub secrets: HashMap<String, String>,
}

/// Asks which ranges changed from one snapshot to another.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GetMetadataDeltaRequest {
    /// The older one.
    #[prost(string, tag = "1")]
    pub base_snapshot_id: String,
    /// The younger one.
    #[prost(string, tag = "2")]
    pub target_snapshot_id: String,
    /// Where to begin.
    #[prost(int64, tag = "3")]
    pub starting_offset: i64,
    /// The most ranges in one message; 0: as many as the service likes.
    #[prost(int32, tag = "4")]
    pub max_results: i32,
    /// Not used.
    #[prost(map = "string, string", tag = "5")]
    pub secrets: HashMap<String, String>,
}

/// Part of an answer to either; both responses of the interface have these fields.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GetMetadataResponse {
    /// Always [`BlockMetadataType::VariableLength`].
    #[prost(enumeration = "BlockMetadataType", tag = "1")]
    pub block_metadata_type: i32,
    /// Size of the snapshot; of the younger one.
    #[prost(int64, tag = "2")]
    pub volume_capacity_bytes: i64,
    /// Ascending, none overlapping, over all parts of the answer.
    #[prost(message, repeated, tag = "3")]
    pub block_metadata: Vec<BlockMetadata>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    #[test]
    fn messages_travel_under_the_published_numbers() {
        let request = GetMetadataDeltaRequest {
            base_snapshot_id: "a".to_owned(),
            target_snapshot_id: "b".to_owned(),
            starting_offset: 1,
            max_results: 2,
            secrets: [("k".to_owned(), "v".to_owned())].into(),
        };
        // Each field: its number and wire type in one byte, then the value, strings and messages with their length.
        let wire = b"\x0a\x01a\x12\x01b\x18\x01\x20\x02\x2a\x06\x0a\x01k\x12\x01v";
        assert_eq!(request.encode_to_vec(), wire);
        let request = GetMetadataAllocatedRequest {
            snapshot_id: "a".to_owned(),
            starting_offset: 1,
            max_results: 2,
            secrets: HashMap::new(),
        };
        assert_eq!(request.encode_to_vec(), b"\x0a\x01a\x10\x01\x18\x02");
        let response = GetMetadataResponse {
            block_metadata_type: BlockMetadataType::VariableLength.into(),
            volume_capacity_bytes: 300,
            block_metadata: vec![BlockMetadata { byte_offset: 5, size_bytes: 6 }],
        };
        assert_eq!(response.encode_to_vec(), b"\x08\x02\x10\xac\x02\x1a\x04\x08\x05\x10\x06");
    }
}
