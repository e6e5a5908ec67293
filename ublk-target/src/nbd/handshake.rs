//! Negotiation: the options of the fixed newstyle handshake, from the first one to a chosen export.
//!
//! Invariants:
//! - Whatever is not understood is refused in the protocol's own way, or ends the connection; nothing panics.
//! - Contexts are agreed on for one export; a client that then chooses another has none.

use super::context::{Context, ContextRequest, CONTEXTS_MAX};
use super::export::{transmission_flags, Export, ExportSource};
use super::options::{read_option, reply, violation, OPTIONS_MAX};
use super::reply::Style;
use super::sessions::{Session, Sessions};
use super::wire::{self, info, option, option_reply};
use super::PAYLOAD_BYTES_MAX;
use cairn_engine::error::Result;
use std::io;
use std::rc::Rc;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use zerocopy::IntoBytes;

/// Requests of this size and alignment are served best: the unit of saving.
const PREFERRED_BYTES: u32 = 4096;

/// What a client chose, its presence there, and how the two will speak.
pub(super) struct Chosen<E> {
    pub session: Session,
    pub export: Rc<E>,
    pub agreed: Agreed,
}

/// How client and server speak once an export is chosen.
#[derive(Clone, Default)]
pub(super) struct Agreed {
    pub style: Style,
    /// The contexts that the client has set, each by the number that replies name it with.
    pub contexts: Vec<(u32, Context)>,
}

/// What an option leads to.
enum Step<E> {
    Continues,
    Leaves,
    Chooses(Chosen<E>),
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
    sessions: &'a Sessions,
    reader: &'a mut ReadHalf,
    writer: &'a mut WriteHalf,
    no_zeroes: bool,
    style: Style,
    /// The export that the contexts were set for, by its full name.
    contexts_of: String,
    contexts: Vec<(u32, Context)>,
}

/// Negotiates with one client that was greeted. `None`: the client went away in good order.
pub(super) async fn negotiate<S: ExportSource>(
    source: &S,
    sessions: &Sessions,
    reader: &mut (impl AsyncRead + Unpin),
    writer: &mut (impl AsyncWrite + Unpin),
    no_zeroes: bool,
) -> io::Result<Option<Chosen<S::Export>>> {
    let (style, contexts_of, contexts) = (Style::Simple, String::new(), Vec::new());
    Handshake { source, sessions, reader, writer, no_zeroes, style, contexts_of, contexts }.run().await
}

impl<S: ExportSource, ReadHalf: AsyncRead + Unpin, WriteHalf: AsyncWrite + Unpin>
    Handshake<'_, S, ReadHalf, WriteHalf>
{
    async fn run(mut self) -> io::Result<Option<Chosen<S::Export>>> {
        for _ in 0..OPTIONS_MAX {
            let (option, data) = read_option(self.reader, self.writer).await?;
            match self.step(option, &data).await? {
                Step::Continues => {}
                Step::Leaves => return Ok(None),
                Step::Chooses(chosen) => return Ok(Some(chosen)),
            }
        }
        Err(violation("the client sent too many options"))
    }

    async fn step(&mut self, option: u32, data: &[u8]) -> io::Result<Step<S::Export>> {
        match option {
            option::EXPORT_NAME => return self.export_name(data).await.map(Step::Chooses),
            option::ABORT => {
                self.reply(option, option_reply::ACK, &[]).await?;
                return Ok(Step::Leaves);
            }
            option::LIST => self.list(data).await?,
            option::INFO | option::GO => {
                if let Some(chosen) = self.info_or_go(option, data).await? {
                    return Ok(Step::Chooses(chosen));
                }
            }
            option::STRUCTURED_REPLY => self.raise_style(option, data, Style::Structured).await?,
            option::EXTENDED_HEADERS => self.raise_style(option, data, Style::Extended).await?,
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.meta_context(option, data).await?,
            _ => self.reply(option, option_reply::ERR_UNSUP, &[]).await?,
        }
        Ok(Step::Continues)
    }

    async fn reply(&mut self, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
        reply(self.writer, option, kind, data).await
    }

    /// The one option that cannot be refused but by closing.
    async fn export_name(&mut self, data: &[u8]) -> io::Result<Chosen<S::Export>> {
        if self.style == Style::Extended {
            return Err(violation("an export is not chosen by EXPORT_NAME under extended headers"));
        }
        let name = std::str::from_utf8(data).map_err(|_| violation("the name of the export is no text"))?;
        let chosen = self.open(name).await.map_err(io::Error::other)?;
        let reply = wire::ExportNameReply {
            size_bytes: chosen.export.size_bytes().into(),
            transmission_flags: transmission_flags(&*chosen.export, self.style).into(),
        };
        let mut bytes = reply.as_bytes().to_vec();
        if !self.no_zeroes {
            bytes.resize(bytes.len() + wire::EXPORT_NAME_ZEROES, 0);
        }
        self.writer.write_all(&bytes).await?;
        self.writer.flush().await?;
        Ok(chosen)
    }

    /// The presence comes first, so that a name that is reserved is not even opened.
    async fn open(&self, name: &str) -> Result<Chosen<S::Export>> {
        let name = self.source.full_name(name);
        let session = self.sessions.enter(name)?;
        let export = self.source.open(name).await?;
        let contexts = if name == self.contexts_of { self.contexts.clone() } else { Vec::new() };
        Ok(Chosen { session, export, agreed: Agreed { style: self.style, contexts } })
    }

    async fn list(&mut self, data: &[u8]) -> io::Result<()> {
        if !data.is_empty() {
            return self.reply(option::LIST, option_reply::ERR_INVALID, &[]).await;
        }
        for name in self.source.names().await {
            let length_bytes = u32::try_from(name.len()).expect("names are short");
            let entry = [&length_bytes.to_be_bytes(), name.as_bytes()].concat();
            self.reply(option::LIST, option_reply::SERVER, &entry).await?;
        }
        self.reply(option::LIST, option_reply::ACK, &[]).await
    }

    /// Styles only ever grow richer.
    async fn raise_style(&mut self, option: u32, data: &[u8], style: Style) -> io::Result<()> {
        let kind = if data.is_empty() && style > self.style {
            self.style = style;
            option_reply::ACK
        } else if data.is_empty() && style < self.style {
            option_reply::ERR_EXT_HEADER_REQD
        } else {
            option_reply::ERR_INVALID
        };
        self.reply(option, kind, &[]).await
    }

    async fn meta_context(&mut self, option: u32, data: &[u8]) -> io::Result<()> {
        let sets = option == option::SET_META_CONTEXT;
        if sets {
            // Whatever comes of it, what was set before does not count any more.
            self.contexts.clear();
        }
        if self.style == Style::Simple {
            let sentence = b"contexts need structured replies or extended headers";
            return self.reply(option, option_reply::ERR_INVALID, sentence).await;
        }
        let Some(request) = ContextRequest::parse(data) else {
            return self.reply(option, option_reply::ERR_INVALID, &[]).await;
        };
        let chosen = match self.open(&request.export).await {
            Ok(chosen) => chosen,
            Err(error) => {
                return self.reply(option, option_reply::ERR_UNKNOWN, error.to_string().as_bytes()).await;
            }
        };
        let wanted = |name: &str| if sets { request.selects(name) } else { request.lists(name) };
        let mut contexts = chosen.export.contexts().await;
        contexts.retain(|context| wanted(&context.name));
        if !sets {
            return self.tell_contexts(option, contexts.iter().map(|context| (0, context))).await;
        }
        if contexts.len() > CONTEXTS_MAX {
            let sentence = format!("one client has at most {CONTEXTS_MAX} contexts");
            return self.reply(option, option_reply::ERR_TOO_BIG, sentence.as_bytes()).await;
        }
        let contexts: Vec<_> = (1..).zip(contexts).collect();
        self.tell_contexts(option, contexts.iter().map(|(id, context)| (*id, context))).await?;
        self.contexts_of = self.source.full_name(&request.export).to_owned();
        self.contexts = contexts;
        Ok(())
    }

    async fn tell_contexts(&mut self, option: u32, contexts: impl Iterator<Item = (u32, &Context)>) -> io::Result<()> {
        for (id, context) in contexts {
            let data = [&id.to_be_bytes(), context.name.as_bytes()].concat();
            self.reply(option, option_reply::META_CONTEXT, &data).await?;
        }
        self.reply(option, option_reply::ACK, &[]).await
    }

    async fn info_or_go(&mut self, option: u32, data: &[u8]) -> io::Result<Option<Chosen<S::Export>>> {
        let Some(InfoRequest { name, wanted }) = InfoRequest::parse(data) else {
            self.reply(option, option_reply::ERR_INVALID, &[]).await?;
            return Ok(None);
        };
        let chosen = match self.open(&name).await {
            Ok(chosen) => chosen,
            Err(error) => {
                self.reply(option, option_reply::ERR_UNKNOWN, error.to_string().as_bytes()).await?;
                return Ok(None);
            }
        };
        self.describe(option, &name, &*chosen.export, &wanted).await?;
        self.reply(option, option_reply::ACK, &[]).await?;
        Ok((option == option::GO).then_some(chosen))
    }

    async fn describe(&mut self, option: u32, name: &str, export: &S::Export, wanted: &[u16]) -> io::Result<()> {
        let facts = wire::InfoExport {
            info: info::EXPORT.into(),
            size_bytes: export.size_bytes().into(),
            transmission_flags: transmission_flags(export, self.style).into(),
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
