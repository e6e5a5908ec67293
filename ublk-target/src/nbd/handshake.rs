//! Negotiation: the fixed newstyle handshake, from the greeting to a chosen export.
//!
//! Invariants:
//! - What a client sends is bounded: [`OPTION_BYTES_MAX`] an option, [`OPTIONS_MAX`] options; the caller bounds the time.
//! - Whatever is not understood is refused in the protocol's own way, or ends the connection; nothing panics.

use super::export::{transmission_flags, Export, ExportSource};
use super::wire::{self, info, option, option_reply, OptionHeader, OptionReplyHeader};
use super::PAYLOAD_BYTES_MAX;
use std::io;
use std::rc::Rc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zerocopy::{FromZeros, IntoBytes};

/// The most data one option may carry: a name of the protocol's 4096 bytes and a list of requests fit well.
const OPTION_BYTES_MAX: u32 = 16 * 1024;
/// The most options one connection may send before it chooses an export.
const OPTIONS_MAX: usize = 64;
/// Requests of this size and alignment are served best: the unit of saving.
const PREFERRED_BYTES: u32 = 4096;

/// What a client chose.
pub(super) struct Chosen<E> {
    pub name: String,
    pub export: Rc<E>,
}

/// A client that does not keep to the protocol.
pub(super) fn violation(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// What `INFO` and `GO` carry.
struct InfoRequest {
    name: String,
    wanted: Vec<u16>,
}

impl InfoRequest {
    /// None where lengths do not add up or the name is no text.
    fn parse(data: &[u8]) -> Option<InfoRequest> {
        let (name_bytes, rest) = data.split_first_chunk::<4>()?;
        let (name, rest) = rest.split_at_checked(u32::from_be_bytes(*name_bytes) as usize)?;
        let (count, rest) = rest.split_first_chunk::<2>()?;
        if rest.len() != usize::from(u16::from_be_bytes(*count)) * 2 {
            return None;
        }
        let name = std::str::from_utf8(name).ok()?.to_owned();
        let wanted = rest.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
        Some(InfoRequest { name, wanted })
    }
}

/// The server's side of one negotiation.
struct Handshake<'a, S, ReadHalf, WriteHalf> {
    source: &'a S,
    reader: &'a mut ReadHalf,
    writer: &'a mut WriteHalf,
}

/// Negotiates with one client. `None`: the client went away in good order.
pub(super) async fn negotiate<S: ExportSource>(
    source: &S,
    reader: &mut (impl AsyncRead + Unpin),
    writer: &mut (impl AsyncWrite + Unpin),
) -> io::Result<Option<Chosen<S::Export>>> {
    Handshake { source, reader, writer }.run().await
}

impl<S: ExportSource, ReadHalf: AsyncRead + Unpin, WriteHalf: AsyncWrite + Unpin>
    Handshake<'_, S, ReadHalf, WriteHalf>
{
    async fn run(mut self) -> io::Result<Option<Chosen<S::Export>>> {
        const SERVER_FLAGS: u16 = wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES;
        let greeting = wire::Greeting {
            init_magic: wire::INIT_MAGIC.into(),
            option_magic: wire::OPTION_MAGIC.into(),
            handshake_flags: SERVER_FLAGS.into(),
        };
        self.writer.write_all(greeting.as_bytes()).await?;
        let client_flags = self.reader.read_u32().await?;
        if client_flags & !u32::from(SERVER_FLAGS) != 0 {
            return Err(violation("the client set handshake flags that were not offered"));
        }
        let no_zeroes = client_flags & u32::from(wire::FLAG_NO_ZEROES) != 0;
        for _ in 0..OPTIONS_MAX {
            let (option, data) = self.read_option().await?;
            match option {
                option::EXPORT_NAME => return self.export_name(&data, no_zeroes).await.map(Some),
                option::ABORT => {
                    self.reply(option, option_reply::ACK, &[]).await?;
                    return Ok(None);
                }
                option::LIST => self.list(&data).await?,
                option::INFO | option::GO => {
                    if let Some(chosen) = self.info_or_go(option, &data).await? {
                        return Ok(Some(chosen));
                    }
                }
                _ => self.reply(option, option_reply::ERR_UNSUP, &[]).await?,
            }
        }
        Err(violation("the client sent too many options"))
    }

    async fn read_option(&mut self) -> io::Result<(u32, Vec<u8>)> {
        let mut header = OptionHeader::new_zeroed();
        self.reader.read_exact(header.as_mut_bytes()).await?;
        if header.magic.get() != wire::OPTION_MAGIC {
            return Err(violation("an option does not begin with its magic number"));
        }
        let (option, length_bytes) = (header.option.get(), header.length_bytes.get());
        if length_bytes > OPTION_BYTES_MAX {
            self.reply(option, option_reply::ERR_TOO_BIG, &[]).await?;
            return Err(violation("an option is too long"));
        }
        let mut data = vec![0; length_bytes as usize];
        self.reader.read_exact(&mut data).await?;
        Ok((option, data))
    }

    async fn reply(&mut self, option: u32, reply: u32, data: &[u8]) -> io::Result<()> {
        let length_bytes = u32::try_from(data.len()).expect("replies to options are short");
        let header = OptionReplyHeader {
            magic: wire::OPTION_REPLY_MAGIC.into(),
            option: option.into(),
            reply: reply.into(),
            length_bytes: length_bytes.into(),
        };
        self.writer.write_all(&[header.as_bytes(), data].concat()).await
    }

    /// The one option that cannot be refused but by closing.
    async fn export_name(&mut self, data: &[u8], no_zeroes: bool) -> io::Result<Chosen<S::Export>> {
        let name = std::str::from_utf8(data).map_err(|_| violation("the name of the export is no text"))?.to_owned();
        let export = self.source.open(&name).map_err(io::Error::other)?;
        let reply = wire::ExportNameReply {
            size_bytes: export.size_bytes().into(),
            transmission_flags: transmission_flags(&*export).into(),
        };
        let mut bytes = reply.as_bytes().to_vec();
        if !no_zeroes {
            bytes.resize(bytes.len() + wire::EXPORT_NAME_ZEROES, 0);
        }
        self.writer.write_all(&bytes).await?;
        Ok(Chosen { name, export })
    }

    async fn list(&mut self, data: &[u8]) -> io::Result<()> {
        if !data.is_empty() {
            return self.reply(option::LIST, option_reply::ERR_INVALID, &[]).await;
        }
        for name in self.source.names() {
            let length_bytes = u32::try_from(name.len()).expect("names are short");
            let entry = [&length_bytes.to_be_bytes(), name.as_bytes()].concat();
            self.reply(option::LIST, option_reply::SERVER, &entry).await?;
        }
        self.reply(option::LIST, option_reply::ACK, &[]).await
    }

    async fn info_or_go(&mut self, option: u32, data: &[u8]) -> io::Result<Option<Chosen<S::Export>>> {
        let Some(InfoRequest { name, wanted }) = InfoRequest::parse(data) else {
            self.reply(option, option_reply::ERR_INVALID, &[]).await?;
            return Ok(None);
        };
        let export = match self.source.open(&name) {
            Ok(export) => export,
            Err(error) => {
                self.reply(option, option_reply::ERR_UNKNOWN, error.to_string().as_bytes()).await?;
                return Ok(None);
            }
        };
        self.describe(option, &name, &*export, &wanted).await?;
        self.reply(option, option_reply::ACK, &[]).await?;
        Ok((option == option::GO).then_some(Chosen { name, export }))
    }

    async fn describe(&mut self, option: u32, name: &str, export: &S::Export, wanted: &[u16]) -> io::Result<()> {
        let facts = wire::InfoExport {
            info: info::EXPORT.into(),
            size_bytes: export.size_bytes().into(),
            transmission_flags: transmission_flags(export).into(),
        };
        self.reply(option, option_reply::INFO, facts.as_bytes()).await?;
        if wanted.contains(&info::NAME) {
            let data = [&info::NAME.to_be_bytes(), name.as_bytes()].concat();
            self.reply(option, option_reply::INFO, &data).await?;
        }
        // Told to every client, asked for or not: one that knows nothing of it may be set by hand (`nbd-client -b`).
        let sizes = wire::InfoBlockSize {
            info: info::BLOCK_SIZE.into(),
            minimum_bytes: export.sector_bytes().into(),
            preferred_bytes: PREFERRED_BYTES.max(export.sector_bytes()).into(),
            payload_bytes_max: PAYLOAD_BYTES_MAX.into(),
        };
        self.reply(option, option_reply::INFO, sizes.as_bytes()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_info_request_whose_lengths_do_not_add_up_is_refused() {
        let good = [&3u32.to_be_bytes()[..], b"vol", &1u16.to_be_bytes(), &info::BLOCK_SIZE.to_be_bytes()].concat();
        let parsed = InfoRequest::parse(&good).expect("well formed");
        assert_eq!((parsed.name.as_str(), parsed.wanted), ("vol", vec![info::BLOCK_SIZE]));
        for length in 0..good.len() {
            assert!(InfoRequest::parse(&good[..length]).is_none(), "cut at {length}");
        }
        assert!(InfoRequest::parse(&[&good[..], &[0]].concat()).is_none());
        let huge = [&u32::MAX.to_be_bytes()[..], b"vol"].concat();
        assert!(InfoRequest::parse(&huge).is_none());
        let no_text = [&1u32.to_be_bytes()[..], &[0xff], &0u16.to_be_bytes()].concat();
        assert!(InfoRequest::parse(&no_text).is_none());
    }
}
