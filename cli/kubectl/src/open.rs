//! `open`: makes a slot of an app reachable at an address of this machine, through the API server.
//!
//! Each connection goes to a balancer pod that is ready at that moment: the slot's own, otherwise
//! another one that answers at the slot. So it goes on when a pod is replaced.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::Api as Kube;
use scaledapp_crds::words::{component, port};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use crate::api::{Api, chain};
use crate::cli::{OpenArgs, Which};
use crate::model::object::text;
use crate::model::pods::labelled;
use crate::model::seen::Seen;
use crate::model::slots::slot_of;
use crate::outcome::{Ended, Failure};
use crate::output;
use crate::read::{self, Depth};

/// How long opening a connection to a pod may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A place to which connections go.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    pod: String,
    port: u16,
}

/// The balancer to which a new connection goes, and its port. Pure.
fn target(seen: &Seen, namespace: &str, name: &str, slot: i64) -> Option<Target> {
    let pods = seen.pods.as_deref().unwrap_or_default();
    let ready = |pod: &&Pod| {
        let status = pod.status.as_ref();
        let mut conditions = status
            .and_then(|it| it.conditions.as_ref())
            .into_iter()
            .flatten();
        pod.metadata.deletion_timestamp.is_none()
            && conditions.any(|it| it.type_ == "Ready" && it.status == "True")
    };
    let all = labelled(pods, namespace, name, component::BALANCER);
    let mut ready: Vec<&Pod> = all.into_iter().filter(ready).collect();
    // The slot's own balancer first.
    ready.sort_by_key(|pod| slot_of(pod) != Some(slot));
    let pod = ready.first()?;
    let ports = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut ports = ports.flat_map(|it| it.ports.iter().flatten());
    let serves = ports.find(|it| matches!(it.name.as_deref(), Some(port::HTTP | port::TCP)));
    Some(Target {
        pod: pod.metadata.name.clone()?,
        port: serves.and_then(|it| u16::try_from(it.container_port).ok())?,
    })
}

/// Runs the verb.
pub(crate) async fn run(api: &Api, args: &OpenArgs) -> Ended {
    let which = Which {
        name: Some(args.name.clone()),
        ..Which::default()
    };
    let slot = i64::from(args.slot);
    let look = || async {
        let seen = read::all(api, &which, Depth::Objects, std::time::Instant::now()).await?;
        if let Err(why) = &seen.pods {
            return Err(Failure::unknown(format!(
                "{why}, so no balancer can be found"
            )));
        }
        let tcp = seen.apps.first().map(|app| text(app, "/spec/appProtocol"));
        let is_tcp = tcp.as_deref() == Some("tcp");
        let target = target(&seen, &api.namespace, &args.name, slot).ok_or_else(|| {
            Failure::fails(format!(
                "no balancer of {0} is ready: kubectl scaledapp status {0}",
                args.name
            ))
        })?;
        Ok((target, is_tcp))
    };
    let (mut last, is_tcp) = look().await?;
    let listener = TcpListener::bind(("127.0.0.1", args.port))
        .await
        .map_err(|error| {
            Failure::fails(format!(
                "cannot listen on 127.0.0.1:{}: {error}; give another --port",
                args.port
            ))
        })?;
    let address = listener
        .local_addr()
        .map_err(|error| Failure::fails(format!("no address: {error}")))?;
    let url = if is_tcp {
        address.to_string()
    } else {
        format!("http://{address}/")
    };
    output::write(&format!("{url}\n"))?;
    scaledapp_runtime::say(&format!(
        "leads to {} in namespace {} until Ctrl-C",
        last.pod, api.namespace
    ));
    if !args.no_browser && !is_tcp && crate::text::Surroundings::of_stdout().is_terminal {
        browse(&url);
    }
    let pods: Kube<Pod> = Kube::namespaced(api.client(), &api.namespace);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        match look().await {
            Ok((target, _)) => {
                if target != last {
                    scaledapp_runtime::say(&format!("now leads to {}", target.pod));
                    last = target.clone();
                }
                let pods = pods.clone();
                tokio::spawn(async move {
                    if let Err(why) = forward(&pods, &target, stream).await {
                        scaledapp_runtime::say(&format!(
                            "a connection to {} broke: {why}",
                            target.pod
                        ));
                    }
                });
            }
            // The client's connection is closed, and it may come again.
            Err(failure) => scaledapp_runtime::say(&failure.text),
        }
    }
}

async fn forward(pods: &Kube<Pod>, target: &Target, mut stream: TcpStream) -> Result<(), String> {
    let ports = [target.port];
    let opened = tokio::time::timeout(CONNECT_TIMEOUT, pods.portforward(&target.pod, &ports));
    let opened = opened.await.map_err(|_| "no answer in time".to_owned())?;
    let mut forwarder = opened.map_err(|error| chain(&error))?;
    let Some(mut far) = forwarder.take_stream(target.port) else {
        return Err("the API server opened no stream".to_owned());
    };
    // A client or a server that leaves is the usual end.
    let _ended = copy_bidirectional(&mut stream, &mut far).await;
    drop(far);
    forwarder.abort();
    Ok(())
}

/// Opens a browser, if this machine has the usual program for it.
fn browse(url: &str) {
    let program = if cfg!(target_os = "macos") {
        "open"
    } else {
        "xdg-open"
    };
    let mut command = std::process::Command::new(program);
    command.arg(url).stdin(std::process::Stdio::null());
    command
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    if let Ok(mut child) = command.spawn() {
        std::thread::spawn(move || drop(child.wait()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, slot: &str, ready: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "a", "labels": {
                "app.kubernetes.io/instance": "shop", "app.kubernetes.io/component": "balancer", "scaledapp.io/slot": slot,
            }},
            "spec": {"containers": [{"name": "balancer", "ports": [
                {"name": "admin", "containerPort": 9377}, {"name": "http", "containerPort": 8080},
            ]}]},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap()
    }

    #[test]
    fn a_connection_goes_to_the_slots_own_balancer_or_else_to_another_ready_one() {
        let seen = |own: &str, other: &str| Seen {
            apps: Vec::new(),
            pods: Ok(vec![pod("lb-1", "1", other), pod("lb-0", "0", own)]),
            slices: Ok(Vec::new()),
            answers: std::collections::BTreeMap::default(),
        };
        let to = |seen: &Seen| target(seen, "a", "shop", 0).map(|it| (it.pod, it.port));
        assert_eq!(to(&seen("True", "True")), Some(("lb-0".to_owned(), 8080)));
        assert_eq!(to(&seen("False", "True")), Some(("lb-1".to_owned(), 8080)));
        assert_eq!(to(&seen("False", "False")), None);
    }
}
