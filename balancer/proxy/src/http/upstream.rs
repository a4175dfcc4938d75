//! An upstream connection with a request on it, and what is known of its end.
//!
//! Whether it may be used again is decided in `exchange`; whether its end shows that the
//! request was not read is decided in `unread`.

use crate::buffer::Buffer;
use crate::unread::{Link, Sent};
use scaledapp_http1::Elsewhere;

/// An upstream connection with a request on it.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) link: Link,
    pub(crate) input: Buffer,
    /// It has carried an earlier request.
    pub(crate) reused: bool,
    /// It accepts no more of the request; its answer may have come.
    pub(crate) deaf: bool,
    /// A write has failed with a reset. The kernel reports that only once, and a later read
    /// looks like an orderly end (tcp(7), `sk_err` in Linux).
    pub(crate) reset: bool,
    /// It has closed its side with an orderly close.
    pub(crate) finished: bool,
    /// Bytes that were written to it before this request.
    before: u64,
    /// It has sent something.
    pub(crate) spoke: bool,
    /// A dispatcher has handed the request back over it.
    pub(crate) hands_back: Option<Elsewhere>,
}

impl Upstream {
    pub(crate) fn new(link: Link, reused: bool) -> Self {
        Self {
            before: link.sent,
            link,
            input: Buffer::default(),
            reused,
            deaf: false,
            reset: false,
            finished: false,
            spoke: false,
            hands_back: None,
        }
    }

    /// What was sent on it, if the end of it can be observed.
    pub(crate) fn sent(&self, may_reset: bool) -> Option<Sent> {
        Some(Sent {
            ends: self.link.ends?,
            before: self.before,
            request: self.link.sent - self.before,
            is_orderly: self.finished && !self.reset,
            may_reset,
        })
    }
}
