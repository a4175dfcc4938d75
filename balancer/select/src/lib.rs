//! Which endpoint gets a request, which requests wait for one, which endpoints are ejected
//! for a while, and what may be sent again after a failure.
//!
//! All decisions depend on arguments alone: there is no socket, no clock and no runtime, so
//! that a test can simulate hours in microseconds. The forwarding path (`scaledapp-proxy`)
//! passes in what is visible of each endpoint, and carries the decisions out.

mod busyness;
mod candidate;
mod choice;
mod ending;
mod others;
mod outlier;
mod preference;
mod queue;
mod release;
mod retry;
mod standing;
mod survey;
mod warmth;

pub use candidate::{Candidate, key, tag};
pub use choice::{Algorithm, Chooser, Cursor, client_hash};
pub use ending::{EndedBy, Fate};
pub use others::Others;
pub use outlier::{
    FIRST_EJECTION, Outcome, Outlier, Rules, Verdict, may_eject_one_more, stands_out,
};
pub use preference::{Preference, preferred};
pub use queue::{Position, Queue, Supply, Ticket, Visit};
pub use release::Gone;
pub use retry::{Budget, Failed, HandBack, Next, Past, may_need_proof, needs_proof, next};
pub use standing::{Report, Standing};
pub use survey::Survey;
pub use warmth::Warmth;
