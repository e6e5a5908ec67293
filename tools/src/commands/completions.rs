//! `cairn completions`: a completion script, made from the same types as the parser.

use crate::arguments::{Arguments, Completions};
use crate::exit::{Failure, Outcome};
use clap::CommandFactory;
use std::io::Write;
use std::path::Path;

pub fn run(arguments: &Completions) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "cairn", &mut script);
    let written = std::io::stdout().write_all(&script);
    written.map_err(|error| Failure::io("write", Path::new("standard output"), error))
}
