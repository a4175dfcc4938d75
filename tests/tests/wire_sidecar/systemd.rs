//! What a service manager hears from the supervisor (`sd_notify(3)`), at a socket of the test.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use scaledapp_tests::binaries;
use scaledapp_tests::process::Signal;
use scaledapp_tests::sidecar::Launch;

use super::SOON;

/// The messages up to the first that contains `text`.
fn heard(socket: &UnixDatagram, text: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let length = socket
            .recv(&mut buffer)
            .unwrap_or_else(|error| panic!("no {text} after {all:?}: {error}"));
        all.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        if all.last().is_some_and(|last| last.contains(text)) {
            return all;
        }
    }
}

#[test]
fn a_service_manager_hears_of_start_reload_and_stop_and_workers_get_no_socket() {
    let name = format!("scaledapp-systemd-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let socket = UnixDatagram::bind_addr(&address).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let server = binaries::path("scaledapp-hello-rust").unwrap();
    let script = format!(
        "test -z \"$NOTIFY_SOCKET$WATCHDOG_USEC\" || exit 9; exec {}",
        server.display()
    );
    let command = vec!["sh".to_owned(), "-c".to_owned(), script];
    let mut launch = Launch::of(|_| command).unwrap().with(&["--workers", "1"]);
    launch.environment = vec![
        ("NOTIFY_SOCKET".to_owned(), format!("@{name}")),
        ("WATCHDOG_USEC".to_owned(), "1000000".to_owned()),
    ];
    let sidecar = launch.start().unwrap();
    let start = heard(&socket, "READY=1");
    assert!(
        start
            .iter()
            .any(|one| one.contains("STATUS=1 of 1 workers ready")),
        "{start:?}"
    );
    sidecar.process.signal(Signal::HUP).unwrap();
    let began = heard(&socket, "RELOADING=1");
    let began = began.last().unwrap();
    assert!(began.contains("\nMONOTONIC_USEC="), "{began}");
    let reload = heard(&socket, "READY=1");
    assert!(
        reload.iter().any(|one| one.contains("STATUS=reloading")),
        "{reload:?}"
    );
    heard(&socket, "WATCHDOG=1");
    sidecar.process.signal(Signal::TERM).unwrap();
    heard(&socket, "STOPPING=1");
}
