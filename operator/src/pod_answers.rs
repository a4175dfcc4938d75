//! Reads what the pods' admin ports answer. Anybody who can create pods decides what a pod
//! answers, so everything that is kept is bounded.

use scaledapp_plan::cluster::{Supervisor, TOKEN_BYTES, Trouble, cut};
use scaledapp_wire::{BalancerStatus, EndpointStatus, Standing, Status, WorkerState};

/// How many bytes of a text from a pod are kept.
const MAX_TEXT_BYTES: usize = 300;
/// How long workers may listen on another port before that is reported: an app may open its
/// metrics port first and its main port a moment later.
const ELSEWHERE_SECONDS: f64 = 3.0;

/// What keeps workers from being ready, as the supervisor reports it.
fn trouble(status: &Status) -> Option<Trouble> {
    let mut workers = status.workers.iter();
    let elsewhere = workers
        .find(|worker| {
            worker.listens_elsewhere.is_some()
                && worker.state == WorkerState::Starting
                && worker.state_seconds.unwrap_or_default() >= ELSEWHERE_SECONDS
        })
        .and_then(|worker| worker.listens_elsewhere);
    if let Some(port) = elsewhere {
        return Some(Trouble::ListensOn(port));
    }
    let waiting = status.waiting.iter().map(|slot| &slot.last_exit);
    let running = status.workers.iter().map(|worker| &worker.last_exit);
    let exit = waiting.chain(running).find_map(Option::as_ref)?;
    Some(Trouble::Ended(bounded(&exit.text)))
}

/// The number of slots whose first worker is starting or about to start.
fn booting(status: &Status) -> u32 {
    let in_state = |state| {
        let workers = status.workers.iter();
        workers.filter(move |worker| worker.state == state)
    };
    let ready: Vec<u32> = in_state(WorkerState::Ready)
        .map(|worker| worker.slot)
        .collect();
    let starting = in_state(WorkerState::Starting).map(|worker| (worker.slot, worker.restarts));
    let waiting = status.waiting.iter().map(|slot| (slot.slot, slot.restarts));
    let mut slots: Vec<u32> = starting
        .chain(waiting)
        .filter(|(slot, restarts)| *restarts == 0 && !ready.contains(slot))
        .map(|(slot, _)| slot)
        .collect();
    slots.sort_unstable();
    slots.dedup();
    u32::try_from(slots.len()).unwrap_or(u32::MAX)
}

/// Cuts a pod's text to the length that is kept.
pub(crate) fn bounded(words: &str) -> String {
    cut(words.trim(), MAX_TEXT_BYTES).to_owned()
}

/// Reads a supervisor's `/status`.
///
/// # Errors
/// The content is not the JSON of a supervisor.
pub(crate) fn supervisor(content: &[u8]) -> serde_json::Result<Supervisor> {
    let status: Status = serde_json::from_slice(content)?;
    // A longer token does not come from the operator. It is cut, and the failed reload still
    // counts.
    let token = |token: &Option<String>| {
        token
            .as_deref()
            .map(|token| cut(token, TOKEN_BYTES).to_owned())
    };
    let trouble = (status.ready == 0).then(|| trouble(&status)).flatten();
    Ok(Supervisor {
        desired: status.desired,
        ready: status.ready,
        booting: booting(&status),
        reloaded: token(&status.reloaded),
        trouble,
        reload_failed: token(&status.reload_failed),
    })
}

/// Whether a balancer knows pods but reaches none of their admin ports; `None` if this is not a
/// balancer's status.
pub(crate) fn reaches_no_pod(content: &[u8]) -> Option<bool> {
    let BalancerStatus { endpoints, .. } = serde_json::from_slice(content).ok()?;
    // A pod that has never answered is unknown; one that no longer answers is suspect.
    let is_silent =
        |it: &EndpointStatus| matches!(it.standing, Standing::Suspect | Standing::Unknown);
    Some(!endpoints.is_empty() && endpoints.iter().all(is_silent))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(status: &serde_json::Value) -> Supervisor {
        supervisor(status.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn what_a_pod_says_is_bounded() {
        let long = "ä".repeat(100_000);
        let answer = of(&json!({
            "desired": u32::MAX, "ready": 0, "reloaded": long, "reloadFailed": format!("a{long}"),
            "more": [long], "waiting": [{"lastExit": {"text": long}}],
        }));
        assert_eq!(answer.desired, u32::MAX);
        assert_eq!(answer.reloaded.as_ref().unwrap().len(), TOKEN_BYTES);
        assert_eq!(
            answer.reload_failed.as_ref().unwrap().len(),
            TOKEN_BYTES - 1
        );
        assert_eq!(
            answer.trouble,
            Some(Trouble::Ended("ä".repeat(MAX_TEXT_BYTES / 2)))
        );
    }

    #[test]
    fn impossible_counts_are_no_answer() {
        for text in [
            r#"{"desired": -1}"#,
            r#"{"desired": 4294967296}"#,
            r#"{"desired": 1e400}"#,
            r#"{"ready": "4"}"#,
            "",
        ] {
            assert!(supervisor(text.as_bytes()).is_err(), "{text}");
        }
        let deep = format!(r#"{{"more": {}"#, "[".repeat(100_000));
        assert!(supervisor(deep.as_bytes()).is_err());
    }

    #[test]
    fn another_port_is_reported_after_a_moment_and_instead_of_how_workers_ended() {
        let worker = |seconds: f64| json!({"slot": 0, "state": "Starting", "stateSeconds": seconds, "listensElsewhere": 4000});
        let status = |seconds| json!({"desired": 1, "workers": [worker(seconds)]});
        assert_eq!(of(&status(1.0)).trouble, None);
        assert_eq!(of(&status(3.0)).trouble, Some(Trouble::ListensOn(4000)));
        let mut ended = status(3.0);
        ended["workers"][0]["lastExit"] = json!({"text": "exit code 1"});
        assert_eq!(of(&ended).trouble, Some(Trouble::ListensOn(4000)));
        ended["ready"] = json!(1);
        assert_eq!(of(&ended).trouble, None);
    }

    #[test]
    fn a_worker_that_comes_up_for_the_first_time_is_booting_and_one_that_ended_is_not() {
        let worker = |slot: u32, state: &str, restarts: u32| json!({"slot": slot, "state": state, "restarts": restarts});
        for (workers, waiting, booting) in [
            (
                vec![worker(0, "Ready", 0), worker(1, "Starting", 0)],
                vec![],
                1,
            ),
            (
                vec![worker(0, "Ready", 0)],
                vec![worker(1, "CrashLoop", 0)],
                1,
            ),
            (
                vec![worker(0, "Ready", 0)],
                vec![worker(1, "CrashLoop", 3)],
                0,
            ),
            (
                vec![worker(0, "Ready", 0), worker(1, "Starting", 3)],
                vec![],
                0,
            ),
            // During a reload, the old worker is ready while its successor starts.
            (
                vec![worker(0, "Ready", 0), worker(0, "Starting", 0)],
                vec![],
                0,
            ),
        ] {
            let status = json!({"desired": 2, "ready": 1, "workers": workers, "waiting": waiting});
            assert_eq!(of(&status).booting, booting, "{status}");
        }
    }

    #[test]
    fn a_balancer_that_reaches_no_pod_is_distinguished_from_a_balancer_without_pods() {
        for (standings, blind) in [
            (json!([]), Some(false)),
            (
                json!([{"standing": "suspect"}, {"standing": "suspect"}]),
                Some(true),
            ),
            (
                json!([{"standing": "unknown"}, {"standing": "suspect"}]),
                Some(true),
            ),
            (
                json!([{"standing": "suspect"}, {"standing": "serving"}]),
                Some(false),
            ),
            (json!([{"standing": "draining"}]), Some(false)),
            (json!("none"), None),
        ] {
            let status = json!({"endpoints": standings}).to_string();
            assert_eq!(reaches_no_pod(status.as_bytes()), blind, "{status}");
        }
    }
}
