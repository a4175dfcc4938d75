//! `spec.autoscaling` with `scaledapp local`: real pods come and go with the load, down to none, and
//! no request is lost.
//!
//! What is decided is tested in `scaledapp-scale`; here are only the processes that follow.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "all of this target is test code, helpers included"
)]

use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use scaledapp_tests::http::{self, Request};
use scaledapp_tests::load::Load;
use scaledapp_tests::local::{Local, State};
use scaledapp_tests::{binaries, wait};

/// Time-out for anything that takes some seconds if the machine is not busy.
const SOON: Duration = Duration::from_secs(40);
/// Lets tests run one at a time, because they share the machine's cores.
static MACHINE: Mutex<()> = Mutex::new(());

/// Answers after a moment in which it needs no CPU, so that few requests are many at a time.
const SERVER: &str = "require('http').createServer((request, response) => {
  request.resume().on('end', () => setTimeout(() => response.end('ok'), 100))
}).listen(process.env.PORT, process.env.HOST)";

struct Place(tempfile::TempDir);

impl Place {
    fn start(port: u16, autoscaling: &str) -> (Self, Local) {
        let place = Self(tempfile::tempdir().unwrap());
        let text = format!(
            "apiVersion: scaledapp.io/v1alpha1\nkind: ScaledApp\nmetadata: {{name: scale}}\nspec:\n  \
             image: i\n  command: [node, server.js]\n  port: {port}\n  balancers: {{replicas: 1}}\n  \
             autoscaling: {autoscaling}\n"
        );
        let file = place.0.path().join("app.yaml");
        fs::write(&file, text).unwrap();
        fs::write(place.0.path().join("server.js"), SERVER).unwrap();
        let local = Local::start(&file, place.0.path()).unwrap();
        (place, local)
    }

    fn state_file(&self) -> PathBuf {
        self.0.path().join("state.json")
    }

    /// How many pods the state file names.
    fn pods(&self) -> usize {
        let text = fs::read_to_string(self.state_file()).unwrap();
        serde_json::from_str::<State>(&text).unwrap().pods.len()
    }

    fn wait_pods(&self, what: &str, are: impl Fn(usize) -> bool) {
        wait::until(SOON, what, || match self.pods() {
            pods if are(pods) => Ok(()),
            pods => Err(format!("{pods} pods")),
        })
        .unwrap();
    }
}

fn has_node() -> bool {
    binaries::on_path("node")
        .inspect_err(|reason| println!("{reason}"))
        .is_ok()
}

#[test]
fn pods_come_with_the_load_and_go_under_load_without_a_lost_request() {
    if !has_node() {
        return;
    }
    let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let range = "{pods: {min: 1, max: 3}, workers: {min: 1, max: 1}, concurrency: 2, scaleDown: {window: 1s}}";
    let (place, local) = Place::start(21_981, range);
    assert_eq!(place.pods(), 1);
    let load = |clients| Load {
        clients,
        // The app does not echo bodies.
        post_every: 0,
        ..Load::on(&local.state.balancers)
    };
    let (few, many) = (load(1).start().unwrap(), load(6).start().unwrap());
    place.wait_pods("a second pod", |pods| pods >= 2);
    let text = local.command(&["status", "scale"]).unwrap().stdout;
    assert!(text.contains(" pods: "), "{text}");
    let many = many.stop();
    assert_eq!(many.failed(), 0, "{many}");
    let before = place.pods();
    place.wait_pods("a pod less", |pods| pods < before);
    few.wait_more(10, SOON).unwrap();
    let few = few.stop();
    assert_eq!(few.failed(), 0, "{few}");
}

#[test]
fn the_first_requests_after_zero_wake_a_pod_and_none_is_lost() {
    if !has_node() {
        return;
    }
    let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let range =
        "{pods: {min: 0, max: 2}, concurrency: 100, zeroAfter: 1s, scaleDown: {window: 1s}}";
    let (place, local) = Place::start(21_983, range);
    place.wait_pods("no pod", |pods| pods == 0);
    let to = local.state.balancers[0];
    let requests =
        (0..50).map(|_| thread::spawn(move || http::one_shot(to, SOON, &Request::get("/"))));
    let requests: Vec<_> = requests.collect();
    for request in requests {
        assert_eq!(request.join().unwrap().unwrap().status, 200);
    }
    place.wait_pods("no pod again", |pods| pods == 0);
}
