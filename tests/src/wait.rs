//! Waiting for a condition with a deadline, the only form of waiting here.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// Between two looks. Short against every deadline, long against a look.
const PERIOD: Duration = Duration::from_millis(5);

/// Looks until `look` gives `Ok`; its last `Err` is part of the error.
///
/// # Errors
/// `deadline` passed. The text names `what` and what was seen last.
pub fn until<T, E: Display>(
    deadline: Duration,
    what: &str,
    mut look: impl FnMut() -> Result<T, E>,
) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        match look() {
            Ok(value) => return Ok(value),
            Err(seen) if start.elapsed() >= deadline => {
                anyhow::bail!("not within {deadline:?}: {what}; last seen: {seen:#}");
            }
            Err(_) => std::thread::sleep(PERIOD),
        }
    }
}

/// As [`until`], for a plain condition.
///
/// # Errors
/// `deadline` passed.
pub fn until_true(
    deadline: Duration,
    what: &str,
    mut look: impl FnMut() -> bool,
) -> anyhow::Result<()> {
    until(deadline, what, || if look() { Ok(()) } else { Err("no") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_names_what_was_awaited_and_what_was_seen() {
        let mut looks = 0;
        let error = until::<(), _>(Duration::from_millis(20), "a dry river", || {
            looks += 1;
            Err(format!("look {looks}"))
        })
        .unwrap_err()
        .to_string();
        assert!(
            error.contains("a dry river") && error.contains("look "),
            "{error}"
        );
        assert!(looks > 1, "looked {looks} times");
    }
}
