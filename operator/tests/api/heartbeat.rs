//! Balancers that answer, fall silent, or are none, on real sockets.

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
use scaledapp_plan::cluster::{Balancer, Heard};
use scaledapp_runtime::{Admin, Probe, Routes};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::time::timeout;

fn serves() -> Heard {
    Heard::Balancer(Balancer {
        serving: true,
        ..Balancer::default()
    })
}

/// Until a test gives up waiting.
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
    /// To one pod, on this port of this machine.
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

    /// What is heard when the next pass is asked for.
    async fn next(&mut self) -> Heard {
        let app = timeout(DEADLINE, self.asked.next()).await;
        let app = app.expect("a pass is asked for").unwrap();
        assert_eq!(app, ObjectRef::new("hello").within("default"));
        self.pods_health.heard("u")
    }
}

#[tokio::test]
async fn a_balancer_is_heard_and_its_silence_too() {
    let admin = Admin::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let mut listening = Listening::to("balancer", admin.local_addr().port(), true);
    let serving = tokio::spawn(admin.serve(Arc::new(Serving)));
    assert_eq!(listening.next().await, serves());
    serving.abort();
    assert_eq!(listening.next().await, Heard::Silent);
}

/// As a stopped process does: the kernel accepts for it.
#[tokio::test]
async fn who_accepts_and_does_not_answer_is_silent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut listening = Listening::to("balancer", port, true);
    assert_eq!(listening.next().await, Heard::Silent);
}

#[tokio::test]
async fn another_program_at_the_address_is_no_balancer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
            drop(stream.write_all(answer).await);
        }
    });
    let mut listening = Listening::to("balancer", port, true);
    assert_eq!(listening.next().await, Heard::Silent);
}

#[tokio::test]
async fn a_supervisor_says_how_many_workers_it_has() {
    let admin = Admin::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let mut listening = Listening::to("app", admin.local_addr().port(), true);
    tokio::spawn(admin.serve(Arc::new(Serving)));
    match listening.next().await {
        Heard::Supervisor(said) => assert_eq!((said.desired, said.ready), (4, 3)),
        other => panic!("{other:?}"),
    }
}

/// Whoever can make pods can give one our labels, and answer for ever.
#[tokio::test]
async fn an_endless_status_is_no_answer() {
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
    assert_eq!(listening.next().await, Heard::Silent);
    // Three looks, and what the kernel's buffers took beyond.
    assert!(taken.load(Ordering::Relaxed) < 64 << 20);
}

#[tokio::test]
async fn a_follower_asks_nobody() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let listening = Listening::to("balancer", port, false);
    // Longer than the leader's first look takes; a look would be accepted here.
    let looked = timeout(Duration::from_millis(700), listener.accept()).await;
    assert!(looked.is_err());
    assert_eq!(listening.pods_health.heard("u"), Heard::NotYet);
}
