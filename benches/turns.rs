//! Who is measured, and the turns they take.
//!
//! Invariants:
//! - Within a turn the contenders follow each other at once, and who begins changes from round to round.
//! - A first write goes to a block that was not written since the snapshots were renewed; a rewrite never does.

use crate::fio::{self, Extent, Job};
use crate::kernel::disk::{counts_of, Disk};
use crate::kernel::scene::{Scene, Turn};
use crate::sample::{Contender, Sample, Shape, Work};
use anyhow::{Context, Result};
use std::fs;

/// One that is measured.
pub trait Stack {
    /// What fio calls it: an engine and what names the disk.
    fn target(&self) -> Vec<String>;
    /// Makes every block one that a snapshot needs.
    fn renew_snapshots(&mut self) -> Result<()>;
    /// The disk of the volume, where it is counted.
    fn origin(&self) -> &[Disk] {
        &[]
    }
    /// The disks that hold what snapshots need, where they are counted.
    fn stores(&self) -> &[Disk] {
        &[]
    }
    /// The process that serves the device.
    fn process_id(&self) -> Option<u32> {
        None
    }
    /// The oldest and the youngest snapshot, as fio calls them.
    fn snapshot_targets(&mut self) -> Result<[Vec<String>; 2]> {
        anyhow::bail!("snapshots of this contender are not read")
    }
    /// Forgets everything that was read: the next reads are cold.
    fn forget(&mut self) -> Result<()> {
        anyhow::bail!("this contender is not read cold")
    }
    /// Takes a snapshot beside all others.
    fn cut(&mut self) -> Result<()> {
        anyhow::bail!("this contender is not cut under load")
    }
    /// What the process says of itself.
    fn report(&self) -> Result<serde_json::Value> {
        Ok(serde_json::Value::Null)
    }
}

/// One contender, ready to be measured.
pub struct Player {
    /// Who.
    pub contender: Contender,
    /// What is measured.
    pub stack: Box<dyn Stack>,
    /// Nothing that snapshots need is on the volume's own disk.
    pub settled: bool,
}

/// How fio calls a block device.
pub fn device_target(path: &std::path::Path) -> Vec<String> {
    vec!["--ioengine=io_uring".to_owned(), format!("--filename={}", path.display())]
}

/// All rounds of a scene; `take` gets every sample as soon as it is there.
pub fn play_rounds(scene: &Scene, players: &mut [Player], take: &mut dyn FnMut(&Sample) -> Result<()>) -> Result<()> {
    for round in 0..scene.rounds {
        println!("{}: round {} of {}", scene.name, round + 1, scene.rounds);
        for turn in &scene.turns {
            for index in 0..players.len() {
                let turn_of = (index + round as usize) % players.len();
                let player = &mut players[turn_of];
                let sample = measure(scene, round, turn, player)
                    .with_context(|| format!("{} fails at {:?} {:?}", player.contender, turn.work, turn.shape))?;
                if let Some(sample) = sample {
                    take(&sample)?;
                }
            }
        }
    }
    Ok(())
}

/// Puts the player into the state that the work begins in.
fn prepare(scene: &Scene, work: Work, player: &mut Player) -> Result<()> {
    match work {
        Work::FirstWrite | Work::SequentialFirstWrite => {
            player.stack.renew_snapshots()?;
            player.settled = false;
        }
        _ if !player.settled => {
            player.stack.renew_snapshots()?;
            let target = player.stack.target();
            let shape = Shape { block_bytes: 1 << 20, depth: 4, jobs: 1 };
            let extent = Extent::Once { requests_max: u64::MAX >> 20, time_max_ms: 120_000 };
            let size_bytes = scene.volume_mib << 20;
            fio::run(&Job { target: &target, work: Work::SequentialWrite, shape, extent, seed: 1, size_bytes })?;
            player.settled = true;
        }
        _ => {}
    }
    if matches!(work, Work::ColdReadOldest | Work::ColdReadYoungest) {
        player.stack.forget()?;
    }
    Ok(())
}

fn target_for(work: Work, player: &mut Player) -> Result<Vec<String>> {
    Ok(match work {
        Work::ReadOldest | Work::ColdReadOldest | Work::SequentialReadOldest => {
            player.stack.snapshot_targets()?[0].clone()
        }
        Work::ReadYoungest | Work::ColdReadYoungest | Work::SequentialReadYoungest => {
            player.stack.snapshot_targets()?[1].clone()
        }
        _ => player.stack.target(),
    })
}

fn measure(scene: &Scene, round: u32, turn: &Turn, player: &mut Player) -> Result<Option<Sample>> {
    let is_first = matches!(turn.work, Work::FirstWrite | Work::SequentialFirstWrite);
    if is_first && player.contender.has_none_to_save_for() {
        return Ok(None);
    }
    prepare(scene, turn.work, player)?;
    let target = target_for(turn.work, player)?;
    let Turn { work, shape, extent } = *turn;
    let seed = u64::from(round) + 1;
    let job = Job { target: &target, work, shape, extent, seed, size_bytes: scene.volume_mib << 20 };
    let stack = &player.stack;
    let cpu_before = stack.process_id().map(cpu_time_us).transpose()?;
    let (origin, store) = (counts_of(stack.origin())?, counts_of(stack.stores())?);
    let speed = fio::run(&job)?;
    let cpu_after = stack.process_id().map(cpu_time_us).transpose()?;
    let counted = |disks: &[Disk], before| -> Result<_> {
        Ok(if stack.origin().is_empty() { None } else { Some(counts_of(disks)?.since(before)) })
    };
    Ok(Some(Sample {
        scene: scene.name.clone(),
        round,
        contender: player.contender.clone(),
        work,
        shape,
        speed,
        origin: counted(stack.origin(), &origin)?,
        store: counted(stack.stores(), &store)?,
        target_cpu_us: cpu_after.zip(cpu_before).map(|(after, before)| after - before),
    }))
}

/// Time that a process spent on a CPU so far.
fn cpu_time_us(process_id: u32) -> Result<u64> {
    let path = format!("/proc/{process_id}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("{path} cannot be read"))?;
    // Behind the name, which is in parentheses and may hold anything: field 14 and 15, in ticks of 10 ms.
    let rest = text.rsplit_once(')').with_context(|| format!("{path}: {text}"))?.1;
    let ticks = |index: usize| -> Result<u64> {
        let field = rest.split_whitespace().nth(index).with_context(|| format!("{path}: {text}"))?;
        Ok(field.parse()?)
    };
    Ok((ticks(11)? + ticks(12)?) * 10_000)
}
