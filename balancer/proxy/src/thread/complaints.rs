//! What a forwarding thread says in the log about its peers, and how often.
//!
//! What is answered to them is decided where the fault is found.

use std::cell::Cell;
use std::io;
use std::time::Duration;

use scaledapp_http1::Refusal;

use super::{SHED, Thread};
use crate::config::Role;
use crate::endpoint::Endpoint;

/// Between two complaints of a kind in the log.
const COMPLAINTS: Duration = Duration::from_secs(10);

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

    /// Says so in the log, now and then: a client with a head beyond a limit is refused.
    pub(crate) fn head_is_too_large(&self, refusal: &Refusal) {
        let cure = cure_for_limit(refusal.reason);
        if !cure.is_empty() && self.is_due(&self.large_at) {
            tracing::warn!(
                status = refusal.status,
                "a request is refused: {}{cure}",
                refusal.rule()
            );
        }
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

    /// Says so in the log, once; at the edge it is nothing unusual.
    pub(crate) fn client_spoke_tls(&self) {
        if self.config.role == Role::Dispatcher && !self.knows_tls.replace(true) {
            tracing::warn!(
                "a client speaks TLS, which is not ended here: end it in front; if the app serves \
                 TLS itself, give --dispatch connection"
            );
        }
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
