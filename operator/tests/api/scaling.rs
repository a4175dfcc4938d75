//! Tests of the autoscalers' loop on real sockets: balancers and pods that send their load, and
//! what the loop publishes and triggers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::channel::mpsc::UnboundedReceiver;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::Event;
use scaledapp_operator::context::Context;
use scaledapp_operator::lease::Leadership;
use scaledapp_operator::scaling;
use scaledapp_operator::stores::{Guarded, Writers, stores};
use scaledapp_operator::triggers::Triggers;
use scaledapp_plan::cluster::Scaled;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use crate::operator::{Operator, good};
use crate::server::Shared;

/// How long a test waits before it fails.
const DEADLINE: Duration = Duration::from_secs(30);

/// Balancers and pods of all apps, which send their load each second and as soon as it changes.
#[derive(Debug, Default)]
struct Load {
    in_flight: AtomicU32,
    queued: AtomicU32,
}

impl Load {
    fn line(&self, is_balancer: bool, seconds: u32) -> String {
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        let queued = self.queued.load(Ordering::Relaxed);
        let arrivals = in_flight * 10 * seconds;
        let line = if is_balancer {
            json!({"arrivals": arrivals, "connected": 0, "inFlight": in_flight, "queued": queued, "run": "a"})
        } else {
            json!({
                "answerSeconds": f64::from(arrivals) / 10.0, "answers": arrivals, "bootSeconds": 1.5, "busy": 1,
                "cpuSeconds": f64::from(seconds) / 3.0, "failures": 0, "inFlight": in_flight, "queued": 0,
                "run": "a", "workers": 1,
            })
        };
        format!("{line}\n")
    }
}

/// Serves `/load` for all pods of a kind at one port.
async fn serve(load: Arc<Load>, is_balancer: bool) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let load = Arc::clone(&load);
            tokio::spawn(async move {
                let mut request = [0; 1024];
                let length = stream.read(&mut request).await.unwrap();
                assert!(request[..length].starts_with(b"GET /load HTTP/1.1\r\n"));
                let head = "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n\r\n";
                stream.write_all(head.as_bytes()).await.unwrap();
                let begun = tokio::time::Instant::now();
                for seconds in 0.. {
                    let line = load.line(is_balancer, seconds);
                    if stream.write_all(line.as_bytes()).await.is_err() {
                        return;
                    }
                    let queued = load.queued.load(Ordering::Relaxed);
                    let next = begun + Duration::from_secs(u64::from(seconds) + 1);
                    while tokio::time::Instant::now() < next {
                        if is_balancer && queued == 0 && load.queued.load(Ordering::Relaxed) > 0 {
                            break;
                        }
                        let pause = if is_balancer { 5 } else { 1000 };
                        let pause = tokio::time::Instant::now() + Duration::from_millis(pause);
                        tokio::time::sleep_until(pause.min(next)).await;
                    }
                }
            });
        }
    });
    port
}

fn app(name: &str, autoscaling: &Value) -> Value {
    let mut object = good();
    object["metadata"]["name"] = json!(name);
    object["metadata"]["uid"] = json!(format!("uid-of-{name}"));
    object["spec"] = json!({"image": "a", "command": ["x"], "autoscaling": autoscaling});
    object
}

fn pod(app: &str, component: &str, number: usize, port: u16) -> Value {
    let is_balancer = component == "balancer";
    let owner = if is_balancer {
        format!("{app}-lb-{number}-5d8f")
    } else {
        format!("{app}-5d8f")
    };
    let name = format!("{owner}-{number}");
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "default", "uid": name, "creationTimestamp": "2026-11-24T00:00:00Z",
            "labels": {
                "app.kubernetes.io/instance": app, "app.kubernetes.io/component": component,
                "app.kubernetes.io/managed-by": "scaledapp-operator", "scaledapp.io/slot": number.to_string(),
            },
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner, "uid": "r", "controller": true}],
        },
        "spec": {"nodeName": "n", "containers": [{
            "name": component,
            "resources": {"requests": {"cpu": "1"}},
            "ports": [{"name": "admin", "containerPort": port}],
        }]},
        "status": {"phase": "Running", "podIP": "127.0.0.1", "conditions": [
            {"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "True"},
        ]},
    });
    if !is_balancer {
        let labels = pod["metadata"]["labels"].as_object_mut().unwrap();
        labels.remove("scaledapp.io/slot");
    }
    pod
}

fn deployment(app: &str, replicas: usize) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": app, "namespace": "default", "uid": format!("d-{app}"), "generation": 1},
        "spec": {"replicas": replicas, "selector": {}, "template": {}},
        "status": {"observedGeneration": 1},
    })
}

struct Harness {
    context: Arc<Context>,
    server: Shared,
    writers: Writers,
    asked: UnboundedReceiver<ObjectRef<Guarded>>,
    load: Arc<Load>,
}

impl Harness {
    /// Apps with this many pods and balancers each.
    async fn new(
        apps: usize,
        pods: usize,
        balancers: usize,
        autoscaling: &Value,
        leads: bool,
    ) -> Self {
        let load = Arc::<Load>::default();
        let of_pods = serve(Arc::clone(&load), false).await;
        let of_balancers = serve(Arc::clone(&load), true).await;
        let ports = (of_pods, of_balancers);
        Self::at([apps, pods, balancers], autoscaling, leads, ports, load)
    }

    /// As [`Self::new`], with pods that listen already.
    fn at(
        counts: [usize; 3],
        autoscaling: &Value,
        leads: bool,
        ports: (u16, u16),
        load: Arc<Load>,
    ) -> Self {
        let [apps, pods, balancers] = counts;
        let mut operator = Operator::new(good());
        let server = operator.server.clone();
        let (stores, mut writers) = stores();
        macro_rules! put {
            ($writer:ident, $object:expr) => {
                let object = serde_json::from_value($object).unwrap();
                writers.$writer.apply_watcher_event(&Event::Apply(object));
            };
        }
        for number in 0..apps {
            let name = format!("app-{number}");
            put!(apps, app(&name, autoscaling));
            put!(deployments, deployment(&name, pods));
            for number in 0..pods {
                put!(pods, pod(&name, "app", number, ports.0));
            }
            for number in 0..balancers {
                put!(pods, pod(&name, "balancer", number, ports.1));
            }
        }
        let context = Arc::get_mut(&mut operator.context).unwrap();
        context.stores = stores;
        context.caller.leadership = Leadership::fixed(leads);
        let (triggers, asked) = Triggers::new(context.stores.apps.clone());
        let context = Arc::clone(&operator.context);
        tokio::spawn(scaling::run(Arc::clone(&context), triggers));
        Self {
            context,
            server,
            writers,
            asked,
            load,
        }
    }

    fn decision(&self) -> Option<Scaled> {
        self.context.decisions.of("uid-of-app-0")
    }

    async fn until(&mut self, what: &str, look: impl Fn(&Scaled) -> bool) -> Scaled {
        let begun = Instant::now();
        loop {
            if let Some(scaled) = self.decision().filter(&look) {
                return scaled;
            }
            assert!(begun.elapsed() < DEADLINE, "{what}: {:?}", self.decision());
            sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn load_that_grows_gets_more_pods_in_two_seconds_and_triggers_one_pass() {
    let bounds = json!({"pods": {"min": 1, "max": 20}, "concurrency": 10});
    let mut harness = Harness::new(1, 1, 1, &bounds, true).await;
    harness.load.in_flight.store(5, Ordering::Relaxed);
    harness
        .until("the first decision", |scaled| scaled.decision.pods == 1)
        .await;
    assert_eq!(harness.asked.next().await.unwrap().name, "app-0");
    sleep(Duration::from_secs(4)).await;
    while harness.asked.try_recv().is_ok() {}
    harness.load.in_flight.store(50, Ordering::Relaxed);
    let begun = Instant::now();
    harness
        .until("more pods", |scaled| scaled.decision.pods > 1)
        .await;
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(2_500), "{took:?}");
    let asked = timeout(DEADLINE, harness.asked.next()).await.unwrap();
    assert_eq!(asked.unwrap().name, "app-0");
    assert_eq!(harness.server.lock().unwrap().shorts(), [""; 0]);
}

#[tokio::test]
async fn a_request_that_waits_while_there_is_no_pod_triggers_a_pass_at_once() {
    let bounds = json!({"pods": {"min": 0, "max": 5}, "concurrency": 10});
    let mut harness = Harness::new(1, 0, 1, &bounds, true).await;
    harness
        .until("none is needed", |scaled| scaled.decision.pods == 0)
        .await;
    for _ in 0..2 {
        // In the middle between two decisions.
        sleep(Duration::from_millis(1_500)).await;
        while harness.asked.try_recv().is_ok() {}
    }
    harness.load.queued.store(3, Ordering::Relaxed);
    let begun = Instant::now();
    timeout(DEADLINE, harness.asked.next()).await.unwrap();
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(150), "{took:?}");
    assert_eq!(harness.decision().unwrap().decision.pods, 1);
}

#[tokio::test]
async fn a_replica_that_does_not_lead_opens_no_stream_and_decides_nothing() {
    let bounds = json!({"pods": {"min": 1, "max": 5}});
    let harness = Harness::new(1, 1, 1, &bounds, false).await;
    sleep(Duration::from_millis(2_200)).await;
    assert_eq!(harness.decision(), None);
}

#[tokio::test]
async fn a_paused_app_and_one_without_the_field_are_forgotten() {
    let bounds = json!({"pods": {"min": 1, "max": 5}});
    let mut harness = Harness::new(1, 1, 1, &bounds, true).await;
    for change in ["paused", "removed"] {
        harness.until("a decision", |_| true).await;
        let mut object = app("app-0", &bounds);
        if change == "paused" {
            object["spec"]["paused"] = json!(true);
        } else {
            object["spec"]
                .as_object_mut()
                .unwrap()
                .remove("autoscaling");
        }
        for (object, scaled) in [(object, false), (app("app-0", &bounds), true)] {
            let object = serde_json::from_value(object).unwrap();
            harness
                .writers
                .apps
                .apply_watcher_event(&Event::Apply(object));
            let begun = Instant::now();
            while harness.decision().is_some() != scaled {
                assert!(begun.elapsed() < DEADLINE, "{change}");
                sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// The CPU time of this thread, in seconds.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let nanoseconds: f64 = stat.split(' ').next().unwrap().parse().unwrap();
    nanoseconds / 1e9
}

/// Prints what a hundred apps with two balancers and three pods each cost: the loop's thread alone
/// is measured, and the pods run in another one. Run it with optimized code.
#[test]
#[ignore = "a measurement: cargo test -p scaledapp-operator --test api -- --ignored --nocapture a_hundred"]
fn a_hundred_autoscaled_apps_cost_little() {
    let load = Arc::<Load>::default();
    load.in_flight.store(5, Ordering::Relaxed);
    let (send, ports) = std::sync::mpsc::channel();
    let pods = Arc::clone(&load);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(async {
            send.send((
                serve(Arc::clone(&pods), false).await,
                serve(pods, true).await,
            ))
            .unwrap();
            std::future::pending::<()>().await;
        });
    });
    let ports = ports.recv().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let bounds = json!({"pods": {"min": 1, "max": 20}, "concurrency": 10});
        let harness = Harness::at([100, 3, 2], &bounds, true, ports, load);
        sleep(Duration::from_secs(10)).await;
        let (begun, before) = (Instant::now(), cpu());
        sleep(Duration::from_secs(20)).await;
        let percent = (cpu() - before) / begun.elapsed().as_secs_f64() * 100.0;
        let decided = (0..100).filter(|number| {
            harness
                .context
                .decisions
                .of(&format!("uid-of-app-{number}"))
                .is_some()
        });
        println!(
            "{} apps, 500 streams: {percent:.2} % of a core",
            decided.count()
        );
        assert_eq!(harness.server.lock().unwrap().shorts(), [""; 0]);
    });
}
