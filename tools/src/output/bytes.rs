//! Sizes as people write and read them; powers of 1024 throughout.

use cairn_engine::format::geometry::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
use cairn_engine::in_use::GRANULE_SHIFT_MAX;
use cairn_engine::units::BLOCK_BYTES;

const UNITS: [(&str, u32); 5] = [("P", 50), ("T", 40), ("G", 30), ("M", 20), ("K", 10)];

/// Bytes from `123`, `4096B`, `20G`, `1.5T`, `512MiB`.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a size; write for example 4096, 512M, 20G or 1.5T (powers of 1024)");
    let upper = text.trim().to_ascii_uppercase();
    let bare = upper.strip_suffix("IB").or_else(|| upper.strip_suffix('B')).unwrap_or(&upper);
    let (number, shift) = UNITS
        .iter()
        .find_map(|(unit, shift)| bare.strip_suffix(unit).map(|number| (number, *shift)))
        .unwrap_or((bare, 0));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |part: &str| part.chars().all(|c| c.is_ascii_digit()) && part.len() <= 18;
    if whole.is_empty() || !digits(whole) || !digits(fraction) || (shift == 0 && number.contains('.')) {
        return Err(wrong());
    }
    let scale = 10u128.pow(fraction.len() as u32);
    let value = format!("{whole}{fraction}").parse::<u128>().map_err(|_| wrong())?;
    u64::try_from((value << shift) / scale).map_err(|_| format!("{text:?} is more than Linux can address"))
}

/// Bytes of a segment: what the format allows.
pub fn parse_segment_bytes(text: &str) -> Result<u32, String> {
    let bytes = parse_bytes(text)?;
    let range = u64::from(SEGMENT_BYTES_MIN)..=u64::from(SEGMENT_BYTES_MAX);
    if !bytes.is_power_of_two() || !range.contains(&bytes) {
        let (least, most) = (format_bytes(*range.start()), format_bytes(*range.end()));
        return Err(format!("a segment is a power of two between {least} and {most}"));
    }
    Ok(u32::try_from(bytes).expect("the range fits 32 bits"))
}

/// What a bit of the in-use map stands for, in blocks.
pub fn parse_granule_blocks(text: &str) -> Result<u32, String> {
    let bytes = parse_bytes(text)?;
    let range = BLOCK_BYTES as u64..=(BLOCK_BYTES as u64) << GRANULE_SHIFT_MAX;
    if !bytes.is_power_of_two() || !range.contains(&bytes) {
        let (least, most) = (format_bytes(*range.start()), format_bytes(*range.end()));
        return Err(format!("a bit of the in-use map stands for a power of two between {least} and {most}"));
    }
    Ok(u32::try_from(bytes / BLOCK_BYTES as u64).expect("the range fits 32 bits"))
}

/// `1.5 GiB`: three digits are enough for people; programs read JSON.
pub fn format_bytes(bytes: u64) -> String {
    for (unit, shift) in UNITS {
        if bytes >> shift > 0 {
            let value = bytes as f64 / (1u64 << shift) as f64;
            return match value {
                value if value >= 100.0 || value.fract() == 0.0 => format!("{value:.0} {unit}iB"),
                value if value >= 10.0 => format!("{value:.1} {unit}iB"),
                value => format!("{value:.2} {unit}iB"),
            };
        }
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024_in_every_spelling() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("4096B", 4096),
            ("1K", 1024),
            ("512m", 512 << 20),
            ("20GiB", 20 << 30),
            ("1.5T", 3 << 39),
            ("16P", 16 << 50),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "G", "x", "-1", "1.5", "1..5G", "1 G G", "99999999P", "1e9", ".5G"] {
            assert!(parse_bytes(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn sizes_are_shown_with_three_digits() {
        assert_eq!(format_bytes(0), "0 B");
        assert_eq!(format_bytes(4096), "4 KiB");
        assert_eq!(format_bytes(3 << 29), "1.50 GiB");
        assert_eq!(format_bytes((10 << 30) + (1 << 29)), "10.5 GiB");
        assert_eq!(format_bytes(1023 << 20), "1023 MiB");
    }
}
