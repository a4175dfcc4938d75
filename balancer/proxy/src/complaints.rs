//! What a forwarding thread says in the log about its peers, and how often.
//!
//! What is answered to them is decided where the fault is found.

use std::cell::{Cell, RefCell};
use std::io;
use std::time::Duration;

use super::{SHED, Thread};
use crate::config::Role;
use crate::endpoint::Endpoint;

/// Between two complaints of a kind in the log.
const COMPLAINTS: Duration = Duration::from_secs(10);

/// When complaints with a reason were made last.
pub(super) type Said = RefCell<Vec<(&'static str, Cell<Option<Duration>>)>>;

impl Thread {
    /// Whether it is time for another complaint like the one at `last`.
    pub(super) fn is_due(&self, last: &Cell<Option<Duration>>) -> bool {
        let now = self.clock.now();
        let is_due = |at| now.saturating_sub(at) >= COMPLAINTS;
        let due = last.get().is_none_or(is_due);
        if due {
            last.set(Some(now));
        }
        due
    }

    /// We ourselves have too little of something: connections on which nothing goes on
    /// give way to those that have something to say. The log says so now and then,
    /// since it is noticed with each request.
    pub(crate) fn is_short(&self, what: &str, error: &io::Error) {
        self.pool.borrow_mut().empty();
        self.clock.end_idle(SHED);
        if !self.is_due(&self.short_at) {
            return;
        }
        let cure = if error.kind() == io::ErrorKind::AddrNotAvailable {
            "widen net.ipv4.ip_local_port_range"
        } else {
            "raise the limit of open files (`ulimit -Hn`, LimitNOFILE=)"
        };
        tracing::warn!(%error, "{what} from here: {cure}");
    }

    /// Says so in the log, not for each answer: who gets a 502, or a part of an answer,
    /// must find its cause. `line` is the beginning of the field that is to blame.
    pub(crate) fn answer_is_malformed(
        &self,
        endpoint: &Endpoint,
        reason: &'static str,
        rule: &'static str,
        line: &[u8],
    ) {
        if !self.is_due(&self.malformed_at) {
            return;
        }
        let endpoint = endpoint.name();
        if reason == "status-line" {
            let cure = match self.config.role {
                Role::Dispatcher => {
                    "; an app that serves TLS, HTTP/2 or another protocol needs --dispatch connection"
                }
                Role::Balancer => "",
            };
            tracing::warn!(
                endpoint,
                reason,
                "an answer is not HTTP/1.x, the client gets 502{cure}"
            );
            return;
        }
        let cure = cure_for_limit(reason);
        let field = line.escape_ascii();
        tracing::warn!(
            endpoint,
            reason,
            %field,
            "an answer is malformed and not passed on: {rule}{cure}"
        );
    }

    /// Says so in the log, now and then for each reason: a client's request is refused.
    /// Only what a flag of ours can mend is a warning, as anybody may send the rest.
    pub(crate) fn request_is_refused(&self, status: u16, reason: &'static str, rule: &str) {
        if !self.is_due_for(reason) {
            return;
        }
        let cure = cure_for_limit(reason);
        if cure.is_empty() {
            tracing::info!(status, reason, "a request is refused: {rule}");
        } else {
            tracing::warn!(status, reason, "a request is refused: {rule}{cure}");
        }
    }

    /// Says so in the log, now and then for each reason: a client gets a 5xx of ours.
    pub(crate) fn request_failed(
        &self,
        status: u16,
        reason: &'static str,
        endpoint: Option<&Endpoint>,
    ) {
        if !self.is_due_for(reason) {
            return;
        }
        let endpoint = endpoint.map(Endpoint::name);
        let what = match reason {
            "no-endpoint" => "no endpoint serves",
            "queue-timeout" => "all endpoints are busy, and it has waited for too long",
            "queue-full" => "all endpoints are busy, and no more requests may wait",
            "path-ends-workers" => "its path goes on ending workers",
            "upstream-timeout" => "the endpoint took too long",
            "out-of-memory" => "memory is short",
            _ => "the endpoint broke off, and it may not be repeated",
        };
        tracing::warn!(status, reason, endpoint, "a request is not served: {what}");
    }

    /// As [`Thread::is_due`], for complaints with a reason, of which there are few.
    fn is_due_for(&self, reason: &'static str) -> bool {
        let mut said = self.said_at.borrow_mut();
        let at = said.iter().position(|(said, _)| *said == reason);
        let at = at.unwrap_or_else(|| {
            said.push((reason, Cell::new(None)));
            said.len() - 1
        });
        self.is_due(&said[at].1)
    }

    /// Says so in the log, once.
    pub(crate) fn client_spoke_http2(&self) {
        if self.knows_http2.replace(true) {
            return;
        }
        let cure = match self.config.role {
            Role::Dispatcher => {
                "an app that serves HTTP/2 or gRPC itself needs --dispatch connection"
            }
            Role::Balancer => "end HTTP/2 in front of this balancer",
        };
        tracing::warn!(
            "a client speaks HTTP/2 (or gRPC), which is not spoken here: let it use HTTP/1.1; {cure}"
        );
    }

    /// Says so in the log, once.
    pub(crate) fn client_spoke_tls(&self) {
        if self.knows_tls.replace(true) {
            return;
        }
        let cure = match self.config.role {
            Role::Dispatcher => {
                "end it in front; if the app serves TLS itself, give --dispatch connection"
            }
            Role::Balancer => "end it in front of this balancer, or let the client use http://",
        };
        tracing::warn!("a client speaks TLS, which is not ended here: {cure}");
    }
}

/// Which flag to raise, if `reason` is a limit.
fn cure_for_limit(reason: &str) -> &'static str {
    match reason {
        "head-too-long" | "target-too-long" => "; raise --head-bytes if it is needed",
        "too-many-fields" => "; raise --head-fields if they are needed",
        _ => "",
    }
}
