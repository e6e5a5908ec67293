//! `cairn destroy`: forgets a volume and erases its store's signature. The origin is never opened.

use crate::arguments::Destroy;
use crate::auditing;
use crate::context::Context;
use crate::exit::{ExitCode, Failure, Outcome};
use crate::offline;
use cairn_target::config::VolumeConfig;
use serde::Serialize;
use std::path::PathBuf;

#[derive(Serialize)]
struct Answer {
    destroyed: String,
    origin: PathBuf,
    store: PathBuf,
    /// False where the store could not be reached, and `--force` forgot the volume all the same.
    store_erased: bool,
}

pub fn run(context: &Context, arguments: &Destroy) -> Outcome {
    let config = context.config(&arguments.volume)?;
    if context.client_of(&config).is_attached() {
        return Err(Failure::new(
            ExitCode::Busy,
            format!("{}: is attached; detach it first: cairn detach {}", arguments.volume, arguments.volume),
        ));
    }
    context.output.confirm(&format!(
        "Volume {} is forgotten and all of its snapshots are lost. {} keeps its current content.",
        arguments.volume,
        config.origin.display()
    ))?;
    let store_erased = match offline::erase_store(&config.store) {
        Ok(()) => true,
        Err(failure) if arguments.force => {
            context.output.warn(&format!("the store was not erased: {failure}"));
            false
        }
        Err(failure) => {
            return Err(Failure {
                message: format!("{failure}. To forget the volume and leave the store as it is say --force."),
                ..failure
            })
        }
    };
    let paths = context.paths.volume(arguments.volume.as_str())?;
    VolumeConfig::remove(&paths)?;
    auditing::forget(paths);
    let answer = Answer { destroyed: config.name, origin: config.origin, store: config.store, store_erased };
    context.output.answer(&answer, |answer| {
        format!(
            "{} is destroyed. {} is a plain disk; {} is no store any more{}.",
            answer.destroyed,
            answer.origin.display(),
            answer.store.display(),
            if answer.store.is_file() { " and can be removed" } else { "" }
        )
    })
}
