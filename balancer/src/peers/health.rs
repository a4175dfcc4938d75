//! Whether a backend serves, judged by what its supervisor reports on `/watch`, and by
//! silence. Time is an argument.
//!
//! The forwarding path notices failures of requests themselves and ejects endpoints; it
//! also decides how ejection and standing combine.

use std::time::{Duration, Instant};

use scaledapp_proxy::{Report, Standing};
use scaledapp_wire::{Dispatch, Snapshot};

/// A backend that is silent for this long is suspect. It is the time of three heartbeats
/// (250 ms each). A node that has vanished sends nothing, not even the end of its
/// connections.
const SILENCE_TIMEOUT: Duration = Duration::from_millis(750);

/// Reads a line of `/watch`; `None` if it is not a snapshot.
pub(crate) fn parse(line: &[u8]) -> Option<Snapshot> {
    serde_json::from_slice(line).ok()
}

/// Whether a dispatcher answers requests in the pod; a dispatcher may hand requests back. Under
/// Connection dispatch the app answers, and an app must not decide what is repeated. A
/// supervisor of an older version does not report whether the dispatcher or the app answers;
/// such a pod counts as one with a dispatcher.
pub(crate) fn hands_back(snapshot: Snapshot) -> bool {
    matches!(snapshot.dispatch, None | Some(Dispatch::Request))
}

/// The load of a pod, in the form that the forwarding path takes.
pub(crate) fn report(snapshot: Snapshot) -> Report {
    Report {
        capacity: snapshot.capacity,
        in_flight: snapshot.in_flight,
        queued: snapshot.queued,
    }
}

/// What is known of one backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Health {
    heard: Heard,
    /// It should be sending lines and is silent, or its connection was lost.
    suspect: bool,
    /// It was found by a label, and no supervisor has answered there: it may belong to
    /// another app.
    unknown: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Heard {
    #[default]
    Nothing,
    /// An HTTP server answers there, but has no `/watch`.
    NoWatch,
    Snapshot(Snapshot, Instant),
}

impl Health {
    /// Nothing is known yet. `selected`: see [`crate::discovery::Backend`].
    pub(crate) fn new(selected: bool) -> Self {
        Self {
            unknown: selected,
            ..Self::default()
        }
    }

    /// A snapshot has arrived.
    pub(crate) fn line(&mut self, now: Instant, snapshot: Snapshot) {
        self.heard = Heard::Snapshot(snapshot, now);
        self.suspect = false;
        self.unknown = false;
    }

    /// The server that answers there is not a supervisor.
    pub(crate) fn has_no_watch(&mut self) {
        self.heard = Heard::NoWatch;
        self.suspect = false;
    }

    /// Whether nothing has shown yet that it belongs to the app.
    pub(crate) fn is_unknown(&self) -> bool {
        self.unknown
    }

    /// The connection has ended, or could not be opened.
    pub(crate) fn lost(&mut self) {
        self.suspect = true;
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, now: Instant) {
        self.suspect |= self.deadline().is_some_and(|deadline| now >= deadline);
    }

    /// When silence makes the backend suspect; `None` if silence changes nothing.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.heard {
            Heard::Snapshot(_, at) if !self.suspect => Some(at + SILENCE_TIMEOUT),
            _ => None,
        }
    }

    pub(crate) fn standing(&self) -> Standing {
        match self.heard {
            // It has reported that it is draining, so it counts as draining even if it is
            // silent.
            Heard::Snapshot(snapshot, _) if snapshot.draining => Standing::Draining,
            _ if self.unknown => Standing::Unknown,
            _ if self.suspect => Standing::Suspect,
            Heard::Nothing => Standing::Suspect,
            Heard::NoWatch => Standing::Serving,
            Heard::Snapshot(snapshot, _) if snapshot.ready => Standing::Serving,
            Heard::Snapshot(..) => Standing::Unready,
        }
    }
}

/// The standing as `/status` shows it.
pub(crate) fn shown(standing: Standing) -> scaledapp_wire::Standing {
    match standing {
        Standing::Serving => scaledapp_wire::Standing::Serving,
        Standing::Suspect => scaledapp_wire::Standing::Suspect,
        Standing::Draining => scaledapp_wire::Standing::Draining,
        Standing::Unready => scaledapp_wire::Standing::Unready,
        Standing::Unknown => scaledapp_wire::Standing::Unknown,
    }
}

/// The standing as one word, for logs and metrics.
pub(crate) fn word(standing: Standing) -> &'static str {
    shown(standing).as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: &str =
        r#"{"ready":true,"draining":false,"capacity":4,"inFlight":3,"queued":2,"workers":4}"#;
    const UNREADY: &str =
        r#"{"ready":false,"draining":false,"capacity":0,"inFlight":0,"queued":0,"workers":0}"#;
    const DRAINING: &str =
        r#"{"ready":false,"draining":true,"capacity":4,"inFlight":3,"queued":0,"workers":4}"#;

    fn snapshot(line: &str) -> Snapshot {
        parse(line.as_bytes()).unwrap()
    }

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn the_standing_is_what_the_backend_says() {
        let now = Instant::now();
        let mut health = Health::default();
        assert_eq!(health.standing(), Standing::Suspect, "not heard yet");
        for (line, standing) in [
            (READY, Standing::Serving),
            (UNREADY, Standing::Unready),
            (READY, Standing::Serving),
            (DRAINING, Standing::Draining),
            (r#"{"ready":true,"draining":true}"#, Standing::Draining),
            (r#"{"ready":true}"#, Standing::Serving),
        ] {
            health.line(now, snapshot(line));
            assert_eq!(health.standing(), standing, "{line}");
        }
    }

    #[test]
    fn three_heartbeats_of_silence_make_a_backend_suspect_until_its_next_line() {
        let start = Instant::now();
        let mut health = Health::default();
        assert_eq!(health.deadline(), None);
        health.line(start, snapshot(READY));
        assert_eq!(health.deadline(), Some(start + ms(750)));
        health.tick(start + ms(749));
        assert_eq!(health.standing(), Standing::Serving);
        health.line(start + ms(749), snapshot(READY));
        health.tick(start + ms(1498));
        assert_eq!(health.standing(), Standing::Serving);
        health.tick(start + ms(1499));
        assert_eq!(health.standing(), Standing::Suspect);
        assert_eq!(health.deadline(), None, "nothing more to wait for");
        health.line(start + ms(2000), snapshot(READY));
        assert_eq!(health.standing(), Standing::Serving);
    }

    #[test]
    fn a_lost_connection_makes_a_backend_suspect_at_once_unless_it_was_draining() {
        let now = Instant::now();
        for (line, standing) in [
            (READY, Standing::Suspect),
            (UNREADY, Standing::Suspect),
            (DRAINING, Standing::Draining),
        ] {
            let mut health = Health::default();
            health.line(now, snapshot(line));
            health.lost();
            assert_eq!(health.standing(), standing, "{line}");
            health.tick(now + ms(60_000));
            assert_eq!(health.standing(), standing, "{line}");
            health.line(now + ms(60_001), snapshot(READY));
            assert_eq!(health.standing(), Standing::Serving, "it is back");
        }
    }

    #[test]
    fn a_server_without_watch_serves_until_it_cannot_be_reached() {
        let now = Instant::now();
        let mut health = Health::default();
        health.has_no_watch();
        health.tick(now + ms(60_000));
        assert_eq!(health.standing(), Standing::Serving);
        health.lost();
        assert_eq!(health.standing(), Standing::Suspect);
    }

    #[test]
    fn a_pod_found_by_a_label_is_unknown_only_until_its_supervisor_first_answers() {
        let now = Instant::now();
        let mut health = Health::new(true);
        assert_eq!(health.standing(), Standing::Unknown);
        health.lost();
        assert_eq!(health.standing(), Standing::Unknown, "nobody listens there");
        health.has_no_watch();
        assert_eq!(health.standing(), Standing::Unknown, "another server");
        health.line(now, snapshot(UNREADY));
        assert_eq!(health.standing(), Standing::Unready);
        health.line(now, snapshot(READY));
        health.lost();
        assert_eq!(
            health.standing(),
            Standing::Suspect,
            "it belongs to the app, and its admin port cannot be reached"
        );
    }

    #[test]
    fn a_snapshot_may_lack_fields_but_not_have_wrong_values() {
        let load = report(snapshot(READY));
        assert_eq!((load.capacity, load.in_flight, load.queued), (4, 3, 2));
        snapshot(r#"{"ready":true,"zone":"newer"}"#);
        for (line, expected) in [
            (r#"{"ready":true}"#, true),
            (r#"{"ready":true,"dispatch":"request"}"#, true),
            (r#"{"ready":true,"dispatch":"connection"}"#, false),
            (r#"{"ready":true,"dispatch":"newer"}"#, false),
        ] {
            assert_eq!(hands_back(snapshot(line)), expected, "{line}");
        }
        for line in [
            "",
            "{}",
            "ready",
            r#"{"ready":1}"#,
            r#"{"ready":true,"capacity":-1}"#,
        ] {
            assert_eq!(parse(line.as_bytes()), None, "{line}");
        }
    }
}
