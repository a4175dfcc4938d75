//! The faults of the stories with the mechanism off. Requests must fail here; otherwise the stories
//! would prove nothing.

use std::net::SocketAddr;
use std::process::Command;

use rustix::process::Signal;
use scaledapp_tests::balancer::Launch;
use scaledapp_tests::http::{self, Failure};
use scaledapp_tests::load::{Load, Report};
use scaledapp_tests::process::Process;
use scaledapp_tests::{fixtures, ports, wait};

use crate::{SOON, alone, has_node};

/// Starts an app without a supervisor, as one process.
fn bare(address: SocketAddr) -> Process {
    let words = fixtures::node("app.js", address.port());
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    let process = Process::spawn(command).unwrap();
    wait::until(SOON, "it serves", || http::get(address, "/")).unwrap();
    process
}

fn under_load(to: SocketAddr, keep_alive: bool, act: impl FnOnce()) -> Report {
    let load = Load {
        keep_alive,
        clients: 4,
        ..Load::on(&[to])
    };
    load.around(200, SOON, act).unwrap()
}

#[test]
fn without_a_supervisor_a_killed_app_refuses_connections_until_it_is_started() {
    if !has_node() {
        return;
    }
    let _machine = alone();
    let address = ports::local().unwrap();
    let mut app = bare(address);
    let report = under_load(address, false, || {
        app.signal(Signal::KILL).unwrap();
        app.wait(SOON).unwrap();
        app = bare(address);
    });
    println!("control, kill -9 of a bare node and a new one by hand: {report}");
    assert!(report.failed_with(&Failure::Refused) > 0, "{report}");
}

#[test]
fn without_reload_a_restart_fails_requests() {
    if !has_node() {
        return;
    }
    let _machine = alone();
    let address = ports::local().unwrap();
    let mut app = bare(address);
    let report = under_load(address, true, || {
        app.signal(Signal::TERM).unwrap();
        app.wait(SOON).unwrap();
        app = bare(address);
    });
    println!("control, a bare node restarted by TERM: {report}");
    assert!(report.failed() > 0, "{report}");
}

#[test]
fn without_a_supervisor_a_killed_balancer_refuses_connections() {
    if !has_node() {
        return;
    }
    let _machine = alone();
    let address = ports::local().unwrap();
    let _app = bare(address);
    let launch = Launch::to(&[address]).unwrap();
    let mut balancer = launch.clone().ready().unwrap();
    let to = balancer.address();
    let report = under_load(to, false, || {
        balancer.process.signal(Signal::KILL).unwrap();
        balancer.process.wait(SOON).unwrap();
        balancer = launch.ready().unwrap();
    });
    println!("control, kill -9 of a balancer that holds its own socket: {report}");
    assert!(report.failed_with(&Failure::Refused) > 0, "{report}");
}
