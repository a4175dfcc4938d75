//! Whether a backend serves, from what its supervisor says on `/watch` and from
//! its silence. Pure: time is passed in.
//!
//! When requests themselves fail is noticed by the forwarding path (ejection);
//! how the two rank is decided there.

use std::time::{Duration, Instant};

use scaledapp_proxy::{Report, Standing};
use scaledapp_wire::{Dispatch, Snapshot};

/// Three heartbeats of 250 ms: a node that is gone says nothing, not even that
/// its connections have ended.
const SILENCE: Duration = Duration::from_millis(750);

/// A line of `/watch`, read; `None` for what is no snapshot.
pub(crate) fn parse(line: &[u8]) -> Option<Snapshot> {
    serde_json::from_slice(line).ok()
}

/// Whether a dispatcher answers there, which may hand requests back. An app has no
/// say in what is repeated. Supervisors of older versions do not say who answers.
pub(crate) fn hands_back(snapshot: Snapshot) -> bool {
    matches!(snapshot.dispatch, None | Some(Dispatch::Request))
}

/// The load of a pod, as the forwarding path takes it.
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
    said: Said,
    /// It should be talking and does not.
    doubted: bool,
    /// A label found it, and no supervisor has spoken there: it may be somebody else's.
    unknown: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Said {
    #[default]
    Nothing,
    /// Something there answers and has no `/watch`.
    NoOpinion,
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

    /// A snapshot came.
    pub(crate) fn line(&mut self, now: Instant, snapshot: Snapshot) {
        self.said = Said::Snapshot(snapshot, now);
        self.doubted = false;
        self.unknown = false;
    }

    /// What answers there is no supervisor.
    pub(crate) fn no_opinion(&mut self) {
        self.said = Said::NoOpinion;
        self.doubted = false;
    }

    /// Whether nothing has shown yet that it is the app's.
    pub(crate) fn is_unknown(&self) -> bool {
        self.unknown
    }

    /// The connection ended or could not be had.
    pub(crate) fn lost(&mut self) {
        self.doubted = true;
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, now: Instant) {
        self.doubted |= self.deadline().is_some_and(|deadline| now >= deadline);
    }

    /// When silence becomes doubt.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.said {
            Said::Snapshot(_, at) if !self.doubted => Some(at + SILENCE),
            _ => None,
        }
    }

    pub(crate) fn standing(&self) -> Standing {
        match self.said {
            // It said that it was leaving: that it is silent now is no reason
            // to expect more of it.
            Said::Snapshot(snapshot, _) if snapshot.draining => Standing::Draining,
            _ if self.unknown => Standing::Unknown,
            _ if self.doubted => Standing::Suspect,
            Said::Nothing => Standing::Suspect,
            Said::NoOpinion => Standing::Serving,
            Said::Snapshot(snapshot, _) if snapshot.ready => Standing::Serving,
            Said::Snapshot(..) => Standing::Unready,
        }
    }
}

/// As `/status` shows it.
pub(crate) fn shown(standing: Standing) -> scaledapp_wire::Standing {
    match standing {
        Standing::Serving => scaledapp_wire::Standing::Serving,
        Standing::Suspect => scaledapp_wire::Standing::Suspect,
        Standing::Draining => scaledapp_wire::Standing::Draining,
        Standing::Unready => scaledapp_wire::Standing::Unready,
        Standing::Unknown => scaledapp_wire::Standing::Unknown,
    }
}

/// One word for logs and metrics.
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
    fn a_backend_stands_as_it_says() {
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
    fn three_heartbeats_of_silence_make_it_suspect_and_a_line_makes_up_for_it() {
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
    fn a_lost_connection_is_doubt_at_once_whatever_it_said_unless_it_was_leaving() {
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
    fn a_server_without_an_opinion_serves_and_may_be_silent_but_not_gone() {
        let now = Instant::now();
        let mut health = Health::default();
        health.no_opinion();
        health.tick(now + ms(60_000));
        assert_eq!(health.standing(), Standing::Serving);
        health.lost();
        assert_eq!(health.standing(), Standing::Suspect);
    }

    #[test]
    fn a_pod_that_a_label_found_is_unknown_until_a_supervisor_speaks_and_never_again() {
        let now = Instant::now();
        let mut health = Health::new(true);
        assert_eq!(health.standing(), Standing::Unknown);
        health.lost();
        assert_eq!(health.standing(), Standing::Unknown, "nobody listens there");
        health.no_opinion();
        assert_eq!(health.standing(), Standing::Unknown, "another server");
        health.line(now, snapshot(UNREADY));
        assert_eq!(health.standing(), Standing::Unready);
        health.line(now, snapshot(READY));
        health.lost();
        assert_eq!(
            health.standing(),
            Standing::Suspect,
            "it is ours, and blind"
        );
    }

    #[test]
    fn a_snapshot_is_read_leniently_in_what_it_may_lack_and_strictly_in_what_it_says() {
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
