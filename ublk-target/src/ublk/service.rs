//! What a ublk device shows: a volume, a snapshot, a scratch overlay.
//!
//! Invariants every implementation keeps:
//! - Each queue thread has its own; all of them show the same bytes.
//! - A request may be executed twice, when the process was killed before it was acknowledged; the second time must do
//!   no harm.
//! - Futures are run to completion once polled.

#![allow(async_fn_in_trait)]

use super::queue_disk::QueueRing;
use super::request::Request;
use crate::nbd::Export;
use crate::stats::Begun;
use cairn_engine::error::{Error, Result};
use cairn_engine::gate::Passage;
use io_uring::squeue;
use libublk::UblkError;
use std::os::fd::RawFd;

/// A request that the disk serves as it is, by one request of its own, while the disk has it.
pub struct Passing<'a> {
    /// The right to write the disk there; nothing for a read.
    pub way: Option<Passage<'a>>,
    /// Since when.
    pub begun: Begun<'a>,
}

/// Serves the requests of one queue.
pub trait Service: Export {
    /// The one request to a disk that this request comes to, where nothing else has to be done; its data is the tag's
    /// `buffer`, which has room for it. It is a read or a write, and no durable one. None: it is served by the calls of
    /// [`Export`].
    fn pass(&self, _request: &Request, _buffer: &mut [u8]) -> Option<(squeue::Entry, Passing<'_>)> {
        None
    }

    /// The error that the request to the disk failed with; `errno` is positive.
    fn pass_error(&self, request: &Request, errno: i32) -> Error {
        unreachable!("{request} was not passed, so it cannot have failed with {errno}")
    }

    /// Called about once a second.
    async fn tick(&self) -> Result<()>;

    /// Goes on with what requests left behind, for ever; run as a task of its own.
    async fn run_errands(&self) {
        std::future::pending().await
    }

    /// Whether requests left something behind that is not done.
    fn has_errands(&self) -> bool {
        false
    }
}

/// Makes the service of each queue, on that queue's own thread.
pub trait ServiceFactory: Send + Sync + 'static {
    /// What is made.
    type Service: Service + 'static;
    /// Open files that requests will go to; the rings of the queues are told of them beforehand.
    fn files(&self) -> Vec<RawFd>;
    /// The service of queue `queue`, on the calling thread's ring.
    fn make(&self, queue: u16, ring: QueueRing) -> std::result::Result<Self::Service, UblkError>;
}
