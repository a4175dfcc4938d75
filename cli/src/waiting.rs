//! What a start or a stop waits for, in words.

use std::time::Duration;

use scaledapp_wire::Status;

/// A process that has not ended yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Waited {
    pub(crate) name: String,
    /// Requests or connections in flight, if it is a pod that answers.
    pub(crate) in_flight: Option<u32>,
}

/// The requests or connections in flight of a pod.
pub(crate) fn in_flight(status: &Status) -> u32 {
    status.workers.iter().map(|worker| worker.in_flight).sum()
}

/// The line about what a stop waits for, and how long at most.
pub(crate) fn waits_for(all: &[Waited], left: Duration) -> String {
    let names: Vec<String> = all.iter().take(5).map(one).collect();
    let more = match all.len().saturating_sub(5) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "waiting for {}{more}; after {} s they are killed, or with a second Ctrl-C",
        names.join(", "),
        left.as_secs()
    )
}

fn one(waited: &Waited) -> String {
    match waited.in_flight {
        Some(1) => format!("{} (1 request in flight)", waited.name),
        Some(count) if count > 1 => format!("{} ({count} requests in flight)", waited.name),
        _ => waited.name.clone(),
    }
}

/// The notice about a pod that takes long to start. `status` is `None` if the supervisor does not
/// answer. The start waits until the workers answer at the readiness path or, without a path, until
/// they listen. If the app listens on another port, the notice says so instead.
pub(crate) fn awaited(
    name: &str,
    (port, path): (u16, Option<&str>),
    workers: u32,
    status: Option<&Status>,
) -> String {
    let mut all = status.iter().flat_map(|status| &status.workers);
    let elsewhere = all.find_map(|worker| worker.listens_elsewhere);
    if let Some(other) = elsewhere {
        return format!(
            "{name} is not ready: its app listens on {other}, but spec.port is {port}: change spec.port to {other}, or let the app listen on the port in $PORT"
        );
    }
    let ready = status.map_or(0, |status| status.ready);
    let are = match path {
        Some(path) => format!("answer GET {path} on port {port} with 2xx or 3xx"),
        None => format!("listen on port {port}"),
    };
    format!(
        "{name} is not ready yet: {ready} of {workers} workers {are}; see the app's output above"
    )
}

#[cfg(test)]
mod tests {
    use scaledapp_wire::Worker;

    use super::*;

    #[test]
    fn a_stop_names_what_it_waits_for() {
        let waited = |name: &str, in_flight| Waited {
            name: name.to_owned(),
            in_flight,
        };
        let all = [
            waited("a-0", Some(3)),
            waited("a-1", Some(0)),
            waited("a-lb-0", None),
        ];
        assert_eq!(
            waits_for(&all, Duration::from_secs(38)),
            "waiting for a-0 (3 requests in flight), a-1, a-lb-0; after 38 s they are killed, or with a second Ctrl-C"
        );
        let many = vec![waited("x", Some(1)); 7];
        assert!(waits_for(&many, Duration::ZERO).contains(" and 2 more; after 0 s"));
    }

    #[test]
    fn what_a_start_waits_for_is_named_with_the_cure() {
        let elsewhere = Worker {
            slot: 1,
            listens_elsewhere: Some(4000),
            ..Worker::default()
        };
        let status = Status {
            workers: vec![Worker::default(), elsewhere],
            ..Status::default()
        };
        let text = awaited("hello-0", (3000, None), 2, Some(&status));
        assert!(text.contains("change spec.port to 4000"), "{text}");
        for (path, are) in [
            (None, "0 of 2 workers listen on port 3000"),
            (
                Some("/healthz"),
                "0 of 2 workers answer GET /healthz on port 3000",
            ),
        ] {
            let text = awaited("hello-0", (3000, path), 2, None);
            assert!(text.contains(are), "{text}");
        }
    }
}
