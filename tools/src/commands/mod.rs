//! The verbs, one file each.

pub mod attach;
pub mod audit;
pub mod check;
pub mod completions;
pub mod create;
pub mod delete;
pub mod destroy;
pub mod detach;
pub mod devices;
pub mod diff;
pub mod export;
pub mod expose;
pub mod features;
pub mod grow;
pub mod import;
pub mod list;
pub mod man;
pub mod receive;
pub mod restore;
pub mod send;
pub mod show;
pub mod snapshot;
pub mod stat;
pub mod unexpose;
pub mod version;

use crate::arguments::Verb;
use crate::context::Context;
use crate::exit::Outcome;

/// Does what was asked.
pub fn run(context: &Context, verb: Verb) -> Outcome {
    match verb {
        Verb::Devices(arguments) => devices::run(context, &arguments),
        Verb::Create(arguments) => create::run(context, &arguments),
        Verb::Attach(arguments) => attach::run(context, &arguments),
        Verb::Detach(arguments) => detach::run(context, &arguments),
        Verb::List(_) => list::run(context),
        Verb::Show(arguments) => show::run(context, &arguments),
        Verb::Snapshot(arguments) => snapshot::run(context, &arguments),
        Verb::Expose(arguments) => expose::run(context, &arguments),
        Verb::Unexpose(arguments) => unexpose::run(context, &arguments),
        Verb::Restore(arguments) => restore::run(context, &arguments),
        Verb::Delete(arguments) => delete::run(context, &arguments),
        Verb::Grow(arguments) => grow::run(context, &arguments),
        Verb::Stat(arguments) => stat::run(context, &arguments),
        Verb::Check(arguments) => check::run(context, &arguments),
        Verb::Features(_) => features::run(context),
        Verb::Destroy(arguments) => destroy::run(context, &arguments),
        Verb::Diff(arguments) => diff::run(context, &arguments),
        Verb::Send(arguments) => send::run(context, &arguments),
        Verb::Receive(arguments) => receive::run(context, &arguments),
        Verb::Export(arguments) => export::run(context, &arguments),
        Verb::Import(arguments) => import::run(context, &arguments),
        Verb::Audit(arguments) => audit::run(context, &arguments),
        Verb::Version(_) => version::run(context),
        Verb::Man(arguments) => man::run(&arguments),
        Verb::Completions(arguments) => completions::run(&arguments),
        Verb::HoldFrozen(arguments) => crate::freeze::hold(&arguments.mount_point, arguments.timeout_ms),
    }
}
