//! Sizes and durations as Compose writes them.

/// A size, such as `512m` or `1.5gb`, as an amount of Kubernetes. Compose's units are powers of
/// 1024.
pub(super) fn size(text: &str) -> Option<String> {
    let lower = text.trim().to_ascii_lowercase();
    let end = lower
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(lower.len());
    let (number, unit) = lower.split_at(end);
    let value: f64 = number.parse().ok()?;
    let unit = unit.trim().trim_end_matches('b').trim_end_matches('i');
    let (suffix, next) = match unit {
        "" => return number.parse::<u64>().ok().map(|bytes| bytes.to_string()),
        "k" => ("Ki", ""),
        "m" => ("Mi", "Ki"),
        "g" => ("Gi", "Mi"),
        "t" => ("Ti", "Gi"),
        _ => return None,
    };
    if number.contains('.') {
        let smaller = (value * 1024.0).round();
        return Some(format!("{smaller}{next}"));
    }
    Some(format!("{number}{suffix}"))
}

/// Seconds of a duration such as `1m30s`, `90s`, `500ms` or `10`, rounded up.
pub(super) fn seconds(text: &str) -> Option<i64> {
    if let Ok(seconds) = text.parse::<i64>() {
        return Some(seconds);
    }
    let mut milliseconds = 0.0;
    let mut rest = text.trim();
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let end = after
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let number: f64 = number.parse().ok()?;
        milliseconds += number
            * match unit {
                "us" | "µs" => 0.001,
                "ms" => 1.0,
                "s" => 1000.0,
                "m" => 60_000.0,
                "h" => 3_600_000.0,
                _ => return None,
            };
        rest = after;
    }
    // A duration of this format is far below 2^53 milliseconds.
    Some((milliseconds / 1000.0).ceil() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_are_those_of_compose() {
        for (text, expected) in [
            ("512m", Some("512Mi")),
            ("512M", Some("512Mi")),
            ("1gb", Some("1Gi")),
            ("1.5g", Some("1536Mi")),
            ("300mib", Some("300Mi")),
            ("1048576", Some("1048576")),
            ("lots", None),
        ] {
            assert_eq!(size(text).as_deref(), expected, "{text}");
        }
        for (text, expected) in [
            ("1m30s", Some(90)),
            ("90s", Some(90)),
            ("500ms", Some(1)),
            ("10", Some(10)),
            ("1h", Some(3600)),
            ("soon", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }
}
