//! Each alert of the chart against series that must fire it, and series that must not, evaluated by
//! Prometheus' own `promtool`. Of every alert: what fires it, what stays just below, no traffic, a
//! target that is gone, and counters that begin again (for gauges: values that come and go).

use std::collections::BTreeMap;
use std::process::Command;

use scaledapp_tests::{binaries, process};
use serde_json::{Value, json};

use crate::alert_cases::{CASES, Case, Kind};
use crate::{DEADLINE, find, refused, rendered};

pub(crate) const ENABLED: &str = "metrics.prometheusRule.enabled=true";

/// The rules that helm renders.
pub(crate) fn rules(values: &[&str]) -> Option<Vec<Value>> {
    let objects = rendered(&[&[ENABLED], values].concat())?;
    let object = find(&objects, "PrometheusRule", "scaledapp-alerts");
    let rules = object["spec"]["groups"][0]["rules"].as_array().unwrap();
    Some(rules.clone())
}

fn promtool(words: &[&str]) -> Option<process::Ended> {
    if !binaries::has("promtool") {
        return None;
    }
    let mut command = Command::new("promtool");
    command.args(words);
    Some(process::run(command, DEADLINE).unwrap())
}

#[test]
fn each_alert_fires_when_it_should_and_only_then() {
    let Some(rules) = rules(&[]) else { return };
    let by_name: BTreeMap<_, _> = rules
        .iter()
        .map(|rule| (rule["alert"].as_str().unwrap(), rule))
        .collect();
    let tests: Vec<Value> = CASES
        .iter()
        .map(|case| test_of(case, by_name[case.alert]))
        .collect();
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let groups = json!({"groups": [{"name": "scaledapp", "rules": rules}]});
    std::fs::write(at("rules.yaml"), groups.to_string()).unwrap();
    let all = json!({
        "rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests,
    });
    std::fs::write(at("tests.yaml"), all.to_string()).unwrap();
    let Some(ended) = promtool(&["test", "rules", &at("tests.yaml").to_string_lossy()]) else {
        return;
    };
    assert_eq!(ended.code, 0, "{}{}", ended.stdout, ended.stderr);
    println!(
        "{} alerts, {} cases of promtool",
        by_name.len(),
        CASES.len()
    );
}

fn test_of(case: &Case, rule: &Value) -> Value {
    let series = case.series.iter();
    let series: Vec<Value> = series
        .map(|(series, values)| json!({"series": series, "values": values}))
        .collect();
    let expected = case.firing.map(|(labels, summary)| {
        let mut all = BTreeMap::from([("severity", rule["labels"]["severity"].clone())]);
        all.extend(labels.iter().map(|(name, value)| (*name, json!(value))));
        let description = rule["annotations"]["description"].as_str().unwrap();
        let description = labels.iter().fold(description.to_owned(), |text, label| {
            text.replace(&format!("{{{{ $labels.{} }}}}", label.0), label.1)
        });
        json!({
            "exp_labels": all,
            "exp_annotations": {
                "summary": summary,
                "description": description,
                "runbook_url": format!("docs/runbooks/{}.md", case.alert),
            },
        })
    });
    json!({
        "name": format!("{} {:?}: {}", case.alert, case.kind, case.what),
        "interval": "1m",
        "input_series": series,
        "alert_rule_test": [{
            "eval_time": case.at,
            "alertname": case.alert,
            "exp_alerts": expected.into_iter().collect::<Vec<_>>(),
        }],
    })
}

#[test]
fn each_alert_has_each_kind_of_case() {
    let Some(rules) = rules(&[]) else { return };
    for rule in &rules {
        let name = rule["alert"].as_str().unwrap();
        for kind in [
            Kind::Fires,
            Kind::Below,
            Kind::NoTraffic,
            Kind::Gone,
            Kind::Reset,
        ] {
            let mut of_alert = CASES.iter().filter(|case| case.alert == name);
            assert!(
                of_alert.any(|case| case.kind == kind),
                "{name} has no case {kind:?}: add it to alert_cases.rs"
            );
        }
    }
}

#[test]
fn each_alert_says_what_to_do_and_has_a_page() {
    let Some(rules) = rules(&[]) else { return };
    assert_eq!(rules.len(), 14);
    for rule in &rules {
        let name = rule["alert"].as_str().unwrap();
        let severity = rule["labels"]["severity"].as_str().unwrap();
        assert!(["critical", "warning"].contains(&severity), "{name}");
        let annotations = &rule["annotations"];
        let text = |key: &str| annotations[key].as_str().unwrap().to_owned();
        assert!(text("summary").len() < 140, "{name}");
        assert!(text("description").contains("kubectl"), "{name}");
        let page = text("runbook_url");
        assert!(binaries::workspace().join(&page).is_file(), "{page}");
        let expression = rule["expr"].as_str().unwrap();
        assert!(!expression.contains('@'), "{name}: {expression}");
        // With `for: 0m`, one missed scrape would end a gauge's alert.
        assert!(
            rule["for"] != "0m" || expression.contains("increase("),
            "{name}"
        );
    }
}

#[test]
fn thresholds_severities_and_pages_can_be_changed() {
    let alerts = "metrics.prometheusRule.alerts";
    let latency = format!("{alerts}.ScaledAppLatencyHigh");
    let values = [
        format!("{latency}.seconds=0.25"),
        format!("{latency}.severity=page"),
        format!("{latency}.for=3m"),
        format!("{alerts}.ScaledAppStalled.enabled=false"),
        format!("{alerts}.ScaledAppQueueing=null"),
        "metrics.prometheusRule.runbookUrl=https://docs.example/{name}.html".to_owned(),
        "metrics.prometheusRule.labels.release=stack".to_owned(),
    ];
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    let Some(rules) = rules(&values) else { return };
    assert_eq!(rules.len(), 12);
    let rule = rules
        .iter()
        .find(|rule| rule["alert"] == "ScaledAppLatencyHigh");
    let rule = rule.unwrap();
    assert!(rule["expr"].as_str().unwrap().contains("> 0.25\n"));
    assert_eq!(rule["labels"]["severity"], "page");
    assert_eq!(rule["for"], "3m");
    let page = "https://docs.example/ScaledAppLatencyHigh.html";
    assert_eq!(rule["annotations"]["runbook_url"], page);
    let objects = rendered(&[&[ENABLED][..], &values].concat()).unwrap();
    let object = find(&objects, "PrometheusRule", "scaledapp-alerts");
    assert_eq!(object["metadata"]["labels"]["release"], "stack");

    for wrong in [
        format!("{latency}.minutes=1"),
        format!("{latency}.for=soon"),
        format!("{alerts}.ScaledAppUnknown.enabled=true"),
        "metrics.prometheusRule.runbookUrl=https://docs.example".to_owned(),
    ] {
        refused(&[crate::REGISTRY, ENABLED, &wrong]).unwrap();
    }
    // As if the values were those of a release that did not have these.
    let old = "metrics.prometheusRule.runbookUrl=null";
    let message = refused(&[crate::REGISTRY, ENABLED, old]).unwrap();
    assert!(message.contains("--reset-then-reuse-values"), "{message}");
}

#[test]
fn alerts_and_dashboards_are_off_by_default_and_their_labels_come_from_the_monitors() {
    let Some(plain) = rendered(&[]) else { return };
    for object in &plain {
        assert_ne!(object["kind"], "PrometheusRule");
        assert_ne!(object["kind"], "ConfigMap");
    }
    let objects = rendered(&["metrics.podMonitor.enabled=true"]).unwrap();
    let labels_of = |name: &str| -> Vec<String> {
        let endpoint = &find(&objects, "PodMonitor", name)["spec"]["podMetricsEndpoints"][0];
        let relabelings = endpoint["relabelings"].as_array().unwrap();
        let targets = relabelings.iter().map(|it| it["targetLabel"].as_str());
        targets.map(|it| it.unwrap().to_owned()).collect()
    };
    assert_eq!(labels_of("scaledapp-apps"), ["app", "component", "slot"]);
    assert_eq!(labels_of("scaledapp-system"), ["component"]);
    let system = find(&objects, "PodMonitor", "scaledapp-system");
    assert_eq!(
        system["spec"]["podMetricsEndpoints"][0]["honorLabels"],
        true
    );
}
