//! Which endpoint gets a request, which requests wait for one, which endpoints are ejected
//! for a while, and what may be sent again after a failure.
//!
//! All decisions depend on arguments alone: there is no socket, no clock and no runtime, so
//! that a test can simulate hours in microseconds. The forwarding path (`scaledapp-proxy`)
//! passes in what is visible of each endpoint, and carries the decisions out.

mod choice;
mod ending;
mod outlier;
mod preference;
mod queue;
mod retry;
mod standing;

pub use choice::{Algorithm, Candidate, Cursor, choose, client_hash, key, tag};
pub use ending::{EndedBy, Fate};
pub use outlier::{FIRST_EJECTION, Outcome, Outlier};
pub use preference::{Preference, preferred};
pub use queue::{Position, Queue, Ticket, Visit};
pub use retry::{Budget, Failed, HandBack, Next, Past, may_need_proof, needs_proof, next};
pub use standing::{Report, Standing};
