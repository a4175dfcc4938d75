//! To which endpoint a client comes back. A cookie that names pod and worker decides this, or a
//! field of the client's requests, or the client's address.
//!
//! Nothing is shared between proxies. A cookie is read by every balancer and by the dispatcher in
//! the pod. Which endpoint a preference leads to is decided in `scaledapp-select`.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use scaledapp_http1::{self as http1, Request, Response};
use scaledapp_select::{Preference, client_hash, tag};
use scaledapp_units::Fnv1a;

use crate::config::Role;
use crate::endpoint::Endpoint;
use crate::sticky_kind::Sticky;

/// What a cookie names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Binding {
    /// The tag of the pod; 0 without a balancer.
    pub(crate) pod: u64,
    /// The worker's slot; `None` without a dispatcher.
    pub(crate) worker: Option<u32>,
}

/// The version of the value's format, with its separator.
const VERSION: &str = "v1.";

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.worker {
            Some(worker) => format!("{VERSION}{:010x}.{worker}", self.pod),
            None => format!("{VERSION}{:010x}.-", self.pod),
        };
        write!(f, "{text}.{:02x}", check(&text))
    }
}

/// Detects values that were cut or mistyped. It proves nothing: a client may choose its server.
fn check(text: &str) -> u8 {
    Fnv1a::default().with(text.bytes()).get() as u8
}

impl Binding {
    /// Reads a cookie's value; `None` if it is none of ours.
    pub(crate) fn parse(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?;
        let (rest, sum) = text.rsplit_once('.')?;
        if u8::from_str_radix(sum, 16).ok()? != check(rest) {
            return None;
        }
        let (pod, worker) = rest.strip_prefix(VERSION)?.split_once('.')?;
        Some(Self {
            pod: u64::from_str_radix(pod, 16).ok()?,
            worker: match worker {
                "-" => None,
                worker => Some(worker.parse().ok()?),
            },
        })
    }

    /// The endpoint that the cookie names for this hop.
    pub(crate) fn preference(self, role: Role) -> Option<Preference> {
        match role {
            Role::Balancer => Some(Preference::Tag(self.pod)),
            Role::Dispatcher => {
                let worker = self.worker?;
                Some(Preference::Tag(tag(&worker.to_string())))
            }
        }
    }
}

/// The value of a `Set-Cookie` field (RFC 6265). The cookie ends with the browser's session.
pub(crate) fn set_cookie(name: &str, binding: Binding, is_secured: bool) -> String {
    let secure = if is_secured { "; Secure" } else { "" };
    format!("{name}={binding}; Path=/; HttpOnly; SameSite=Lax{secure}")
}

/// What decides whether a client gets a cookie.
pub(crate) struct Binder<'a> {
    pub(crate) sticky: Option<Sticky>,
    pub(crate) role: Role,
    pub(crate) is_behind: bool,
    pub(crate) is_secured: bool,
    pub(crate) endpoint: &'a Endpoint,
    /// What the client's cookie names.
    pub(crate) shown: Option<Binding>,
    /// Whether the cookie names another endpoint, which serves but was too busy.
    pub(crate) is_elsewhere: bool,
}

impl Binder<'_> {
    /// Adds to the head in `out` where the client belongs from now on, unless its cookie says so
    /// already. A dispatcher behind a balancer only names the worker: the balancer sets the cookie.
    pub(crate) fn bind(&self, out: &mut Vec<u8>, response: &Response<'_>) {
        let Some(cookie) = self.sticky.and_then(Sticky::cookie) else {
            return;
        };
        let own: Option<u32> = self.endpoint.name().parse().ok();
        let shown = self.shown.unwrap_or(Binding {
            pod: 0,
            worker: None,
        });
        let binding = match self.role {
            Role::Dispatcher => Binding {
                pod: shown.pod,
                worker: if self.is_elsewhere { shown.worker } else { own },
            },
            Role::Balancer => {
                let theirs = take_cookie(out, cookie).and_then(|theirs| theirs.worker);
                let named = || response.worker().and_then(number);
                let pod = self.endpoint.tag();
                // A dispatcher that knows no balancer says nothing if the cookie is right.
                let kept = || shown.worker.filter(|_| shown.pod == pod);
                Binding {
                    pod,
                    worker: theirs.or_else(named).or_else(kept),
                }
            }
        };
        if self.role == Role::Dispatcher && self.is_behind {
            if let Some(worker) = binding.worker {
                http1::append_field(out, "Scaledapp-Worker", &worker.to_string());
            }
            return;
        }
        // A client whose own server is only busy goes back to it.
        let is_known =
            self.shown == Some(binding) || self.role == Role::Balancer && self.is_elsewhere;
        if is_known {
            return;
        }
        let value = set_cookie(cookie, binding, self.is_secured);
        http1::append_field(out, "Set-Cookie", &value);
        // A cache must not give one client's cookie to others.
        let is_private = response.field("cache-control").is_some_and(|value| {
            let value = value.to_ascii_lowercase();
            let has = |word: &[u8]| value.windows(word.len()).any(|window| window == word);
            has(b"private") || has(b"no-store")
        });
        if !is_private {
            http1::append_field(out, "Cache-Control", "private");
        }
    }
}

fn number(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Removes from the heads in `out` the cookie that a dispatcher has set. A dispatcher sets a cookie
/// itself if it does not know that a balancer is in front of it.
fn take_cookie(out: &mut Vec<u8>, name: &str) -> Option<Binding> {
    const FIELD: &[u8] = b"set-cookie: ";
    let mut start = 0;
    while let Some(length) = out[start..].iter().position(|&byte| byte == b'\n') {
        let end = start + length + 1;
        let line = &out[start..end];
        let is_cookie = line.len() > FIELD.len() && line[..FIELD.len()].eq_ignore_ascii_case(FIELD);
        let binding = is_cookie.then(|| {
            let value = line[FIELD.len()..].strip_prefix(name.as_bytes())?;
            let value = value.strip_prefix(b"=")?;
            Binding::parse(value.split(|&byte| byte == b';').next()?)
        });
        if let Some(Some(binding)) = binding {
            out.drain(start..end);
            return Some(binding);
        }
        start = end;
    }
    None
}

/// A request of engine.io, the transport of socket.io. Its first request, and all requests of a
/// session, must reach the same worker; many of its clients (Node, mobile apps, pages of other
/// sites) return no cookies. So without a cookie, the client's address decides where a session
/// begins, and afterwards its id does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EngineIo {
    /// The hash of the session's id; `None` for the first request.
    pub(crate) session: Option<u64>,
}

impl EngineIo {
    fn of(path: &[u8]) -> Option<Self> {
        let at = path.iter().position(|&byte| byte == b'?')?;
        let parameters = path[at + 1..].split(|&byte| byte == b'&');
        if !parameters
            .clone()
            .any(|parameter| parameter.starts_with(b"EIO="))
        {
            return None;
        }
        let is_websocket = parameters
            .clone()
            .any(|parameter| parameter == b"transport=websocket");
        let mut sessions = parameters.filter_map(|parameter| parameter.strip_prefix(b"sid="));
        let session = sessions.next().filter(|id| !id.is_empty());
        // A session that begins with a WebSocket has no other requests.
        if session.is_none() && is_websocket {
            return None;
        }
        Some(Self {
            session: session.map(|id| Fnv1a::default().with(id.iter().copied()).get()),
        })
    }
}

/// The parts of a request that decide to which endpoint it goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Returning {
    /// What its cookie names.
    pub(crate) binding: Option<Binding>,
    /// Only where cookies are used.
    pub(crate) engine_io: Option<EngineIo>,
    /// The endpoint to which the deciding field or address leads.
    hashed: Option<Preference>,
}

impl Returning {
    pub(crate) fn of(sticky: Sticky, request: &Request<'_>, source: IpAddr) -> Self {
        match sticky {
            Sticky::Cookie(name) => {
                let engine_io = EngineIo::of(request.path());
                Self {
                    binding: request.cookies(name).find_map(Binding::parse),
                    engine_io,
                    // Passing a busy endpoint over would lose the session.
                    hashed: engine_io.map(|_| Preference::Owner(client_hash(source))),
                }
            }
            Sticky::Field(name) => Self {
                hashed: request.field(name).map(|value| {
                    Preference::Weight(Fnv1a::default().with(value.iter().copied()).get())
                }),
                ..Self::default()
            },
            Sticky::Address => Self {
                hashed: Some(Preference::Weight(client_hash(source))),
                ..Self::default()
            },
        }
    }

    /// The endpoints to which the request should go, the best first.
    pub(crate) fn preferences(self, role: Role, sessions: &Sessions) -> [Option<Preference>; 3] {
        let session = self.engine_io.and_then(|it| it.session);
        [
            session.and_then(|id| sessions.tag(id)).map(Preference::Tag),
            self.binding.and_then(|binding| binding.preference(role)),
            self.hashed,
        ]
    }
}

/// How many sessions are remembered in each of two halves.
const MAX_SESSIONS: usize = 32 << 10;

/// The endpoints of sessions of engine.io, shared by all threads. If there are too many, those that
/// were not used for longest are forgotten; they go by their clients' addresses again.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<Halves>);

#[derive(Debug, Default)]
struct Halves {
    newer: HashMap<u64, u64>,
    older: HashMap<u64, u64>,
}

impl Sessions {
    fn halves(&self) -> MutexGuard<'_, Halves> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tag(&self, session: u64) -> Option<u64> {
        let halves = self.halves();
        let found = halves.newer.get(&session);
        found.or_else(|| halves.older.get(&session)).copied()
    }

    /// The endpoint with this tag has accepted a request of the session.
    pub(crate) fn learn(&self, session: u64, tag: u64) {
        let mut halves = self.halves();
        if halves.newer.len() >= MAX_SESSIONS {
            halves.older = std::mem::take(&mut halves.newer);
        }
        halves.newer.insert(session, tag);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_read_as_it_was_written_and_nothing_else_is() {
        for binding in [
            Binding {
                pod: tag("hello-7f-abcde"),
                worker: Some(3),
            },
            Binding {
                pod: 0,
                worker: Some(0),
            },
            Binding {
                pod: (1 << 40) - 1,
                worker: None,
            },
        ] {
            let text = binding.to_string();
            assert_eq!(Binding::parse(text.as_bytes()), Some(binding), "{text}");
            for cut in 0..text.len() {
                assert_eq!(
                    Binding::parse(&text.as_bytes()[..cut]),
                    None,
                    "{text} {cut}"
                );
            }
        }
        for text in ["", "v1", "v2.0000000000.1.00", "x".repeat(4096).as_str()] {
            assert_eq!(Binding::parse(text.as_bytes()), None);
        }
    }

    #[test]
    fn a_session_of_engine_io_is_known_by_its_id() {
        let of = |path: &str| EngineIo::of(path.as_bytes());
        assert_eq!(of("/socket.io/"), None);
        assert_eq!(of("/?sid=abc"), None);
        let first = of("/socket.io/?EIO=4&transport=polling").unwrap();
        assert_eq!(first.session, None);
        let polling = of("/socket.io/?EIO=4&transport=polling&t=1&sid=abc").unwrap();
        let upgrade = of("/socket.io/?sid=abc&EIO=4&transport=websocket").unwrap();
        assert!(polling.session.is_some());
        assert_eq!(polling, upgrade);
        assert_eq!(of("/socket.io/?EIO=4&transport=websocket"), None);
    }

    #[test]
    fn the_sessions_that_were_used_last_are_remembered() {
        let sessions = Sessions::default();
        for session in 0..3 * MAX_SESSIONS as u64 {
            sessions.learn(session, session * 2);
        }
        let last = 3 * MAX_SESSIONS as u64 - 1;
        assert_eq!(sessions.tag(last), Some(last * 2));
        assert_eq!(
            sessions.tag(last - MAX_SESSIONS as u64 / 2),
            Some(last * 2 - MAX_SESSIONS as u64)
        );
        assert_eq!(sessions.tag(0), None);
    }

    #[test]
    fn the_cookie_of_a_dispatcher_is_taken_out_of_the_head() {
        let binding = Binding {
            pod: 0,
            worker: Some(2),
        };
        let theirs = set_cookie("S", binding, false);
        let head = "HTTP/1.1 200 OK\r\nset-cookie: S=other\r\n";
        let mut out = format!("{head}Set-Cookie: {theirs}\r\nX: y\r\n\r\n").into_bytes();
        assert_eq!(take_cookie(&mut out, "S"), Some(binding));
        assert_eq!(out, format!("{head}X: y\r\n\r\n").into_bytes());
        assert_eq!(take_cookie(&mut out, "S"), None);
    }

    #[test]
    fn a_cookie_is_marked_secure_only_over_tls() {
        let binding = Binding {
            pod: 1,
            worker: None,
        };
        let clear = set_cookie("S", binding, false);
        assert!(
            clear.ends_with("; Path=/; HttpOnly; SameSite=Lax"),
            "{clear}"
        );
        assert!(set_cookie("S", binding, true).ends_with("; Secure"));
    }
}
