//! Waits for a condition with a deadline. Tests wait in this way instead of sleeping for a fixed
//! time.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// Time between two checks: short compared with deadlines, long compared with most checks.
const CHECK_INTERVAL: Duration = Duration::from_millis(5);

/// Calls `look` until it returns `Ok`.
///
/// # Errors
/// `deadline` has passed. The message has `what` and the last `Err`.
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
            Err(_) => std::thread::sleep(CHECK_INTERVAL),
        }
    }
}

/// As [`until`], for a condition that is true or false.
///
/// # Errors
/// `deadline` has passed.
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
    fn the_error_names_the_condition_and_the_last_state() {
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
