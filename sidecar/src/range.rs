//! How many workers are wanted, as it was typed: a number, or a range within which the supervisor
//! decides, and where a range can be used.
//!
//! `cores` decides what one end of a range means on a machine, `scaling` decides which number
//! within the range is right now.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use scaledapp_wire::{Dispatch, MAX_WORKERS};
use serde::{Deserialize, Deserializer};

use crate::cores::{Cores, TooMany, WorkerSpec};

/// `--workers`: `4`, `auto`, or `1..auto`. A single number is a range whose ends are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerRange {
    /// The fewest workers.
    pub min: WorkerSpec,
    /// The most workers.
    pub max: WorkerSpec,
}

/// The text is neither a number of workers nor a range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WorkerRangeError {
    /// It has no meaning at all.
    #[error(
        "{text:?} is not a number of workers: give auto (one per core), N (e.g. 4), max (one per CPU), \
         -K (e.g. -1: one fewer than auto), Nx (e.g. 2x: two per core), at most {MAX_WORKERS}, \
         or a range MIN..MAX (e.g. 1..4 or 1..auto)"
    )]
    Unknown {
        /// The text.
        text: String,
    },
    /// A range must not begin with 0: without a worker, nothing would show that one is needed.
    #[error("a range begins with 1 or more, not with 0: give 1..{max}, or 0 to run nothing")]
    Empty {
        /// The upper end.
        max: WorkerSpec,
    },
    /// The ends are in the wrong order.
    #[error("{min}..{max} has no number in it: give the smaller number first, {max}..{min}")]
    Reversed {
        /// The first end.
        min: u32,
        /// The second end.
        max: u32,
    },
}

/// The ends of a range on a machine; `min` never exceeds `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// The fewest workers.
    pub(crate) min: u32,
    /// The most workers.
    pub(crate) max: u32,
}

/// How the number within a range is chosen (`scaling`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rules {
    /// How busy workers should be at most, in percent.
    pub(crate) utilization: u32,
    /// How long a worker must not have been needed before it stops.
    pub(crate) idle: Duration,
}

/// Why no range can be used with this dispatch, and what to do instead.
pub(crate) fn refusal(dispatch: Dispatch) -> Option<&'static str> {
    match dispatch {
        Dispatch::Connection => Some(
            "a range needs --dispatch request: workers that accept connections themselves cannot be \
             stopped without breaking connections that clients keep open; give a fixed number",
        ),
        Dispatch::None => Some(
            "a range needs a port: without requests nothing shows how many workers are needed; \
             give a fixed number",
        ),
        Dispatch::Request | Dispatch::Unknown => None,
    }
}

impl Bounds {
    /// The number within the bounds that is nearest to `workers`.
    pub(crate) fn nearest(self, workers: u32) -> u32 {
        workers.clamp(self.min, self.max)
    }
}

impl WorkerRange {
    /// Exactly this many.
    pub const fn one(spec: WorkerSpec) -> Self {
        Self {
            min: spec,
            max: spec,
        }
    }

    /// Whether the supervisor decides the number.
    pub fn is_open(self) -> bool {
        self.min != self.max
    }

    /// The ends on a machine with `cores`. If the upper end is below the lower one there, as with
    /// `2..auto` on one core, the lower one is used for both.
    ///
    /// # Errors
    /// An end exceeds [`MAX_WORKERS`].
    pub(crate) fn bounds(self, cores: Cores) -> Result<Bounds, TooMany> {
        let min = self.min.workers(cores)?;
        let max = self.max.workers(cores)?.max(min);
        Ok(Bounds { min, max })
    }
}

impl FromStr for WorkerRange {
    type Err = WorkerRangeError;

    fn from_str(text: &str) -> Result<Self, WorkerRangeError> {
        let unknown = |_| WorkerRangeError::Unknown {
            text: text.to_owned(),
        };
        let Some((min, max)) = text.split_once("..") else {
            return text.parse().map(Self::one).map_err(unknown);
        };
        let min: WorkerSpec = min.parse().map_err(unknown)?;
        let max: WorkerSpec = max.parse().map_err(unknown)?;
        match (min, max) {
            (WorkerSpec::Fixed(0), _) => Err(WorkerRangeError::Empty { max }),
            (WorkerSpec::Fixed(min), WorkerSpec::Fixed(max)) if min > max => {
                Err(WorkerRangeError::Reversed { min, max })
            }
            _ => Ok(Self { min, max }),
        }
    }
}

/// Accepts a text or a plain number in JSON.
impl<'de> Deserialize<'de> for WorkerRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(
            untagged,
            expecting = "workers must be a text such as \"auto\" or \"1..4\", or a number"
        )]
        enum Written {
            Number(u32),
            Text(String),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Number(number) => number.to_string(),
            Written::Text(text) => text,
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for WorkerRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_open() {
            write!(f, "{}..{}", self.min, self.max)
        } else {
            self.min.fmt(f)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::cores::Quotas;

    #[test]
    fn a_number_or_a_range_reads_back_as_it_was_written() {
        use WorkerSpec::{Auto, Fixed, LessThanAuto, Max, PerCore};
        for (text, min, max) in [
            ("4", Fixed(4), Fixed(4)),
            ("auto", Auto, Auto),
            ("0", Fixed(0), Fixed(0)),
            ("1..4", Fixed(1), Fixed(4)),
            ("1..auto", Fixed(1), Auto),
            ("2..max", Fixed(2), Max),
            ("1..2x", Fixed(1), PerCore(2)),
            ("-1..2x", LessThanAuto(1), PerCore(2)),
        ] {
            let range: WorkerRange = text.parse().unwrap();
            assert_eq!((range.min, range.max), (min, max), "{text}");
            assert_eq!(range.to_string(), text);
            assert_eq!(range.is_open(), text.contains(".."));
        }
        assert!(!"2..2".parse::<WorkerRange>().unwrap().is_open());
    }

    #[test]
    fn a_text_that_is_no_range_is_refused_with_the_cure() {
        for (text, cure) in [
            ("0..4", "give 1..4"),
            ("4..1", "1..4"),
            ("4,1", "MIN..MAX"),
            ("1-4", "MIN..MAX"),
            ("1..", "MIN..MAX"),
            ("..4", "MIN..MAX"),
            ("1..=4", "MIN..MAX"),
            ("1...4", "MIN..MAX"),
            ("1..2..3", "MIN..MAX"),
            ("1..2000", "at most 1024"),
            ("many", "give auto"),
        ] {
            let error = text.parse::<WorkerRange>().unwrap_err().to_string();
            assert!(error.contains(cure), "{text}: {error}");
        }
    }

    #[test]
    fn the_upper_end_is_never_below_the_lower_one() {
        let cores = Cores::within(&Quotas::find(Path::new("/")));
        let range = |text: &str| text.parse::<WorkerRange>().unwrap().bounds(cores);
        let Bounds { min, max } = range("1000..auto").unwrap();
        assert_eq!((min, max), (1000, 1000));
        let four = range("1..4").unwrap();
        assert_eq!([0, 3, 9].map(|number| four.nearest(number)), [1, 3, 4]);
        assert!(range("1..1024x").is_err() || range("1..1024x").unwrap().max == MAX_WORKERS);
    }

    #[test]
    fn in_json_a_range_is_a_text_and_a_single_number_is_a_text_or_a_number() {
        for (json, text) in [("4", "4"), (r#""4""#, "4"), (r#""1..auto""#, "1..auto")] {
            let range: WorkerRange = serde_json::from_str(json).unwrap();
            assert_eq!(range.to_string(), text);
        }
        for json in ["-1", "1.5", "2000", "true", r#""many""#, r#""4..1""#] {
            assert!(serde_json::from_str::<WorkerRange>(json).is_err(), "{json}");
        }
    }
}
