//! The name of a state: a line that leads back to it.
//!
//! Invariants:
//! - A line names everything that decides what the state is: the workload, what is sampled, and the crash points.

use super::alphabet::Workload;
use super::{Lie, Settings};
use crate::sim::Crash;
use std::fmt;

/// One crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// Which moment; even ones lie within a request, odd ones behind it, as long as the user learns nothing between.
    pub(super) point: usize,
    pub(super) crash: Crash,
    /// Which of the states of that moment.
    pub(super) ordinal: usize,
}

impl Step {
    /// A number for it, to derive others from.
    pub(super) fn number(&self) -> u64 {
        (self.point as u64) << 32 | (self.ordinal as u64) << 1 | u64::from(self.crash == Crash::Power)
    }
}

/// A state, by the workload, what was sampled, and the crashes that lead to it.
pub(super) struct Place {
    pub(super) workload: Workload,
    pub(super) settings: Settings,
    pub(super) path: Vec<Step>,
}

const LIES: [(Lie, &str); 3] = [
    (Lie::OriginFlushIgnored, "origin-flush-ignored"),
    (Lie::StoreFlushIgnored, "store-flush-ignored"),
    (Lie::StoreDurableTooEarly, "store-durable-too-early"),
];

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { tears, torn, lie, .. } = self.settings;
        write!(formatter, "{};tears={tears};torn={torn}", self.workload)?;
        if let Some((_, name)) = LIES.iter().find(|(known, _)| Some(*known) == lie) {
            write!(formatter, ";lie={name}")?;
        }
        for step in &self.path {
            let crash = if step.crash == Crash::Power { "power" } else { "process" };
            write!(formatter, ";crash={}.{crash}.{}", step.point, step.ordinal)?;
        }
        Ok(())
    }
}

impl Place {
    /// Reads what `Display` writes.
    pub(super) fn parse(line: &str) -> Result<Place, String> {
        let mut parts = line.split(';');
        let workload = Workload::parse(parts.next().unwrap_or_default())?;
        let mut place = Place { workload, settings: Settings::default(), path: Vec::new() };
        let number = |text: &str| text.parse::<u32>().map_err(|_| format!("'{text}' is no number"));
        for part in parts {
            match part.split_once('=') {
                Some(("tears", text)) => place.settings.tears = number(text)?,
                Some(("torn", text)) => place.settings.torn = number(text)?,
                Some(("lie", text)) => {
                    let known = LIES.iter().find(|(_, name)| *name == text);
                    place.settings.lie = Some(known.ok_or_else(|| format!("'{text}' is no lie"))?.0);
                }
                Some(("crash", text)) => place.path.push(parse_step(text)?),
                _ => return Err(format!("'{part}' is not understood")),
            }
        }
        Ok(place)
    }
}

fn parse_step(text: &str) -> Result<Step, String> {
    let wrong = || format!("'{text}' is no crash: it has a point, 'power' or 'process', and a number");
    let mut parts = text.split('.');
    let number = |part: Option<&str>| part.and_then(|part| part.parse().ok()).ok_or_else(wrong);
    let point = number(parts.next())?;
    let crash = match parts.next() {
        Some("power") => Crash::Power,
        Some("process") => Crash::Process,
        _ => return Err(wrong()),
    };
    Ok(Step { point, crash, ordinal: number(parts.next())? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_leads_back_to_its_place() {
        let line = "flush:snapshot,write-a;tears=12;torn=4;lie=store-flush-ignored;crash=17.power.3;crash=4.process.0";
        assert_eq!(Place::parse(line).map(|place| place.to_string()), Ok(line.to_owned()));
        assert!(Place::parse("fua:write-a;crash=1.fire.2").is_err());
        assert!(Place::parse("fua:write-a;tears=many").is_err());
    }
}
