//! Repeats one case in the engine: `engine-work CASE COUNT`. Callgrind counts its instructions; it says itself how many
//! allocations it made and how long the repetitions took. `engine-work saved GIB` saves so much, and measures then.

use anyhow::{Context, Result};
use cairn_benches::engine::cases::{run, Case};
use cairn_benches::engine::count::Run;
use cairn_benches::engine::saved;
use cairn_engine::sim::block_on;
use clap::ValueEnum;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().context("engine-work CASE COUNT, or engine-work saved GIB");
    let (case, count) = (next()?, next()?.parse::<u64>()?);
    if case == "saved" {
        println!("{}", serde_json::to_string(&block_on(saved::measure(count << 30)))?);
        return Ok(());
    }
    let case = Case::from_str(&case, true).map_err(anyhow::Error::msg)?;
    let mut time_ns = 0;
    let allocations =
        allocation_counter::measure(|| time_ns = block_on(run(case, count)).as_nanos() as u64).count_total;
    println!("{}", serde_json::to_string(&Run { allocations, time_ns })?);
    Ok(())
}
