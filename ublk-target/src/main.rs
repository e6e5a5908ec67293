//! `cairn-target`: the process that serves one volume, and the one that watches it. People use `cairn`.

use cairn_engine::error::Result;
use cairn_engine::volume::Accept;
use cairn_target::config::{Frontend, OnLate, VolumeConfig, SAVE_DEADLINE_MS_RANGE};
use cairn_target::paths::Paths;
use cairn_target::serve::{needed_paths, serve, ServeOptions};
use cairn_target::supervise::{leave_session, start_in_background, supervise, SuperviseOptions};
use cairn_target::{process, readiness::Readiness};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;

#[derive(Parser)]
#[command(version, about = "Serves one Cairn volume; started by `cairn attach`")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve a volume in this process until it is detached
    Serve(Common),
    /// Start a worker that serves a volume, and a successor whenever it dies
    Supervise(Supervised),
}

#[derive(Args)]
struct Supervised {
    #[command(flatten)]
    common: Common,
    /// Stay in the foreground instead of starting in the background and returning when the volume is served
    #[arg(long)]
    foreground: bool,
    /// Set by the supervisor that starts itself in the background
    #[arg(long, hide = true)]
    detached: bool,
}

#[derive(Args, Clone)]
struct Common {
    /// The volume
    #[arg(long, value_name = "NAME")]
    volume: String,
    /// Where the configuration is
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Where sockets are
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Where the links to block devices are
    #[arg(long, value_name = "DIR")]
    dev_dir: Option<PathBuf>,
    /// What serves the volume, instead of what is configured
    #[arg(long, value_enum)]
    frontend: Option<FrontendArgument>,
    /// Queues of the block device, instead of what is configured
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    queues: Option<u16>,
    /// Requests a queue holds, instead of what is configured
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=4096))]
    depth: Option<u16>,
    /// A TCP address for NBD, instead of what is configured
    #[arg(long, value_name = "ADDRESS")]
    nbd_listen: Option<String>,
    /// The directory of TLS credentials, instead of what is configured
    #[arg(long, value_name = "DIR")]
    tls_creds: Option<PathBuf>,
    /// How long a write may wait for the store, instead of what is configured
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(SAVE_DEADLINE_MS_RANGE))]
    save_deadline_ms: Option<u64>,
    /// What happens then, instead of what is configured
    #[arg(long, value_enum)]
    on_late: Option<OnLateArgument>,
    /// Take over what a killed worker left
    #[arg(long)]
    recover: bool,
    /// Go on although the origin was written while Cairn was away; older snapshots get broken
    #[arg(long)]
    accept_changed_origin: bool,
    /// Go on although another host used the store last and did not detach; older snapshots get broken
    #[arg(long)]
    accept_other_host: bool,
    /// Go on although a flush of the origin failed earlier
    #[arg(long)]
    clear_failed_flush: bool,
    /// Give up an unfinished restore whose snapshot breaks; the volume is then partly restored
    #[arg(long)]
    abandon_restore: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum FrontendArgument {
    Auto,
    Ublk,
    Nbd,
}

#[derive(Clone, Copy, ValueEnum)]
enum OnLateArgument {
    Wait,
    Break,
}

impl Common {
    fn paths(&self) -> Paths {
        Paths::resolve(self.state_dir.clone(), self.run_dir.clone(), self.dev_dir.clone())
    }

    fn config(&self) -> Result<VolumeConfig> {
        let mut config = VolumeConfig::load(&self.paths(), &self.volume)?;
        match self.frontend {
            Some(FrontendArgument::Auto) => config.frontend = Frontend::Auto,
            Some(FrontendArgument::Ublk) => config.frontend = Frontend::Ublk,
            Some(FrontendArgument::Nbd) => config.frontend = Frontend::Nbd,
            None => {}
        }
        config.queues = self.queues.or(config.queues);
        config.depth = self.depth.or(config.depth);
        config.nbd_listen = self.nbd_listen.clone().or(config.nbd_listen);
        config.tls_creds = self.tls_creds.clone().or(config.tls_creds);
        config.save_deadline_ms = self.save_deadline_ms.or(config.save_deadline_ms);
        match self.on_late {
            Some(OnLateArgument::Wait) => config.on_late = Some(OnLate::Wait),
            Some(OnLateArgument::Break) => config.on_late = Some(OnLate::Break),
            None => {}
        }
        Ok(config)
    }

    /// The arguments that every worker of this volume gets.
    fn lasting(&self) -> Vec<OsString> {
        let paths = self.paths();
        let mut all: Vec<OsString> = vec!["--volume".into(), self.volume.clone().into()];
        for (option, directory) in
            [("--state-dir", paths.state_dir), ("--run-dir", paths.run_dir), ("--dev-dir", paths.device_dir)]
        {
            all.extend([option.into(), directory.into_os_string()]);
        }
        let frontend = self.frontend.and_then(|frontend| frontend.to_possible_value());
        let on_late = self.on_late.and_then(|on_late| on_late.to_possible_value());
        let texts = [
            ("--frontend", frontend.map(|value| value.get_name().to_owned())),
            ("--queues", self.queues.map(|queues| queues.to_string())),
            ("--depth", self.depth.map(|depth| depth.to_string())),
            ("--nbd-listen", self.nbd_listen.clone()),
            ("--save-deadline-ms", self.save_deadline_ms.map(|deadline_ms| deadline_ms.to_string())),
            ("--on-late", on_late.map(|value| value.get_name().to_owned())),
        ];
        for (option, text) in texts {
            all.extend(text.into_iter().flat_map(|text| [OsString::from(option), OsString::from(text)]));
        }
        all.extend(self.tls_creds.iter().flat_map(|directory| ["--tls-creds".into(), directory.into()]));
        all
    }

    /// The arguments that only the first worker gets.
    fn once(&self) -> Vec<OsString> {
        let flags = [
            ("--accept-changed-origin", self.accept_changed_origin),
            ("--accept-other-host", self.accept_other_host),
            ("--clear-failed-flush", self.clear_failed_flush),
            ("--abandon-restore", self.abandon_restore),
        ];
        flags.into_iter().filter(|(_, given)| *given).map(|(flag, _)| flag.into()).collect()
    }
}

fn main() {
    cairn_target::memory::keep_freed_memory();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_env("CAIRN_LOG").unwrap_or_else(|_| "info".into()))
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let code = match Arguments::parse().command {
        Command::Serve(common) => serve_volume(&common),
        Command::Supervise(supervised) => supervise_volume(&supervised),
    };
    std::process::exit(code)
}

fn serve_volume(common: &Common) -> i32 {
    #[cfg(feature = "crash-at")]
    if let Err(error) = cairn_target::crash_at::arm_from_environment() {
        return fail(&error);
    }
    let config = match common.config() {
        Ok(config) => config,
        Err(error) => {
            let refused = fail(&error);
            // Requests wait for a successor: the next one may find the configuration again.
            return if common.recover { 1 } else { refused };
        }
    };
    serve(ServeOptions {
        paths: common.paths(),
        config,
        recover: common.recover,
        accept: Accept {
            changed_origin: common.accept_changed_origin,
            other_host: common.accept_other_host,
            failed_flush: common.clear_failed_flush,
            abandoned_restore: common.abandon_restore,
        },
    })
}

fn supervise_volume(supervised: &Supervised) -> i32 {
    let common = &supervised.common;
    let paths = common.paths();
    let prepared = common.config().and_then(|config| Ok((config, paths.volume(&common.volume)?)));
    let (config, volume_paths) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return fail(&error),
    };
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => {
            eprintln!("cairn-target cannot find itself: {error}");
            return 1;
        }
    };
    if !supervised.foreground {
        let mut arguments: Vec<OsString> = vec!["supervise".into(), "--foreground".into(), "--detached".into()];
        arguments.extend(common.lasting());
        arguments.extend(common.once());
        arguments.extend(common.recover.then(|| "--recover".into()));
        return match start_in_background(&program, &arguments, &volume_paths) {
            Ok(true) => 0,
            Ok(false) => 1,
            Err(error) => fail(&error),
        };
    }
    if supervised.detached {
        leave_session();
    }
    let mut needed = needed_paths(&config, &paths, &volume_paths);
    needed.push(&program);
    if let Err(error) = process::leave_mount_namespace(&needed) {
        tracing::warn!(%error, "this process shares its mounts with others; unmount the volume before you stop it");
    }
    let mut arguments: Vec<OsString> = vec!["serve".into()];
    arguments.extend(common.lasting());
    let options = SuperviseOptions {
        program,
        arguments,
        arguments_once: common.once(),
        recover: common.recover,
        paths: volume_paths,
        volume: common.volume.clone(),
    };
    // Why it failed was announced or logged where it happened.
    i32::from(supervise(&options).is_err())
}

fn fail(error: &cairn_engine::error::Error) -> i32 {
    tracing::error!("{error}");
    Readiness::failed(error).announce();
    cairn_target::supervise::EXIT_REFUSED
}
