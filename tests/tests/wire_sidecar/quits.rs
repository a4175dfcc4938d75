//! Workers that end by themselves while requests arrive: a request that the worker has not read is
//! not lost, not even a POST, and no request is executed twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use scaledapp_tests::fixtures::{app, node};
use scaledapp_tests::http::{self, Connection, Request};
use scaledapp_tests::sidecar::{Launch, Sidecar};

use crate::{SOON, has};

/// Number of POSTs that each test sends.
const POSTS: u64 = 1500;
const CLIENTS: usize = 8;

fn start(how: &str, file: &std::path::Path) -> Sidecar {
    let launch = Launch::of(|port| {
        let mut command = node("quits.js", port);
        command.extend([how.to_owned(), file.to_str().unwrap().to_owned()]);
        command
    });
    launch.unwrap().with(&["--workers", "2"]).ready(2).unwrap()
}

/// Sends numbered POSTs, on kept and on new connections. Returns the numbers of those that the app
/// did not answer.
fn post(sidecar: &Sidecar) -> BTreeSet<u64> {
    let next = AtomicU64::new(0);
    let client = |keeps: bool| {
        let mut lost = BTreeSet::new();
        let mut kept: Option<Connection> = None;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= POSTS {
                return lost;
            }
            let text = number.to_string();
            let fields = [("X-Number", text.as_str())];
            let request = Request::post("/", b"body").with(&fields);
            let open = || Connection::open(sidecar.address(), SOON).unwrap();
            let mut connection = kept
                .take()
                .filter(Connection::is_reusable)
                .unwrap_or_else(open);
            let answer = connection.send(&request).unwrap();
            if answer.status != 200 {
                assert_eq!(answer.status, 502);
                lost.insert(number);
            }
            kept = keeps.then_some(connection);
        }
    };
    std::thread::scope(|scope| {
        let client = &client;
        let clients: Vec<_> = (0..CLIENTS)
            .map(|at| scope.spawn(move || client(at % 2 == 0)))
            .collect();
        clients
            .into_iter()
            .flat_map(|client| client.join().unwrap())
            .collect()
    })
}

/// How often the app has read each POST.
fn read(file: &std::path::Path) -> BTreeMap<u64, u32> {
    let mut times = BTreeMap::new();
    for line in std::fs::read_to_string(file).unwrap().lines() {
        *times.entry(line.parse().unwrap()).or_default() += 1;
    }
    times
}

#[test]
fn an_orderly_end_loses_no_request() {
    if !has("node") {
        return;
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    let sidecar = start("close", file.path());
    let lost = post(&sidecar);
    let times = read(file.path());
    let seen: Vec<_> = lost.iter().map(|number| times.get(number)).collect();
    assert!(
        lost.is_empty(),
        "{lost:?}, read {seen:?}: {}",
        sidecar.process.stderr()
    );
    assert_eq!(times.len() as u64, POSTS);
    assert!(times.values().all(|times| *times == 1), "executed twice");
    let events = sidecar.ctl_done(&["events"]).unwrap();
    assert!(events.contains("Finished"), "{events}");
    assert!(!events.contains("Warning"), "{events}");
}

#[test]
fn a_sudden_end_loses_only_what_was_read() {
    if !has("node") {
        return;
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    let sidecar = start("exit", file.path());
    let lost = post(&sidecar);
    let times = read(file.path());
    assert!(times.values().all(|times| *times == 1), "executed twice");
    let unread: Vec<_> = lost
        .iter()
        .filter(|number| !times.contains_key(number))
        .collect();
    // Node may have read some of the lost requests without handling them, so the app did not note
    // them.
    assert!(
        unread.len() * 10 <= lost.len(),
        "{unread:?} of {}",
        lost.len()
    );
    let metrics = http::get(sidecar.launch.admin, "/metrics").unwrap();
    let name = "scaledapp_dispatch_unread_requests_total ";
    let line = metrics.text();
    let line = line.lines().find_map(|line| line.strip_prefix(name));
    assert_ne!(line.unwrap(), "0");
}

/// After a reset by `SO_LINGER`, the kernel's report looks as if the connection had never been
/// accepted.
#[test]
fn a_request_that_was_read_is_executed_once_however_its_connection_ends() {
    if !has("python3") {
        return;
    }
    for how in ["close", "reset"] {
        let file = tempfile::NamedTempFile::new().unwrap();
        let launch = Launch::of(|port| {
            let notes = file.path().to_str().unwrap();
            let command = ["python3", &app("reads.py"), &port.to_string(), how, notes];
            command.map(str::to_owned).to_vec()
        });
        let options = ["--workers", "2"];
        let sidecar = launch.unwrap().with(&options).ready(2).unwrap();
        for body in [&b""[..], b"body"] {
            let answer = http::one_shot(sidecar.address(), SOON, &Request::post("/one", body));
            assert_eq!(answer.unwrap().status, 502, "{how}");
        }
        let notes = std::fs::read_to_string(file.path()).unwrap();
        assert_eq!(notes, "/one\n/one\n", "{how}");
    }
}
