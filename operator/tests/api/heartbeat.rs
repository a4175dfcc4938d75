//! Tests of the heartbeat on real sockets: balancers that answer, fall silent, or are other
//! programs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::channel::mpsc::UnboundedReceiver;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::reflector::store::Writer;
use kube::runtime::watcher::Event;
use scaledapp_operator::heartbeat;
use scaledapp_operator::lease::Leadership;
use scaledapp_operator::pod_health::PodsHealth;
use scaledapp_operator::stores::Guarded;
use scaledapp_operator::stores::stores;
use scaledapp_operator::triggers::Triggers;
use scaledapp_plan::cluster::{Answer, Balancer};
use scaledapp_runtime::{Admin, Probe, Routes};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::time::timeout;

fn serves() -> Answer {
    Answer::Balancer(Balancer {
        serving: true,
        ..Balancer::default()
    })
}

/// How long a test waits before it fails.
const DEADLINE: Duration = Duration::from_secs(30);

struct Serving;

impl Routes for Serving {
    fn live(&self) -> Probe {
        Ok(())
    }

    fn ready(&self) -> Probe {
        Ok(())
    }

    fn metrics(&self) -> String {
        String::new()
    }

    fn status(&self) -> Value {
        json!({"desired": 4, "ready": 3, "workers": []})
    }
}

struct Listening {
    pods_health: Arc<PodsHealth>,
    asked: UnboundedReceiver<ObjectRef<Guarded>>,
    _stores: (scaledapp_operator::stores::Stores, Writer<Guarded>),
}

impl Listening {
    /// Queries one pod, on this port of this machine.
    fn to(component: &str, port: u16, leads: bool) -> Self {
        let (stores, mut writers) = stores();
        let pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "default", "uid": "u", "labels": {
                "app.kubernetes.io/instance": "hello", "app.kubernetes.io/component": component,
            }},
            "spec": {"containers": [{"name": "c", "ports": [{"name": "admin", "containerPort": port}]}]},
            "status": {"podIP": "127.0.0.1"},
        }));
        writers
            .pods
            .apply_watcher_event(&Event::Apply(pod.unwrap()));
        let (triggers, asked) = Triggers::new(stores.apps.clone());
        let pods_health = Arc::<PodsHealth>::default();
        tokio::spawn(heartbeat::run(
            Arc::clone(&pods_health),
            stores.pods.clone(),
            Leadership::fixed(leads),
            triggers,
            Arc::default(),
        ));
        Self {
            pods_health,
            asked,
            _stores: (stores, writers.apps),
        }
    }

    /// The pod's answer when the next pass is triggered.
    async fn next(&mut self) -> Answer {
        let app = timeout(DEADLINE, self.asked.next()).await;
        let app = app.expect("a pass is asked for").unwrap();
        assert_eq!(app, ObjectRef::new("hello").within("default"));
        self.pods_health.answer("u")
    }
}

#[tokio::test]
async fn a_balancer_that_serves_and_falls_silent_is_noticed() {
    let admin = Admin::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let mut listening = Listening::to("balancer", admin.local_addr().port(), true);
    let serving = tokio::spawn(admin.serve(Arc::new(Serving)));
    assert_eq!(listening.next().await, serves());
    serving.abort();
    assert_eq!(listening.next().await, Answer::Silent);
}

/// A stopped process behaves like this: the kernel accepts its connections.
#[tokio::test]
async fn a_balancer_that_accepts_but_does_not_answer_is_silent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut listening = Listening::to("balancer", port, true);
    assert_eq!(listening.next().await, Answer::Silent);
}

#[tokio::test]
async fn another_program_at_the_address_does_not_count_as_a_balancer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
            drop(stream.write_all(answer).await);
        }
    });
    let mut listening = Listening::to("balancer", port, true);
    assert_eq!(listening.next().await, Answer::Silent);
}

#[tokio::test]
async fn a_supervisor_reports_its_number_of_workers() {
    let admin = Admin::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let mut listening = Listening::to("app", admin.local_addr().port(), true);
    tokio::spawn(admin.serve(Arc::new(Serving)));
    match listening.next().await {
        Answer::Supervisor(said) => assert_eq!((said.desired, said.ready), (4, 3)),
        other => panic!("{other:?}"),
    }
}

/// A pod that does not belong to the app can have the app's labels and send an endless answer.
#[tokio::test]
async fn an_endless_status_does_not_count_as_an_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let taken = Arc::new(AtomicUsize::new(0));
    let sent = Arc::clone(&taken);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{\"desired\": 4, \"more\": \"";
            let mut connection = stream.write_all(head).await;
            let sent = Arc::clone(&sent);
            tokio::spawn(async move {
                while connection.is_ok() {
                    connection = stream.write_all(&[b'x'; 16 << 10]).await;
                    sent.fetch_add(16 << 10, Ordering::Relaxed);
                }
            });
        }
    });
    let mut listening = Listening::to("app", port, true);
    assert_eq!(listening.next().await, Answer::Silent);
    // Three probes, and what the kernel's buffers accepted beyond that.
    assert!(taken.load(Ordering::Relaxed) < 64 << 20);
}

#[tokio::test]
async fn a_follower_asks_no_pod() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let listening = Listening::to("balancer", port, false);
    // A leader's first probe would arrive within this time and be accepted here.
    let looked = timeout(Duration::from_millis(700), listener.accept()).await;
    assert!(looked.is_err());
    assert_eq!(listening.pods_health.answer("u"), Answer::NotYet);
}
