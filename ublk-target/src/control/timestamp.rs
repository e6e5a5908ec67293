//! An instant as the control API writes it: ISO-8601, UTC, milliseconds, as in `2026-11-21T12:00:00.000Z`.
//!
//! Invariants:
//! - What is written reads back as the same instant.
//! - Only this one form is written; reading also takes it without the fraction.

use serde::{de, Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// The last instant that has a four-digit year, 9999-12-31T23:59:59.999Z; later ones are written as this one.
const UNIX_MS_MAX: u64 = 253_402_300_799_999;
const MS_PER_DAY: u64 = 86_400_000;
const DAYS_PER_ERA: u64 = 146_097;
/// Days from 0000-03-01, where an era starts, to 1970-01-01.
const DAYS_TO_UNIX: u64 = 719_468;

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    /// Milliseconds since the Unix epoch.
    pub unix_ms: u64,
}

impl Timestamp {
    /// The instant `unix_ms` milliseconds after the Unix epoch.
    pub fn from_unix_ms(unix_ms: u64) -> Timestamp {
        Timestamp { unix_ms: unix_ms.min(UNIX_MS_MAX) }
    }
}

/// Year, month and day of a count of days since 1970-01-01, in the proleptic Gregorian calendar. Years are counted
/// from March, so that the leap day is the last day of a year.
fn date_of(days: u64) -> (u64, u64, u64) {
    let days = days + DAYS_TO_UNIX;
    let era = days / DAYS_PER_ERA;
    let day_of_era = days % DAYS_PER_ERA;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

/// The reverse of [`date_of`]; none before 1970.
fn days_of(year: u64, month: u64, day: u64) -> Option<u64> {
    let year = if month <= 2 { year.checked_sub(1)? } else { year };
    let month_from_march = if month > 2 { month - 3 } else { month + 9 };
    let year_of_era = year % 400;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (year / 400 * DAYS_PER_ERA + day_of_era).checked_sub(DAYS_TO_UNIX)
}

impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unix_ms = self.unix_ms.min(UNIX_MS_MAX);
        let (year, month, day) = date_of(unix_ms / MS_PER_DAY);
        let ms_of_day = unix_ms % MS_PER_DAY;
        let (hour, minute) = (ms_of_day / 3_600_000, ms_of_day / 60_000 % 60);
        let (second, ms) = (ms_of_day / 1000 % 60, ms_of_day % 1000);
        write!(formatter, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
    }
}

impl FromStr for Timestamp {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Timestamp, &'static str> {
        const EXPECTED: &str = "expected an ISO-8601 instant in UTC, as in 2026-11-21T12:00:00.000Z";
        let body = text.strip_suffix('Z').filter(|body| body.is_ascii()).ok_or(EXPECTED)?;
        let (body, ms) = match body.len() {
            19 => (body, 0),
            23 if body.as_bytes()[19] == b'.' => (&body[..19], number(&body[20..]).ok_or(EXPECTED)?),
            _ => return Err(EXPECTED),
        };
        let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
        if separators.iter().any(|&(index, byte)| body.as_bytes()[index] != byte) {
            return Err(EXPECTED);
        }
        let field = |from: usize, to: usize| number(&body[from..to]).ok_or(EXPECTED);
        let (year, month, day) = (field(0, 4)?, field(5, 7)?, field(8, 10)?);
        let (hour, minute, second) = (field(11, 13)?, field(14, 16)?, field(17, 19)?);
        if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 59 {
            return Err(EXPECTED);
        }
        let days = days_of(year, month, day).ok_or(EXPECTED)?;
        if date_of(days) != (year, month, day) {
            return Err("there is no such day in that month");
        }
        let unix_ms = days * MS_PER_DAY + (hour * 3600 + minute * 60 + second) * 1000 + ms;
        Ok(Timestamp { unix_ms })
    }
}

/// A run of digits as a number; a sign or a blank is not one.
fn number(digits: &str) -> Option<u64> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_written_as_iso_8601_utc() {
        for (unix_ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_795_262_400_123, "2026-11-21T12:00:00.123Z"),
            (UNIX_MS_MAX, "9999-12-31T23:59:59.999Z"),
            (u64::MAX, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(Timestamp::from_unix_ms(unix_ms).to_string(), text);
        }
    }

    #[test]
    fn every_day_of_four_centuries_reads_back() {
        for day in 0..DAYS_PER_ERA + 366 {
            let instant = Timestamp::from_unix_ms(day * MS_PER_DAY + 1234);
            assert_eq!(instant.to_string().parse(), Ok(instant));
        }
    }

    #[test]
    fn what_is_no_instant_is_refused() {
        for text in [
            "",
            "Z",
            "2026-11-21",
            "2026-11-21T12:00:00.000",
            "2026-13-21T12:00:00Z",
            "2026-02-29T12:00:00Z",
            "2026-11-21T24:00:00Z",
            "+026-11-21T12:00:00Z",
            "2026-11-21 12:00:00Z",
            "1969-12-31T23:59:59Z",
            "2026-11-21T12:00:00.00éZ",
        ] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }
}
