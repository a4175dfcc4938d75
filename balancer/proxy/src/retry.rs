//! What may be sent again after a failure, and how often.
//!
//! Pure. RFC 9110 section 9.2.2: a proxy must not repeat a request that is not
//! idempotent unless it knows that nothing of it was processed.

/// How an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failed {
    /// Bytes of the request that were handed to the kernel.
    pub(crate) written: bool,
    /// Any byte of a response has been seen.
    pub(crate) answered: bool,
    /// Everything sent so far is still there to be sent again.
    pub(crate) replayable: bool,
    /// The connection had carried a request before; its peer may have closed
    /// it without having seen this one.
    pub(crate) reused: bool,
}

/// Whether the request may be sent again.
pub(crate) fn may_repeat(failed: Failed, idempotent: bool) -> bool {
    !failed.answered && failed.replayable && (idempotent || !failed.written)
}

/// Keeps repetitions from becoming the load: when everything fails, a budget
/// stops what would multiply it (20 % of requests, as Envoy and Linkerd have it).
#[derive(Debug)]
pub(crate) struct Budget {
    percent: u32,
    /// Hundredths of a repetition.
    tokens: u32,
}

/// A quiet server must still be able to repeat.
const LEAST: u32 = 50 * 100;
/// A busy hour must not pay for a storm.
const MOST: u32 = 500 * 100;

impl Budget {
    pub(crate) fn new(percent: u32) -> Self {
        Self {
            percent,
            tokens: LEAST,
        }
    }

    /// Counts a request.
    pub(crate) fn deposit(&mut self) {
        self.tokens = (self.tokens + self.percent).min(MOST);
    }

    /// Takes one repetition, if there is any.
    pub(crate) fn withdraw(&mut self) -> bool {
        let left = self.tokens.checked_sub(100);
        self.tokens = left.unwrap_or(self.tokens);
        left.is_some()
    }

    /// As time goes by (each second): ten more, whatever the traffic.
    pub(crate) fn refill(&mut self) {
        self.tokens = (self.tokens + 10 * 100).min(MOST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_repeated_that_may_have_happened() {
        let failed = Failed {
            written: true,
            answered: false,
            replayable: true,
            reused: false,
        };
        assert!(may_repeat(failed, true));
        assert!(
            !may_repeat(failed, false),
            "a POST may have been carried out"
        );
        assert!(may_repeat(
            Failed {
                written: false,
                ..failed
            },
            false
        ));
        for idempotent in [true, false] {
            assert!(!may_repeat(
                Failed {
                    answered: true,
                    ..failed
                },
                idempotent
            ));
            assert!(!may_repeat(
                Failed {
                    replayable: false,
                    ..failed
                },
                idempotent
            ));
        }
    }

    #[test]
    fn repetitions_are_a_share_of_requests() {
        let mut budget = Budget::new(20);
        let mut spent = 0;
        while budget.withdraw() {
            spent += 1;
        }
        assert_eq!(spent, 50);
        for _ in 0..100 {
            budget.deposit();
        }
        let more = (0..100).filter(|_| budget.withdraw()).count();
        assert_eq!(more, 20);
        budget.refill();
        assert_eq!((0..100).filter(|_| budget.withdraw()).count(), 10);
    }
}
