//! Serves the dashboard with made-up apps, to look at the page and to measure it:
//! `cargo run -p scaledapp-dashboard --example crowd -- APPS PODS WORKERS PORT`.

use std::collections::BTreeSet;
use std::time::Duration;

use scaledapp_dashboard::{
    App, Counters, Dashboard, Fact, Observation, Pod, Running, Slot, Source,
};
use scaledapp_wire::{BalancerStatus, Dispatch, Snapshot, Status, Worker, WorkerState};
use tokio::sync::{mpsc, watch};

#[derive(Debug, Clone, Copy)]
struct Crowd {
    apps: u32,
    pods: u32,
    workers: u32,
}

impl Source for Crowd {
    fn title(&self) -> String {
        "made up".to_owned()
    }

    fn run(
        self: Box<Self>,
        found: mpsc::Sender<Observation>,
        _open: watch::Receiver<BTreeSet<String>>,
    ) -> Running {
        Box::pin(async move {
            let apps = (0..self.apps).map(|app| self.shape(app)).collect();
            drop(found.send(Observation::Apps(apps)).await);
            for second in 0_u64.. {
                for app in 0..self.apps {
                    for fact in self.facts(app, second) {
                        let app = name(app);
                        drop(found.send(Observation::Of { app, fact }).await);
                    }
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        })
    }
}

fn name(app: u32) -> String {
    format!("app-{app}")
}

impl Crowd {
    fn shape(self, app: u32) -> App {
        let slots = [0_u8, 1].map(|slot| Slot {
            number: slot.into(),
            address: ([127, 1, app as u8, slot + 1], 8080).into(),
            balancer: format!("app-{app}-lb-{slot}"),
        });
        let pods = (0..self.pods).map(|pod| Pod {
            name: format!("app-{app}-{pod}"),
            address: format!("127.2.{app}.{}:3000", pod + 1),
            node: None,
        });
        App {
            name: name(app),
            hostname: Some(format!("app-{app}.apps.local")),
            dns: Some("127.0.0.1:5353".to_owned()),
            slots: slots.to_vec(),
            pods: pods.collect(),
        }
    }

    /// Everything about an app in one second. Each seventh second, a worker of every third app is
    /// replaced.
    fn facts(self, app: u32, second: u64) -> Vec<Fact> {
        let mut facts = Vec::new();
        let wave = |at: u32| 50 + (second * 7 + u64::from(at) * 31) % 23;
        for pod in 0..self.pods {
            let is_hit = app.is_multiple_of(3) && second % 7 == 6 && pod == 0;
            let workers = (0..self.workers).map(|slot| {
                let restarts = if slot == 0 && pod == 0 && app.is_multiple_of(3) {
                    (second / 7) as u32
                } else {
                    0
                };
                Worker {
                    slot,
                    pid: 1_000 + pod * 1_000 + slot + restarts * 100_000,
                    in_flight: ((second + u64::from(slot)) % 4) as u32,
                    cpu_seconds: Some(second as f64 * 0.3),
                    rss_bytes: (60 << 20) + (u64::from(slot) << 16) + (second << 10),
                    restarts,
                    generation: 1,
                    uptime_seconds: Some(second as f64),
                    state: if is_hit && slot == 0 {
                        WorkerState::Starting
                    } else {
                        WorkerState::Ready
                    },
                    ..Worker::default()
                }
            });
            let ready = self.workers - u32::from(is_hit);
            let status = Status {
                desired: self.workers,
                ready,
                dispatch: Dispatch::Request,
                generation: 1,
                workers: workers.collect(),
                ..Status::default()
            };
            let counters = Counters {
                requests: second * wave(pod),
                workers: (0..self.workers)
                    .map(|slot| (slot, second * wave(slot) / 8))
                    .collect(),
                ..Counters::default()
            };
            let pod = format!("app-{app}-{pod}");
            let snapshot = Snapshot {
                capacity: ready,
                dispatch: Some(Dispatch::Request),
                draining: false,
                in_flight: wave(app) as u32 / 4,
                queued: (second % 3) as u32,
                ready: true,
                scaling: None,
                workers: ready,
            };
            facts.push(Fact::Watched(pod.clone(), snapshot));
            facts.push(Fact::Pod(pod, Box::new(status), Some(counters)));
        }
        facts.extend((0..2).map(|slot| balancer(app, slot, second * wave(app + slot) * 10)));
        let address = |slot| [127, 1, app as u8, slot].into();
        facts.push(Fact::Dns([address(1), address(2)].into()));
        facts
    }
}

/// A balancer that has answered this many requests.
fn balancer(app: u32, slot: u32, requests: u64) -> Fact {
    let status = BalancerStatus {
        connections: 9,
        draining: false,
        endpoints: Vec::new(),
        in_flight: 7,
        listen: None,
        problems: Vec::new(),
        queued: 0,
        ready: true,
    };
    let buckets = [(0.005, 50), (0.05, 98), (f64::INFINITY, 100)];
    let counters = Counters {
        requests,
        errors: requests / 900,
        buckets: buckets
            .map(|(bound, percent)| (bound, requests * percent / 100))
            .to_vec(),
        ..Counters::default()
    };
    let name = format!("app-{app}-lb-{slot}");
    Fact::Balancer(name, Box::new(status), Some(counters), None)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut numbers = std::env::args().skip(1).map(|word| word.parse::<u32>());
    let mut next = |default| numbers.next().transpose().map(|it| it.unwrap_or(default));
    let crowd = Crowd {
        apps: next(50)?,
        pods: next(10)?,
        workers: next(20)?,
    };
    let port = next(0)?;
    let dashboard = Dashboard::bind(port as u16).await?;
    scaledapp_runtime::say(&dashboard.url());
    dashboard.serve(crowd).await;
    Ok(())
}
