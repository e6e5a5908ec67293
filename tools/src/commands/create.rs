//! `cairn create`: joins an origin and a store to a volume. The origin is looked at and never written.

use crate::arguments::{Create, OnLate};
use crate::context::Context;
use crate::discovery;
use crate::exit::{ExitCode, Failure, Outcome};
use crate::offline;
use crate::output::bytes::format_bytes;
use crate::store_file::StoreFile;
use cairn_target::config::{self, VolumeConfig};
use serde::Serialize;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

#[derive(Serialize)]
struct Answer {
    name: String,
    origin: PathBuf,
    store: PathBuf,
    size_bytes: u64,
    store_bytes: u64,
}

pub fn run(context: &Context, arguments: &Create) -> Outcome {
    let name = arguments.volume.as_str();
    if context.paths.volume(name)?.config.exists() {
        return Err(Failure::new(
            ExitCode::Exists,
            format!("{name}: a volume of this name exists; choose another name, or destroy that one first"),
        ));
    }
    let origin = absolute(&arguments.origin)?;
    let store = absolute(&arguments.store)?;
    check_origin(context, &origin)?;
    refuse_same(&origin, &store)?;
    refuse_taken(context, &[&origin, &store])?;
    offline::refuse_loops(context, &origin, &store)?;
    let store_file = prepare_store(context, arguments, &store)?;

    let mut config = VolumeConfig::new(name, &origin, &store);
    let created = offline::create(context, &config, arguments.segment_size, arguments.in_use_granule)?;
    config.store_id = Some(created.store_id);
    config.save_deadline_ms = arguments.save_deadline.save_deadline_ms;
    config.on_late = arguments.save_deadline.on_late.map(|on_late| match on_late {
        OnLate::Wait => config::OnLate::Wait,
        OnLate::Break => config::OnLate::Break,
    });
    if let Err(error) = config.save(&context.paths, false) {
        // Nothing half done: a store without a configuration would be refused as "has data" the next time.
        offline::erase_store(&store)?;
        return Err(error.into());
    }
    if let Some(file) = store_file {
        file.keep();
    }
    let answer = Answer {
        name: name.to_owned(),
        origin,
        store,
        size_bytes: created.size_bytes,
        store_bytes: created.store_bytes,
    };
    context.output.answer(&answer, text)
}

fn text(answer: &Answer) -> String {
    format!(
        "Volume {name} is {origin} ({size}), before-images go to {store} ({store_size}).\n\
         Nothing was written to {origin}. Next: cairn attach {name}",
        name = answer.name,
        origin = answer.origin.display(),
        size = format_bytes(answer.size_bytes),
        store = answer.store.display(),
        store_size = format_bytes(answer.store_bytes),
    )
}

/// The path as it is found again from any directory. Links stay: /dev/disk/by-id names a disk across reboots.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| Failure::io("find", path, error))
}

fn check_origin(context: &Context, origin: &Path) -> Outcome {
    let metadata = std::fs::metadata(origin).map_err(|error| Failure::io("open the origin", origin, error))?;
    if metadata.file_type().is_file() {
        return Ok(());
    }
    let roles = super::devices::roles(context)?;
    let device = discovery::device(origin, &roles).map_err(|error| Failure::io("look at", origin, error))?;
    let device = device.ok_or_else(|| {
        Failure::new(
            ExitCode::Failed,
            format!("{}: is neither a block device nor a file, and cannot be an origin", origin.display()),
        )
    })?;
    refuse_unfit(origin, "origin", device.in_use, &device.origin.why_not)
}

fn refuse_unfit(path: &Path, role: &str, in_use: bool, why_not: &[String]) -> Outcome {
    if why_not.is_empty() {
        return Ok(());
    }
    let (code, advice) = match in_use {
        true => (ExitCode::Busy, "Unmount it, or stop what uses it, and try again."),
        false => (ExitCode::Refused, "See `cairn devices` for those that are fit."),
    };
    Err(Failure::new(code, format!("{}: cannot be {role}: {}. {advice}", path.display(), why_not.join("; "))))
}

/// One disk cannot be both: the store would overwrite the origin.
fn refuse_same(origin: &Path, store: &Path) -> Outcome {
    if !is_same(origin, store) {
        return Ok(());
    }
    Err(Failure::new(
        ExitCode::Refused,
        format!(
            "{}: is the origin, and cannot be the store too. Take another device, or a file on another one.",
            store.display()
        ),
    ))
}

/// A disk belongs to one volume, in one role; not even `--force` overrules that.
fn refuse_taken(context: &Context, paths: &[&Path]) -> Outcome {
    for (taken, role) in super::devices::roles(context)? {
        if let Some(path) = paths.iter().find(|path| is_same(path, &taken)) {
            return Err(Failure::new(
                ExitCode::Refused,
                format!("{}: is {role} already. Take another, or destroy that volume first.", path.display()),
            ));
        }
    }
    Ok(())
}

/// Whether two paths lead to one device or file.
fn is_same(one: &Path, other: &Path) -> bool {
    let (Ok(one), Ok(other)) = (std::fs::metadata(one), std::fs::metadata(other)) else {
        return false;
    };
    let are_devices = one.file_type().is_block_device() && other.file_type().is_block_device();
    (are_devices && one.rdev() == other.rdev()) || (one.dev() == other.dev() && one.ino() == other.ino())
}

/// Makes the store fit to be written, or says why it must not be. Gives the file where one had to be made.
fn prepare_store(context: &Context, arguments: &Create, store: &Path) -> Result<Option<StoreFile>, Failure> {
    let metadata = match std::fs::metadata(store) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let Some(size_bytes) = arguments.store_size else {
                return Err(Failure::new(
                    ExitCode::NotFound,
                    format!(
                        "{}: does not exist. To create it as a file say how large: --store-size 20G",
                        store.display()
                    ),
                ));
            };
            return StoreFile::create(store, size_bytes).map(Some);
        }
        other => other.map_err(|error| Failure::io("open the store", store, error))?,
    };
    if arguments.store_size.is_some() {
        return Err(Failure::new(
            ExitCode::Exists,
            format!("{}: exists; --store-size is for a store file that is to be created", store.display()),
        ));
    }
    let content = if metadata.file_type().is_file() {
        discovery::signature::probe(store, metadata.len()).map_err(|error| Failure::io("look at", store, error))?
    } else {
        let roles = super::devices::roles(context)?;
        let device = discovery::device(store, &roles).map_err(|error| Failure::io("look at", store, error))?;
        let device = device.ok_or_else(|| {
            Failure::new(
                ExitCode::Failed,
                format!("{}: is neither a block device nor a file, and cannot be a store", store.display()),
            )
        })?;
        refuse_unfit(store, "store", device.in_use, &device.against_store_whatever_it_holds())?;
        device.content
    };
    match content {
        Some(content) if !arguments.force => Err(Failure::new(
            ExitCode::Refused,
            format!(
                "{}: has data ({content}), which would be lost. Choose another store, or say --force.",
                store.display()
            ),
        )),
        _ => Ok(None),
    }
}
