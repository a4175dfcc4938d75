//! `check`: what is wrong with the installation and the apps. It looks at everything at the same
//! time, and changes nothing; the files below decide what follows from what was seen.

pub(crate) mod apps;
pub(crate) mod finding;
pub(crate) mod judge;
pub(crate) mod rights;

use std::future::Future;
use std::time::Instant;

use k8s_openapi::jiff::Timestamp;
use k8s_openapi::jiff::fmt::rfc2822;
use scaledapp_crds::words::MANAGER;
use serde_json::{Value, json};

use crate::api::{Api, Trouble};
use crate::cli::{CheckArgs, Color, Document, Which};
use crate::model;
use crate::outcome::Ended;
use crate::output;
use crate::read::{self, Depth, kind_path};
use crate::text::{Surroundings, page};

use finding::{Finding, Group, Report};
use rights::RIGHTS;

/// The namespace of the operator in the documentation.
const SYSTEM: &str = "scaledapp-system";
/// The labels of the operator's pods, whatever the release is called.
const OPERATOR: &str = "app.kubernetes.io/component=operator,app.kubernetes.io/part-of=scaledapp";

/// Runs the verb.
pub(crate) async fn run(api: &Api, args: &CheckArgs, color: Color) -> Ended {
    let report = report(api, args).await;
    let text = match args.output {
        Document::Json => output::json(&report)?,
        Document::Yaml => output::yaml(&report)?,
        Document::Table => page(&report.lines(), Surroundings::of_stdout().colours(color)),
    };
    output::write(&text)?;
    Ok(report.exit_code)
}

/// Looks at everything.
pub(crate) async fn report(api: &Api, args: &CheckArgs) -> Report {
    Report::new(look(api, args).await, args.strict)
}

async fn group(name: &'static str, findings: impl Future<Output = Vec<Finding>>) -> Group {
    let begun = Instant::now();
    let findings = findings.await;
    Group {
        name,
        milliseconds: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        findings,
    }
}

async fn look(api: &Api, args: &CheckArgs) -> Vec<Group> {
    let server = group("api server", server(api)).await;
    // Without a server, everything else would only repeat that.
    if server
        .findings
        .iter()
        .any(|it| it.outcome == finding::Outcome::Failure)
    {
        return vec![server];
    }
    let which = Which {
        all_namespaces: args.all_namespaces,
        ..Which::default()
    };
    let (rights, crd, (operator, version), admission, report) = tokio::join!(
        group("rights", rights_of(api)),
        group("crd", definition(api)),
        operator(api, args.operator_namespace.as_deref()),
        group("admission", admission(api)),
        read::all(api, &which, Depth::Status, Instant::now()),
    );
    let mut groups = vec![server, rights, crd, operator, admission];
    let now = |name, findings| Group {
        name,
        milliseconds: 0,
        findings,
    };
    match report {
        Ok(seen) => {
            let report = model::report(&seen, None);
            groups.push(now("apps", apps::conditions(&report)));
            if !report.apps.is_empty() {
                groups.push(now("slots", apps::slots(&report)));
                groups.push(now("workers", apps::workers(&report)));
                groups.push(now("kernel", apps::kernel(&report)));
            }
            let own = env!("CARGO_PKG_VERSION");
            groups.push(now(
                "versions",
                apps::versions(&report, version.as_deref(), own),
            ));
        }
        Err(failure) => groups.push(now("apps", vec![Finding::unchecked("apps", failure.text)])),
    }
    groups
}

async fn server(api: &Api) -> Vec<Finding> {
    let begun = Instant::now();
    let answer = api.dated("/version").await;
    let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let date = answer
        .as_ref()
        .ok()
        .and_then(|answer| answer.date.as_deref());
    let date = date.and_then(|date| rfc2822::parse(date).ok());
    let skew = date.map(|date| {
        (date.timestamp() - Timestamp::now())
            .total(k8s_openapi::jiff::Unit::Second)
            .unwrap_or(0.0)
    });
    let version = answer.map(|answer| serde_json::from_str(&answer.text).unwrap_or_default());
    judge::api(&version, milliseconds, skew)
}

async fn rights_of(api: &Api) -> Vec<Finding> {
    let ask = |right: rights::Right| async move {
        let (resource, subresource) = match right.resource.split_once('/') {
            Some((resource, sub)) => (resource, sub),
            None => (right.resource, ""),
        };
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {
                "namespace": api.namespace, "verb": right.verb, "group": right.group,
                "resource": resource, "subresource": subresource,
            }},
        });
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let answer = api.send("POST", path, &review).await;
        let allowed = answer
            .map(|answer| answer.pointer("/status/allowed") == Some(&Value::Bool(true)))
            .map_err(|trouble| trouble.message);
        (right, allowed)
    };
    let answers = futures_util::future::join_all(RIGHTS.map(ask)).await;
    rights::judge(&answers, &api.namespace)
}

async fn definition(api: &Api) -> Vec<Finding> {
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/scaledapps.scaledapp.io";
    let stored = api.get(path).await;
    match serde_json::to_value(scaledapp_crds::kubernetes::definition()) {
        Ok(ours) => judge::definition(&stored, &ours),
        Err(error) => vec![Finding::unchecked("crd", error.to_string())],
    }
}

/// The namespace of the operator, from its pods, and the pods.
pub(crate) async fn operator_pods(
    api: &Api,
    given: Option<&str>,
) -> (String, Result<Vec<Value>, Trouble>) {
    let query = format!("?labelSelector={}", read::encoded(OPERATOR));
    let everywhere = given.is_none();
    let pods: Result<Vec<Value>, Trouble> = if everywhere {
        api.list(&(kind_path("/api/v1", None, "pods") + &query))
            .await
    } else {
        Ok(Vec::new())
    };
    if let Ok(pods) = &pods
        && let Some(pod) = pods.first()
    {
        return (model::object::key(pod).0, Ok(pods.clone()));
    }
    let namespace = given.unwrap_or(SYSTEM).to_owned();
    let path = kind_path("/api/v1", Some(&namespace), "pods") + &query;
    let pods = api.list(&path).await;
    (namespace, pods)
}

/// The group, and the operator's version if its pods' images tell it.
async fn operator(api: &Api, given: Option<&str>) -> (Group, Option<String>) {
    let begun = Instant::now();
    let (namespace, pods) = operator_pods(api, given).await;
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{MANAGER}");
    let lease: Result<Value, Trouble> = api.get(&path).await;
    let renewed = lease
        .as_ref()
        .ok()
        .map(|lease| model::object::text(lease, "/spec/renewTime"));
    let renewed = renewed.and_then(|time| time.parse::<Timestamp>().ok());
    let renewed_seconds = renewed.map(|time| {
        let since = Timestamp::now() - time;
        since
            .total(k8s_openapi::jiff::Unit::Second)
            .unwrap_or_default()
    });
    let listed = pods.as_deref().unwrap_or_default();
    let image = listed
        .first()
        .map(|pod| model::object::text(pod, "/spec/containers/0/image"));
    let labelled = listed.first().map(|pod| {
        let version = &pod["metadata"]["labels"]["app.kubernetes.io/version"];
        version.as_str().unwrap_or_default().to_owned()
    });
    let version = labelled
        .filter(|version| !version.is_empty())
        .or_else(|| image.map(|image| model::object::image_version(&image)));
    let is_ready = |pod: &&Value| {
        let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
        let mut conditions = conditions.into_iter().flatten();
        conditions.any(|it| it["type"] == "Ready" && it["status"] == "True")
    };
    let replicas = match &pods {
        Ok(pods) => Ok((pods.iter().filter(is_ready).count(), pods.len())),
        Err(trouble) => Err(trouble.short("list", "pods")),
    };
    let findings = judge::operator(&judge::Operator {
        namespace,
        lease,
        renewed_seconds,
        replicas,
    });
    let group = Group {
        name: "operator",
        milliseconds: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        findings,
    };
    (group, version)
}

/// Tries whether the namespace admits a pod with the security settings that every app's pods have.
async fn admission(api: &Api) -> Vec<Finding> {
    let path = format!("/api/v1/namespaces/{}/pods?dryRun=All", api.namespace);
    let answer = api.send("POST", &path, &trial()).await;
    vec![judge::admission(&api.namespace, &answer)]
}

/// A pod like that of an app without a pod template of its own.
fn trial() -> Value {
    let container = |name: &str| {
        json!({
            "name": name, "image": "scaledapp.invalid/trial:1",
            "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "16Mi"}},
            "securityContext": {
                "allowPrivilegeEscalation": false, "runAsNonRoot": true,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [{"name": "scaledapp", "mountPath": "/.scaledapp"}],
        })
    };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"generateName": "scaledapp-trial-"},
        "spec": {
            "automountServiceAccountToken": false,
            "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
            "initContainers": [container("scaledapp-install")],
            "containers": [container("app")],
            "volumes": [{"name": "scaledapp", "emptyDir": {}}],
        },
    })
}
