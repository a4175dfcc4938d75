//! The violations that are found in an object, and what several checks have in common. Which values
//! are valid is decided beside this file.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

pub(super) const ONE: NonZeroU32 = NonZeroU32::MIN;
pub(super) const TWO: NonZeroU32 = NonZeroU32::new(2).expect("invariant: 2 is not 0");
/// Most workers of a pod, as in the supervisor: a higher number counts as a typing error.
pub(super) const MAX_WORKERS: i32 = 1024;
pub(super) const MAX_PODS: i32 = 5000;
pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const DAY: Duration = Duration::from_hours(24);

/// One thing that is wrong with an object. Displays as `FIELD: what and cure`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The field, such as `spec.port`.
    pub path: String,
    /// What is wrong, and the cure.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// The violations found so far. Each method returns a usable value even if it found a
/// violation, so that the checks after it can go on.
#[derive(Debug, Default)]
pub(crate) struct Check(Vec<Violation>);

impl Check {
    pub(crate) fn violation(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push(Violation {
            path: path.into(),
            message: message.into(),
        });
    }

    /// `value`, unless there is a violation.
    pub(crate) fn finish<T>(self, value: T) -> Result<T, Vec<Violation>> {
        if self.0.is_empty() {
            Ok(value)
        } else {
            Err(self.0)
        }
    }

    /// A count from 1 to `most`. `zero` says why a smaller number is wrong.
    pub(super) fn count(&mut self, path: &str, value: i32, most: i32, zero: &str) -> NonZeroU32 {
        let in_range = u32::try_from(value).ok().and_then(NonZeroU32::new);
        match in_range {
            Some(count) if value <= most => count,
            Some(_) => {
                self.violation(path, format!("{value} is too many: give at most {most}"));
                ONE
            }
            None => {
                self.violation(path, format!("{value} {zero}: give 1 to {most}"));
                ONE
            }
        }
    }
}
