//! Where a receive goes, and what is held while it runs.

use super::place::Place;
use super::plain::{self, PlainTarget};
use super::served::Served;
use super::target::Target;
use super::volume::VolumeTarget;
use crate::context::Context;
use crate::exit::Failure;
use crate::names::VolumeName;
use cairn_target::config::VolumeConfig;
use std::path::PathBuf;

/// What is received into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A disk or a file.
    Plain(PathBuf),
    /// A volume of this machine.
    Volume(VolumeName),
}

/// Opens a target; says whether a file may be made.
pub type Open<'a> = dyn Fn(bool) -> Result<Box<dyn Target + 'a>, Failure> + 'a;

/// A destination that no other receive uses meanwhile.
pub struct Site<'a> {
    /// What people call it.
    pub name: String,
    /// What is remembered of it.
    pub place: Place,
    /// Opens it.
    pub open: Box<Open<'a>>,
}

impl Destination {
    /// A volume by its name, else a path. A file that is named as a volume is written `./NAME`.
    pub fn parse(context: &Context, text: &str) -> Destination {
        match text.parse::<VolumeName>() {
            Ok(name) if VolumeConfig::load(&context.paths, text).is_ok() => Destination::Volume(name),
            _ => Destination::Plain(PathBuf::from(text)),
        }
    }

    /// Keeps others from receiving into it. Old content of a disk goes to `undo_file`; none: the state directory.
    pub fn site<'a>(&'a self, context: &'a Context, undo_file: Option<PathBuf>) -> Result<Site<'a>, Failure> {
        match self {
            Destination::Plain(path) => {
                let absolute = std::path::absolute(path).map_err(|error| Failure::io("find", path, error))?;
                let held = absolute.display().to_string();
                let place = Place::open(&context.paths, &plain::key_of(&absolute), &held)?;
                let open = move |may_create| -> Result<Box<dyn Target + 'a>, Failure> {
                    Ok(Box::new(PlainTarget::open(context, path, undo_file.clone(), may_create)?))
                };
                Ok(Site { name: path.display().to_string(), place, open: Box::new(open) })
            }
            Destination::Volume(name) => {
                let place = Place::open(&context.paths, &format!("volume {name}"), name.as_str())?;
                let open = move |_| -> Result<Box<dyn Target + 'a>, Failure> {
                    let service = Box::new(Served::open(context, name)?);
                    Ok(Box::new(VolumeTarget::open(name.as_str(), service)?))
                };
                Ok(Site { name: name.to_string(), place, open: Box::new(open) })
            }
        }
    }
}
