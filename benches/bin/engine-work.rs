//! Repeats one case in the engine: `engine-work CASE COUNT`. Callgrind counts its instructions; it says itself how many
//! allocations it made and how long the repetitions took.

use anyhow::{Context, Result};
use cairn_benches::engine::cases::{run, Case};
use cairn_benches::engine::count::Run;
use cairn_engine::sim::block_on;
use clap::ValueEnum;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().context("engine-work CASE COUNT");
    let case = Case::from_str(&next()?, true).map_err(anyhow::Error::msg)?;
    let count = next()?.parse()?;
    let mut time_ns = 0;
    let allocations =
        allocation_counter::measure(|| time_ns = block_on(run(case, count)).as_nanos() as u64).count_total;
    println!("{}", serde_json::to_string(&Run { allocations, time_ns })?);
    Ok(())
}
