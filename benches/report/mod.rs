//! From what was measured to what people read: tables, plots, and a verdict for each goal.

pub mod goals;
pub mod markdown;
pub mod plots;
pub mod rows;
pub mod series;

use crate::results::Results;
use anyhow::{Context, Result};
use std::path::Path;

/// Writes the plots into `directory`, and the report to `page`, which lies there or beside it.
pub fn write(results: &Results, directory: &Path, page: &Path) -> Result<()> {
    let mut plots = plots::draw(results, directory)?;
    if page.parent() != Some(directory) {
        let name = directory.file_name().context("the plots lie in a directory with a name")?.to_string_lossy();
        plots.iter_mut().for_each(|plot| plot.file = format!("{name}/{}", plot.file));
    }
    std::fs::write(page, markdown::page(results, &plots))?;
    Ok(())
}
