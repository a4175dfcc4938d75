//! When a silent worker is asked whether it accepts connections (Request dispatch), and
//! what follows from the answer. Time is passed in; `measure` asks.

use std::time::Duration;

/// How long a silent worker that accepts is left alone at first.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Whether a worker that shows no sign of life accepts connections, as far as it
/// was asked, and when it is asked again.
///
/// To ask is a connection that sends nothing, and apps may log it. So one that
/// accepts is left alone for twice as long each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hearing {
    /// It was not asked since it last showed a sign of life.
    Unknown,
    /// It is being asked. If it accepts, it is left alone for so long.
    Asked {
        /// The pause after the answer.
        pause: Duration,
    },
    /// It does: it is busy, not hung. It may stop doing so.
    Accepts {
        /// When it is asked again, on the clock that starts with the supervisor.
        again: Duration,
        /// The pause that ends then.
        pause: Duration,
    },
    /// It does not.
    Deaf,
}

impl Hearing {
    /// Whether the worker has to be asked at the time `now`, when it `is_silent`
    /// beyond the limit of `silence`, or is not.
    pub(crate) fn look(&mut self, now: Duration, is_silent: bool, silence: Duration) -> bool {
        if !is_silent {
            *self = Self::Unknown;
            return false;
        }
        let pause = match *self {
            Self::Unknown => FIRST_PAUSE,
            Self::Accepts { again, pause } if now >= again => pause.saturating_mul(2),
            Self::Asked { .. } | Self::Accepts { .. } | Self::Deaf => return false,
        };
        *self = Self::Asked {
            pause: pause.min(silence),
        };
        true
    }

    /// Whether it accepts, as it was found at the time `now`.
    pub(crate) fn told(&mut self, now: Duration, accepts: bool) {
        // A sign of life that came meanwhile says more.
        let Self::Asked { pause } = *self else {
            return;
        };
        *self = if accepts {
            let again = now.saturating_add(pause);
            Self::Accepts { again, pause }
        } else {
            Self::Deaf
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_worker_that_accepts_is_asked_ever_more_rarely() {
        let second = Duration::from_secs;
        let mut hearing = Hearing::Unknown;
        assert!(!hearing.look(second(0), false, second(5)));
        let mut asked = Vec::new();
        for now in 0..30 {
            if hearing.look(second(now), true, second(5)) {
                asked.push(now);
                // It is not asked twice at a time.
                assert!(!hearing.look(second(now), true, second(5)));
                hearing.told(second(now), true);
            }
        }
        // Pauses of 1, 2 and 4 seconds, and then of the limit.
        assert_eq!(asked, [0, 1, 3, 7, 12, 17, 22, 27]);
        // A sign of life begins it all anew, and an answer that is late means nothing.
        assert!(hearing.look(second(32), true, second(5)));
        assert!(!hearing.look(second(33), false, second(5)));
        hearing.told(second(33), false);
        assert_eq!(hearing, Hearing::Unknown);
        assert!(hearing.look(second(34), true, second(5)));
        hearing.told(second(35), false);
        assert_eq!(hearing, Hearing::Deaf);
        assert!(!hearing.look(second(90), true, second(5)));
    }
}
