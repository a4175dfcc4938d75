//! What an outcome means for the endpoint's record, and the log message of an ejection.
//!
//! How many outcomes eject an endpoint is decided in `scaledapp-select`.

use scaledapp_select::{FIRST_EJECTION, Outcome};

use crate::clock;
use crate::endpoint::Endpoint;
use crate::metrics::count;
use crate::thread::Thread;

/// Adds an outcome to the endpoint's record.
pub(crate) fn note(thread: &Thread, endpoint: &Endpoint, outcome: Outcome) {
    let counts_errors = thread.config.ejects_errors
        && (outcome != Outcome::Error || !thread.upstreams.ejects_too_many());
    match endpoint.outlier.note(outcome, clock::now(), counts_errors) {
        None => return,
        Some(1) => tracing::warn!(
            endpoint = endpoint.name(),
            "{}; it gets no requests for {:?}, and for twice as long after each further failure",
            outcome.words(),
            FIRST_EJECTION
        ),
        Some(times) => {
            tracing::debug!(endpoint = endpoint.name(), ?outcome, times, "ejected again");
        }
    }
    count(&thread.counts.ejections);
}
