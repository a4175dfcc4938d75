//! How busy an endpoint counts as, if it may be new.

use crate::candidate::Candidate;
use crate::survey::{ROOM, Survey};

/// The load at which an endpoint counts in a choice, in thousandths. `chance` is random, below
/// 1000, and decides how often a new endpoint is passed over.
///
/// While an older endpoint has room, a new one gets its share of the requests: it is passed over
/// with the probability that it lacks, and its load counts in the proportion of its share. If no
/// older one has room, a request would wait there, so a new one gets as many requests as it has
/// room for. Beyond that, loads count in the proportion of the shares again. Apps that process
/// many requests at once in each worker are always in this last case when they are busy.
pub(crate) fn effective_load(seen: Candidate, survey: &Survey, chance: u64) -> u64 {
    if !survey.has_new() || survey.is_warm(seen) {
        return seen.load;
    }
    let scaled = seen.load * 1000 / survey.share(seen);
    if seen.load >= ROOM {
        scaled
    } else if chance < survey.bare_share(seen) {
        scaled.min(ROOM - 1)
    } else {
        ROOM - 1
    }
}
