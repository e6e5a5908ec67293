//! Tags between a driver that brings one request again and again, and a service with a gate.

use super::super::request::tests::Failing;
use super::*;
use crate::control::api::Operation as Counted;
use crate::stats::{Recorder, Stats};
use cairn_engine::error::{Error, ErrorKind, Result};
use cairn_engine::gate::Gate;
use futures_util::FutureExt;

const LENGTH: i32 = 4096;
const NOTHING: [u64; 0] = [];

/// Every tag brings the same request.
struct Always(Request);

impl Channel for Always {
    fn request(&self, _tag: u16) -> Request {
        self.0
    }
}

/// Passes what it is asked to while its gate is open; what it serves itself fails.
type Gated = Failing<Gating>;

struct Gating {
    gate: Gate,
    recorder: Recorder,
}

impl Service for Gated {
    async fn tick(&self) -> Result<()> {
        Ok(())
    }

    fn pass(&self, request: &Request, _buffer: &mut [u8]) -> Option<(squeue::Entry, Passing<'_>)> {
        let begun = self.0.recorder.begin(Counted::Write, request.length_bytes);
        let way = Some(self.0.gate.try_enter(0)?);
        Some((opcode::Nop::new().build(), Passing { way, begun }))
    }

    fn pass_error(&self, _request: &Request, errno: i32) -> Error {
        assert_eq!(errno, libc::EIO);
        Error::new(ErrorKind::Io, "write", "origin")
    }
}

fn request(operation: Operation) -> Request {
    Request { operation, offset_bytes: 0, length_bytes: LENGTH as u64, durable: false }
}

/// What a queue of one tag does with this request, and then.
fn with_tag(request: Request, then: impl FnOnce(&Tags<'_, Always, Gated>, &Stats)) {
    let stats = Stats::default();
    let service = Failing(Gating { gate: Gate::new(1), recorder: stats.recorder() });
    let dialect = Dialect { queue: 3, ioctl_numbers: true };
    let transfer = Transfer::made_by_driver(dialect.queue);
    let tags = Tags::new(Always(request), &service, dialect, transfer, Buffers::new(1, LENGTH as usize));
    tags.fetch_all();
    assert_eq!(tags.commands().drain(..).count(), 1);
    then(&tags, &stats);
}

/// The numbers under which what has to be submitted will complete.
fn complete(tags: &Tags<'_, Always, Gated>, user_data: u64, result: i32) -> Vec<u64> {
    let mut submitted = Vec::new();
    assert!(tags.completed(user_data, result, &mut |entry| submitted.push(entry.get_user_data())));
    submitted
}

/// What tag 0's task does next.
fn serve(tags: &Tags<'_, Always, Gated>) -> Vec<u64> {
    assert!(tags.serve(0).now_or_never().is_none(), "it serves for ever");
    tags.commands().drain(..).map(|entry| entry.get_user_data()).collect()
}

fn counts(stats: &Stats) -> (u64, u64) {
    let reports = stats.operations();
    let write = reports.iter().find(|report| report.operation == Counted::Write).expect("it is reported");
    (write.latency.count, write.errors)
}

#[test]
fn a_refused_command_is_never_taken_for_a_request() {
    assert_eq!((arrival(0), arrival(-libc::ENODEV)), (Ok(true), Ok(false)));
    for refused in [-libc::EBUSY, -libc::EINVAL, 1] {
        assert_eq!(arrival(refused), Err(refused));
    }
}

#[test]
fn what_nothing_is_in_the_way_of_goes_to_the_disk_and_is_answered_from_there() {
    with_tag(request(Operation::Write), |tags, stats| {
        for round in 1..4 {
            assert_eq!(complete(tags, OURS, ARRIVED), [OURS | OF_DISK]);
            assert!(!tags.service.0.gate.is_drained(), "it is inside while the disk has it");
            assert_eq!(complete(tags, OURS | OF_DISK, LENGTH), [OURS]);
            assert!(tags.service.0.gate.is_drained());
            assert_eq!(counts(stats), (round, 0));
        }
        assert_eq!(serve(tags), NOTHING, "the task had nothing to do");
    });
}

#[test]
fn what_something_is_in_the_way_of_is_served_by_the_task() {
    with_tag(request(Operation::Write), |tags, _| {
        tags.service.0.gate.close();
        assert_eq!(complete(tags, OURS, ARRIVED), NOTHING);
        assert_eq!(serve(tags), [OURS]);
        tags.service.0.gate.open();
        assert_eq!(complete(tags, OURS, ARRIVED), [OURS | OF_DISK]);
    });
    with_tag(request(Operation::Flush), |tags, _| {
        assert_eq!(complete(tags, OURS, ARRIVED), NOTHING);
        assert_eq!(serve(tags), [OURS]);
    });
}

#[test]
fn what_the_disk_did_not_do_whole_is_done_again_outside_the_gate() {
    for unfinished in [LENGTH - 512, 0, -libc::EAGAIN, -libc::EINTR] {
        with_tag(request(Operation::Write), |tags, stats| {
            assert_eq!(complete(tags, OURS, ARRIVED), [OURS | OF_DISK]);
            assert_eq!(complete(tags, OURS | OF_DISK, unfinished), NOTHING);
            assert!(tags.service.0.gate.is_drained());
            assert_eq!(counts(stats), (0, 0), "it has not ended");
            assert_eq!(serve(tags), [OURS]);
        });
    }
}

#[test]
fn what_the_disk_failed_to_do_is_answered_with_its_error_and_counted() {
    with_tag(request(Operation::Write), |tags, stats| {
        assert_eq!(complete(tags, OURS, ARRIVED), [OURS | OF_DISK]);
        assert_eq!(complete(tags, OURS | OF_DISK, -libc::EIO), [OURS]);
        assert!(tags.service.0.gate.is_drained());
        assert_eq!(counts(stats), (0, 1));
    });
}

#[test]
fn tags_end_when_the_device_is_stopped_and_other_completions_are_left_alone() {
    with_tag(request(Operation::Write), |tags, _| {
        assert!(!tags.completed(1 << 63, 0, &mut |_| panic!("nothing is to be submitted")));
        assert!(!tags.all_ended());
        assert_eq!(complete(tags, OURS, sys::UBLK_IO_RES_ABORT), NOTHING);
        assert!(tags.all_ended());
    });
}

#[test]
fn a_durable_write_is_never_passed_because_the_disk_would_have_it_in_its_cache() {
    with_tag(Request { durable: true, ..request(Operation::Write) }, |tags, _| {
        assert_eq!(complete(tags, OURS, ARRIVED), NOTHING);
        assert_eq!(serve(tags), [OURS]);
    });
}
