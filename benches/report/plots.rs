//! Plots: how fast each contender was at one kind of load, as bars with the interval of their median.

use super::markdown::work_name;
use super::series::{Place, Series};
use crate::results::Results;
use crate::sample::{Shape, Work};
use crate::statistics::Summary;
use anyhow::{anyhow, Result};
use plotters::prelude::*;
use std::path::Path;

/// A plot that was drawn.
pub struct Plot {
    /// The scene it shows.
    pub scene: String,
    /// The load it shows.
    pub turn: (Work, Shape),
    /// Its file, beside the report.
    pub file: String,
}

/// Draws every load that more than one contender had.
pub fn draw(results: &Results, directory: &Path) -> Result<Vec<Plot>> {
    let series = Series::of(results);
    let mut plots = Vec::new();
    for scene in &results.scenes {
        for (number, turn) in scene.turns.iter().enumerate() {
            let place = Place { scene: &scene.name, work: turn.work, shape: turn.shape };
            let bars: Vec<(String, Summary)> = scene
                .contenders
                .iter()
                .filter_map(|contender| {
                    let who = (contender.name.as_str(), contender.snapshots);
                    let speed = series.figure(place, who, |sample| sample.speed.requests_per_s)?;
                    Some((contender.to_string(), speed))
                })
                .collect();
            if bars.len() < 2 {
                continue;
            }
            let file = format!("{}-{number}.svg", scene.name);
            let title = format!("{}: {}", scene.name, work_name(turn.work, turn.shape));
            bar_chart(&directory.join(&file), &title, &bars).map_err(|error| anyhow!("{file}: {error}"))?;
            plots.push(Plot { scene: scene.name.clone(), turn: (turn.work, turn.shape), file });
        }
    }
    Ok(plots)
}

type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

fn bar_chart(path: &Path, title: &str, bars: &[(String, Summary)]) -> Drawn {
    let height = 90 + 34 * bars.len() as u32;
    let area = SVGBackend::new(path, (860, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let highest = bars.iter().map(|(_, speed)| speed.interval_high).fold(0.0, f64::max) * 1.05;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 17))
        .margin(8)
        .x_label_area_size(34)
        .y_label_area_size(130)
        .build_cartesian_2d(0.0..highest, (0..bars.len() - 1).into_segmented())?;
    let label = |at: &SegmentValue<usize>| match at {
        SegmentValue::CenterOf(index) => bars.iter().rev().nth(*index).map_or(String::new(), |bar| bar.0.clone()),
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(bars.len())
        .y_label_formatter(&label)
        .x_desc("requests/s")
        .label_style(("sans-serif", 14))
        .draw()?;
    for (index, (name, speed)) in bars.iter().rev().enumerate() {
        let color = if name.starts_with("cairn") { RGBColor(20, 90, 170) } else { RGBColor(150, 150, 150) };
        let (below, above) = (SegmentValue::Exact(index), SegmentValue::Exact(index + 1));
        let mut bar = Rectangle::new([(0.0, below), (speed.median, above)], color.filled());
        bar.set_margin(5, 5, 0, 0);
        chart.draw_series([bar])?;
        let middle = SegmentValue::CenterOf(index);
        let interval = [(speed.interval_low, middle.clone()), (speed.interval_high, middle)];
        chart.draw_series([PathElement::new(interval, BLACK.stroke_width(2))])?;
    }
    area.present()?;
    Ok(())
}
