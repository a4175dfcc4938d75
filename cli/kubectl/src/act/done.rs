//! When a change has come about, from what the cluster shows: pure functions from one reading to
//! how far it is.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use scaledapp_crds::words::annotation;
use serde_json::Value;

use crate::model::object;
use crate::model::tree::Condition;

/// How far a change is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It has come about.
    Done(String),
    /// It is on its way.
    Waits(String),
    /// It will not come about before somebody changes something.
    Failed(String),
}

use Progress::{Done, Failed, Waits};

/// How long the operator waits for the outcome of a pod's reload before it goes on, and a moment.
const RELOAD_TIMEOUT: SignedDuration = SignedDuration::from_secs(20);

fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|it| it.kind == kind)
}

fn holds(conditions: &[Condition], kind: &str) -> bool {
    find(conditions, kind).is_some_and(|it| it.status == "True")
}

/// Why the operator cannot go on with this generation, or whether it has not seen it yet.
fn obstacle(app: &Value, conditions: &[Condition]) -> Option<Progress> {
    if !object::is_observed(app) {
        return Some(Waits("the operator has not seen the change yet".to_owned()));
    }
    let stalled = find(conditions, "Stalled").filter(|it| it.status == "True")?;
    Some(Failed(format!("{}: {}", stalled.reason, stalled.message)))
}

fn numbers(app: &Value) -> String {
    let (pods, workers) = (
        object::text(app, "/status/pods"),
        object::text(app, "/status/workers/summary"),
    );
    format!("{pods} pods, {workers} workers")
}

/// Whether all pods of a changed object are there and serve.
pub(crate) fn scaled(app: &Value, pods: u32) -> Progress {
    let conditions = object::conditions(app);
    if let Some(obstacle) = obstacle(app, &conditions) {
        return obstacle;
    }
    let wanted = format!("{pods}/{pods}");
    let is_there = object::text(app, "/status/pods") == wanted;
    if is_there && holds(&conditions, "Updated") {
        return Done(numbers(app));
    }
    Waits(with_reason(app, &conditions))
}

/// Whether each pod has the wanted number of workers, and all of them are ready. `reported` are
/// ready and desired workers of each ready pod that could be asked; `None` if pods cannot be asked,
/// so that only the operator's count is known.
pub(crate) fn workers(app: &Value, wanted: u32, reported: Option<&[(u32, u32)]>) -> Progress {
    let conditions = object::conditions(app);
    if let Some(obstacle) = obstacle(app, &conditions) {
        return obstacle;
    }
    let done = match reported {
        Some([]) => false,
        Some(pods) => pods.iter().all(|pod| *pod == (wanted, wanted)),
        None => {
            let ready = app.pointer("/status/workers/ready").and_then(Value::as_u64);
            let pods = app.pointer("/status/readyReplicas").and_then(Value::as_u64);
            ready.is_some_and(|ready| Some(ready) == pods.map(|pods| pods * u64::from(wanted)))
        }
    };
    if done {
        return Done(numbers(app));
    }
    Waits(match reported {
        Some(pods) => {
            let there = pods.iter().filter(|pod| **pod == (wanted, wanted)).count();
            format!(
                "{there} of {} have {wanted} workers",
                crate::text::count(pods.len(), "pod")
            )
        }
        None => numbers(app),
    })
}

fn with_reason(app: &Value, conditions: &[Condition]) -> String {
    let now = numbers(app);
    let why = find(conditions, "Degraded").filter(|it| it.status == "True");
    let why = why.or_else(|| find(conditions, "Progressing").filter(|it| it.status == "True"));
    match why {
        Some(why) => format!("{now} ({}: {})", why.reason, why.message),
        None => now,
    }
}

fn annotated<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    pod.metadata
        .annotations
        .as_ref()?
        .get(name)
        .map(String::as_str)
}

/// The tokens that a pod reports: of the last reload that succeeded, and of a failed one.
pub(crate) type Tokens = (Option<String>, Option<String>);

/// How far a reload with this token is. `pods` are the app's pods, `before` the uids of those that
/// were there before the request, and `reloaded` are the tokens that each pod reports: of the last
/// reload that succeeded, and of a failed one.
pub(crate) fn reloaded(
    app: &Value,
    pods: &[Pod],
    token: &str,
    before: &[String],
    now: Timestamp,
    reloaded: impl Fn(&str) -> Option<Tokens>,
) -> Progress {
    let conditions = object::conditions(app);
    let mut done = 0;
    let mut all = 0;
    let mut at = None;
    for pod in pods
        .iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
    {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let uid = pod.metadata.uid.as_ref();
        all += 1;
        if uid.is_some_and(|uid| !before.contains(uid)) {
            // It started after the request, with the new state.
            done += 1;
            continue;
        }
        let was_told = annotated(pod, annotation::RELOAD) == Some(token);
        match reloaded(name).filter(|_| was_told) {
            Some((_, Some(failed))) if failed == token => {
                return Failed(format!(
                    "{name} could not reload; its old workers keep serving, and no further pod reloads"
                ));
            }
            Some((Some(last), _)) if last == token => done += 1,
            // The pod cannot be asked, so the operator's next step shows that it is done.
            None if was_told && is_past(pods, name, token) => done += 1,
            None if was_told && told_for(pod, now) > Some(RELOAD_TIMEOUT) => {
                let degraded = find(&conditions, "Degraded");
                match degraded.filter(|it| it.reason == "ReloadFailed") {
                    Some(degraded) => return Failed(degraded.message.clone()),
                    None => done += 1,
                }
            }
            _ => at = at.or(Some((name, was_told))),
        }
    }
    if done == all {
        return Done(format!("{} reloaded", crate::text::count(all, "pod")));
    }
    let at = at.map_or(String::new(), |(name, was_told)| {
        if was_told {
            format!("; {name} reloads")
        } else {
            format!("; {name} is next")
        }
    });
    Waits(format!(
        "{done} of {} reloaded{at}",
        crate::text::count(all, "pod")
    ))
}

/// How long ago the operator told a pod to reload, by its own clock and this machine's.
fn told_for(pod: &Pod, now: Timestamp) -> Option<SignedDuration> {
    let since = annotated(pod, annotation::RELOAD_SINCE)?;
    Some(now.duration_since(since.parse().ok()?))
}

/// Whether the operator has gone on to a pod after this one; it takes them by name.
fn is_past(pods: &[Pod], name: &str, token: &str) -> bool {
    let mut later = pods
        .iter()
        .filter(|pod| pod.metadata.name.as_deref() > Some(name));
    later.any(|pod| annotated(pod, annotation::RELOAD) == Some(token))
}

/// How far the replacement of these pods (by uid) is.
pub(crate) fn replaced(app: &Value, pods: &[Pod], before: &[String]) -> Progress {
    let conditions = object::conditions(app);
    let is_old = |pod: &&Pod| {
        let uid = pod.metadata.uid.as_ref();
        uid.is_some_and(|uid| before.contains(uid))
    };
    let left = pods.iter().filter(is_old).count();
    let summary = object::text(app, "/status/pods");
    let complete = summary
        .split_once('/')
        .is_some_and(|(ready, wanted)| ready == wanted);
    if let Some(obstacle) = obstacle(app, &conditions) {
        return obstacle;
    }
    if left == 0 && complete && holds(&conditions, "Updated") {
        return Done(numbers(app));
    }
    Waits(format!(
        "{} of {} replaced, {}",
        before.len() - left.min(before.len()),
        crate::text::count(before.len(), "pod"),
        with_reason(app, &conditions)
    ))
}

/// Whether the operator has seen that the app is paused, or not any more.
pub(crate) fn paused(app: &Value, paused: bool) -> Progress {
    let conditions = object::conditions(app);
    let says = find(&conditions, "Progressing").is_some_and(|it| it.reason == "Paused");
    if object::is_observed(app) && says == paused {
        return Done(if paused { "paused" } else { "resumed" }.to_owned());
    }
    Waits("the operator has not seen the change yet".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn app(generation: i64, pods: &str, conditions: &Value) -> Value {
        json!({
            "metadata": {"name": "shop", "generation": generation},
            "status": {"observedGeneration": 2, "pods": pods, "readyReplicas": 2,
                "workers": {"ready": 4, "desired": 4, "summary": "4/4"}, "conditions": conditions},
        })
    }

    fn updated(status: &str) -> Value {
        json!([{"type": "Updated", "status": status}, {"type": "Stalled", "status": "False"}])
    }

    #[test]
    fn a_scale_is_done_when_the_operator_has_seen_it_and_all_pods_serve() {
        assert!(matches!(
            scaled(&app(2, "6/6", &updated("True")), 6),
            Done(_)
        ));
        assert!(matches!(
            scaled(&app(3, "6/6", &updated("True")), 6),
            Waits(_)
        ));
        assert!(matches!(
            scaled(&app(2, "4/6", &updated("False")), 6),
            Waits(_)
        ));
        assert!(matches!(
            scaled(&app(2, "6/6", &updated("True")), 5),
            Waits(_)
        ));
        let stalled =
            json!([{"type": "Stalled", "status": "True", "reason": "InvalidSpec", "message": "m"}]);
        assert_eq!(
            scaled(&app(2, "4/6", &stalled), 6),
            Failed("InvalidSpec: m".to_owned())
        );
    }

    #[test]
    fn workers_are_counted_by_pods_or_else_by_the_operator() {
        let app = app(2, "2/2", &updated("True"));
        assert!(matches!(workers(&app, 2, None), Done(_)));
        assert!(matches!(workers(&app, 3, None), Waits(_)));
        assert!(matches!(workers(&app, 3, Some(&[(3, 3), (3, 3)])), Done(_)));
        let waits = workers(&app, 3, Some(&[(3, 3), (2, 3)]));
        assert_eq!(waits, Waits("1 of 2 pods have 3 workers".to_owned()));
        assert!(matches!(workers(&app, 3, Some(&[])), Waits(_)));
    }

    fn pod(name: &str, token: Option<&str>) -> Pod {
        let mut pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": name, "uid": name}})).unwrap();
        pod.metadata.annotations =
            token.map(|token| [(annotation::RELOAD.to_owned(), token.to_owned())].into());
        pod
    }

    #[test]
    fn a_reload_goes_pod_by_pod_and_stops_at_a_failure() {
        let app = app(2, "3/3", &updated("True"));
        let before = ["a".to_owned(), "b".to_owned()];
        let pods = [pod("a", Some("t")), pod("b", Some("t")), pod("c", None)];
        let said = |a: (&str, &str), b: (&str, &str)| {
            let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
            let (a, b) = ((some(a.0), some(a.1)), (some(b.0), some(b.1)));
            move |name: &str| Some(if name == "a" { a.clone() } else { b.clone() })
        };
        let is = |said: &dyn Fn(&str) -> Option<Tokens>| {
            reloaded(&app, &pods, "t", &before, Timestamp::UNIX_EPOCH, said)
        };
        assert_eq!(
            is(&said(("t", ""), ("t", ""))),
            Done("3 pods reloaded".to_owned())
        );
        assert_eq!(
            is(&said(("t", ""), ("old", ""))),
            Waits("2 of 3 pods reloaded; b reloads".to_owned())
        );
        assert!(
            matches!(is(&said(("t", ""), ("old", "t"))), Failed(why) if why.starts_with("b could not"))
        );
        // Without pods/proxy, the operator's next step shows what is done.
        assert_eq!(
            is(&|_| None),
            Waits("2 of 3 pods reloaded; b reloads".to_owned())
        );
    }

    #[test]
    fn a_restart_is_done_when_no_old_pod_is_left() {
        let before = ["a".to_owned(), "b".to_owned()];
        let old = [pod("b", None), pod("c", None)];
        assert!(
            matches!(replaced(&app(2, "2/2", &updated("True")), &old, &before), Waits(text) if text.starts_with("1 of 2 pods"))
        );
        let new = [pod("c", None), pod("d", None)];
        assert!(matches!(
            replaced(&app(2, "2/2", &updated("True")), &new, &before),
            Done(_)
        ));
        assert!(matches!(
            replaced(&app(2, "1/2", &updated("True")), &new, &before),
            Waits(_)
        ));
    }

    #[test]
    fn an_app_is_paused_once_the_operator_says_so() {
        let says =
            |reason: &str| json!([{"type": "Progressing", "status": "False", "reason": reason}]);
        assert!(matches!(
            paused(&app(2, "", &says("Paused")), true),
            Done(_)
        ));
        assert!(matches!(
            paused(&app(2, "", &says("AsWanted")), true),
            Waits(_)
        ));
        assert!(matches!(
            paused(&app(2, "", &says("AsWanted")), false),
            Done(_)
        ));
        assert!(matches!(
            paused(&app(3, "", &says("Paused")), true),
            Waits(_)
        ));
    }
}
