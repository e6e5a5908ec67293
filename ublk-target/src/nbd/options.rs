//! The channel on which client and server negotiate: a greeting, then options and replies to them.
//!
//! Invariants:
//! - What a client sends is bounded: [`OPTION_BYTES_MAX`] an option, [`OPTIONS_MAX`] options; the caller bounds the
//!   time.
//! - Nothing is read beyond the option that was asked for, unless the reader itself reads ahead.

use super::wire::{self, option_reply, OptionHeader, OptionReplyHeader};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zerocopy::{FromZeros, IntoBytes};

/// The most data one option may carry: a name of the protocol's 4096 bytes and a list of requests fit well.
const OPTION_BYTES_MAX: u32 = 16 * 1024;
/// The most options one connection may send before it chooses an export, or before it is secured.
pub(super) const OPTIONS_MAX: usize = 64;

/// A client that does not keep to the protocol.
pub(super) fn violation(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Greets a client. Whether the zeroes after an answer to `EXPORT_NAME` are left out.
pub(super) async fn greet(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<bool> {
    const SERVER_FLAGS: u16 = wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES;
    let greeting = wire::Greeting {
        init_magic: wire::INIT_MAGIC.into(),
        option_magic: wire::OPTION_MAGIC.into(),
        handshake_flags: SERVER_FLAGS.into(),
    };
    stream.write_all(greeting.as_bytes()).await?;
    let client_flags = stream.read_u32().await?;
    if client_flags & !u32::from(SERVER_FLAGS) != 0 {
        return Err(violation("the client set handshake flags that were not offered"));
    }
    Ok(client_flags & u32::from(wire::FLAG_NO_ZEROES) != 0)
}

/// One option and its data.
pub(super) async fn read_option(
    reader: &mut (impl AsyncRead + Unpin),
    writer: &mut (impl AsyncWrite + Unpin),
) -> io::Result<(u32, Vec<u8>)> {
    let mut header = OptionHeader::new_zeroed();
    reader.read_exact(header.as_mut_bytes()).await?;
    if header.magic.get() != wire::OPTION_MAGIC {
        return Err(violation("an option does not begin with its magic number"));
    }
    let (option, length_bytes) = (header.option.get(), header.length_bytes.get());
    if length_bytes > OPTION_BYTES_MAX {
        reply(writer, option, option_reply::ERR_TOO_BIG, &[]).await?;
        return Err(violation("an option is too long"));
    }
    let mut data = vec![0; length_bytes as usize];
    reader.read_exact(&mut data).await?;
    Ok((option, data))
}

/// One reply to `option`.
pub(super) async fn reply(
    writer: &mut (impl AsyncWrite + Unpin),
    option: u32,
    reply: u32,
    data: &[u8],
) -> io::Result<()> {
    let length_bytes = u32::try_from(data.len()).expect("replies to options are short");
    let header = OptionReplyHeader {
        magic: wire::OPTION_REPLY_MAGIC.into(),
        option: option.into(),
        reply: reply.into(),
        length_bytes: length_bytes.into(),
    };
    writer.write_all(&[header.as_bytes(), data].concat()).await?;
    writer.flush().await
}
