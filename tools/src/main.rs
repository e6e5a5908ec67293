//! The command `cairn`: snapshots for any Linux disk.

mod arguments;
mod asked;
mod auditing;
mod block_io;
mod change_map;
mod client;
mod commands;
mod connection;
mod context;
mod discovery;
mod exit;
mod fingerprints;
mod foreign;
mod freeze;
mod names;
mod new_file;
mod offline;
mod output;
mod points;
mod qemu;
mod rate;
mod receive;
mod restoring;
mod sending;
mod source;
mod store_file;
mod stream;
mod stream_file;
mod verify;

use arguments::Arguments;
use clap::Parser;
use context::Context;

fn main() -> std::process::ExitCode {
    cairn_target::memory::keep_freed_memory();
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
