//! What may be sent again after a failure, and how often.
//!
//! Pure. RFC 9110 section 9.2.2: a proxy must not repeat a request that is not
//! idempotent unless it knows that nothing of it was processed. What is idempotent may
//! still be what ends one worker after the other; see [`next`].

use scaledapp_http1::Elsewhere;

use crate::endpoint::EndedBy;

/// How an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failed {
    /// Bytes of the request were handed to the kernel, and may have been read.
    pub(crate) written: bool,
    /// Any byte of a response has been seen.
    pub(crate) answered: bool,
    /// Everything sent so far is still there to be sent again.
    pub(crate) replayable: bool,
    /// The connection had carried a request before; its peer may have closed
    /// it without having seen this one.
    pub(crate) reused: bool,
}

/// What became of the process that had the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It runs on: it has closed the connection, and that was all.
    Lives,
    /// It is gone, or about to be.
    Ended(EndedBy),
    /// Nobody knows: a pod that others supervise, or a process among several.
    Unknown,
}

/// What a request has behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Past {
    /// How often it was sent.
    pub(crate) tries: u32,
    /// Bytes of it were written in one of these.
    pub(crate) written: bool,
    /// How often it was executed when its process ended, for all that is known by
    /// its own doing; here or in the hop before.
    pub(crate) deaths: u32,
    /// How often when somebody outside killed its process. These are deaths, too, once
    /// there are two ends in all.
    pub(crate) kills: u32,
    /// A dispatcher has handed it back, so that this was its last try.
    pub(crate) handed_back: bool,
}

impl Past {
    /// Takes in how a try broke off.
    pub(crate) fn broke(&mut self, failed: Failed, fate: Fate) {
        self.written |= failed.written;
        if !failed.written {
            return;
        }
        match fate {
            Fate::Ended(EndedBy::Itself) | Fate::Unknown => self.deaths += 1,
            Fate::Ended(EndedBy::Outside) => self.kills += 1,
            Fate::Ended(EndedBy::Other) | Fate::Lives => {}
        }
        if self.deaths + self.kills >= DEATHS {
            self.deaths += std::mem::take(&mut self.kills);
        }
    }

    /// Whether one end more is the last.
    pub(crate) fn has_met_an_end(&self) -> bool {
        self.deaths > 0 || self.kills > 0
    }
}

/// What follows a try that broke off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Another try.
    Again,
    /// The last word is that of the proxy in front, if one of ours stands there.
    HandBack(Elsewhere),
    /// The client is told that it failed.
    GiveUp,
}

/// A process that ends while it executes a request is the strongest sign that the
/// request is the cause. So it is repeated once, and a second end is the last one.
const DEATHS: u32 = 2;

/// Whether a request that is about to be written may be repeated only with a proof that
/// it was not read: one that is not idempotent, and one that has met an end, of which a
/// second is the last.
pub(crate) fn may_need_proof(past: &Past, is_idempotent: bool) -> bool {
    !is_idempotent || past.has_met_an_end()
}

/// The same of one that was written and broke off, if a proof would help.
pub(crate) fn needs_proof(failed: Failed, past: &Past, is_idempotent: bool) -> bool {
    let may_help = failed.written && !failed.answered && failed.replayable;
    may_help && may_need_proof(past, is_idempotent)
}

/// What follows a try that broke off, when `tries` are allowed.
pub(crate) fn next(failed: Failed, past: &Past, is_idempotent: bool, tries: u32) -> Next {
    let is_lost = failed.answered || !failed.replayable || (failed.written && !is_idempotent);
    if is_lost || past.deaths >= DEATHS {
        return Next::GiveUp;
    }
    if past.tries < tries && !past.handed_back {
        return Next::Again;
    }
    // The proxy in front does not know which chances are used up: only a request
    // that has used none for itself may have more of them elsewhere.
    match past {
        Past { deaths: 1.., .. } => Next::GiveUp,
        Past { written: true, .. } => Next::HandBack(Elsewhere::Interrupted),
        _ => Next::HandBack(Elsewhere::NotExecuted),
    }
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

    const BROKE: Failed = Failed {
        written: true,
        answered: false,
        replayable: true,
        reused: false,
    };

    /// What follows each of these ends in a row, with four tries.
    fn course(fates: &[Fate], failed: Failed, is_idempotent: bool) -> Vec<Next> {
        let mut past = Past::default();
        let follows = fates.iter().map(|fate| {
            past.tries += 1;
            past.broke(failed, *fate);
            next(failed, &past, is_idempotent, 4)
        });
        follows.collect()
    }

    #[test]
    fn what_may_have_happened_is_repeated_only_if_that_changes_nothing() {
        let fates = [
            Fate::Lives,
            Fate::Unknown,
            Fate::Ended(EndedBy::Itself),
            Fate::Ended(EndedBy::Other),
            Fate::Ended(EndedBy::Outside),
        ];
        for (fate, is_idempotent) in fates
            .iter()
            .flat_map(|fate| [(*fate, true), (*fate, false)])
        {
            for (written, answered, replayable) in [
                (true, false, true),
                (false, false, true),
                (true, true, true),
                (true, false, false),
                (true, true, false),
            ] {
                let failed = Failed {
                    written,
                    answered,
                    replayable,
                    reused: false,
                };
                let may = !answered && replayable && (is_idempotent || !written);
                let follows = course(&[fate], failed, is_idempotent);
                let expected = if may { Next::Again } else { Next::GiveUp };
                assert_eq!(follows, [expected], "{fate:?} {is_idempotent} {failed:?}");
            }
        }
    }

    #[test]
    fn a_second_end_of_its_process_is_the_last_one() {
        use EndedBy::{Itself, Other, Outside};
        use Fate::{Ended, Lives, Unknown};
        use Next::{Again, GiveUp, HandBack};
        let interrupted = HandBack(Elsewhere::Interrupted);
        for (fates, follows) in [
            (&[Ended(Itself), Ended(Itself)][..], &[Again, GiveUp][..]),
            (&[Unknown, Unknown], &[Again, GiveUp]),
            (&[Unknown, Ended(Itself)], &[Again, GiveUp]),
            (&[Ended(Itself), Unknown], &[Again, GiveUp]),
            (
                &[Ended(Other), Ended(Itself), Ended(Other), Ended(Itself)],
                &[Again, Again, Again, GiveUp],
            ),
            // Whoever kills two in a row means the request.
            (&[Ended(Outside), Ended(Outside)], &[Again, GiveUp]),
            (&[Ended(Outside), Ended(Itself)], &[Again, GiveUp]),
            (&[Ended(Itself), Ended(Outside)], &[Again, GiveUp]),
            (
                &[Ended(Outside), Ended(Other), Lives, Ended(Other)],
                &[Again, Again, Again, interrupted],
            ),
            // Innocent so far: all tries, and another pod.
            (&[Ended(Other); 4], &[Again, Again, Again, interrupted]),
            (&[Lives; 4], &[Again, Again, Again, interrupted]),
            (
                &[Ended(Other), Lives, Ended(Other), Lives],
                &[Again, Again, Again, interrupted],
            ),
            // What has used its repetition is not handed to whom it would get another from.
            (
                &[Ended(Itself), Ended(Other), Lives, Ended(Other)],
                &[Again, Again, Again, GiveUp],
            ),
        ] {
            assert_eq!(course(fates, BROKE, true), follows, "{fates:?}");
        }
        let unwritten = Failed {
            written: false,
            ..BROKE
        };
        let back = HandBack(Elsewhere::NotExecuted);
        let fates = [Ended(Itself); 4];
        for is_idempotent in [true, false] {
            let follows = course(&fates, unwritten, is_idempotent);
            assert_eq!(follows, [Again, Again, Again, back], "it executed nothing");
        }
    }

    #[test]
    fn what_was_repeated_before_it_came_has_one_end_left() {
        let mut past = Past {
            deaths: 1,
            tries: 1,
            ..Past::default()
        };
        assert_eq!(next(BROKE, &past, true, 4), Next::Again, "an innocent end");
        past.broke(BROKE, Fate::Ended(EndedBy::Itself));
        assert_eq!(next(BROKE, &past, true, 4), Next::GiveUp);
    }

    #[test]
    fn what_was_handed_back_goes_to_one_other_pod() {
        let mut past = Past {
            tries: 1,
            ..Past::default()
        };
        assert_eq!(next(BROKE, &past, true, 4), Next::Again);
        past.handed_back = true;
        past.tries = 2;
        assert_ne!(next(BROKE, &past, true, 4), Next::Again);
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
