//! From what was measured to what people read: tables, plots, and a verdict for each goal.

pub mod goals;
pub mod markdown;
pub mod plots;
pub mod rows;
pub mod series;

use crate::results::Results;
use anyhow::Result;
use std::path::Path;

/// Writes `report.md` and its plots into `directory`.
pub fn write(results: &Results, directory: &Path) -> Result<()> {
    let plots = plots::draw(results, directory)?;
    std::fs::write(directory.join("report.md"), markdown::page(results, &plots))?;
    Ok(())
}
