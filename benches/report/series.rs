//! Rounds of the same thing, found again among all samples, and compared round by round.
//!
//! Invariants:
//! - A ratio is the median of the ratios of the rounds, not the ratio of medians: what else the machine did in a round
//!   is in both its figures.

use crate::results::Results;
use crate::sample::{Contender, Key, Sample, Shape, Work};
use crate::statistics::{summary, Summary};
use std::collections::BTreeMap;

/// All rounds, by what they are rounds of.
pub struct Series<'a>(BTreeMap<Key, Vec<&'a Sample>>);

/// What one contender did in one kind of turn.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The scene.
    pub scene: &'a str,
    /// What was done.
    pub work: Work,
    /// How much at a time.
    pub shape: Shape,
}

/// A contender by its name and number of snapshots.
pub type Who<'a> = (&'a str, u32);

impl<'a> Series<'a> {
    /// Sorts the samples of a run.
    pub fn of(results: &'a Results) -> Series<'a> {
        let mut series: BTreeMap<Key, Vec<&Sample>> = BTreeMap::new();
        for sample in &results.samples {
            series.entry(sample.key()).or_default().push(sample);
        }
        Series(series)
    }

    /// Everything there is, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &[&'a Sample])> {
        self.0.iter().map(|(key, samples)| (key, samples.as_slice()))
    }

    /// The rounds of one contender; none where it did not play.
    pub fn rounds(&self, place: Place<'_>, (name, snapshots): Who<'_>) -> &[&'a Sample] {
        let contender = Contender { name: name.to_owned(), snapshots };
        let key = Key { scene: place.scene.to_owned(), work: place.work, shape: place.shape, contender };
        self.0.get(&key).map_or(&[], Vec::as_slice)
    }

    /// Sums up a figure of one contender.
    pub fn figure(&self, place: Place<'_>, who: Who<'_>, figure: impl Fn(&Sample) -> f64) -> Option<Summary> {
        summary(&self.rounds(place, who).iter().map(|sample| figure(sample)).collect::<Vec<_>>())
    }

    /// How many times faster `who` is than `other`.
    pub fn ratio(&self, place: Place<'_>, who: Who<'_>, other: Who<'_>) -> Option<Summary> {
        paired(self.rounds(place, who), self.rounds(place, other))
    }
}

/// The ratios of requests a second, round by round.
pub fn paired(some: &[&Sample], others: &[&Sample]) -> Option<Summary> {
    let of_round = |round| others.iter().find(|one| one.round == round);
    let ratios = some.iter().filter_map(|one| {
        let other = of_round(one.round)?;
        Some(one.speed.requests_per_s / other.speed.requests_per_s)
    });
    summary(&ratios.collect::<Vec<_>>())
}

/// What a request cost the devices.
pub mod per_request {
    use crate::sample::{DeviceCounts, Sample};

    fn devices(sample: &Sample) -> DeviceCounts {
        sample.origin.unwrap_or_default().plus(&sample.store.unwrap_or_default())
    }

    fn share(count: u64, sample: &Sample) -> f64 {
        count as f64 / sample.speed.requests as f64
    }

    /// Reads and writes of all devices.
    pub fn requests(sample: &Sample) -> f64 {
        share(devices(sample).reads + devices(sample).writes, sample)
    }
    /// Reads of the volume's own disk.
    pub fn origin_reads(sample: &Sample) -> f64 {
        share(sample.origin.unwrap_or_default().reads, sample)
    }
    /// Writes of the volume's own disk.
    pub fn origin_writes(sample: &Sample) -> f64 {
        share(sample.origin.unwrap_or_default().writes, sample)
    }
    /// Reads of all devices.
    pub fn reads(sample: &Sample) -> f64 {
        share(devices(sample).reads, sample)
    }
    /// Writes of the stores.
    pub fn store_writes(sample: &Sample) -> f64 {
        share(sample.store.unwrap_or_default().writes, sample)
    }
    /// Flushes of all devices.
    pub fn flushes(sample: &Sample) -> f64 {
        share(devices(sample).flushes, sample)
    }
    /// Bytes written to all devices.
    pub fn written_bytes(sample: &Sample) -> f64 {
        share(devices(sample).written_bytes, sample)
    }
    /// Bytes written to all devices for each byte of the request.
    pub fn amplification(sample: &Sample) -> f64 {
        written_bytes(sample) / sample.shape.block_bytes as f64
    }
}
