//! Several unmodified processes on one port: how and when they get the port.

use std::time::{Duration, Instant};

use scaledapp_tests::http::{self, Connection, Request};
use scaledapp_tests::load::Load;
use scaledapp_tests::sidecar::Launch;
use scaledapp_tests::{fixtures, ports, wait};

use crate::{SOON, all_answer, has, pid_of};

/// Checks that two workers of an app share its port, with both kinds of dispatch.
fn shares_its_port(command: impl Fn(u16) -> Vec<String>) {
    for dispatch in ["request", "connection"] {
        let launch =
            Launch::of(&command)
                .unwrap()
                .with(&["--workers", "2", "--dispatch", dispatch]);
        let sidecar = launch.ready(2).unwrap();
        let status = sidecar.status().unwrap();
        assert_eq!(
            (&status["mechanism"], &status["dispatch"]),
            (&"notify".into(), &dispatch.into())
        );
        let pids = sidecar.pids().unwrap();
        assert_eq!(pids.len(), 2, "{status}");
        all_answer(sidecar.address(), &pids);
        let post = http::one_shot(sidecar.address(), SOON, &Request::post("/", b"ping")).unwrap();
        assert_eq!(post.json()["body"], "ping");
    }
}

#[test]
fn node_workers_share_a_hard_coded_port() {
    if has("node") {
        shares_its_port(|port| fixtures::node("app.js", port));
    }
}

#[test]
fn python_workers_share_a_hard_coded_port() {
    if has("python3") {
        shares_its_port(fixtures::python);
    }
}

#[test]
fn static_go_workers_share_a_hard_coded_port() {
    if has("go") {
        shares_its_port(|port| fixtures::go(port).unwrap());
    }
}

#[test]
fn an_app_without_hand_over_listens_on_a_private_port() {
    if !has("node") {
        return;
    }
    let launch = Launch::of(|port| fixtures::node("env-port.js", port)).unwrap();
    let sidecar = launch
        .with(&["--workers", "2", "--mechanism", "port"])
        .ready(2)
        .unwrap();
    assert_eq!(sidecar.status().unwrap()["mechanism"], "port");
    all_answer(sidecar.address(), &sidecar.pids().unwrap());
}

#[test]
fn a_worker_is_ready_when_it_listens_and_not_before() {
    if !has("node") {
        return;
    }
    for dispatch in ["request", "connection"] {
        let start = Instant::now();
        let launch = Launch::of(|port| {
            let mut words = fixtures::node("slow-boot.js", port);
            words.push("1200".to_owned());
            words
        });
        let launch = launch
            .unwrap()
            .with(&["--workers", "1", "--dispatch", dispatch]);
        let mut sidecar = launch.start().unwrap();
        let admin = sidecar.launch.admin;
        let not_yet = wait::until(SOON, "the admin port answers", || {
            http::get(admin, "/readyz")
        })
        .unwrap();
        assert_eq!(not_yet.status, 503, "{}", not_yet.text());
        sidecar.wait_ready(1).unwrap();
        assert!(
            start.elapsed() >= Duration::from_millis(1200),
            "ready before it listened"
        );
        assert_eq!(http::get(admin, "/readyz").unwrap().status, 200);
        pid_of(sidecar.address());
    }
}

#[test]
fn a_request_sent_while_the_first_worker_boots_waits_for_it() {
    if !has("node") {
        return;
    }
    let launch = Launch::of(|port| {
        let mut words = fixtures::node("slow-boot.js", port);
        words.push("800".to_owned());
        words
    });
    let sidecar = launch.unwrap().with(&["--workers", "1"]).start().unwrap();
    let address = sidecar.address();
    let connected = || Connection::open(address, SOON);
    let mut early = wait::until(SOON, "the port is open", connected).unwrap();
    assert_eq!(early.send(&Request::get("/")).unwrap().status, 200);
}

#[test]
fn with_a_readiness_path_only_healthy_workers_get_requests() {
    if !has("node") {
        return;
    }
    let launch = Launch::of(|port| {
        let mut words = fixtures::node("healthz.js", port);
        words.push("1000".to_owned());
        words
    });
    let launch = launch
        .unwrap()
        .with(&["--workers", "2", "--readiness-path", "/healthz"]);
    let sidecar = launch.ready(2).unwrap();
    // Every worker that gets a request has answered its readiness path.
    for _ in 0..10 {
        assert_eq!(
            http::get(sidecar.address(), "/").unwrap().json()["healthy"],
            true
        );
    }
}

#[test]
fn a_worker_may_close_its_socket_and_listen_again() {
    if !has("node") {
        return;
    }
    for dispatch in ["request", "connection"] {
        let launch = Launch::of(|port| fixtures::node("relisten.js", port)).unwrap();
        let sidecar = launch
            .with(&["--workers", "1", "--dispatch", dispatch])
            .ready(1)
            .unwrap();
        let worker = pid_of(sidecar.address());
        for round in 1..4 {
            let path = if round < 3 { "/relisten" } else { "/" };
            let answer = http::get(sidecar.address(), path).unwrap().json();
            assert_eq!(answer["round"], round, "{dispatch}");
            assert_eq!(answer["pid"], worker, "{dispatch}");
        }
    }
}

#[test]
fn two_apps_share_a_port_number_on_two_addresses() {
    if !has("node") {
        return;
    }
    let (one, two) = (ports::loopback(), ports::loopback());
    let first = Launch::of(|port| fixtures::node("app.js", port)).unwrap();
    let start = |host: std::net::Ipv4Addr| {
        let mut launch = first.clone().with(&["--workers", "1"]);
        launch.host = Some(host);
        launch.admin = (host, 9377).into();
        launch.ready(1).unwrap()
    };
    let (first, second) = (start(one), start(two));
    assert_eq!(pid_of(first.address()), first.pids().unwrap()[0]);
    assert_eq!(pid_of(second.address()), second.pids().unwrap()[0]);
    // Each `ctl` finds its own supervisor.
    first.ctl_done(&["scale", "2"]).unwrap();
    assert_eq!(second.status().unwrap()["desired"], 1);
}

#[test]
fn a_worker_that_listens_elsewhere_is_named_with_the_cure() {
    if !has("node") {
        return;
    }
    let other = ports::local().unwrap().port();
    let launch = Launch::of(|_| fixtures::node("wrongport.js", other)).unwrap();
    let port = launch.port;
    let sidecar = launch.with(&["--workers", "1"]).start().unwrap();
    sidecar
        .process
        .says(SOON, &format!("listens on {other}, --port is {port}"))
        .unwrap();
    assert_eq!(
        http::get(sidecar.launch.admin, "/readyz").unwrap().status,
        503
    );
    assert_eq!(sidecar.status().unwrap()["ready"], 0);
}

#[test]
fn any_tcp_protocol_works_with_connection_dispatch() {
    if !has("node") {
        return;
    }
    let launch = Launch::of(|port| fixtures::node("tcp-echo.js", port)).unwrap();
    let sidecar = launch
        .with(&["--workers", "2", "--dispatch", "connection"])
        .ready(2)
        .unwrap();
    let mut connections: Vec<Connection> = (0..8)
        .map(|_| Connection::open(sidecar.address(), SOON).unwrap())
        .collect();
    let pids = sidecar.pids().unwrap();
    for connection in &mut connections {
        let mut greeting = Vec::new();
        while !greeting.ends_with(b"\n") {
            greeting.extend(connection.read_bytes(1).unwrap());
        }
        let pid = String::from_utf8(greeting).unwrap().trim().parse().unwrap();
        assert!(pids.contains(&pid), "{pid} is not one of {pids:?}");
        connection.write(b"\0any bytes\xff").unwrap();
        assert_eq!(connection.read_bytes(11).unwrap(), b"\0any bytes\xff");
    }
    let held = || {
        let status = sidecar.status().map_err(|error| error.to_string())?;
        let workers = status["workers"].as_array().cloned().unwrap_or_default();
        let held: u64 = workers
            .iter()
            .filter_map(|worker| worker["inFlight"].as_u64())
            .sum();
        if held == 8 {
            Ok(())
        } else {
            Err(status.to_string())
        }
    };
    wait::until(SOON, "the connections show in status", held).unwrap();
}

#[test]
fn an_upgraded_connection_goes_through_the_request_dispatcher() {
    if !has("node") {
        return;
    }
    let launch = Launch::of(|port| fixtures::node("upgrade.js", port)).unwrap();
    let sidecar = launch.with(&["--workers", "2"]).ready(2).unwrap();
    let mut connection = Connection::open(sidecar.address(), SOON).unwrap();
    let upgrade = Request::get("/").with(&[("Connection", "Upgrade"), ("Upgrade", "echo")]);
    assert_eq!(connection.send(&upgrade).unwrap().status, 101);
    for round in 0..20 {
        let message = format!("message {round}");
        connection.write(message.as_bytes()).unwrap();
        assert_eq!(
            connection.read_bytes(message.len()).unwrap(),
            message.as_bytes()
        );
    }
}

#[test]
fn each_worker_knows_its_place_from_its_environment() {
    if !has("node") {
        return;
    }
    let launch = Launch::of(|port| fixtures::node("app.js", port)).unwrap();
    let port = launch.port;
    let launch = launch.with(&["--workers", "2", "--instance-env", "MY_SLOT"]);
    let sidecar = launch.ready(2).unwrap();
    let mut slots = std::collections::BTreeSet::new();
    // A request goes to the least busy worker, and idle workers take turns, so two requests reach
    // both workers.
    for _ in 0..4 {
        let answer = http::get(sidecar.address(), "/environment").unwrap().json();
        let environment = &answer["environment"];
        assert_eq!(environment["PORT"], port.to_string());
        assert_eq!(environment["SCALEDAPP_WORKERS"], "2");
        assert_eq!(environment["WEB_CONCURRENCY"], "1");
        assert_eq!(environment["MY_SLOT"], environment["SCALEDAPP_SLOT"]);
        slots.insert(environment["SCALEDAPP_SLOT"].as_str().unwrap().to_owned());
    }
    assert_eq!(slots.into_iter().collect::<Vec<_>>(), ["0", "1"]);
}

#[test]
fn requests_spread_evenly_over_the_workers() {
    if !has("node") {
        return;
    }
    let launch = Launch::of(|port| fixtures::node("app.js", port)).unwrap();
    let sidecar = launch.with(&["--workers", "4"]).ready(4).unwrap();
    for (keep_alive, clients) in [(true, 1), (false, 1), (true, 4), (false, 4)] {
        let load = Load {
            keep_alive,
            rate: Some(200),
            clients,
            tally: Some("pid"),
            ..Load::on(&[sidecar.address()])
        };
        let report = load.run(400).unwrap();
        assert_eq!(report.failed(), 0, "{report}");
        let (least, most) = (
            report.tally.values().min().unwrap(),
            report.tally.values().max().unwrap(),
        );
        assert_eq!(report.tally.len(), 4, "{:?}", report.tally);
        // With one client, all workers are idle when a request arrives. With several clients, a
        // worker that gets less CPU time rightly gets fewer requests.
        let bound = if clients == 1 { 1.1 } else { 2.0 };
        assert!(
            *most as f64 <= *least as f64 * bound,
            "keep-alive {keep_alive}, {clients} clients: {:?}",
            report.tally
        );
    }
}

#[test]
fn a_blocked_worker_delays_no_request_of_the_others() {
    if !has("node") {
        return;
    }
    for dispatch in ["request", "connection"] {
        let launch = Launch::of(|port| fixtures::node("app.js", port)).unwrap();
        let sidecar = launch
            .with(&["--workers", "2", "--dispatch", dispatch])
            .ready(2)
            .unwrap();
        let address = sidecar.address();
        let burning = std::thread::spawn(move || {
            http::one_shot(address, SOON, &Request::get("/burn?ms=3000"))
        });
        let busy = || {
            let status = sidecar.status().unwrap_or_default();
            let workers = status["workers"].as_array();
            workers.is_some_and(|workers| workers.iter().any(|worker| worker["inFlight"] == 1))
        };
        wait::until_true(SOON, "one worker is busy", busy).unwrap();
        // The load has one request in flight. With two requests, the second could rightly go to the
        // blocked worker, because both workers would have one request in flight.
        let load = Load {
            keep_alive: false,
            clients: 1,
            rate: Some(100),
            ..Load::on(&[address])
        };
        let report = load.run(80).unwrap();
        assert_eq!(burning.join().unwrap().unwrap().status, 200);
        println!("one of two workers blocked, {dispatch} dispatch: {report}");
        assert_eq!(report.failed(), 0, "{report}");
        // A request to the blocked worker would take most of its three seconds.
        assert!(report.longest_gap < Duration::from_millis(1500), "{report}");
    }
}
