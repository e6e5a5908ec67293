//! `cairn man`: the manual pages, made from the same types as the parser.

use crate::arguments::{Arguments, Man};
use crate::exit::{Failure, Outcome};
use clap::CommandFactory;

pub fn run(arguments: &Man) -> Outcome {
    let directory = &arguments.directory;
    let failed = |error| Failure::io("write manual pages", directory, error);
    std::fs::create_dir_all(directory).map_err(failed)?;
    clap_mangen::generate_to(Arguments::command(), directory).map_err(failed)
}
