//! What the NBD server asks of the outside: named exports that can be read, written and flushed.
//!
//! Invariants every implementation keeps:
//! - A completed `flush` makes durable every write that had completed before, over whichever connection it came:
//!   that is what multi-conn promises.
//! - Futures are run to completion once polled; the server never drops one, whatever its client does.

#![allow(async_fn_in_trait)]

use super::context::{Context, Extent, Subject};
use super::reply::Style;
use super::wire::{errno, transmission_flag};
use cairn_engine::error::{ErrorKind, Result};
use std::rc::Rc;

/// One export, as all connections to it share it. Offsets and lengths given to it are multiples of `sector_bytes`,
/// inside `size_bytes`, and lengths are not zero.
pub trait Export {
    /// Its size now; a multiple of `sector_bytes`.
    fn size_bytes(&self) -> u64;
    /// The smallest unit of a request: 512 or 4096.
    fn sector_bytes(&self) -> u32;
    /// Refuses whatever changes it.
    fn read_only(&self) -> bool;
    /// Takes discards.
    fn can_discard(&self) -> bool;

    /// Fills `buffer` from `offset_bytes`.
    async fn read(&self, offset_bytes: u64, buffer: &mut [u8]) -> Result<()>;
    /// Writes `data`; `durable` makes it so before completion.
    async fn write(&self, offset_bytes: u64, data: &[u8], durable: bool) -> Result<()>;
    /// Writes zeroes; `may_unmap` allows the disk to deallocate the range.
    async fn write_zeroes(&self, offset_bytes: u64, length_bytes: u64, durable: bool, may_unmap: bool) -> Result<()>;
    /// The content of the range is not needed any more.
    async fn discard(&self, offset_bytes: u64, length_bytes: u64) -> Result<()>;
    /// Makes durable what completed before.
    async fn flush(&self) -> Result<()>;

    /// What can be asked about its bytes, [`Subject::Allocation`] among it, in a stable order. Must not wait for long.
    async fn contexts(&self) -> Vec<Context> {
        vec![Context::allocation()]
    }
    /// What `subject`, one of its contexts', says from `offset_bytes` on: at least one extent, at most `extents_max`,
    /// none empty, their lengths multiples of `sector_bytes` that add up to at most `length_bytes`. An export that
    /// knows nothing better says that everything is in use.
    async fn block_status(
        &self,
        subject: Subject,
        _offset_bytes: u64,
        length_bytes: u64,
        _extents_max: usize,
    ) -> Result<Vec<Extent>> {
        assert_eq!(subject, Subject::Allocation, "there is no other context");
        Ok(vec![Extent { length_bytes, status: 0 }])
    }
}

/// Where exports are looked up by name.
pub trait ExportSource {
    /// Volume or snapshot.
    type Export: Export + 'static;

    /// Names of what can be opened, in a stable order.
    async fn names(&self) -> Vec<String>;
    /// The name under which clients of `name` are counted: the default export has a name of its own, too.
    fn full_name<'a>(&'a self, name: &'a str) -> &'a str;
    /// The export of that full name. May be given up before it completes.
    async fn open(&self, name: &str) -> Result<Rc<Self::Export>>;
}

/// What an export tells a client that it can do, in the style that was agreed on.
pub(super) fn transmission_flags(export: &impl Export, style: Style) -> u16 {
    use transmission_flag::*;
    let mut flags = HAS_FLAGS | SEND_FLUSH | CAN_MULTI_CONN;
    if style != Style::Simple {
        flags |= SEND_DF;
    }
    if export.read_only() {
        return flags | READ_ONLY;
    }
    flags |= SEND_FUA | SEND_WRITE_ZEROES;
    if export.can_discard() {
        flags |= SEND_TRIM;
    }
    flags
}

/// The protocol's error number for an engine error.
pub(super) fn wire_errno(kind: ErrorKind) -> u32 {
    match kind {
        ErrorKind::ReadOnly => errno::EPERM,
        ErrorKind::NoSpace => errno::ENOSPC,
        ErrorKind::Invalid => errno::EINVAL,
        ErrorKind::Closed => errno::ESHUTDOWN,
        ErrorKind::Io
        | ErrorKind::FlushFailed
        | ErrorKind::Corrupt
        | ErrorKind::NotAStore
        | ErrorKind::TooNew
        | ErrorKind::WrongOrigin
        | ErrorKind::OriginChanged
        | ErrorKind::OtherHost
        | ErrorKind::NotFound
        | ErrorKind::Exists
        | ErrorKind::Broken
        | ErrorKind::Busy
        | ErrorKind::TimedOut => errno::EIO,
    }
}
