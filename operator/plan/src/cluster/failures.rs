//! Why pods do not run: of the many that say something, the one thing to tell, in
//! the words of whoever refused, and the same for as long as the cause is.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::PodStatus;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus};
use scaledapp_crds::words::{component, reason};

use super::{Heard, Observed, Pod, PodFailure};

/// Of an app's last words.
const MOST: usize = 300;

/// Why the app's pods do not run. Pods that cannot be placed say less than pods that
/// cannot start, and those less than pods that may not even be.
pub(super) fn of_app(observed: &Observed, live: Option<&Deployment>) -> Option<PodFailure> {
    live.and_then(refused)
        .or_else(|| of_pods(observed, component::APP))
}

/// As [`of_app`], of the balancers.
pub(super) fn of_balancers(observed: &Observed, app: &str) -> Option<PodFailure> {
    let live = observed.live.deployments.iter();
    let mut balancers = live.filter(|it| it.metadata.name.as_deref() != Some(app));
    balancers
        .find_map(refused)
        .or_else(|| of_pods(observed, component::BALANCER))
}

fn of_pods(observed: &Observed, component: &str) -> Option<PodFailure> {
    let pods = observed.pods.iter();
    let failing = pods.filter(|pod| pod.component == component && !pod.deleting && !pod.ready);
    failing.filter_map(of_pod).min_by_key(|failure| {
        (
            failure.reason == reason::UNSCHEDULABLE,
            failure.reason,
            failure.message.clone(),
        )
    })
}

/// What Kubernetes says, else what the supervisor does.
fn of_pod(pod: &Pod) -> Option<PodFailure> {
    let said = match &pod.heard {
        Heard::Supervisor(said) if said.ready == 0 => said.trouble.as_ref(),
        _ => None,
    };
    let said = said.map(|message| PodFailure {
        reason: reason::CRASHING,
        message: message.clone(),
    });
    pod.failure.clone().or(said)
}

/// Why the API server lets no more pods be made.
fn refused(live: &Deployment) -> Option<PodFailure> {
    let status = live.status.as_ref()?;
    let mut conditions = status.conditions.iter().flatten();
    let failure = conditions.find(|it| {
        it.type_.as_deref() == Some("ReplicaFailure") && it.status.as_deref() == Some("True")
    })?;
    let message = failure.message.clone().unwrap_or_default();
    // `pods "hello-7f6684675f-abcde" is forbidden: …`: each try has another name.
    let message = match message.split_once("\" is forbidden: ") {
        Some((_, why)) => format!("forbidden: {why}"),
        None => message,
    };
    Some(PodFailure {
        reason: reason::PODS_REFUSED,
        message,
    })
}

/// What a pod's own status says.
pub(super) fn of_status(status: &PodStatus) -> Option<PodFailure> {
    let mut conditions = status.conditions.iter().flatten();
    let unscheduled = conditions.find(|condition| {
        condition.type_ == "PodScheduled"
            && condition.status == "False"
            && condition.reason.as_deref() == Some("Unschedulable")
    });
    if let Some(condition) = unscheduled {
        return Some(PodFailure {
            reason: reason::UNSCHEDULABLE,
            message: condition.message.clone().unwrap_or_default(),
        });
    }
    let inits = status.init_container_statuses.iter().flatten();
    inits
        .chain(status.container_statuses.iter().flatten())
        .find_map(stuck)
}

/// Why a container does not start, in the kubelet's words without the pod's
/// name, or in the app's own last ones: those from its end until it is ready.
fn stuck(container: &ContainerStatus) -> Option<PodFailure> {
    let state = container.state.as_ref()?;
    let waiting = state.waiting.as_ref();
    let said = waiting.and_then(|waiting| waiting.reason.as_deref());
    let reason = match said {
        Some("CreateContainerConfigError" | "CreateContainerError" | "RunContainerError") => {
            reason::CONTAINER_CONFIG
        }
        Some("ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull") => {
            reason::IMAGE_PULL
        }
        // Such as ContainerCreating.
        Some(other) if other != "CrashLoopBackOff" => return None,
        _ => {
            let ended = ended(state).or_else(|| ended(container.last_state.as_ref()?))?;
            return (!container.ready).then(|| PodFailure {
                reason: reason::CRASHING,
                message: ending(ended),
            });
        }
    };
    let said = waiting.and_then(|waiting| waiting.message.as_deref());
    // It alternates with the plain words of the same failure.
    let said = said.unwrap_or_default();
    let said = said
        .strip_prefix("Back-off pulling image ")
        .and_then(|rest| Some(rest.split_once("ErrImagePull: ")?.1))
        .unwrap_or(said);
    let message = said.split(" (pod:").next().unwrap_or_default();
    Some(PodFailure {
        reason,
        message: message.trim_end_matches([':', ' ']).to_owned(),
    })
}

fn ended(state: &ContainerState) -> Option<&ContainerStateTerminated> {
    let ended = state.terminated.as_ref()?;
    (ended.exit_code != 0 || ended.reason.as_deref() != Some("Completed")).then_some(ended)
}

fn ending(ended: &ContainerStateTerminated) -> String {
    if ended.reason.as_deref() == Some("OOMKilled") {
        return format!("exit code {}: out of memory", ended.exit_code);
    }
    let words = last_words(ended.message.as_deref().unwrap_or_default());
    format!("exit code {}: {words}", ended.exit_code)
        .trim_end_matches([':', ' '])
        .to_owned()
}

/// The line of the last output that says why: an error by its name, else the last
/// line that the app wrote, else what the supervisor says.
pub(super) fn last_words(output: &str) -> &str {
    let lines = || {
        output
            .lines()
            .map(str::trim_end)
            .filter(|line| !line.trim().is_empty())
    };
    let is_ours = |line: &str| line.starts_with("scaledapp-sidecar ");
    let is_trace =
        |line: &str| line.starts_with([' ', '\t', '}', ']', '^']) || line.starts_with("Node.js v");
    let names_error = |line: &str| {
        let name = line.split(':').next().unwrap_or_default();
        let word = name.split([' ', '[', '(']).next().unwrap_or_default();
        line.contains(':') && (word.ends_with("Error") || word.ends_with("Exception"))
            || line.starts_with("panic:")
            || line.starts_with("thread '")
    };
    let of_app = || lines().filter(|line| !is_ours(line));
    let found = of_app()
        .rfind(|line| names_error(line))
        .or_else(|| of_app().rfind(|line| !is_trace(line)))
        .or_else(|| lines().next_back().map(without_time))
        .unwrap_or_default();
    super::meta::cut(found.trim(), MOST)
}

/// `scaledapp-sidecar 2026-11-29T14:17:34.415959Z  WARN what happened`.
fn without_time(line: &str) -> &str {
    let mut words = line.splitn(3, ' ');
    let (Some(_), Some(time), Some(rest)) = (words.next(), words.next(), words.next()) else {
        return line;
    };
    if !time.starts_with("20") {
        return line;
    }
    let rest = rest.trim_start();
    let levels = ["ERROR ", "WARN ", "INFO "];
    let level = levels.iter().find_map(|level| rest.strip_prefix(level));
    level.unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_line_that_says_why_is_found_among_the_last_ones() {
        let node = "/app/server.js:3\nthrow new Error('no database');\n^\n\nError: no database\n    at Object.<anonymous> (/app/server.js:3:7)\n\nNode.js v18.20.4\n";
        let python = "Traceback (most recent call last):\n  File \"app.py\", line 1, in <module>\nModuleNotFoundError: No module named 'flask'\n";
        let ours =
            "scaledapp-sidecar 2026-11-29T14:17:34.415959Z  WARN worker 0 ended: exit code 1\n";
        for (output, words) in [
            (node, "Error: no database"),
            (python, "ModuleNotFoundError: No module named 'flask'"),
            (&format!("{node}{ours}"), "Error: no database"),
            (ours, "worker 0 ended: exit code 1"),
            ("starting\nno database\n", "no database"),
            (
                "panic: no database\n\ngoroutine 1 [running]:\n",
                "panic: no database",
            ),
            ("", ""),
        ] {
            assert_eq!(last_words(output), words, "{output}");
        }
    }

    /// A crash loop as a kubelet tells it, from the first end to the next start.
    #[test]
    fn a_crash_loop_says_the_same_between_restarts() {
        let ended =
            json!({"terminated": {"exitCode": 1, "reason": "Error", "message": "no database"}});
        let waiting = json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}});
        let running = json!({"running": {}});
        let of = |state: &Value, last: &Value, ready: bool| {
            let status = json!({"name": "app", "image": "", "imageID": "", "restartCount": 1, "ready": ready, "state": state, "lastState": last});
            stuck(&serde_json::from_value(status).unwrap())
        };
        let none = json!({});
        let expected = Some(PodFailure {
            reason: reason::CRASHING,
            message: "exit code 1: no database".to_owned(),
        });
        for (state, last) in [
            (&ended, &none),
            (&waiting, &ended),
            (&running, &ended),
            (&ended, &ended),
        ] {
            assert_eq!(of(state, last, false), expected, "{state} {last}");
        }
        assert_eq!(of(&running, &none, false), None);
        assert_eq!(of(&running, &ended, true), None);
    }

    #[test]
    fn an_image_is_missing_in_the_same_words_however_long() {
        let of = |reason: &str, message: &str| {
            let state = json!({"waiting": {"reason": reason, "message": message}});
            let status = json!({"name": "app", "image": "", "imageID": "", "restartCount": 0, "ready": false, "state": state});
            stuck(&serde_json::from_value(status).unwrap())
                .unwrap()
                .message
        };
        let why = "failed to pull and unpack image \"a:1\": not found";
        assert_eq!(of("ErrImagePull", why), why);
        let later = format!("Back-off pulling image \"a:1\": ErrImagePull: {why}");
        assert_eq!(of("ImagePullBackOff", &later), why);
    }
}
