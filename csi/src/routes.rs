//! Which call goes where: what a compiler of interface definitions would generate, for the two calls there are.
//!
//! Invariants:
//! - A call that is not known is answered as such, never dropped.

use crate::messages::{GetMetadataAllocatedRequest, GetMetadataDeltaRequest};
use crate::service::SnapshotMetadata;
use std::convert::Infallible;
use std::task::{Context, Poll};
use tonic::body::Body;
use tonic::codegen::{http, BoxFuture, Service};
use tonic::server::{Grpc, NamedService};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;
use tower::service_fn;

/// The full name of `GetMetadataAllocated`.
pub const GET_METADATA_ALLOCATED: &str = "/csi.v1.SnapshotMetadata/GetMetadataAllocated";
/// The full name of `GetMetadataDelta`.
pub const GET_METADATA_DELTA: &str = "/csi.v1.SnapshotMetadata/GetMetadataDelta";

/// The service as gRPC knows it.
#[derive(Clone, Debug)]
pub struct SnapshotMetadataServer {
    service: SnapshotMetadata,
}

impl SnapshotMetadataServer {
    /// Serves `service`.
    pub fn new(service: SnapshotMetadata) -> SnapshotMetadataServer {
        SnapshotMetadataServer { service }
    }
}

impl NamedService for SnapshotMetadataServer {
    const NAME: &'static str = "csi.v1.SnapshotMetadata";
}

impl Service<http::Request<Body>> for SnapshotMetadataServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.service.clone();
        Box::pin(async move {
            Ok(match request.uri().path() {
                GET_METADATA_ALLOCATED => {
                    let call = service_fn(move |request: Request<GetMetadataAllocatedRequest>| {
                        let service = service.clone();
                        async move { service.allocated(request.into_inner()).await }
                    });
                    Grpc::new(ProstCodec::default()).server_streaming(call, request).await
                }
                GET_METADATA_DELTA => {
                    let call = service_fn(move |request: Request<GetMetadataDeltaRequest>| {
                        let service = service.clone();
                        async move { service.delta(request.into_inner()).await }
                    });
                    Grpc::new(ProstCodec::default()).server_streaming(call, request).await
                }
                _ => Status::unimplemented("there is no such call").into_http(),
            })
        })
    }
}
