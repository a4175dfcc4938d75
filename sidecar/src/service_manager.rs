//! What the service manager (systemd) is told: when the supervisor serves, reloads and stops, and
//! that it still works (`sd_notify(3)`). Without `NOTIFY_SOCKET` it is told nothing.
//!
//! [`Teller`] decides what to say, [`ServiceManager`] says it.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use anyhow::Context;
use scaledapp_sys::clock::monotonic_micros;

/// Variables by which a service manager names its socket and its watchdog. They are not for
/// workers: a message of a worker would count as one of the supervisor.
pub(crate) const VARIABLES: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];
/// How often a stop asks for more time.
const EXTEND_INTERVAL: Duration = Duration::from_secs(5);
/// How much time a stop asks for.
const EXTENSION: Duration = Duration::from_secs(15);

/// The state of the supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) ready: u32,
    pub(crate) desired: u32,
    pub(crate) reloading: bool,
    pub(crate) stopping: bool,
}

/// Decides what to say. Times count from the supervisor's start.
#[derive(Debug, Default)]
struct Teller {
    /// How often `WATCHDOG=1` is due, if it is wanted.
    ping_interval: Option<Duration>,
    next_ping: Duration,
    is_ready: bool,
    is_reloading: bool,
    is_stopping: bool,
    next_extension: Duration,
    status: String,
    /// Why the last reload failed.
    failure: Option<String>,
}

impl Teller {
    /// The messages for a state. `micros` is the monotonic clock, which a message about a reload
    /// must contain: systemd takes an older one for that of an earlier reload.
    fn messages(&mut self, now: Duration, state: State, micros: u64) -> Vec<String> {
        let mut messages = Vec::new();
        let status = self.status(state);
        let mut lines = Vec::new();
        if state.stopping {
            if !std::mem::replace(&mut self.is_stopping, true) {
                lines.push("STOPPING=1".to_owned());
                self.next_extension = now + EXTEND_INTERVAL;
            } else if now >= self.next_extension {
                self.next_extension = now + EXTEND_INTERVAL;
                lines.push(format!("EXTEND_TIMEOUT_USEC={}", EXTENSION.as_micros()));
            }
        } else if state.reloading {
            messages.extend(self.reload_asked(micros));
        } else if state.ready > 0 && (!self.is_ready || self.is_reloading) {
            (self.is_ready, self.is_reloading) = (true, false);
            lines.push("READY=1".to_owned());
        }
        if status != self.status {
            lines.push(format!("STATUS={status}"));
            self.status = status;
        }
        if let Some(interval) = self.ping_interval.filter(|_| now >= self.next_ping) {
            self.next_ping = now + interval;
            lines.push("WATCHDOG=1".to_owned());
        }
        if !lines.is_empty() {
            messages.push(lines.join("\n"));
        }
        messages
    }

    /// The message that a reload begins, if one is due: the first of a reload. It must be known
    /// before `READY=1` says that the reload has ended.
    fn reload_asked(&mut self, micros: u64) -> Option<String> {
        let is_due = self.is_ready && !self.is_stopping && !self.is_reloading;
        self.is_reloading |= is_due;
        is_due.then(|| format!("RELOADING=1\nMONOTONIC_USEC={micros}"))
    }

    fn status(&self, state: State) -> String {
        let State { ready, desired, .. } = state;
        let workers = format!("{ready} of {desired} workers ready");
        match &self.failure {
            _ if state.stopping => "stopping: requests in flight are finished".to_owned(),
            _ if state.reloading => format!("reloading: {workers}"),
            Some(failure) => format!("{workers}; {failure}"),
            None => workers,
        }
    }

    /// When a message is due without another reason.
    fn due(&self) -> Option<Duration> {
        let ping = self.ping_interval.map(|_| self.next_ping);
        let extension = self.is_stopping.then_some(self.next_extension);
        ping.into_iter().chain(extension).min()
    }
}

/// The connection with the service manager.
#[derive(Debug, Default)]
pub(crate) struct ServiceManager {
    socket: Option<UnixDatagram>,
    teller: Teller,
}

impl ServiceManager {
    /// The service manager that the environment names. If its socket cannot be used, that is
    /// logged, and nothing is told.
    pub(crate) fn find() -> Self {
        let Some(path) = std::env::var_os(VARIABLES[0]).filter(|path| !path.is_empty()) else {
            return Self::default();
        };
        match connect(path.as_bytes()) {
            Ok(socket) => Self {
                socket: Some(socket),
                teller: Teller {
                    ping_interval: ping_interval(
                        |name| std::env::var(name).ok(),
                        std::process::id(),
                    ),
                    ..Teller::default()
                },
            },
            Err(error) => {
                tracing::warn!("the service manager is told nothing: {error:#}");
                Self::default()
            }
        }
    }

    /// Tells a state, if it is new, and what is due.
    pub(crate) fn tell(&mut self, now: Duration, state: State) {
        if self.socket.is_none() {
            return;
        }
        for message in self.teller.messages(now, state, monotonic_micros()) {
            self.send(&message);
        }
    }

    /// Tells that a reload was asked for, before it is known whether it has anything to do.
    pub(crate) fn reload_asked(&mut self) {
        if self.socket.is_none() {
            return;
        }
        // A further request during a reload needs a clock reading of its own.
        self.teller.is_reloading = false;
        if let Some(message) = self.teller.reload_asked(monotonic_micros()) {
            self.send(&message);
        }
    }

    /// Remembers how a reload has ended; `None` if it succeeded.
    pub(crate) fn reload_ended(&mut self, failure: Option<String>) {
        // A message about a state is one line.
        self.teller.failure = failure.map(|text| text.replace(char::is_control, " "));
    }

    /// When a message is due without another reason, counted from the start.
    pub(crate) fn due(&self) -> Option<Duration> {
        self.teller.due()
    }

    fn send(&self, message: &str) {
        if let Some(socket) = &self.socket {
            // systemd reads its socket always; if it does not, nothing can be told.
            let _unread = socket.send(message.as_bytes());
        }
    }
}

/// How often `WATCHDOG=1` is sent: twice in the time that the service manager waits. Nothing is
/// sent if the watchdog is for another process.
fn ping_interval(variable: impl Fn(&str) -> Option<String>, own: u32) -> Option<Duration> {
    let micros: u64 = variable(VARIABLES[1])?.parse().ok()?;
    let is_ours = variable(VARIABLES[2]).is_none_or(|pid| pid.parse() == Ok(own));
    (is_ours && micros > 0).then(|| Duration::from_micros(micros / 2))
}

/// A socket to the address of `NOTIFY_SOCKET`: a path, or a name in the abstract namespace, which
/// begins with `@`.
fn connect(address: &[u8]) -> anyhow::Result<UnixDatagram> {
    let address = match address.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(address)),
    };
    let address = address.context("NOTIFY_SOCKET is no address of a socket")?;
    let socket = UnixDatagram::unbound()?;
    socket
        .connect_addr(&address)
        .context("NOTIFY_SOCKET cannot be reached")?;
    // A full socket must not stop the supervisor.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn state(ready: u32) -> State {
        State {
            ready,
            desired: 2,
            reloading: false,
            stopping: false,
        }
    }

    #[test]
    fn a_start_a_reload_and_a_stop_are_told_once() {
        let mut teller = Teller::default();
        let mut at = |state, micros| teller.messages(Duration::ZERO, state, micros);
        assert_eq!(at(state(0), 1), ["STATUS=0 of 2 workers ready"]);
        assert_eq!(at(state(1), 2), ["READY=1\nSTATUS=1 of 2 workers ready"]);
        assert_eq!(at(state(2), 3), ["STATUS=2 of 2 workers ready"]);
        assert!(at(state(2), 4).is_empty());
        let reloading = State {
            reloading: true,
            ..state(2)
        };
        assert_eq!(
            at(reloading, 55),
            [
                "RELOADING=1\nMONOTONIC_USEC=55",
                "STATUS=reloading: 2 of 2 workers ready"
            ]
        );
        assert!(at(reloading, 56).is_empty());
        assert_eq!(at(state(2), 57), ["READY=1\nSTATUS=2 of 2 workers ready"]);
        let stopping = State {
            stopping: true,
            ..state(2)
        };
        assert_eq!(
            at(stopping, 58),
            ["STOPPING=1\nSTATUS=stopping: requests in flight are finished"]
        );
        assert!(at(stopping, 59).is_empty());
        assert_eq!(teller.due(), Some(EXTEND_INTERVAL));
        let extended = teller.messages(EXTEND_INTERVAL, stopping, 60);
        assert_eq!(extended, ["EXTEND_TIMEOUT_USEC=15000000"]);
    }

    #[test]
    fn a_failed_reload_ends_ready_with_its_reason() {
        let mut manager = ServiceManager::default();
        let teller = &mut manager.teller;
        drop(teller.messages(Duration::ZERO, state(2), 1));
        assert!(teller.reload_asked(2).is_some());
        assert!(
            teller.reload_asked(3).is_none(),
            "one message for one reload"
        );
        manager.reload_ended(Some("reload failed: exit code 1:\n boom".to_owned()));
        assert_eq!(
            manager.teller.messages(Duration::ZERO, state(2), 4),
            ["READY=1\nSTATUS=2 of 2 workers ready; reload failed: exit code 1:  boom"]
        );
    }

    #[test]
    fn the_watchdog_is_pinged_twice_in_its_time_by_the_process_that_it_watches() {
        let variables = |pid: Option<&str>| {
            let pid = pid.map(str::to_owned);
            move |name: &str| match name {
                "WATCHDOG_USEC" => Some("30000000".to_owned()),
                _ => pid.clone(),
            }
        };
        let fifteen = Some(15 * SECOND);
        assert_eq!(ping_interval(variables(None), 7), fifteen);
        assert_eq!(ping_interval(variables(Some("7")), 7), fifteen);
        assert_eq!(ping_interval(variables(Some("8")), 7), None);
        assert_eq!(ping_interval(|_| None, 7), None);
        let mut teller = Teller {
            ping_interval: fifteen,
            ..Teller::default()
        };
        let pings = |messages: Vec<String>| messages.iter().any(|one| one.contains("WATCHDOG=1"));
        assert!(pings(teller.messages(Duration::ZERO, state(0), 1)));
        assert!(!pings(teller.messages(14 * SECOND, state(0), 1)));
        assert_eq!(teller.due(), fifteen);
        assert!(pings(teller.messages(15 * SECOND, state(0), 1)));
    }

    #[test]
    fn a_path_and_an_abstract_name_are_addresses() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("scaledapp-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let by_name = UnixDatagram::bind_addr(&address).unwrap();
        for (receiver, address) in [
            (by_path, path.to_str().unwrap().to_owned()),
            (by_name, format!("@{name}")),
        ] {
            connect(address.as_bytes())
                .unwrap()
                .send(b"READY=1")
                .unwrap();
            let mut buffer = [0; 32];
            let length = receiver.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"READY=1");
        }
        assert!(connect(b"/nonexistent/socket").is_err());
    }
}
