//! Works on the devices of a volume that is not attached, through the engine itself.
//!
//! Invariants:
//! - Both devices are held exclusively for as long as they are worked on, so that no target can start meanwhile.
//! - The origin is only ever read here.

use crate::context::Context;
use crate::exit::{ExitCode, Failure, Outcome};
use cairn_target::config::VolumeConfig;
use cairn_target::control::api::CheckReport;
use std::path::Path;

/// What `create` made.
pub struct Created {
    pub store_id: String,
    pub size_bytes: u64,
    pub store_bytes: u64,
}

fn missing<T>() -> Result<T, Failure> {
    Err(Failure::new(ExitCode::Failed, "the engine is not part of this build"))
}

pub fn refuse_recursion(_context: &Context, _name: &str, _origin: &Path, _store: &Path) -> Outcome {
    Ok(())
}

pub fn create(_config: &VolumeConfig, _segment_bytes: Option<u64>) -> Result<Created, Failure> {
    missing()
}

pub fn erase_store(_store: &Path) -> Outcome {
    missing()
}

pub fn destroy(config: &VolumeConfig) -> Outcome {
    erase_store(&config.store)
}

pub fn check_store(_store: &Path) -> Result<CheckReport, Failure> {
    missing()
}

pub fn check(_config: &VolumeConfig, _data: bool) -> Result<CheckReport, Failure> {
    missing()
}
