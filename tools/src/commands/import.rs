//! `cairn import`: applies a file that holds a delta, or a raw image, to a volume, a disk or a file.

use super::receive::text;
use crate::arguments::{Import, ImportFormat};
use crate::context::Context;
use crate::exit::{Failure, Outcome};
use crate::foreign::{RawInput, RbdInput};
use crate::receive::{self, Destination, Input, NativeInput, Options};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};

/// What is read of the file at once.
const BUFFER_BYTES: usize = 1 << 20;

pub fn run(context: &Context, arguments: &Import) -> Outcome {
    let failed = |error| Failure::io("read", &arguments.file, error);
    let mut file = File::open(&arguments.file).map_err(failed)?;
    let name = arguments.file.display().to_string();
    let format = match arguments.format {
        ImportFormat::Auto => look_at(&mut file).map_err(failed)?,
        format => format,
    };
    let buffered = |file| BufReader::with_capacity(BUFFER_BYTES, file);
    let mut input: Box<dyn Input> = match format {
        ImportFormat::Native => Box::new(NativeInput::new(&name, buffered(file))?),
        ImportFormat::Rbd => Box::new(RbdInput::new(&name, buffered(file))?),
        ImportFormat::Raw | ImportFormat::Auto => Box::new(RawInput::new(&arguments.file, file)?),
    };
    let destination = Destination::parse(context, &arguments.target);
    let options = Options { trust_identity: arguments.trust_identity, ..Options::default() };
    let received = receive::receive(context, &destination, input.as_mut(), &options)?;
    context.output.answer(&received, text)
}

/// The form that the first bytes speak of; what is none of the others is raw.
fn look_at(file: &mut File) -> std::io::Result<ImportFormat> {
    let mut first = Vec::new();
    file.take(12).read_to_end(&mut first)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(match first.as_slice() {
        first if first.starts_with(&cairn_delta::MAGIC) => ImportFormat::Native,
        first if first.starts_with(b"rbd diff v") => ImportFormat::Rbd,
        _ => ImportFormat::Raw,
    })
}
