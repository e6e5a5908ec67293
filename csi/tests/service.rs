//! The SnapshotMetadata service through the built program: a gRPC client on one side, a target by rote on the other.

mod common;

use cairn_csi::messages::{
    BlockMetadataType, GetMetadataAllocatedRequest, GetMetadataDeltaRequest, GetMetadataResponse,
};
use common::{error, page, Scene, SIZE_BYTES};
use std::os::unix::fs::PermissionsExt;
use tonic::Code;

fn allocated(id: &str, starting_offset: i64, max_results: i32) -> GetMetadataAllocatedRequest {
    GetMetadataAllocatedRequest { snapshot_id: id.to_owned(), starting_offset, max_results, ..Default::default() }
}

fn delta(base: &str, target: &str, starting_offset: i64, max_results: i32) -> GetMetadataDeltaRequest {
    let (base_snapshot_id, target_snapshot_id) = (base.to_owned(), target.to_owned());
    GetMetadataDeltaRequest { base_snapshot_id, target_snapshot_id, starting_offset, max_results, ..Default::default() }
}

/// The ranges of all messages; what each message must say is checked.
fn ranges(messages: &[GetMetadataResponse], results_max: usize) -> Vec<(i64, i64)> {
    for message in messages {
        assert_eq!(message.block_metadata_type(), BlockMetadataType::VariableLength);
        assert_eq!(message.volume_capacity_bytes, SIZE_BYTES as i64);
        assert!(message.block_metadata.len() <= results_max);
    }
    let all = messages.iter().flat_map(|message| &message.block_metadata);
    all.map(|range| (range.byte_offset, range.size_bytes)).collect()
}

fn scripted() -> Scene {
    Scene::new(|path, query| {
        assert_eq!((path, query["to"].as_str()), ("/v1/changes", "two"));
        match query.get("from").map(String::as_str) {
            None => page(&(0..10).map(|index| (index << 30, 4096, "data")).collect::<Vec<_>>(), query),
            Some("one") => {
                page(&[(4096, 8192, "data"), (12288, 4096, "not-in-use"), (1 << 39, 1 << 33, "data")], query)
            }
            Some("%23mark") => page(&[], query),
            Some(other) => panic!("nobody asked since {other}"),
        }
    })
}

#[tokio::test]
async fn what_is_in_use_comes_in_ascending_ranges_as_many_a_message_as_asked_for() {
    let scene = scripted();
    let expected: Vec<(i64, i64)> = (0..10).map(|index| (index << 30, 4096)).collect();
    for (results, messages) in [(0, 1), (3, 4), (10, 1), (1, 10), (i32::MAX, 1)] {
        let answer = scene.allocated(allocated("web@two", 0, results)).await.expect("answered");
        let results_max = if results == 0 { 4096 } else { results as usize };
        assert_eq!(ranges(&answer, results_max), expected);
        assert_eq!(answer.len(), messages, "{results} a message");
    }
    let late = scene.allocated(allocated("web@two", (3 << 30) + 512, 4)).await.expect("answered");
    assert_eq!(ranges(&late, 4)[0], ((3 << 30) + 512, 3584));
    assert_eq!(ranges(&late, 4)[1..], expected[4..]);
    let asked = scene.asked.lock().expect("not poisoned");
    assert!(asked.iter().all(|path| !path.contains("max=2147483647")), "pages are bounded whatever is asked for");
}

#[tokio::test]
async fn a_delta_tells_what_changed_and_what_is_not_in_use_any_more() {
    let scene = scripted();
    let answer = scene.delta(delta("web@one", "web@two", 0, 0)).await.expect("answered");
    assert_eq!(ranges(&answer, 4096), [(4096, 8192), (12288, 4096), (1 << 39, 1 << 33)]);
    let nothing = scene.delta(delta("web#mark", "web@two", 0, 0)).await.expect("answered");
    assert_eq!((nothing.len(), ranges(&nothing, 4096)), (1, vec![]), "the client learns the size all the same");
}

#[tokio::test]
async fn every_wrong_question_gets_the_status_that_the_specification_has_for_it() {
    let scene = scripted();
    let size = SIZE_BYTES as i64;
    for (request, code) in [
        (allocated("", 0, 0), Code::InvalidArgument),
        (allocated("web@two", -1, 0), Code::InvalidArgument),
        (allocated("web@two", 0, -1), Code::InvalidArgument),
        (allocated("web#two", 0, 0), Code::InvalidArgument),
        (allocated("web", 0, 0), Code::NotFound),
        (allocated("web@gone", 0, 0), Code::NotFound),
        (allocated("nowhere@two", 0, 0), Code::NotFound),
        (allocated("../web@two", 0, 0), Code::NotFound),
        (allocated("web@two", size, 0), Code::OutOfRange),
        (allocated("web@two", i64::MAX, 0), Code::OutOfRange),
        (allocated("detached@two", 0, 0), Code::Unavailable),
    ] {
        let refused = scene.allocated(request.clone()).await.expect_err("refused");
        assert_eq!(refused.code(), code, "{request:?}: {refused}");
        assert!(!refused.message().is_empty());
    }
    for (request, code) in [
        (delta("", "web@two", 0, 0), Code::InvalidArgument),
        (delta("web@one", "", 0, 0), Code::InvalidArgument),
        (delta("web@one", "other@two", 0, 0), Code::InvalidArgument),
        (delta("web@two", "web@two", 0, 0), Code::InvalidArgument),
        (delta("web@three", "web@two", 0, 0), Code::InvalidArgument),
        (delta("web@one", "web#two", 0, 0), Code::InvalidArgument),
        (delta("web@gone", "web@two", 0, 0), Code::NotFound),
        (delta("web@one", "web@gone", 0, 0), Code::NotFound),
        (delta("web@one", "web@two", size, 0), Code::OutOfRange),
        (delta("web@one", "web@two", -1, 0), Code::InvalidArgument),
    ] {
        let refused = scene.delta(request.clone()).await.expect_err("refused");
        assert_eq!(refused.code(), code, "{request:?}: {refused}");
    }
    let refused = scene.call("/csi.v1.SnapshotMetadata/GetNothing", allocated("web@two", 0, 0)).await;
    assert_eq!(refused.expect_err("there is no such call").code(), Code::Unimplemented);
}

#[tokio::test]
async fn what_the_target_refuses_becomes_a_status() {
    for (status, kind, code) in [
        (404, "not-found", Code::NotFound),
        (409, "broken", Code::FailedPrecondition),
        (400, "invalid", Code::InvalidArgument),
        (503, "closed", Code::Unavailable),
        (500, "io", Code::Internal),
        (404, "no-such-endpoint", Code::Unimplemented),
    ] {
        let scene = Scene::new(move |_, _| error(status, kind));
        let refused = scene.delta(delta("web@one", "web@two", 0, 0)).await.expect_err("refused");
        assert_eq!((refused.code(), refused.message()), (code, "as told"), "{kind}");
    }
    for nonsense in ["", "{", "[]", r#"{"extents":[{}],"next_offset_bytes":null}"#] {
        let scene = Scene::new(move |_, _| (200, nonsense.to_owned()));
        let refused = scene.allocated(allocated("web@two", 0, 0)).await.expect_err("refused");
        assert_eq!(refused.code(), Code::Internal, "{nonsense}");
    }
}

#[tokio::test]
async fn a_target_that_fails_or_runs_in_circles_in_the_middle_ends_the_stream() {
    let scene = Scene::new(|_, query| match query["offset"].as_str() {
        "0" => (200, r#"{"extents":[{"offset_bytes":0,"length_bytes":4096}],"next_offset_bytes":4096}"#.to_owned()),
        _ => error(409, "broken"),
    });
    let refused = scene.allocated(allocated("web@two", 0, 0)).await.expect_err("it broke");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let scene = Scene::new(|_, _| {
        (200, r#"{"extents":[{"offset_bytes":0,"length_bytes":4096}],"next_offset_bytes":4096}"#.to_owned())
    });
    let refused = scene.allocated(allocated("web@two", 0, 0)).await.expect_err("it does not get on");
    assert_eq!(refused.code(), Code::Internal);
}

#[tokio::test]
async fn the_socket_is_the_owners_and_goes_with_the_program() {
    let mut scene = scripted();
    let mode = std::fs::metadata(scene.socket()).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let process = scene.process().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &process]).status().expect("kill runs").success());
    assert!(scene.wait(), "it ends in good order");
    assert!(!scene.socket().exists());
}
