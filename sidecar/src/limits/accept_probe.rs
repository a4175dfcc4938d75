//! The accept probe under Request dispatch, which finds out whether a silent worker accepts
//! connections. This file decides when a worker is probed and what follows from the result.
//! The caller passes the time in; `measure` connects.

use std::time::Duration;

/// The first pause after a silent worker has accepted a probe.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Whether a worker without progress accepts connections, as far as that is known, and when
/// it is probed again.
///
/// A probe is a connection that sends nothing, and apps may log it. So the pause doubles each time
/// the worker accepts one, up to the hang timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AcceptProbe {
    /// It has not been probed since its last progress.
    Unknown,
    /// A probe is running.
    Running {
        /// The pause that follows if it accepts.
        pause: Duration,
    },
    /// It accepts: it is busy, not hung. It may stop accepting later.
    Accepts {
        /// When it is probed again, as time since the supervisor's start.
        again: Duration,
        /// The pause that ends then.
        pause: Duration,
    },
    /// It does not accept.
    Refuses,
}

impl AcceptProbe {
    /// Whether the worker has to be probed at the time `now`. `is_silent` says whether it
    /// has made no progress for longer than `silence`.
    pub(crate) fn look(&mut self, now: Duration, is_silent: bool, silence: Duration) -> bool {
        if !is_silent {
            *self = Self::Unknown;
            return false;
        }
        let pause = match *self {
            Self::Unknown => FIRST_PAUSE,
            Self::Accepts { again, pause } if now >= again => pause.saturating_mul(2),
            Self::Running { .. } | Self::Accepts { .. } | Self::Refuses => return false,
        };
        *self = Self::Running {
            pause: pause.min(silence),
        };
        true
    }

    /// Records the result of the probe at the time `now`.
    pub(crate) fn ended(&mut self, now: Duration, accepts: bool) {
        // If the worker has made progress in the meantime, the result is out of date.
        let Self::Running { pause } = *self else {
            return;
        };
        *self = if accepts {
            let again = now.saturating_add(pause);
            Self::Accepts { again, pause }
        } else {
            Self::Refuses
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_worker_that_accepts_is_probed_less_and_less_often() {
        let second = Duration::from_secs;
        let mut probe = AcceptProbe::Unknown;
        assert!(!probe.look(second(0), false, second(5)));
        let mut asked = Vec::new();
        for now in 0..30 {
            if probe.look(second(now), true, second(5)) {
                asked.push(now);
                // Only one probe runs at a time.
                assert!(!probe.look(second(now), true, second(5)));
                probe.ended(second(now), true);
            }
        }
        // Pauses of 1, 2 and 4 seconds, and then of the limit.
        assert_eq!(asked, [0, 1, 3, 7, 12, 17, 22, 27]);
        // Progress resets everything, and a late result means nothing.
        assert!(probe.look(second(32), true, second(5)));
        assert!(!probe.look(second(33), false, second(5)));
        probe.ended(second(33), false);
        assert_eq!(probe, AcceptProbe::Unknown);
        assert!(probe.look(second(34), true, second(5)));
        probe.ended(second(35), false);
        assert_eq!(probe, AcceptProbe::Refuses);
        assert!(!probe.look(second(90), true, second(5)));
    }
}
