//! `cairn attach`: starts the process that serves a volume, and waits until it does.

use crate::arguments::{Attach, Frontend, OnLate};
use crate::context::Context;
use crate::exit::{ExitCode, Failure, Outcome};
use cairn_target::control::api::VolumeReport;
use cairn_target::control::error::kind_of_word;
use cairn_target::readiness::Readiness;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

pub fn run(context: &Context, arguments: &Attach) -> Outcome {
    let config = context.config(&arguments.volume)?;
    let client = context.client_of(&config);
    if client.is_attached() {
        return Err(Failure::new(
            ExitCode::Busy,
            format!("{}: is attached already; see `cairn show {}`", arguments.volume, arguments.volume),
        ));
    }
    let program = target_program()?;
    let mut command = Command::new(&program);
    command.arg("supervise").args(target_arguments(context, arguments));
    if let Some(directory) = &arguments.tls_creds {
        // The target and its successors have a working directory of their own.
        let directory = std::path::absolute(directory).map_err(|error| Failure::io("find", directory, error))?;
        command.arg("--tls-creds").arg(directory);
    }
    if arguments.foreground {
        // From here on this process is the target: whoever started it watches and stops it.
        let error = command.arg("--foreground").exec();
        return Err(Failure::io("start", &program, error));
    }
    context.output.progress(&format!("Attaching {}: recovering its store where necessary ...", arguments.volume));
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|error| Failure::io("start", &program, error))?;
    let said = child.stdout.take().expect("standard output was asked to be a pipe");
    hear_ready(context, arguments, said)?;
    // It has handed over to the background by now, or is the supervisor itself: either way it is not waited for.
    drop(child);
    let report: VolumeReport = client.get("/v1/volume")?;
    context.output.answer(&report, text)
}

/// Beside this program, unless `CAIRN_TARGET` names another.
fn target_program() -> Result<PathBuf, Failure> {
    if let Some(chosen) = std::env::var_os("CAIRN_TARGET").filter(|chosen| !chosen.is_empty()) {
        return Ok(chosen.into());
    }
    let own = std::env::current_exe()
        .map_err(|error| Failure::new(ExitCode::Failed, format!("cairn cannot find itself: {error}")))?;
    let beside = own.with_file_name("cairn-target");
    if !beside.exists() {
        return Err(Failure::new(
            ExitCode::Failed,
            format!("{}: is missing; install it beside cairn, or name it in CAIRN_TARGET", beside.display()),
        ));
    }
    Ok(beside)
}

fn target_arguments(context: &Context, arguments: &Attach) -> Vec<String> {
    let paths = &context.paths;
    let mut all = vec![
        format!("--volume={}", arguments.volume),
        format!("--state-dir={}", paths.state_dir.display()),
        format!("--run-dir={}", paths.run_dir.display()),
        format!("--dev-dir={}", paths.device_dir.display()),
    ];
    match arguments.frontend {
        Frontend::Auto => {}
        Frontend::Ublk => all.push("--frontend=ublk".to_owned()),
        Frontend::Nbd => all.push("--frontend=nbd".to_owned()),
    }
    all.extend(arguments.queues.map(|queues| format!("--queues={queues}")));
    all.extend(arguments.depth.map(|depth| format!("--depth={depth}")));
    all.extend(arguments.nbd_listen.map(|address| format!("--nbd-listen={address}")));
    all.extend(arguments.save_deadline.save_deadline_ms.map(|deadline_ms| format!("--save-deadline-ms={deadline_ms}")));
    all.extend(arguments.save_deadline.on_late.map(|on_late| match on_late {
        OnLate::Wait => "--on-late=wait".to_owned(),
        OnLate::Break => "--on-late=break".to_owned(),
    }));
    let consents = [
        (arguments.accept_changed_origin, "--accept-changed-origin"),
        (arguments.accept_other_host, "--accept-other-host"),
        (arguments.clear_failed_flush, "--clear-failed-flush"),
        (arguments.abandon_restore, "--abandon-restore"),
    ];
    all.extend(consents.iter().filter(|(given, _)| *given).map(|(_, flag)| (*flag).to_owned()));
    all
}

/// Waits until the target says that it serves the volume, or why it does not.
fn hear_ready(context: &Context, arguments: &Attach, said: ChildStdout) -> Outcome {
    let name = arguments.volume.to_string();
    let log = context.paths.volume(&name)?.log();
    let (tell, told) = mpsc::channel();
    let device = name.clone();
    std::thread::spawn(move || {
        // Nobody listens any more once the time is over.
        let _ = tell.send(Readiness::hear(said, &device));
    });
    match told.recv_timeout(Duration::from_secs(arguments.wait_s)) {
        Ok(Ok(Readiness::Ready(_))) => Ok(()),
        Ok(Ok(Readiness::Failed(failed))) => Err(Failure {
            code: kind_of_word(&failed.kind).map_or(ExitCode::Failed, ExitCode::of_kind),
            kind: failed.kind,
            message: failed.message,
        }),
        Ok(Err(error)) => Err(Failure::new(ExitCode::Failed, format!("{error}. Its log is {}.", log.display()))),
        Err(_) => Err(Failure::new(
            ExitCode::TimedOut,
            format!(
                "{name}: not served within {} s. It goes on trying; see {}, then `cairn show {name}`.",
                arguments.wait_s,
                log.display()
            ),
        )),
    }
}

fn text(report: &VolumeReport) -> String {
    let mut text = format!("{} is attached.\n", report.name);
    if let Some(device) = &report.device {
        text.push_str(&format!("Device: {device}\nMount it: mount {device} /mnt\n"));
    }
    if let Some(uri) = &report.nbd_uri {
        text.push_str(&format!("NBD:    {uri}\n"));
        if report.device.is_none() {
            text.push_str(&format!(
                "A device from it: nbdfuse /some/file '{uri}' & losetup --find --show --direct-io=on /some/file\n"
            ));
        }
    }
    text
}
