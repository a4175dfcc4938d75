//! What is written, byte by byte, in the one form that leaves no room for a
//! second reading. What is in it is decided by the modules below.

mod answer;
mod put;
mod request;
mod response;

pub use answer::write_answer;
pub use request::{Origin, Trust, write_request};
pub use response::{Downstream, downstream_framing, write_response};
