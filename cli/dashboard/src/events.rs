//! The last events of all apps, and times as supervisors write them.
//!
//! Events are found by comparing what a process answered with what it answered before, so they
//! need no rights beyond those for reading its status.

use std::collections::VecDeque;

use serde_json::{Map, Value, json};

/// How many events are kept and shown.
const MAX_EVENTS: usize = 60;
/// The longest text of an event, in characters.
const MAX_TEXT: usize = 200;

/// How much an event matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Something failed.
    Warning,
    /// Something went on as it should.
    Normal,
}

#[derive(Debug, Clone)]
struct Event {
    id: u64,
    /// Milliseconds since 1970.
    at: u64,
    kind: Kind,
    app: String,
    text: String,
}

/// The last events, in the order in which they became known.
#[derive(Debug, Clone, Default)]
pub(crate) struct Events {
    kept: VecDeque<Event>,
    next: u64,
}

impl Events {
    /// Adds an event.
    pub(crate) fn add(&mut self, at: u64, kind: Kind, app: &str, text: &str) {
        if self.kept.len() == MAX_EVENTS {
            self.kept.pop_front();
        }
        self.next += 1;
        self.kept.push_back(Event {
            id: self.next,
            at,
            kind,
            app: app.to_owned(),
            text: text.chars().take(MAX_TEXT).collect(),
        });
    }

    /// The events by number, each as `[time, kind, app, text]`.
    pub(crate) fn view(&self) -> Value {
        let events = self.kept.iter().map(|event| {
            let kind = match event.kind {
                Kind::Warning => "warning",
                Kind::Normal => "normal",
            };
            let shown = json!([event.at, kind, event.app, event.text]);
            (event.id.to_string(), shown)
        });
        Value::Object(events.collect::<Map<_, _>>())
    }
}

/// The milliseconds since 1970 of a time such as `2026-11-30T22:13:17.123Z`, as supervisors write
/// times (RFC 3339, in UTC); `None` for other texts.
pub(crate) fn milliseconds(time: &str) -> Option<u64> {
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = time.get(from..to)?;
        digits
            .bytes()
            .all(|byte| byte.is_ascii_digit())
            .then_some(())?;
        digits.parse().ok()
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let rest = time.get(19..)?.strip_suffix('Z')?;
    let fraction = rest.strip_prefix('.').unwrap_or("0");
    let fraction: f64 = format!("0.{fraction}").parse().ok()?;
    // Days since 1970 of a date in the Gregorian calendar, with years that begin in March.
    let (years, months) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let of_year = (153 * months + 2) / 5 + day - 1;
    let days = years * 365 + years / 4 - years / 100 + years / 400 + of_year - 719_468;
    let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second;
    let whole = u64::try_from(seconds).ok()?;
    Some(whole * 1_000 + (fraction * 1e3) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_supervisors_are_read() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2024-02-29T12:00:00.5Z", Some(1_709_208_000_500)),
            ("2026-11-30T22:13:17.123Z", Some(1_796_076_797_123)),
            ("2026-11-30T22:13:17+01:00", None),
            ("yesterday", None),
            ("", None),
        ] {
            assert_eq!(milliseconds(text), expected, "{text}");
        }
    }

    #[test]
    fn the_oldest_events_are_dropped_and_texts_are_bounded() {
        let mut events = Events::default();
        for _ in 0..=MAX_EVENTS {
            events.add(1, Kind::Warning, "shop", &"é".repeat(1_000));
        }
        let view = events.view();
        let view = view.as_object().unwrap();
        assert_eq!(view.len(), MAX_EVENTS);
        assert!(!view.contains_key("1"));
        let text = view["2"][3].as_str().unwrap();
        assert_eq!(text.chars().count(), MAX_TEXT);
    }
}
