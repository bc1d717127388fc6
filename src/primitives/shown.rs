//! Formats durations and sizes for people.

/// Formats seconds with the two largest units, rounded down: `0s`, `59s`, `4m 05s`, `2h 04m`, `3d 07h`.
pub(crate) fn time(seconds: f64) -> String {
    // The conversion saturates, so negative numbers and NaN become 0.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the conversion is meant to saturate"
    )]
    let seconds = seconds as u64;
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {:02}s", seconds % 60),
        (0, _, _) => format!("{hours}h {:02}m", minutes % 60),
        _ => format!("{days}d {:02}h", hours % 24),
    }
}

/// Formats bytes with three digits and a decimal unit: `999 B`, `12.3 MB`.
pub(crate) fn bytes(count: u64) -> String {
    if count < 1_000 {
        return format!("{count} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "only three digits are shown")]
    let mut value = count as f64;
    let mut unit = "B";
    for next in ["kB", "MB", "GB", "TB", "PB", "EB"] {
        // A value that would round to 1000 becomes 1.00 of the next unit.
        if value < 999.5 {
            break;
        }
        (value, unit) = (value / 1_000.0, next);
    }
    let decimals = match value {
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_two_units() {
        for (seconds, shown) in [
            (0.0, "0s"),
            (59.9, "59s"),
            (245.0, "4m 05s"),
            (7_499.0, "2h 04m"),
            (284_400.0, "3d 07h"),
            (-1.0, "0s"),
            (f64::NAN, "0s"),
        ] {
            assert_eq!(time(seconds), shown);
        }
    }

    #[test]
    fn bytes_have_three_digits() {
        for (count, shown) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.00 kB"),
            (9_994, "9.99 kB"),
            (9_996, "10.0 kB"),
            (12_345_678, "12.3 MB"),
            (999_400, "999 kB"),
            (999_600, "1.00 MB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(bytes(count), shown, "{count}");
        }
    }
}
