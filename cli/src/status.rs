//! `scaledapp status`: what the pods and balancers of the runs here say.

use std::path::Path;

use anyhow::bail;
use scaledapp_plan::local::{ADMIN_PORT, HOLDER_ADMIN_PORT};
use scaledapp_runtime::table;
use serde_json::{Value, json};

use crate::ask;
use crate::cli::Output;
use crate::runs::{self, Runs};
use crate::state::State;

/// Asks everything and shows it.
///
/// # Errors
/// Nothing runs here, or nothing of the run meant answers.
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
    let seen: Vec<Value> = runs
        .living
        .iter()
        .map(|run| runtime.block_on(look(run)))
        .collect();
    Ok(match output {
        Output::Json => format!("{}\n", Value::from(seen)),
        Output::Table => seen.iter().map(show).collect::<Vec<_>>().join("\n"),
    })
}

/// Everything that a run says; `null` for what does not answer.
async fn look(run: &State) -> Value {
    let mut pods = Vec::new();
    for pod in &run.pods {
        let status = match runs::check(pod) {
            Ok(()) => ask::status(pod.admin).await.unwrap_or_default(),
            // Somebody else's answer would be worse than none.
            Err(_) => Value::Null,
        };
        pods.push(
            json!({"name": pod.name, "address": pod.address, "admin": pod.admin, "status": status}),
        );
    }
    let mut balancers = Vec::new();
    for (index, address) in run.balancers.iter().enumerate() {
        let (mut admin, mut holder) = (*address, *address);
        admin.set_port(ADMIN_PORT.get());
        holder.set_port(HOLDER_ADMIN_PORT);
        balancers.push(json!({
            "name": format!("{}-lb-{index}", run.app()),
            "address": address,
            "admin": admin,
            "ready": ask::ready(admin).await.is_ok(),
            "status": ask::status(admin).await.unwrap_or_default(),
            "holder": ask::status(holder).await.unwrap_or_default(),
        }));
    }
    json!({"name": run.app(), "hostname": run.hostname, "dns": run.dns, "pods": pods, "balancers": balancers})
}

fn show(run: &Value) -> String {
    let rows = |key: &str, row: fn(&Value) -> [String; 7]| -> Vec<[String; 7]> {
        run[key].as_array().into_iter().flatten().map(row).collect()
    };
    let mut text = format!(
        "{}: {} by DNS at {}\n\n",
        word(&run["name"]),
        word(&run["hostname"]),
        word(&run["dns"])
    );
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
        rows("pods", pod),
    );
    let balancers = rows("balancers", balancer);
    if !balancers.is_empty() {
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
            balancers,
        );
    }
    text
}

fn pod(pod: &Value) -> [String; 7] {
    let status = &pod["status"];
    let ready = if status.is_null() {
        "no answer".to_owned()
    } else {
        format!("{}/{}", status["ready"], status["desired"])
    };
    supervised(pod, status, ready)
}

/// A balancer is the one worker of its holder, which knows the numbers.
fn balancer(balancer: &Value) -> [String; 7] {
    let ready = if balancer["ready"] == true {
        "yes"
    } else {
        "no"
    };
    supervised(balancer, &balancer["holder"], ready.to_owned())
}

/// The columns that any supervisor can fill.
fn supervised(of: &Value, status: &Value, ready: String) -> [String; 7] {
    let sum = |key: &str| -> u64 {
        status["workers"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|worker| worker[key].as_u64())
            .sum()
    };
    let megabytes = sum("rssBytes") as f64 / f64::from(1 << 20);
    [
        word(&of["name"]),
        word(&of["address"]),
        ready,
        status["generation"]
            .as_u64()
            .map_or_else(String::new, |generation| generation.to_string()),
        sum("restarts").to_string(),
        sum("inFlight").to_string(),
        format!("{megabytes:.1}Mi"),
    ]
}

fn word(value: &Value) -> String {
    value.as_str().unwrap_or("?").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_shown_by_pods_and_balancers() {
        let worker =
            |in_flight: u64| json!({"restarts": 1, "inFlight": in_flight, "rssBytes": 1 << 20});
        let run = json!({
            "name": "hello", "hostname": "hello.apps.local", "dns": "127.0.0.1:5353",
            "pods": [
                {"name": "hello-0", "address": "127.0.78.1:3000",
                 "status": {"ready": 2, "desired": 2, "generation": 3, "workers": [worker(4), worker(0)]}},
                {"name": "hello-1", "address": "127.0.78.2:3000", "status": null},
            ],
            "balancers": [
                {"name": "hello-lb-0", "address": "127.0.77.1:8080", "ready": true,
                 "holder": {"generation": 1, "workers": [worker(9)]}},
            ],
        });
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
