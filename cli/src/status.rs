//! `scaledapp status`: asks the pods and balancers of the runs on this machine for their
//! status, and prints it. `runs` finds the runs.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::bail;
use scaledapp_plan::local::{ADMIN_PORT, HOLDER_ADMIN_PORT};
use scaledapp_runtime::table;
use scaledapp_wire::{BalancerStatus, Status, Worker};
use serde::Serialize;

use crate::ask;
use crate::cli::Output;
use crate::runs::{self, Runs};
use crate::state::{Decided, State};

/// Asks all pods and balancers, and formats their answers.
///
/// # Errors
/// No app runs here, the named app does not run here, or the state file cannot be used.
pub(crate) fn run(
    name: Option<&str>,
    state: Option<&Path>,
    output: Output,
) -> anyhow::Result<String> {
    let runs = match name {
        Some(name) => Runs {
            living: vec![runs::find(name, state)?],
            notes: Vec::new(),
        },
        None => runs::all(state)?,
    };
    for note in &runs.notes {
        scaledapp_runtime::say(&format!("scaledapp: {note}"));
    }
    if runs.living.is_empty() {
        bail!("nothing runs here: start an app with `scaledapp local FILE`");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let shown: Vec<RunShown<'_>> = runs
        .living
        .iter()
        .map(|run| runtime.block_on(look(run)))
        .collect();
    Ok(match output {
        Output::Json => format!("{}\n", serde_json::to_string(&shown)?),
        Output::Table => shown.iter().map(show).collect::<Vec<_>>().join("\n"),
    })
}

/// An app as `--output json` prints it. A status is `None` if the process does not answer. The
/// fields are in alphabetical order, which is part of the output's format.
#[derive(Debug, Serialize)]
struct RunShown<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    autoscaling: Option<&'a Decided>,
    balancers: Vec<BalancerShown>,
    dns: SocketAddr,
    hostname: &'a str,
    name: &'a str,
    pods: Vec<PodShown<'a>>,
}

#[derive(Debug, Serialize)]
struct PodShown<'a> {
    address: SocketAddr,
    admin: SocketAddr,
    name: &'a str,
    status: Option<Status>,
}

#[derive(Debug, Serialize)]
struct BalancerShown {
    address: SocketAddr,
    admin: SocketAddr,
    /// The status of the supervisor that keeps the balancer's listening socket open.
    holder: Option<Status>,
    name: String,
    ready: bool,
    status: Option<BalancerStatus>,
}

/// Asks all processes of a run.
async fn look(run: &State) -> RunShown<'_> {
    let mut pods = Vec::new();
    for pod in &run.pods {
        let status = match runs::check(pod) {
            Ok(()) => ask::status(pod.admin).await.ok(),
            // The answer of another process would be worse than none.
            Err(_) => None,
        };
        pods.push(PodShown {
            address: pod.address,
            admin: pod.admin,
            name: &pod.name,
            status,
        });
    }
    let mut balancers = Vec::new();
    for (index, address) in run.balancers.iter().enumerate() {
        let (mut admin, mut holder) = (*address, *address);
        admin.set_port(ADMIN_PORT.get());
        holder.set_port(HOLDER_ADMIN_PORT);
        balancers.push(BalancerShown {
            address: *address,
            admin,
            holder: ask::status(holder).await.ok(),
            name: format!("{}-lb-{index}", run.app()),
            ready: ask::ready(admin).await.is_ok(),
            status: ask::status(admin).await.ok(),
        });
    }
    RunShown {
        autoscaling: run.autoscaling.as_ref(),
        balancers,
        dns: run.dns,
        hostname: &run.hostname,
        name: run.app(),
        pods,
    }
}

fn show(run: &RunShown<'_>) -> String {
    let decided = run.autoscaling.map_or_else(String::new, |decided| {
        let statuses = run.pods.iter().filter_map(|pod| pod.status.as_ref());
        let ready = statuses.filter(|status| status.ready > 0).count();
        format!("{ready}/{} pods: {}\n\n", decided.pods, decided.reason)
    });
    let (name, hostname, dns) = (run.name, run.hostname, run.dns);
    let mut text = format!("{name}: {hostname} by DNS at {dns}\n\n{decided}");
    text += &table(
        [
            "POD",
            "ADDRESS",
            "READY",
            "GENERATION",
            "RESTARTS",
            "IN-FLIGHT",
            "RSS",
        ],
        run.pods.iter().map(pod).collect(),
    );
    if !run.balancers.is_empty() {
        text.push('\n');
        text += &table(
            [
                "BALANCER",
                "ADDRESS",
                "READY",
                "GENERATION",
                "RESTARTS",
                "CONNECTIONS",
                "RSS",
            ],
            run.balancers.iter().map(balancer).collect(),
        );
    }
    text
}

fn pod(pod: &PodShown<'_>) -> [String; 7] {
    let status = pod.status.as_ref();
    let ready = status.map_or("no answer".to_owned(), |status| {
        format!("{}/{}", status.ready, status.desired)
    });
    supervised(pod.name, pod.address, status, ready)
}

/// The row of a balancer. Its numbers come from its supervisor (`holder`), whose only worker it is.
fn balancer(balancer: &BalancerShown) -> [String; 7] {
    let ready = if balancer.ready { "yes" } else { "no" };
    let holder = balancer.holder.as_ref();
    supervised(&balancer.name, balancer.address, holder, ready.to_owned())
}

/// The row of a pod or of a balancer, filled from the status of its supervisor.
fn supervised(
    name: &str,
    address: SocketAddr,
    status: Option<&Status>,
    ready: String,
) -> [String; 7] {
    let workers = status.map_or(&[][..], |status| &status.workers);
    let sum = |of: fn(&Worker) -> u64| workers.iter().map(of).sum::<u64>();
    let megabytes = sum(|worker| worker.rss_bytes) as f64 / f64::from(1 << 20);
    [
        name.to_owned(),
        address.to_string(),
        ready,
        status.map_or_else(String::new, |status| status.generation.to_string()),
        sum(|worker| worker.restarts.into()).to_string(),
        sum(|worker| worker.in_flight.into()).to_string(),
        format!("{megabytes:.1}Mi"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_shown_by_pods_and_balancers() {
        let worker = |in_flight| Worker {
            restarts: 1,
            in_flight,
            rss_bytes: 1 << 20,
            ..Worker::default()
        };
        let pod = |name, address: &str, status| PodShown {
            address: address.parse().unwrap(),
            admin: address.parse().unwrap(),
            name,
            status,
        };
        let serving = Status {
            ready: 2,
            desired: 2,
            generation: 3,
            workers: vec![worker(4), worker(0)],
            ..Status::default()
        };
        let run = RunShown {
            autoscaling: None,
            balancers: vec![BalancerShown {
                address: "127.0.77.1:8080".parse().unwrap(),
                admin: "127.0.77.1:9377".parse().unwrap(),
                holder: Some(Status {
                    generation: 1,
                    workers: vec![worker(9)],
                    ..Status::default()
                }),
                name: "hello-lb-0".to_owned(),
                ready: true,
                status: None,
            }],
            dns: "127.0.0.1:5353".parse().unwrap(),
            hostname: "hello.apps.local",
            name: "hello",
            pods: vec![
                pod("hello-0", "127.0.78.1:3000", Some(serving)),
                pod("hello-1", "127.0.78.2:3000", None),
            ],
        };
        let expected = "\
hello: hello.apps.local by DNS at 127.0.0.1:5353

POD      ADDRESS          READY      GENERATION  RESTARTS  IN-FLIGHT  RSS
hello-0  127.0.78.1:3000  2/2        3           2         4          2.0Mi
hello-1  127.0.78.2:3000  no answer              0         0          0.0Mi

BALANCER    ADDRESS          READY  GENERATION  RESTARTS  CONNECTIONS  RSS
hello-lb-0  127.0.77.1:8080  yes    1           1         9            1.0Mi
";
        assert_eq!(show(&run), expected);
    }
}
