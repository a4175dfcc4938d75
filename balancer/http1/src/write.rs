//! Writes heads byte by byte, in a form that can be read in only one way. The modules below
//! decide what a head contains.

mod answer;
mod put;
mod request;
mod response;

pub use answer::{Page, write_answer, write_grpc_answer, write_page, write_redirect};
pub(crate) use put::put_field;
pub use request::{Origin, Trust, write_request};
pub use response::{Downstream, append_field, downstream_framing, write_response};
