//! Verbs that change an app: through the fields and annotations that the operator obeys. Each waits
//! until the change has come about, and says on stderr how far it is. `done` decides when that is.

pub(crate) mod done;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use scaledapp_crds::words::{annotation, component};
use scaledapp_wire::Status;
use serde_json::{Value, json};

use crate::api::{Api, Why};
use crate::cli::{ActArgs, ScaleArgs, Waiting, Which};
use crate::model::pods::labelled;
use crate::model::seen::Seen;
use crate::outcome::{Ended, Failure, GOOD};
use crate::output;
use crate::read::{self, Depth, apps_path, encoded};

use done::Progress;

/// How often the cluster is looked at.
const INTERVAL: Duration = Duration::from_millis(500);
/// The annotation of pods by which `kubectl rollout restart` replaces them.
const RESTARTED: &str = "kubectl.kubernetes.io/restartedAt";
/// A line of progress is repeated after this time, so that silence never means nothing happens.
const REPEATED: Duration = Duration::from_secs(30);

fn path(api: &Api, name: &str) -> String {
    format!("{}/{}", apps_path(Some(&api.namespace)), encoded(name))
}

fn one(name: &str) -> Which {
    Which {
        name: Some(name.to_owned()),
        ..Which::default()
    }
}

/// Changes the object.
async fn patch(api: &Api, path: &str, name: &str, body: &Value) -> Result<Value, Failure> {
    api.send("PATCH", path, body)
        .await
        .map_err(|trouble| match trouble.why {
            Why::Missing => Failure::fails(format!(
                "there is no ScaledApp {name:?} in namespace {:?}",
                api.namespace
            )),
            Why::Refused(_) => Failure::fails(trouble.message),
            _ => trouble.fatal(&format!("change {name}")),
        })
}

/// Waits until the progress is the end; the last line goes to stdout.
async fn until(
    api: &Api,
    name: &str,
    waiting: Waiting,
    depth: Depth,
    look: impl Fn(&Value, &[Pod], &Seen) -> Progress,
) -> Ended {
    if waiting.no_wait {
        output::write(&format!("scaledapp/{name}: asked for\n"))?;
        return Ok(GOOD);
    }
    let clock = Instant::now();
    let mut told = (String::new(), clock);
    loop {
        let seen = match read::all(api, &one(name), depth, clock).await {
            Ok(seen) => seen,
            // The cluster may be away for a moment, and the change goes on without us.
            Err(failure)
                if clock.elapsed() < waiting.timeout && failure.code == crate::outcome::UNKNOWN =>
            {
                scaledapp_runtime::say(&crate::text::clean(&failure.text));
                tokio::time::sleep(INTERVAL).await;
                continue;
            }
            Err(failure) => return Err(failure),
        };
        let [app] = &seen.apps[..] else {
            return Err(Failure::fails(format!("{name} is no longer there")));
        };
        let pods = seen.pods.as_deref().unwrap_or_default();
        let pods = labelled(pods, &api.namespace, name, component::APP);
        let pods: Vec<Pod> = pods.into_iter().cloned().collect();
        match look(app, &pods, &seen) {
            Progress::Done(text) => {
                output::write(&format!(
                    "scaledapp/{name}: {}\n",
                    crate::text::clean(&text)
                ))?;
                return Ok(GOOD);
            }
            Progress::Failed(why) => return Err(Failure::fails(why)),
            Progress::Waits(text) => {
                if text != told.0 || told.1.elapsed() >= REPEATED {
                    scaledapp_runtime::say(&crate::text::clean(&text));
                    told = (text, Instant::now());
                }
            }
        }
        if clock.elapsed() >= waiting.timeout {
            return Err(Failure::fails(format!(
                "not done within {} (--timeout); the operator goes on, and `kubectl scaledapp status {name}` shows how far it is",
                scaledapp_units::duration::format(waiting.timeout)
            )));
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// A text that no earlier request had: the time in milliseconds.
fn token() -> String {
    Timestamp::now().as_millisecond().to_string()
}

/// Pods must be seen, or the end of a reload or restart cannot be known.
async fn seen_before(api: &Api, args: &ActArgs) -> Result<Seen, Failure> {
    let seen = read::all(api, &one(&args.name), Depth::Objects, Instant::now()).await?;
    if let (Err(why), false) = (&seen.pods, args.waiting.no_wait) {
        return Err(Failure::unknown(format!(
            "{why}, so the end of this cannot be seen: give --no-wait"
        )));
    }
    if let Some(app) = seen.apps.first()
        && app.pointer("/spec/paused") == Some(&Value::Bool(true))
    {
        return Err(Failure::fails(format!(
            "{0} is paused, so the operator leaves its pods alone: kubectl scaledapp resume {0}",
            args.name
        )));
    }
    Ok(seen)
}

/// The uids of the app's pods.
fn uids(api: &Api, name: &str, seen: Seen) -> Vec<String> {
    let pods = seen.pods.unwrap_or_default();
    let pods = labelled(&pods, &api.namespace, name, component::APP);
    pods.iter()
        .filter_map(|pod| pod.metadata.uid.clone())
        .collect()
}

/// `reload`.
pub(crate) async fn reload(api: &Api, args: &ActArgs) -> Ended {
    let before = uids(api, &args.name, seen_before(api, args).await?);
    let token = token();
    let body = json!({"metadata": {"annotations": {annotation::RELOAD: token}}});
    patch(api, &path(api, &args.name), &args.name, &body).await?;
    until(
        api,
        &args.name,
        args.waiting,
        Depth::Status,
        |app, pods, seen| {
            let statuses = statuses(&api.namespace, pods, seen);
            done::reloaded(app, pods, &token, &before, Timestamp::now(), |pod| {
                let status = statuses.get(pod)?;
                Some((status.reloaded.clone(), status.reload_failed.clone()))
            })
        },
    )
    .await
}

/// What the pods report, by name.
fn statuses(namespace: &str, pods: &[Pod], seen: &Seen) -> BTreeMap<String, Status> {
    let names = pods.iter().filter_map(|pod| pod.metadata.name.clone());
    names
        .filter_map(|name| {
            let answered = seen.answers.get(&(namespace.to_owned(), name.clone()))?;
            let status = serde_json::from_str(answered.status.as_ref().ok()?).ok()?;
            Some((name, status))
        })
        .collect()
}

/// `restart`.
pub(crate) async fn restart(api: &Api, args: &ActArgs) -> Ended {
    let before = uids(api, &args.name, seen_before(api, args).await?);
    // As `kubectl rollout restart`: any change of the pods' template replaces them.
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let body = json!({"spec": {"podTemplate": {"metadata": {"annotations": {RESTARTED: now}}}}});
    patch(api, &path(api, &args.name), &args.name, &body).await?;
    until(
        api,
        &args.name,
        args.waiting,
        Depth::Objects,
        |app, pods, _| done::replaced(app, pods, &before),
    )
    .await
}

/// `scale`.
pub(crate) async fn scale(api: &Api, args: &ScaleArgs) -> Ended {
    if let Some(workers) = args.workers {
        let body = json!({"spec": {"workers": {"count": workers, "perCore": null}}});
        patch(api, &path(api, &args.name), &args.name, &body).await?;
    }
    if let Some(pods) = args.pods {
        // The subresource needs less rights than the object, and its refusals name the cure.
        let path = format!("{}/scale", path(api, &args.name));
        let body = json!({"spec": {"replicas": pods}});
        patch(api, &path, &args.name, &body).await?;
        let ended = until(
            api,
            &args.name,
            args.waiting,
            Depth::Objects,
            |app, _, _| done::scaled(app, pods),
        );
        let code = ended.await?;
        if args.workers.is_none() {
            return Ok(code);
        }
    }
    let Some(workers) = args.workers else {
        return Ok(GOOD);
    };
    until(
        api,
        &args.name,
        args.waiting,
        Depth::Status,
        |app, pods, seen| {
            let statuses = statuses(&api.namespace, pods, seen);
            let reported: Vec<(u32, u32)> = statuses
                .values()
                .map(|status| (status.ready, status.desired))
                .collect();
            let is_known = !statuses.is_empty();
            done::workers(app, workers, is_known.then_some(&reported[..]))
        },
    )
    .await
}

/// `pause` and `resume`.
pub(crate) async fn pause(api: &Api, args: &ActArgs, paused: bool) -> Ended {
    let value = if paused { json!(true) } else { Value::Null };
    let body = json!({"spec": {"paused": value}});
    patch(api, &path(api, &args.name), &args.name, &body).await?;
    until(
        api,
        &args.name,
        args.waiting,
        Depth::Objects,
        |app, _, _| done::paused(app, paused),
    )
    .await
}
