//! The command `cairn`: snapshots for any Linux disk.

mod arguments;
mod client;
mod commands;
mod context;
mod discovery;
mod exit;
mod freeze;
mod names;
mod offline;
mod output;
mod restoring;
mod store_file;

use arguments::Arguments;
use clap::Parser;
use context::Context;

fn main() -> std::process::ExitCode {
    let arguments = Arguments::parse();
    let context = Context::new(arguments.common);
    match commands::run(&context, arguments.verb) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(failure) => {
            match context.output.json {
                true => eprintln!("{}", failure.to_json()),
                false => eprintln!("cairn: {failure}"),
            }
            std::process::ExitCode::from(failure.code as u8)
        }
    }
}
