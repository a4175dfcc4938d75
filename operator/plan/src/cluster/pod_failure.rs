//! Why one pod does not run, read from its status. [`super::failures`] decides which of an
//! app's failures is reported, and when.

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateTerminated, ContainerStatus, PodCondition, PodSpec, PodStatus,
};
use k8s_openapi::jiff::Timestamp;
use scaledapp_crds::words::{Reason, component};

use super::frame::{CONTAINER, INSTALL};
use super::meta::cut;

/// The scheduler of a pod that does not name one.
const DEFAULT_SCHEDULER: &str = "default-scheduler";
/// Longest quotation of an app's last output, in bytes.
const MAX_WORDS: usize = 300;

/// What a pod probably waits for while no scheduler has reported anything about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitsFor {
    /// The scheduler of this name, which perhaps does not run.
    Scheduler(String),
    /// The volume of this claim. Either the scheduler has chosen a node and waits until the claim
    /// has a volume there, or the scheduler does not run.
    Claim(String),
}

/// Why a pod does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFailure {
    /// Why, in one word.
    pub reason: Reason,
    /// What Kubernetes, the supervisor or the balancer reported, or the operator's own
    /// description.
    pub message: String,
    /// Which part of the pod the failure is about.
    pub part: Part,
}

/// A part of a pod that keeps it from running.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The pod's main container, or the pod as a whole.
    #[default]
    Main,
    /// The init container that installs the supervisor.
    Install,
    /// Another container, by its name.
    Container(String),
    /// Another init container, by its name.
    Init(String),
}

/// Whether no container has run yet and none reports a problem.
pub(super) fn is_preparing(status: &PodStatus) -> bool {
    let inits = status.init_container_statuses.iter().flatten();
    let mut all = inits.chain(status.container_statuses.iter().flatten());
    all.all(|container| {
        let waiting = container.state.as_ref().map(|state| state.waiting.as_ref());
        match waiting {
            None => true,
            Some(None) => false,
            Some(Some(waiting)) => matches!(
                waiting.reason.as_deref(),
                None | Some("ContainerCreating" | "PodInitializing")
            ),
        }
    })
}

fn scheduled(status: &PodStatus) -> Option<&PodCondition> {
    let mut conditions = status.conditions.iter().flatten();
    conditions.find(|condition| condition.type_ == "PodScheduled")
}

/// The time since which the scheduler reports that no node takes the pod.
pub(super) fn refused_since(status: &PodStatus) -> Option<Timestamp> {
    let refused = scheduled(status).filter(|condition| condition.status == "False")?;
    Some(refused.last_transition_time.as_ref()?.0)
}

/// What a pod waits for, if no scheduler has reported anything about it.
pub(super) fn waits_for(spec: &PodSpec, status: &PodStatus) -> Option<WaitsFor> {
    if spec.node_name.is_some() || scheduled(status).is_some() {
        return None;
    }
    let mut volumes = spec.volumes.iter().flatten();
    let claim = volumes.find_map(|volume| volume.persistent_volume_claim.as_ref());
    Some(match (claim, spec.scheduler_name.as_deref()) {
        // The name of another scheduler is the more useful report.
        (Some(claim), None | Some(DEFAULT_SCHEDULER)) => WaitsFor::Claim(claim.claim_name.clone()),
        (_, name) => WaitsFor::Scheduler(name.unwrap_or(DEFAULT_SCHEDULER).to_owned()),
    })
}

/// The failure that a pod's own status shows.
pub(super) fn of_status(status: &PodStatus) -> Option<PodFailure> {
    let unscheduled = scheduled(status).filter(|condition| {
        condition.status == "False"
            && matches!(
                condition.reason.as_deref(),
                Some("Unschedulable" | "SchedulingGated" | "SchedulerError")
            )
    });
    if let Some(condition) = unscheduled {
        return Some(PodFailure {
            reason: Reason::Unschedulable,
            message: condition.message.clone().unwrap_or_default(),
            part: Part::Main,
        });
    }
    let inits = status.init_container_statuses.iter().flatten();
    let inits = inits.map(|it| (it, true));
    let all = inits.chain(
        status
            .container_statuses
            .iter()
            .flatten()
            .map(|it| (it, false)),
    );
    all.into_iter().find_map(|(container, is_init)| {
        let (reason, message) = stuck(container)?;
        let part = match container.name.as_str() {
            INSTALL if is_init => Part::Install,
            CONTAINER | component::BALANCER if !is_init => Part::Main,
            other if is_init => Part::Init(other.to_owned()),
            other => Part::Container(other.to_owned()),
        };
        Some(PodFailure {
            reason,
            message,
            part,
        })
    })
}

/// Why a container does not start: the kubelet's message without the pod's name, or the
/// app's last output, which is reported until the container is ready again.
fn stuck(container: &ContainerStatus) -> Option<(Reason, String)> {
    let state = container.state.as_ref()?;
    let waiting = state.waiting.as_ref();
    let waiting_reason = waiting.and_then(|waiting| waiting.reason.as_deref());
    let reason = match waiting_reason {
        Some(
            "CreateContainerConfigError"
            | "CreateContainerError"
            | "RunContainerError"
            | "PreCreateHookError"
            | "PreStartHookError"
            | "PostStartHookError",
        ) => Reason::ContainerConfigError,
        Some(
            "ErrImagePull"
            | "ImagePullBackOff"
            | "InvalidImageName"
            | "ErrImageNeverPull"
            | "ImageInspectError"
            | "RegistryUnavailable"
            | "SignatureValidationFailed",
        ) => Reason::ImagePullError,
        // A state that passes, such as ContainerCreating.
        Some(other) if other != "CrashLoopBackOff" => return None,
        _ => {
            let ended = ended(state).or_else(|| ended(container.last_state.as_ref()?))?;
            return (!container.ready).then(|| match ended.reason.as_deref() {
                // The container has never run: between attempts, a kubelet reports
                // RunContainerError in this way.
                Some("StartError" | "ContainerCannotRun") => {
                    let message = ended.message.as_deref().unwrap_or_default();
                    (Reason::ContainerConfigError, of_kubelet(message))
                }
                _ => (Reason::AppCrashing, ending(ended)),
            });
        }
    };
    let text = waiting.and_then(|waiting| waiting.message.as_deref());
    Some((reason, of_kubelet(text.unwrap_or_default())))
}

/// A kubelet's message without what differs between attempts.
fn of_kubelet(text: &str) -> String {
    // This form alternates with the plain message of the same failure.
    let text = text
        .strip_prefix("Back-off pulling image ")
        .and_then(|rest| Some(rest.split_once(": ")?.1))
        .unwrap_or(text);
    let text = ["ErrImagePull: ", "ErrImageNeverPull: "]
        .iter()
        .find_map(|prefix| text.strip_prefix(prefix))
        .unwrap_or(text);
    let message = text.split(" (pod:").next().unwrap_or_default();
    message.trim_end_matches([':', ' ']).to_owned()
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

/// The line of the last output that most likely explains the end: the app's last line with an
/// error's name, otherwise its last line outside a stack trace, otherwise the supervisor's last
/// line.
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
    cut(found.trim(), MAX_WORDS)
}

/// Removes name, time and level from a line of the supervisor such as
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

    /// A crash loop as a kubelet reports it, from the first end to the next start.
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
        let expected = Some((Reason::AppCrashing, "exit code 1: no database".to_owned()));
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
    fn a_missing_image_is_reported_in_the_same_words_at_each_attempt() {
        let of = |reason: &str, message: &str| {
            let state = json!({"waiting": {"reason": reason, "message": message}});
            let status = json!({"name": "app", "image": "", "imageID": "", "restartCount": 0, "ready": false, "state": state});
            stuck(&serde_json::from_value(status).unwrap()).unwrap().1
        };
        let why = "failed to pull and unpack image \"a:1\": not found";
        assert_eq!(of("ErrImagePull", why), why);
        let later = format!("Back-off pulling image \"a:1\": ErrImagePull: {why}");
        assert_eq!(of("ImagePullBackOff", &later), why);
    }

    /// Between attempts, a kubelet reports the same failure in two ways.
    #[test]
    fn a_missing_program_is_reported_in_the_same_words_between_attempts() {
        let why = "failed to create containerd task: exec: \"/x\": no such file or directory";
        let waiting = json!({"waiting": {"reason": "RunContainerError", "message": why}});
        let ended =
            json!({"terminated": {"exitCode": 128, "reason": "StartError", "message": why}});
        let back_off =
            json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}});
        for (state, last) in [
            (&waiting, &json!({})),
            (&back_off, &ended),
            (&waiting, &ended),
        ] {
            let status = json!({"name": "app", "image": "", "imageID": "", "restartCount": 1, "ready": false, "state": state, "lastState": last});
            let found = stuck(&serde_json::from_value(status).unwrap());
            assert_eq!(
                found,
                Some((Reason::ContainerConfigError, why.to_owned())),
                "{state}"
            );
        }
    }

    #[test]
    fn the_part_that_fails_is_named() {
        let failing = |name: &str| json!({"name": name, "image": "", "imageID": "", "restartCount": 0, "ready": false, "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}});
        let waits = |name: &str| json!({"name": name, "image": "", "imageID": "", "restartCount": 0, "ready": false, "state": {"waiting": {"reason": "PodInitializing"}}});
        for (inits, containers, part) in [
            (
                json!([failing(INSTALL)]),
                json!([waits("app")]),
                Part::Install,
            ),
            (
                json!([waits(INSTALL), failing("migrate")]),
                json!([waits("app")]),
                Part::Init("migrate".to_owned()),
            ),
            (
                json!([]),
                json!([waits("mesh"), failing("app")]),
                Part::Main,
            ),
            (json!([]), json!([failing("balancer")]), Part::Main),
            (
                json!([]),
                json!([waits("app"), failing("mesh")]),
                Part::Container("mesh".to_owned()),
            ),
        ] {
            let status = json!({"initContainerStatuses": inits, "containerStatuses": containers});
            let status = serde_json::from_value(status).unwrap();
            assert_eq!(of_status(&status).unwrap().part, part, "{status:?}");
            assert!(!is_preparing(&status));
        }
        let status =
            json!({"initContainerStatuses": [waits(INSTALL)], "containerStatuses": [waits("app")]});
        assert!(is_preparing(&serde_json::from_value(status).unwrap()));
        assert!(is_preparing(&PodStatus::default()));
    }
}
