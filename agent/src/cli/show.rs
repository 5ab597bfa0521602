//! Values, times and sizes as a person reads them.

use std::time::Duration;

use serde_json::Value;

/// A bulleted line is broken here: the width of the narrowest screen in use.
const SCREEN_COLUMNS: usize = 80;

/// Bytes with a binary unit: `12.3 MiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut size = bytes as f64;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{size:.1} {}", UNITS[unit])
    }
}

/// Digits in groups of three: `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Milliseconds as an age or a duration: `3.2 ms`, `45 s`, `2h 5m`.
pub(crate) fn millis(ms: f64) -> String {
    if !ms.is_finite() || ms < 0.0 {
        return "-".into();
    }
    if ms < 100.0 {
        format!("{ms:.1} ms")
    } else if ms < 1000.0 {
        format!("{ms:.0} ms")
    } else if ms < 60_000.0 {
        format!("{:.1} s", ms / 1000.0)
    } else {
        seconds((ms / 1000.0) as u64)
    }
}

/// Whole seconds in the two largest units: `3d 4h`.
pub(crate) fn seconds(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    if days > 0 {
        format!("{days}d {hours}h")
    } else if hours > 0 {
        format!("{hours}h {minutes}m")
    } else if minutes > 0 {
        format!("{minutes}m {}s", seconds % 60)
    } else {
        format!("{seconds} s")
    }
}

/// Unix milliseconds as UTC: `2026-11-21T07:50:13.250Z`.
pub(crate) fn utc(unix_ms: f64) -> String {
    // Whole milliseconds first: a float of seconds has no room for them.
    let since_epoch = (unix_ms >= 0.0).then(|| Duration::from_millis(unix_ms.round() as u64));
    match since_epoch.and_then(|d| std::time::UNIX_EPOCH.checked_add(d)) {
        Some(time) => humantime::format_rfc3339_millis(time).to_string(),
        None => "-".into(),
    }
}

/// A tag's value: strings without quotes, a missing one as `-`.
pub(crate) fn value(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// An optional number with three decimals.
pub(crate) fn decimal(number: Option<f64>) -> String {
    number.map_or_else(|| "-".into(), |n| format!("{n:.3}"))
}

/// A sentence as a list item, broken at the screen's width between words.
pub(crate) fn bullet(mark: &str, sentence: &str) -> String {
    let indent = " ".repeat(mark.chars().count());
    let mut text = String::new();
    let mut line = String::from(mark);
    let mut empty = true;
    for word in sentence.split_whitespace() {
        let fits = line.chars().count() + 1 + word.chars().count() <= SCREEN_COLUMNS;
        if !empty && !fits {
            text.push_str(line.trim_end());
            text.push('\n');
            line.clone_from(&indent);
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    text.push_str(line.trim_end());
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(4 << 30), "4.0 GiB");
        assert_eq!(bytes(12_900_000), "12.3 MiB");
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(millis(3.24), "3.2 ms");
        assert_eq!(millis(1500.0), "1.5 s");
        assert_eq!(millis(7_500_000.0), "2h 5m");
        assert_eq!(millis(f64::NAN), "-");
        assert_eq!(seconds(273_600), "3d 4h");
        assert_eq!(utc(1_763_690_000_123.0), "2025-11-21T01:53:20.123Z");
        assert_eq!(utc(-1.0), "-");
        assert_eq!(decimal(Some(1.0)), "1.000");
    }

    #[test]
    fn long_sentences_break_under_their_mark() {
        let sentence = "pump-2 is offline: cannot connect to 10.0.0.6:502: connection refused; \
                        the agent tries again every 30 s";
        assert_eq!(
            bullet("  ! ", sentence),
            "  ! pump-2 is offline: cannot connect to 10.0.0.6:502: connection refused; the\n    \
             agent tries again every 30 s\n"
        );
    }
}
