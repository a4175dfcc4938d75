//! The rules that the Grafana dashboards follow. Whether their queries return data is tested in
//! `prometheus.rs`.

use std::collections::BTreeSet;
use std::fs;

use scaledapp_tests::binaries;
use serde_json::Value;

use crate::{find, refused, rendered};

pub(crate) const BOARDS: [&str; 3] = ["app", "balancer", "system"];

/// A dashboard as it is in the chart.
pub(crate) fn board(name: &str) -> Value {
    let path = format!("charts/scaledapp/files/dashboards/{name}.json");
    let text = fs::read_to_string(binaries::workspace().join(path)).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The panels of a dashboard that show something.
pub(crate) fn panels(board: &Value) -> Vec<&Value> {
    let panels = board["panels"].as_array().unwrap().iter();
    panels.filter(|panel| panel["type"] != "row").collect()
}

/// The queries of a panel.
pub(crate) fn queries(panel: &Value) -> Vec<&str> {
    let targets = panel["targets"].as_array().unwrap().iter();
    targets
        .map(|target| target["expr"].as_str().unwrap())
        .collect()
}

#[test]
fn each_panel_has_a_title_a_unit_and_says_what_it_shows() {
    for name in BOARDS {
        let board = board(name);
        assert!(panels(&board).len() >= 12, "{name}");
        let mut titles = BTreeSet::new();
        for panel in panels(&board) {
            let title = panel["title"].as_str().unwrap();
            assert!(titles.insert(title), "{name}: two panels {title:?}");
            let description = panel["description"].as_str().unwrap();
            assert!(description.ends_with('.'), "{name}: {title}: {description}");
            let unit = &panel["fieldConfig"]["defaults"]["unit"];
            assert!(
                unit.as_str().is_some_and(|unit| !unit.is_empty()),
                "{title}"
            );
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
            for target in panel["targets"].as_array().unwrap() {
                assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
                // Two unnamed lines of one plot cannot be told apart.
                let unnamed = target["legendFormat"] == "";
                assert!(!unnamed || panel["type"] == "stat", "{title}");
            }
        }
    }
}

#[test]
fn panels_fill_a_grid_without_overlapping() {
    for name in BOARDS {
        let board = board(name);
        let mut cells = BTreeSet::new();
        let mut ids = BTreeSet::new();
        for panel in board["panels"].as_array().unwrap() {
            let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            assert!(at("x") + at("w") <= 24, "{name}: {}", panel["title"]);
            for x in at("x")..at("x") + at("w") {
                for y in at("y")..at("y") + at("h") {
                    let free = cells.insert((x, y));
                    assert!(free, "{name}: {} overlaps", panel["title"]);
                }
            }
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{name}");
        }
    }
}

#[test]
fn counters_are_rates_and_every_selector_obeys_the_variables() {
    for name in BOARDS {
        let board = board(name);
        for panel in panels(&board) {
            for query in queries(panel) {
                for (at, _) in query.match_indices("_total{") {
                    let start = query[..at].rfind('(').unwrap();
                    let function = &query[..start];
                    assert!(
                        function.ends_with("rate") || function.ends_with("increase"),
                        "{name}: {query}"
                    );
                }
                for range in query.split('[').skip(1) {
                    let range = range.split(']').next().unwrap();
                    let known = ["$__rate_interval", "5m", "10m", "15m"].contains(&range);
                    assert!(known, "{name}: {query}");
                }
                let selects = query.matches("scaledapp_").count();
                let by_namespace = query.matches("namespace=~\"$namespace\"").count();
                // The operator's figures about apps are of all namespaces.
                let of_apps = query.contains("scaledapp_operator_condition{type")
                    || query.contains("scaledapp_operator_slot_holder{own");
                assert!(selects == by_namespace || of_apps, "{name}: {query}");
            }
        }
    }
}

#[test]
fn dashboards_work_with_any_data_source_and_cannot_be_edited_by_accident() {
    let mut uids = BTreeSet::new();
    for name in BOARDS {
        let board = board(name);
        assert_eq!(board["editable"], false, "{name}");
        assert_eq!(board["schemaVersion"], 39, "{name}");
        assert!(uids.insert(board["uid"].as_str().unwrap().to_owned()));
        assert!(board.get("__inputs").is_none(), "{name}");
        assert!(!board.to_string().contains("DS_PROMETHEUS"), "{name}");
        let variables = board["templating"]["list"].as_array().unwrap();
        assert_eq!(variables[0]["name"], "datasource", "{name}");
        for variable in &variables[1..] {
            assert_eq!(variable["allValue"], ".+", "{name}");
            assert_eq!(variable["multi"], true, "{name}");
            assert!(variable["label"].is_string(), "{name}");
        }
        let text = board.to_string();
        let bare = text.split("\"$").skip(1);
        let bare = bare.filter(|part| !part.starts_with('{'));
        for part in text.split("${").skip(1).chain(bare) {
            let variable: String = part
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            let known = variables.iter().any(|it| it["name"] == *variable);
            assert!(known || variable.starts_with("__"), "{name}: ${variable}");
        }
    }
}

#[test]
fn config_maps_have_the_label_that_grafanas_sidecar_looks_for() {
    let on = "metrics.dashboards.enabled=true";
    let Some(objects) = rendered(&[on]) else {
        return;
    };
    for name in BOARDS {
        let map = find(
            &objects,
            "ConfigMap",
            &format!("scaledapp-dashboard-{name}"),
        );
        // As text: a number would be refused by the API server.
        assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
        let text = map["data"][format!("scaledapp-{name}.json")].as_str();
        let shown: Value = serde_json::from_str(text.unwrap()).unwrap();
        assert_eq!(shown, board(name));
    }
    let objects = rendered(&[
        on,
        "metrics.dashboards.label=boards",
        "metrics.dashboards.folder=Apps",
    ]);
    let objects = objects.unwrap();
    let map = find(&objects, "ConfigMap", "scaledapp-dashboard-app");
    assert_eq!(map["metadata"]["labels"]["boards"], "1");
    assert_eq!(map["metadata"]["annotations"]["grafana_folder"], "Apps");
    refused(&[crate::REGISTRY, "metrics.dashboards.labels=1"]).unwrap();
}
