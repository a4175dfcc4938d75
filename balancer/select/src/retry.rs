//! What may be sent again after a failure, and how often.
//!
//! RFC 9110 section 9.2.2: a proxy must not repeat a request that is not idempotent unless
//! it knows that no part of it was processed. Even an idempotent request may end one worker
//! after another; see [`next`]. The caller decides how bytes are kept for a repetition, and
//! where the repetition goes.

use crate::ending::{EndedBy, Fate};

/// How an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed {
    /// Bytes of the request were handed to the kernel, so the endpoint may have read them.
    pub written: bool,
    /// The endpoint has sent at least one byte of a response.
    pub answered: bool,
    /// All bytes that were sent are still in memory and can be sent again.
    pub replayable: bool,
    /// The connection had carried an earlier request, so its peer may have closed it before
    /// this one arrived.
    pub reused: bool,
}

/// What has happened to a request that has been sent at least once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Past {
    /// How often it was sent.
    pub tries: u32,
    /// Bytes of it were written in at least one attempt.
    pub written: bool,
    /// How often the process that executed it ended with no other known cause, here or in
    /// the hop before. An attempt whose process has an unknown fate also counts.
    pub deaths: u32,
    /// How often that process was killed from outside. Once there are two ends in total,
    /// these count as deaths, too.
    pub kills: u32,
    /// A dispatcher has handed it back, so it goes to one other pod and to no third.
    pub handed_back: bool,
}

impl Past {
    /// Records how an attempt broke off, and what became of the process that had the
    /// request.
    pub fn broke(&mut self, failed: Failed, fate: Fate) {
        self.written |= failed.written;
        if !failed.written {
            return;
        }
        match fate {
            Fate::Ended(EndedBy::Itself) | Fate::Unknown => self.deaths += 1,
            Fate::Ended(EndedBy::Outside) => self.kills += 1,
            Fate::Ended(EndedBy::Other) | Fate::Lives => {}
        }
        if self.deaths + self.kills >= MAX_DEATHS {
            self.deaths += std::mem::take(&mut self.kills);
        }
    }

    /// Whether one more end of a process would be the last one allowed for this request.
    pub fn has_met_an_end(&self) -> bool {
        self.deaths > 0 || self.kills > 0
    }
}

/// What follows an attempt that broke off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Another attempt.
    Again,
    /// The proxy in front decides, if it is a ScaledApp proxy. Any other client gets an
    /// error answer.
    HandBack(HandBack),
    /// The request has failed, and is not sent again.
    GiveUp,
}

/// What the answer to the proxy in front says about a request that may be sent to another
/// server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandBack {
    /// The request was not executed.
    NotExecuted,
    /// The request is idempotent, and was interrupted through no fault of its own.
    Interrupted,
}

/// A request is given up at this number of deaths. A process that ends while it executes a
/// request is the strongest sign that the request is the cause, so the request may be
/// repeated after one death, but not after the second.
const MAX_DEATHS: u32 = 2;

/// Whether a request that is about to be written could be repeated only with proof that it
/// was not read. This is so if it is not idempotent, or if a process that executed it has
/// already ended.
pub fn may_need_proof(past: &Past, is_idempotent: bool) -> bool {
    !is_idempotent || past.has_met_an_end()
}

/// Whether a failed attempt can be repeated only with proof that the request was not read.
/// `false` if no proof would help.
pub fn needs_proof(failed: Failed, past: &Past, is_idempotent: bool) -> bool {
    let may_help = failed.written && !failed.answered && failed.replayable;
    may_help && may_need_proof(past, is_idempotent)
}

/// What follows an attempt that broke off, if `max_tries` attempts are allowed.
pub fn next(failed: Failed, past: &Past, is_idempotent: bool, max_tries: u32) -> Next {
    let is_lost = failed.answered || !failed.replayable || (failed.written && !is_idempotent);
    if is_lost || past.deaths >= MAX_DEATHS {
        return Next::GiveUp;
    }
    if past.tries < max_tries && !past.handed_back {
        return Next::Again;
    }
    // The proxy in front does not know how many attempts were used here, so it may use more
    // of them only for a request that has not ended a process.
    match past {
        Past { deaths: 1.., .. } => Next::GiveUp,
        Past { written: true, .. } => Next::HandBack(HandBack::Interrupted),
        _ => Next::HandBack(HandBack::NotExecuted),
    }
}

/// Limits repetitions to a share of the requests, so that they cannot multiply the load
/// when everything fails (20 %, as in Envoy and Linkerd).
#[derive(Debug)]
pub struct Budget {
    percent: u32,
    /// The tokens left, in hundredths of a repetition.
    tokens: u32,
}

/// The tokens of a new budget: a server with few requests must also be able to repeat some.
const INITIAL_TOKENS: u32 = 50 * 100;
/// The most tokens that a budget can have: a busy hour must not make a storm of repetitions
/// possible later.
const MAX_TOKENS: u32 = 500 * 100;

impl Budget {
    /// A budget that allows repetitions of this percentage of the requests.
    pub fn new(percent: u32) -> Self {
        Self {
            percent,
            tokens: INITIAL_TOKENS,
        }
    }

    /// Counts one request.
    pub fn deposit(&mut self) {
        self.tokens = (self.tokens + self.percent).min(MAX_TOKENS);
    }

    /// Takes one repetition out of the budget, if any is left.
    pub fn withdraw(&mut self) -> bool {
        let left = self.tokens.checked_sub(100);
        self.tokens = left.unwrap_or(self.tokens);
        left.is_some()
    }

    /// Adds ten repetitions. It is called each second, whatever the traffic.
    pub fn refill(&mut self) {
        self.tokens = (self.tokens + 10 * 100).min(MAX_TOKENS);
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

    /// What follows each of these ends in a row, with four attempts allowed.
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
    fn a_request_that_may_have_been_executed_is_repeated_only_if_it_is_idempotent() {
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
    fn a_second_end_of_a_process_gives_the_request_up() {
        use EndedBy::{Itself, Other, Outside};
        use Fate::{Ended, Lives, Unknown};
        use Next::{Again, GiveUp};
        let interrupted = Next::HandBack(HandBack::Interrupted);
        for (fates, follows) in [
            (&[Ended(Itself), Ended(Itself)][..], &[Again, GiveUp][..]),
            (&[Unknown, Unknown], &[Again, GiveUp]),
            (&[Unknown, Ended(Itself)], &[Again, GiveUp]),
            (&[Ended(Itself), Unknown], &[Again, GiveUp]),
            (
                &[Ended(Other), Ended(Itself), Ended(Other), Ended(Itself)],
                &[Again, Again, Again, GiveUp],
            ),
            // Two kills in a row are no coincidence: the request is the likely cause.
            (&[Ended(Outside), Ended(Outside)], &[Again, GiveUp]),
            (&[Ended(Outside), Ended(Itself)], &[Again, GiveUp]),
            (&[Ended(Itself), Ended(Outside)], &[Again, GiveUp]),
            (
                &[Ended(Outside), Ended(Other), Lives, Ended(Other)],
                &[Again, Again, Again, interrupted],
            ),
            // No end so far was the fault of the request, so it gets all attempts, and then
            // another pod.
            (&[Ended(Other); 4], &[Again, Again, Again, interrupted]),
            (&[Lives; 4], &[Again, Again, Again, interrupted]),
            (
                &[Ended(Other), Lives, Ended(Other), Lives],
                &[Again, Again, Again, interrupted],
            ),
            // A request that has used its repetition is not handed back, because the proxy
            // in front would repeat it.
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
        let back = Next::HandBack(HandBack::NotExecuted);
        let fates = [Ended(Itself); 4];
        for is_idempotent in [true, false] {
            let follows = course(&fates, unwritten, is_idempotent);
            assert_eq!(follows, [Again, Again, Again, back], "it executed nothing");
        }
    }

    #[test]
    fn a_request_that_was_repeated_before_may_meet_one_end() {
        let mut past = Past {
            deaths: 1,
            tries: 1,
            ..Past::default()
        };
        assert_eq!(
            next(BROKE, &past, true, 4),
            Next::Again,
            "an end that was not its fault"
        );
        past.broke(BROKE, Fate::Ended(EndedBy::Itself));
        assert_eq!(next(BROKE, &past, true, 4), Next::GiveUp);
    }

    #[test]
    fn a_request_that_was_handed_back_goes_to_one_other_pod() {
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
