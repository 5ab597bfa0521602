//! Durations and sizes: strings with units.

use std::time::Duration;

/// Units of a size, the longest name first so that `MiB` is not read as `B`.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

/// Reads `100ms`, `10m`, `1h 30m`, `30d`.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    humantime::parse_duration(text.trim()).ok()
}

/// The duration as it would be written: `5ms`, `10m`, `30d`.
pub(crate) fn show_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    for (unit, length) in [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)] {
        if duration.subsec_nanos() == 0 && seconds >= length && seconds.is_multiple_of(length) {
            return format!("{}{unit}", seconds / length);
        }
    }
    humantime::format_duration(duration).to_string()
}

/// Reads `512MB`, `4GiB`, `1.5 GiB`.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let (number, factor) = SIZE_UNITS.iter().find_map(|(unit, factor)| {
        let head = text.len().checked_sub(unit.len())?;
        let (number, tail) = text.split_at_checked(head)?;
        tail.eq_ignore_ascii_case(unit)
            .then_some((number.trim(), *factor))
    })?;
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor);
    }
    let number: f64 = number.parse().ok()?;
    let bytes = number * factor as f64;
    (bytes.is_finite() && bytes >= 0.0).then_some(bytes as u64)
}

/// The size as it would be written: `4GiB`, `512MB`, `1000B`.
pub(crate) fn show_size(bytes: u64) -> String {
    let exact = SIZE_UNITS
        .iter()
        .filter(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor))
        .max_by_key(|(_, factor)| *factor);
    match exact {
        Some((unit, factor)) => format!("{}{unit}", bytes / factor),
        None => format!("{bytes}B"),
    }
}

/// An estimate of a size, to one digit behind the point: `12.9 MB`.
pub(crate) fn about_size(bytes: f64) -> String {
    let units = [("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)];
    match units.iter().find(|(_, factor)| bytes >= *factor) {
        Some((unit, factor)) => format!("{:.1} {unit}", bytes / factor),
        None => format!("{bytes:.0} B"),
    }
}

/// A rate to three digits: `1200`, `19.1`, `0.0042`.
pub(crate) fn about_rate(per_s: f64) -> String {
    if per_s <= 0.0 {
        return "0".to_owned();
    }
    let magnitude = per_s.log10().floor();
    // Three digits in all; rates beyond four digits need no decimals either.
    let decimals = (2.0 - magnitude).clamp(0.0, 9.0) as usize;
    let text = format!("{per_s:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_shown() {
        for text in ["5ms", "1s", "90s", "10m", "1d", "30d", "100us"] {
            let duration = parse_duration(text).unwrap();
            assert_eq!(parse_duration(&show_duration(duration)), Some(duration));
        }
        assert_eq!(show_duration(Duration::from_millis(5)), "5ms");
        assert_eq!(show_duration(Duration::from_secs(600)), "10m");
        assert_eq!(show_duration(Duration::from_secs(90)), "90s");
        assert_eq!(parse_duration("10"), None);
        assert_eq!(parse_duration("fast"), None);
    }

    #[test]
    fn rates_have_three_digits() {
        for (rate, shown) in [
            (0.0, "0"),
            (1234.4, "1234"),
            (19.0, "19"),
            (21.25, "21.2"),
            (0.00012, "0.00012"),
        ] {
            assert_eq!(about_rate(rate), shown);
        }
    }

    #[test]
    fn sizes_are_read_and_shown() {
        assert_eq!(parse_size("4GiB"), Some(4 << 30));
        assert_eq!(parse_size("512 MB"), Some(512_000_000));
        assert_eq!(parse_size("1.5kb"), Some(1500));
        assert_eq!(parse_size("12B"), Some(12));
        assert_eq!(parse_size("12"), None);
        assert_eq!(parse_size("99999999999TiB"), None);
        assert_eq!(show_size(4 << 30), "4GiB");
        assert_eq!(show_size(512_000_000), "512MB");
        assert_eq!(show_size(0), "0B");
    }
}
