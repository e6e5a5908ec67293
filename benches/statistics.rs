//! Medians, quantiles and bootstrap intervals.
//!
//! Invariants:
//! - The same figures give the same interval: resampling is seeded.

use serde::{Deserialize, Serialize};

const RESAMPLINGS: usize = 2000;

/// What several rounds of a measurement say.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How many rounds.
    pub rounds: usize,
    /// The middle one.
    pub median: f64,
    /// A quarter is below.
    pub quartile_low: f64,
    /// A quarter is above.
    pub quartile_high: f64,
    /// The median of other rounds would be above this with 97.5 %.
    pub interval_low: f64,
    /// The median of other rounds would be below this with 97.5 %.
    pub interval_high: f64,
}

/// The value below which `fraction` of the sorted `values` are, interpolated.
pub fn quantile(sorted: &[f64], fraction: f64) -> f64 {
    assert!(!sorted.is_empty() && (0.0..=1.0).contains(&fraction));
    let position = fraction * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[position.floor() as usize], sorted[position.ceil() as usize]);
    below + (above - below) * position.fract()
}

/// The middle of `values`.
pub fn median(values: &[f64]) -> f64 {
    quantile(&sorted(values.iter().copied()), 0.5)
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// Sums up rounds; nothing of no rounds.
pub fn summary(values: &[f64]) -> Option<Summary> {
    if values.is_empty() {
        return None;
    }
    let ordered = sorted(values.iter().copied());
    let mut random = fastrand::Rng::with_seed(values.len() as u64);
    let mut resampled = || median(&values.iter().map(|_| values[random.usize(..values.len())]).collect::<Vec<_>>());
    let medians = sorted((0..RESAMPLINGS).map(|_| resampled()));
    Some(Summary {
        rounds: values.len(),
        median: quantile(&ordered, 0.5),
        quartile_low: quantile(&ordered, 0.25),
        quartile_high: quantile(&ordered, 0.75),
        interval_low: quantile(&medians, 0.025),
        interval_high: quantile(&medians, 0.975),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median(&[5.0]), 5.0);
        assert_eq!(quantile(&[0.0, 10.0], 0.25), 2.5);
    }

    #[test]
    fn the_interval_holds_the_median_and_is_narrow_where_rounds_agree() {
        let agreeing = summary(&[1.0, 1.01, 0.99, 1.0, 1.02]).expect("there are rounds");
        assert!(agreeing.interval_low <= 1.0 && agreeing.interval_high >= 1.0);
        assert!(agreeing.interval_high - agreeing.interval_low < 0.04);
        let differing = summary(&[1.0, 2.0, 3.0, 4.0, 5.0]).expect("there are rounds");
        assert!(differing.interval_high - differing.interval_low > 1.0);
        assert_eq!(summary(&[]), None);
    }
}
