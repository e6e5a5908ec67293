//! The goals, each with what was measured and whether it is met.
//!
//! Invariants:
//! - A verdict is computed from the results; a figure that is missing makes the row "not measured", never "met".

use crate::statistics::Summary;

/// What a figure must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
    /// It is only reported.
    Reported,
}

/// One figure held against its bound.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// What was measured.
    pub what: String,
    /// What it must be.
    pub bound: Bound,
    /// What it is, where it was measured.
    pub value: Option<Summary>,
}

/// What a row or a check comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// On the right side of its bound, with the whole interval.
    Met,
    /// The median is on the right side, but the interval is on both.
    Barely,
    /// A figure is missing.
    NotMeasured,
    /// On the wrong side.
    Missed,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.pad(match self {
            Verdict::Met => "met",
            Verdict::Barely => "met (interval reaches over)",
            Verdict::NotMeasured => "NOT MEASURED",
            Verdict::Missed => "**MISSED**",
        })
    }
}

impl Check {
    /// Whether the figure is what it must be.
    pub fn verdict(&self) -> Verdict {
        let Some(value) = self.value else { return Verdict::NotMeasured };
        let (holds, certain) = match self.bound {
            Bound::AtLeast(bound) => (value.median >= bound, value.interval_low >= bound),
            Bound::AtMost(bound) => (value.median <= bound, value.interval_high <= bound),
            Bound::Reported => (true, true),
        };
        match (holds, certain) {
            (true, true) => Verdict::Met,
            (true, false) => Verdict::Barely,
            (false, _) => Verdict::Missed,
        }
    }
}

/// A row of the table of goals.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The load.
    pub work: &'static str,
    /// What is to be reached.
    pub goal: &'static str,
    /// What was measured for it.
    pub checks: Vec<Check>,
}

impl Row {
    /// The worst verdict of its checks.
    pub fn verdict(&self) -> Verdict {
        self.checks.iter().map(Check::verdict).max().unwrap_or(Verdict::NotMeasured)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(median: f64, low: f64, high: f64) -> Option<Summary> {
        let (quartile_low, quartile_high) = (median, median);
        Some(Summary { rounds: 9, median, quartile_low, quartile_high, interval_low: low, interval_high: high })
    }

    #[test]
    fn a_row_is_as_good_as_its_worst_check() {
        let check = |what: &str, bound, value| Check { what: what.to_owned(), bound, value };
        let met = check("a", Bound::AtLeast(1.0), value(1.2, 1.1, 1.3));
        let barely = check("b", Bound::AtMost(1.0), value(0.9, 0.8, 1.1));
        let missed = check("c", Bound::AtMost(1.0), value(1.1, 0.8, 1.2));
        let unknown = check("d", Bound::AtMost(1.0), None);
        let verdict = |checks: &[&Check]| {
            Row { work: "", goal: "", checks: checks.iter().map(|one| (*one).clone()).collect() }.verdict()
        };
        assert_eq!(verdict(&[&met]), Verdict::Met);
        assert_eq!(verdict(&[&met, &barely]), Verdict::Barely);
        assert_eq!(verdict(&[&met, &unknown, &barely]), Verdict::NotMeasured);
        assert_eq!(verdict(&[&unknown, &missed]), Verdict::Missed);
        assert_eq!(verdict(&[]), Verdict::NotMeasured);
    }
}
