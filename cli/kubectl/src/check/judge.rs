//! What follows from what `check` has seen of the installation: pure functions from answers to
//! findings, each failure with its cure.

use serde_json::Value;

use super::finding::Finding;
use crate::api::{Trouble, Why};

/// A difference of clocks that is worth a warning, in seconds. Times in answers are whole seconds.
const MAX_SKEW_SECONDS: f64 = 5.0;
/// An answer of the API server that takes longer is worth a warning, in milliseconds.
const SLOW_MILLISECONDS: u64 = 1_000;

/// The API server: its version, how long the answer took, and how far the clocks differ (positive
/// if the server's is ahead), if that is known.
pub(crate) fn api(
    answer: &Result<Value, Trouble>,
    milliseconds: u64,
    skew: Option<f64>,
) -> Vec<Finding> {
    let version = match answer {
        Ok(version) => version["gitVersion"]
            .as_str()
            .unwrap_or("of unknown version"),
        Err(trouble) => {
            return vec![
                Finding::failure("api", format!("no answer: {trouble}"))
                    .cure("cure: check `kubectl cluster-info`, --context and --kubeconfig"),
            ];
        }
    };
    let text = format!("{}, {milliseconds} ms", version.trim_start_matches('v'));
    let first = if milliseconds > SLOW_MILLISECONDS {
        Finding::warning("api", format!("{text}, which is slow"))
    } else {
        Finding::ok("api", text)
    };
    let mut findings = vec![first];
    if let Some(skew) = skew.filter(|skew| skew.abs() > MAX_SKEW_SECONDS) {
        let side = if skew > 0.0 { "behind" } else { "ahead of" };
        findings.push(
            Finding::warning(
                "clock",
                format!(
                    "this machine's clock is {:.0} s {side} the API server's",
                    skew.abs()
                ),
            )
            .cure("cure: synchronise the clocks (NTP); ages and --since are wrong until then"),
        );
    }
    findings
}

/// The definition of ScaledApps: whether it is there, served, and equal to `ours`.
pub(crate) fn definition(stored: &Result<Value, Trouble>, ours: &Value) -> Vec<Finding> {
    let stored = match stored {
        Ok(stored) => stored,
        Err(trouble) if trouble.why == Why::Missing => {
            return vec![
                Finding::failure("crd", "the cluster does not know ScaledApps")
                    .cure("cure: helm install scaledapp charts/scaledapp -n scaledapp-system --create-namespace …  (docs/kubernetes.md)"),
            ];
        }
        Err(trouble) => {
            let why = trouble.short("get", "customresourcedefinitions");
            return vec![Finding::unchecked("crd", why)];
        }
    };
    let conditions = stored
        .pointer("/status/conditions")
        .and_then(Value::as_array);
    let mut established = conditions
        .into_iter()
        .flatten()
        .filter(|it| it["type"] == "Established");
    if established.next().is_some_and(|it| it["status"] != "True") {
        return vec![
            Finding::failure("crd", "the API server does not serve the definition")
                .cure("cure: kubectl describe crd scaledapps.scaledapp.io"),
        ];
    }
    // The API server adds fields of its own elsewhere; these are stored as they were sent.
    let parts = ["/schema", "/subresources", "/additionalPrinterColumns"];
    let version = |definition: &Value| {
        let versions = definition
            .pointer("/spec/versions")
            .and_then(Value::as_array);
        let mut versions = versions.into_iter().flatten();
        versions
            .find(|it| it["name"] == "v1alpha1")
            .cloned()
            .unwrap_or_default()
    };
    let (stored, ours) = (version(stored), version(ours));
    let differs = parts.iter().filter(|part| {
        let present = |value: &Value| value.pointer(part).cloned().unwrap_or_default();
        normal(present(&stored)) != normal(present(&ours))
    });
    let differs: Vec<&str> = differs.map(|part| part.trim_start_matches('/')).collect();
    if differs.is_empty() {
        return vec![Finding::ok("crd", "v1alpha1, the same as this program's")];
    }
    vec![
        Finding::warning("crd", format!("differs from this program's ({})", differs.join(", ")))
            .cure("cure: use the plugin of the operator's release; if the definition is the older one: kubectl apply --server-side --force-conflicts -f crds/scaledapp.yaml"),
    ]
}

/// A schema without fields that are absent in one text and empty in another.
fn normal(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let entries = map.into_iter().map(|(key, value)| (key, normal(value)));
            Value::Object(entries.filter(|(_, value)| !is_empty(value)).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(normal).collect()),
        // The schema has bounds as numbers, which JSON may write with or without a fraction.
        Value::Number(number) => match number.as_f64() {
            Some(number) => Value::from(number),
            None => Value::Number(number),
        },
        other => other,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// What was seen of the operator.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Operator {
    pub(crate) namespace: String,
    /// The Lease; seconds since its last renewal are computed with the API server's clock.
    pub(crate) lease: Result<Value, Trouble>,
    pub(crate) renewed_seconds: Option<f64>,
    /// Ready replicas and all replicas, if pods could be listed.
    pub(crate) replicas: Result<(usize, usize), String>,
}

/// How long after its last renewal a Lease means that no operator works, in seconds: a follower
/// takes over after 10 s.
const LEASE_SECONDS: f64 = 20.0;

/// The operator: whether one leads, and how many replicas are ready.
pub(crate) fn operator(seen: &Operator) -> Vec<Finding> {
    let namespace = &seen.namespace;
    let look = format!(
        "cure: kubectl -n {namespace} get pods; kubectl -n {namespace} logs deploy/scaledapp-operator"
    );
    let mut findings = Vec::new();
    match &seen.lease {
        Ok(lease) => {
            let holder = lease
                .pointer("/spec/holderIdentity")
                .and_then(Value::as_str);
            match (holder.filter(|it| !it.is_empty()), seen.renewed_seconds) {
                (Some(holder), Some(age)) if age <= LEASE_SECONDS => {
                    findings.push(Finding::ok(
                        "operator",
                        format!("{holder} leads in {namespace}"),
                    ));
                }
                (Some(holder), Some(age)) => findings.push(
                    Finding::failure(
                        "operator",
                        format!(
                            "{holder} has not renewed the Lease for {}",
                            crate::text::age(age)
                        ),
                    )
                    .cure(look.clone()),
                ),
                _ => findings
                    .push(Finding::failure("operator", "no replica leads").cure(look.clone())),
            }
        }
        Err(trouble) if trouble.why == Why::Missing => findings.push(
            Finding::failure(
                "operator",
                format!("no operator has ever led in {namespace}"),
            )
            .cure(format!(
                "{look}\n      or name its namespace: --operator-namespace"
            )),
        ),
        Err(trouble) => {
            let why = trouble.short("get", "leases");
            findings.push(Finding::unchecked(
                "operator",
                format!("who leads: {why} in {namespace}"),
            ));
        }
    }
    match &seen.replicas {
        Ok((0, 0)) => findings.push(
            Finding::failure(
                "operator",
                format!("there are no pods of the operator in {namespace}"),
            )
            .cure(look),
        ),
        Ok((ready, all)) if ready < all => findings.push(
            Finding::warning(
                "operator",
                format!("{ready} of {} ready", crate::text::count(*all, "replica")),
            )
            .cure(look),
        ),
        Ok((_, 1)) => findings.push(
            Finding::warning(
                "operator",
                "one replica: while its node is away, nothing is reconciled",
            )
            .cure("cure: helm upgrade … --set operator.replicas=2"),
        ),
        Ok((ready, _)) => findings.push(Finding::ok("operator", format!("{ready} replicas ready"))),
        Err(why) => findings.push(Finding::unchecked("operator", format!("its pods: {why}"))),
    }
    findings
}

/// Whether a namespace admits the pods of an app, from the answer to a trial (dry run).
pub(crate) fn admission(namespace: &str, answer: &Result<Value, Trouble>) -> Finding {
    let Err(trouble) = answer else {
        return Finding::ok(
            "admission",
            format!("{namespace:?} admits pods like an app's (tried, not created)"),
        );
    };
    let words = &trouble.message;
    if words.contains("violates PodSecurity") {
        return Finding::failure("admission", format!("Pod Security refuses: {words}"))
            .cure("cure: leave what the message names out of spec.podTemplate, or set another level: kubectl label namespace … pod-security.kubernetes.io/enforce=baseline");
    }
    if words.contains("exceeded quota")
        || words.contains("denied the request")
        || words.contains("is forbidden: ") && !words.contains("cannot create resource")
    {
        return Finding::failure("admission", format!("{namespace:?} refuses pods: {words}"))
            .cure("cure: change what the message names");
    }
    match trouble.why {
        Why::Forbidden => {
            Finding::unchecked("admission", "may not create pods, which the trial needs")
        }
        Why::Missing => {
            Finding::failure("admission", format!("there is no namespace {namespace:?}"))
                .cure(format!("cure: kubectl create namespace {namespace}"))
        }
        _ => Finding::unchecked("admission", words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::finding::Outcome::{Failure, Ok as Good, Unchecked, Warning};
    use serde_json::json;

    fn trouble(why: Why, message: &str) -> Trouble {
        Trouble {
            why,
            message: message.to_owned(),
        }
    }

    #[test]
    fn the_definition_is_compared_in_what_it_means() {
        let ours = serde_json::to_value(scaledapp_crds::kubernetes::definition()).unwrap();
        let mut stored = ours.clone();
        stored["spec"]["conversion"] = json!({"strategy": "None"});
        stored["status"]["conditions"] = json!([{"type": "Established", "status": "True"}]);
        assert_eq!(definition(&Ok(stored.clone()), &ours)[0].outcome, Good);
        let image =
            "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/image/maxLength";
        *stored.pointer_mut(image).unwrap() = json!(7);
        let found = definition(&Ok(stored.clone()), &ours);
        assert_eq!(found[0].outcome, Warning);
        assert!(found[0].text.contains("schema"), "{found:?}");
        stored["status"]["conditions"][0]["status"] = json!("False");
        assert_eq!(definition(&Ok(stored), &ours)[0].outcome, Failure);
        let missing = definition(&Err(trouble(Why::Missing, "x")), &ours);
        assert!(missing[0].cure.as_ref().unwrap().contains("helm install"));
        let hidden = definition(&Err(trouble(Why::Forbidden, "x")), &ours);
        assert_eq!(
            hidden[0].text,
            "not checked: may not get customresourcedefinitions"
        );
    }

    #[test]
    fn an_operator_leads_while_it_renews_its_lease() {
        let seen = |holder: &str, renewed, replicas| Operator {
            namespace: "system".to_owned(),
            lease: Ok(json!({"spec": {"holderIdentity": holder}})),
            renewed_seconds: renewed,
            replicas,
        };
        let outcomes = |seen: &Operator| {
            let found = operator(seen);
            found.iter().map(|it| it.outcome).collect::<Vec<_>>()
        };
        assert_eq!(outcomes(&seen("a", Some(2.0), Ok((2, 2)))), [Good, Good]);
        assert_eq!(
            outcomes(&seen("a", Some(60.0), Ok((1, 2)))),
            [Failure, Warning]
        );
        assert_eq!(outcomes(&seen("", None, Ok((0, 0)))), [Failure, Failure]);
        let hidden = Operator {
            lease: Err(trouble(Why::Forbidden, "x")),
            ..seen("a", None, Err("may not list pods".to_owned()))
        };
        assert_eq!(outcomes(&hidden), [Unchecked, Unchecked]);
        assert_eq!(outcomes(&seen("a", Some(1.0), Ok((1, 1)))), [Good, Warning]);
    }

    #[test]
    fn a_refused_pod_is_a_failure_and_a_missing_right_is_not() {
        let is = |words: &str| admission("a", &Err(trouble(Why::Forbidden, words))).outcome;
        assert_eq!(
            is("pods \"x\" is forbidden: violates PodSecurity \"restricted:latest\": …"),
            Failure
        );
        assert_eq!(is("pods \"x\" is forbidden: exceeded quota: q"), Failure);
        assert_eq!(
            is("pods is forbidden: User \"u\" cannot create resource \"pods\""),
            Unchecked
        );
        assert_eq!(admission("a", &Ok(json!({}))).outcome, Good);
    }

    #[test]
    fn a_slow_server_and_a_wrong_clock_are_warnings() {
        let version = Ok(json!({"gitVersion": "v1.36.2"}));
        assert_eq!(api(&version, 14, Some(0.4))[0].text, "1.36.2, 14 ms");
        assert_eq!(api(&version, 2_000, None)[0].outcome, Warning);
        let skewed = api(&version, 1, Some(-60.0));
        assert!(skewed[1].text.contains("60 s ahead of"), "{skewed:?}");
        let none = api(&Err(trouble(Why::Unreachable, "refused")), 1, None);
        assert_eq!(none[0].outcome, Failure);
    }
}
