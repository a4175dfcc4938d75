//! What an outcome means for the endpoint's record, and the log message of an ejection.
//!
//! How many outcomes eject an endpoint is decided in `scaledapp-select`.

use scaledapp_select::{FIRST_EJECTION, Outcome, Rules, Verdict};

use crate::clock;
use crate::endpoint::Endpoint;
use crate::metrics::count;
use crate::thread::Thread;

/// Adds an outcome to the endpoint's record.
pub(crate) fn note(thread: &Thread, endpoint: &Endpoint, outcome: Outcome) {
    let now = clock::now();
    let rules = Rules {
        counts_errors: thread.config.ejects_errors,
    };
    let may_eject = || thread.upstreams.may_eject(endpoint, now);
    let mut random = thread.random.borrow_mut();
    let verdict = endpoint
        .outlier
        .note(outcome, now, rules, may_eject, &mut random);
    match verdict {
        Verdict::Same => return,
        Verdict::Back => {
            endpoint.begins(now);
            return;
        }
        Verdict::Ejected(1) => tracing::warn!(
            endpoint = endpoint.name(),
            "{}; it gets no requests for {:?}, and for twice as long after each further failure",
            outcome.words(),
            FIRST_EJECTION
        ),
        Verdict::Ejected(times) => {
            tracing::debug!(endpoint = endpoint.name(), ?outcome, times, "ejected again");
        }
    }
    count(&thread.counts.ejections);
}
