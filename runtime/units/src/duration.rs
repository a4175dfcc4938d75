//! Durations as people write them in flags and files: `500ms`, `30s`, `2m`, `1h`.
//!
//! A number without a unit is refused, because any guess at the unit could be wrong.

use std::time::Duration;

/// Why a text is not a duration; the message shows what one looks like.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a duration: write a whole number with its unit, such as 500ms, 30s, 2m or 1h"
)]
pub struct DurationError(String);

/// Parses a whole number followed by `ms`, `s`, `m` or `h`.
///
/// # Errors
/// The text is anything else, or the number is too large for its unit.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let error = || DurationError(text.to_owned());
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| error())?;
    let milliseconds_per_unit = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(error()),
    };
    number
        .checked_mul(milliseconds_per_unit)
        .map(Duration::from_millis)
        .ok_or_else(error)
}

/// Writes a duration in the form that [`parse`] reads, in the largest unit that represents
/// it exactly; fractions of a millisecond are dropped.
pub fn format(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    match milliseconds {
        0 => "0s".to_owned(),
        m if m % 3_600_000 == 0 => format!("{}h", m / 3_600_000),
        m if m % 60_000 == 0 => format!("{}m", m / 60_000),
        m if m % 1_000 == 0 => format!("{}s", m / 1_000),
        m => format!("{m}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_with_a_unit_is_read_and_written_back() {
        for (text, milliseconds) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("0s", 0),
        ] {
            let duration = parse(text).unwrap();
            assert_eq!(duration, Duration::from_millis(milliseconds));
            assert_eq!(format(duration), text);
        }
    }

    #[test]
    fn anything_else_is_refused_with_examples() {
        for text in [
            "",
            "30",
            "s",
            "1.5s",
            "-1s",
            "5 s",
            "5d",
            "99999999999999999999s",
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.contains("such as 500ms"), "{message}");
        }
    }
}
