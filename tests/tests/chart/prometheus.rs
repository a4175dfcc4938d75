//! A real Prometheus that scrapes a loaded `scaledapp local`: every query of every dashboard returns
//! data, every rule can be evaluated, and `docs/metrics.md` lists exactly the metrics that exist.
//!
//! The operator needs an API server, so its metrics come from a file that a test of the operator
//! keeps up to date (`tests/fixtures/metrics/operator.txt`).

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use scaledapp_tests::load::Load;
use scaledapp_tests::local::Local;
use scaledapp_tests::process::{self, Process};
use scaledapp_tests::{binaries, dns, fixtures, http, ports, wait};
use serde_json::{Value, json};

use crate::alerts::rules;
use crate::dashboards::{BOARDS, board, panels, queries};

pub(crate) const SOON: Duration = Duration::from_secs(20);
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What is scraped: the address, and the labels that the `PodMonitor`s would set.
pub(crate) type Targets = Vec<(SocketAddr, Value)>;

struct Lab {
    prometheus: SocketAddr,
    targets: Targets,
    local: Local,
    _processes: Vec<Process>,
    _directory: tempfile::TempDir,
}

/// Starts everything; `None` if a program is missing.
fn lab(rules: &[Value]) -> Option<Lab> {
    if !["prometheus", "python3"].into_iter().all(binaries::has) {
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    let local = local(directory.path());
    let (name_server, admin, dns_process) = name_server(&local);
    let mut targets: Targets = vec![
        (
            serve(grown),
            json!({"namespace": "scaledapp-system", "pod": "op-0", "component": "operator"}),
        ),
        (
            admin,
            json!({"namespace": "scaledapp-system", "pod": "dns-0", "component": "dns"}),
        ),
    ];
    for (slot, balancer) in local.state.balancers.iter().enumerate() {
        let labels = json!({
            "namespace": "shop", "app": "shop", "component": "balancer",
            "pod": format!("shop-lb-{slot}"), "slot": slot.to_string(),
        });
        targets.push((SocketAddr::new(balancer.ip(), 9377), labels));
    }
    for pod in &local.state.pods {
        let labels =
            json!({"namespace": "shop", "app": "shop", "component": "app", "pod": pod.name});
        targets.push((pod.admin, labels));
    }
    // A worker that has ended, so that there is a series of ended workers.
    let workers = local.workers().unwrap();
    process::send(workers[0].pid, Signal::KILL).unwrap();
    dns::resolve(name_server, "shop.apps.local", dns::Type::A).unwrap();
    let (address, prometheus) = prometheus(directory.path(), rules, &targets);
    Some(Lab {
        prometheus: address,
        targets,
        local,
        _processes: vec![prometheus, dns_process],
        _directory: directory,
    })
}

fn local(directory: &Path) -> Local {
    let file = directory.join("app.yaml");
    let app = json!({
        "apiVersion": "scaledapp.io/v1alpha1", "kind": "ScaledApp", "metadata": {"name": "shop"},
        "spec": {
            "image": "x", "command": ["python3", fixtures::app("app.py"), "3000"], "port": 3000,
            "replicas": {"total": 2}, "workers": {"count": 2}, "balancers": {"replicas": 2},
            "dns": {"hostname": "shop.apps.local"},
        },
    });
    fs::write(&file, app.to_string()).unwrap();
    Local::start(&file, directory).unwrap()
}

/// A DNS server with an admin port, which that of `scaledapp local` lacks.
fn name_server(local: &Local) -> (SocketAddr, SocketAddr, Process) {
    let (listen, admin) = (ports::local().unwrap(), ports::local().unwrap());
    let mut command = Command::new(binaries::path("scaledapp-dns").unwrap());
    command.args(["run", "--zone", "apps.local"]);
    command.args(["--listen", &listen.to_string()]);
    command.args(["--admin", &admin.to_string()]);
    command
        .arg("--records-file")
        .arg(local.workdir.join("records.json"));
    let process = Process::spawn(command).unwrap();
    wait::until(SOON, "the DNS server answers", || {
        let answer = dns::resolve(listen, "shop.apps.local", dns::Type::A);
        match answer {
            Ok(answer) if !answer.addresses.is_empty() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .unwrap();
    (listen, admin, process)
}

fn recorded() -> String {
    let path = binaries::workspace().join("tests/fixtures/metrics/operator.txt");
    fs::read_to_string(path).unwrap()
}

/// The recorded metrics, with counters that have grown in proportion to `times`: a rate of nothing
/// has no quantile.
pub(crate) fn grown(times: u32) -> String {
    let grow = |line: &str| -> String {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let name = series.split('{').next().unwrap();
        let mut suffixes = ["_total", "_bucket", "_count", "_sum"].iter();
        let is_counter = suffixes.any(|suffix| name.ends_with(suffix)) && !line.starts_with('#');
        match value.parse::<f64>() {
            Ok(value) if is_counter => format!("{series} {}\n", value * f64::from(times)),
            _ => format!("{line}\n"),
        }
    };
    recorded().lines().map(grow).collect()
}

/// Serves metrics until the tests end. `page` gets the number of the scrape.
pub(crate) fn serve(page: fn(u32) -> String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for (times, mut stream) in (1..).zip(listener.incoming().flatten()) {
            let mut request = BufReader::new(&stream);
            let mut line = String::from("x");
            while !line.trim().is_empty() {
                line.clear();
                if request.read_line(&mut line).is_err() {
                    break;
                }
            }
            let body = page(times);
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: {CONTENT_TYPE}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                body.len()
            );
            // Prometheus may have given up.
            _ = stream.write_all((head + &body).as_bytes());
        }
    });
    address
}

pub(crate) fn prometheus(
    directory: &Path,
    rules: &[Value],
    targets: &Targets,
) -> (SocketAddr, Process) {
    let targets: Vec<Value> = targets
        .iter()
        .map(|(address, labels)| json!({"targets": [address.to_string()], "labels": labels}))
        .collect();
    let config = json!({
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [{"job_name": "scaledapp", "honor_labels": true, "static_configs": targets}],
    });
    let groups = json!({"groups": [{"name": "scaledapp", "rules": rules}]});
    fs::write(directory.join("rules.yaml"), groups.to_string()).unwrap();
    fs::write(directory.join("prometheus.yaml"), config.to_string()).unwrap();
    let address = ports::local().unwrap();
    let mut command = Command::new("prometheus");
    command.current_dir(directory);
    command.args(["--config.file=prometheus.yaml", "--storage.tsdb.path=data"]);
    command.args(["--log.level=warn", "--storage.tsdb.min-block-duration=2h"]);
    command.arg(format!("--web.listen-address={address}"));
    let process = Process::spawn(command).unwrap();
    wait::until(SOON, "Prometheus is ready", || {
        match http::get(address, "/-/ready") {
            Ok(answer) if answer.status == 200 => Ok(()),
            other => Err(format!("{other:?}: {}", process.stderr())),
        }
    })
    .unwrap();
    (address, process)
}

impl Lab {
    /// The values of a query, or Prometheus' message.
    fn values(&self, query: &str) -> Result<Vec<f64>, String> {
        let escape = |byte: u8| ['%', digit(byte >> 4), digit(byte & 15)];
        let escaped: String = query.bytes().flat_map(escape).collect();
        let answer = http::get(self.prometheus, &format!("/api/v1/query?query={escaped}"));
        let answer = answer.map_err(|error| error.to_string())?.json();
        if answer["status"] != "success" {
            return Err(answer["error"].to_string());
        }
        let series = answer["data"]["result"].as_array().unwrap().iter();
        let values = series.filter_map(|it| it["value"][1].as_str()?.parse().ok());
        Ok(values.collect())
    }
}

/// A hexadecimal digit.
fn digit(value: u8) -> char {
    char::from_digit(u32::from(value), 16).unwrap()
}

/// A query with the variables of a dashboard filled in.
fn filled(query: &str) -> String {
    let query = query.replace("$__rate_interval", "10s");
    ["namespace", "app", "slot"]
        .iter()
        .fold(query, |query, name| {
            query.replace(&format!("${name}"), ".+")
        })
}

/// `label_values(METRIC, LABEL)`, which only Grafana understands, as a query.
fn of_variable(query: &str) -> String {
    let inner = query
        .strip_prefix("label_values(")
        .and_then(|rest| rest.strip_suffix(')'));
    let (metric, label) = inner.unwrap().rsplit_once(", ").unwrap();
    format!("count by ({label}) ({metric})")
}

#[test]
fn every_query_returns_data_and_every_metric_is_documented() {
    let Some(rules) = rules(&[]) else { return };
    let Some(lab) = lab(&rules) else { return };
    let load = Load {
        rate: Some(100),
        clients: 4,
        ..Load::on(&lab.local.state.balancers)
    };
    let running = load.start().unwrap();
    let mut all: Vec<(String, String)> = Vec::new();
    let mut annotations: Vec<String> = Vec::new();
    for name in BOARDS {
        let board = board(name);
        for panel in panels(&board) {
            let title = format!("{name}: {}", panel["title"]);
            all.extend(queries(panel).iter().map(|it| (title.clone(), filled(it))));
        }
        let variables = &board["templating"]["list"].as_array().unwrap()[1..];
        for variable in variables {
            let query = variable["definition"].as_str().unwrap();
            all.push((format!("{name}: a variable"), filled(&of_variable(query))));
        }
        let shown = board["annotations"]["list"].as_array().unwrap().iter();
        annotations.extend(shown.filter_map(|it| Some(filled(it["expr"].as_str()?))));
    }
    let count = all.len();
    wait::until(SOON, "every query returns data", || {
        let mut missing = Vec::new();
        all.retain(|(title, query)| match lab.values(query) {
            Ok(values) if values.iter().any(|value| value.is_finite()) => false,
            other => {
                missing.push(format!("{title}: {query}: {other:?}"));
                true
            }
        });
        if missing.is_empty() {
            Ok(())
        } else {
            Err(missing.join("\n"))
        }
    })
    .unwrap();
    // Nothing need have happened that an annotation marks.
    for query in &annotations {
        lab.values(query).unwrap();
    }
    let report = running.stop();
    assert!(report.failed() <= 1, "{report}");
    println!("{count} queries of {} dashboards return data", BOARDS.len());
    rules_are_healthy(&lab, rules.len());
    metrics_are_documented(&lab);
}

fn rules_are_healthy(lab: &Lab, count: usize) {
    wait::until(SOON, "every rule was evaluated without an error", || {
        let answer = http::get(lab.prometheus, "/api/v1/rules").map_err(|it| it.to_string())?;
        let answer = answer.json();
        let rules = &answer["data"]["groups"][0]["rules"];
        let rules = rules.as_array().ok_or_else(|| answer.to_string())?;
        assert_eq!(rules.len(), count);
        let bad = rules.iter().find(|rule| rule["health"] != "ok");
        bad.map_or(Ok(()), |bad| Err(bad.to_string()))
    })
    .unwrap();
}

/// Compares the page with what the programs expose. A metric that none of them exposes here, such as
/// that of certificates, must at least be a name in the sources.
fn metrics_are_documented(lab: &Lab) {
    let mut exposed: BTreeMap<String, String> = BTreeMap::new();
    let mut pages = vec![recorded()];
    for (address, _) in &lab.targets {
        pages.push(http::get(*address, "/metrics").unwrap().text());
    }
    for line in pages.iter().flat_map(|page| page.lines()) {
        if let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|it| it.split_once(' '))
        {
            let suffix = if kind == "counter" { "_total" } else { "" };
            exposed.insert(format!("{name}{suffix}"), kind.to_owned());
        }
    }
    let page = fs::read_to_string(binaries::workspace().join("docs/metrics.md")).unwrap();
    let mut documented = BTreeMap::new();
    for line in page
        .lines()
        .filter(|line| line.starts_with("| `scaledapp_"))
    {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let name = cells[1].split(['`', '{']).nth(1).unwrap();
        documented.insert(name.to_owned(), cells[2].to_owned());
    }
    for (name, kind) in &exposed {
        assert_eq!(
            documented.get(name),
            Some(kind),
            "{name} in docs/metrics.md"
        );
    }
    let mut sources = String::new();
    for package in ["balancer", "dns", "operator", "sidecar"] {
        read_sources(&binaries::workspace().join(package), &mut sources);
    }
    for name in documented
        .keys()
        .filter(|name| !exposed.contains_key(*name))
    {
        let name = name.strip_suffix("_total").unwrap_or(name);
        let prefixes = ["balancer_", "dispatch_", "dns_", "operator_"];
        let base = name.strip_prefix("scaledapp_").unwrap();
        let base = prefixes.iter().find_map(|it| base.strip_prefix(it));
        let is_there = |name: &str| sources.contains(&format!("\"{name}\""));
        assert!(
            is_there(name) || base.is_some_and(is_there),
            "docs/metrics.md names {name}, which no program exposes"
        );
    }
    assert!(exposed.len() > 100, "{}", exposed.len());
    println!(
        "{} metrics exposed, {} documented",
        exposed.len(),
        documented.len()
    );
}

fn read_sources(directory: &Path, text: &mut String) {
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() && entry.file_name() != "target" {
            read_sources(&path, text);
        } else if path.extension().is_some_and(|it| it == "rs") {
            *text += &fs::read_to_string(path).unwrap();
        }
    }
}
