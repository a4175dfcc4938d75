//! Regression tests for former faults of the supervisor that the matrix of runtimes found, each in
//! its smallest form.

use std::path::Path;

use scaledapp_tests::sidecar::Launch;

use crate::runtimes::{Place, Runtime, gunicorn};
use crate::sockets::shared;
use crate::story::prove;
use crate::{DISPATCHES, answer, has, words};

/// The part that both servers below have in common: how they answer.
const APP: &str = "
import http.server, json, os, signal, socket, sys
class App(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        text = json.dumps({'pid': os.getpid()}).encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(text)))
        self.end_headers()
        self.wfile.write(text)
";

fn python(server: &str, port: u16) -> Vec<String> {
    let script = format!("{APP}{server}");
    words(&["python3", "-c", &script, &port.to_string()])
}

/// A server that does not call `listen` if its socket listens already, like servers that may
/// inherit a socket.
const LISTENS_UNLESS_IT_DOES: &str = "
class Server(http.server.ThreadingHTTPServer):
    def server_activate(self):
        if not self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            self.socket.listen(128)
Server(('', int(sys.argv[1])), App).serve_forever()
";

#[test]
fn a_server_that_skips_listen_on_a_listening_socket_becomes_ready() {
    if !has("python3") {
        return;
    }
    let command = |port: u16| python(LISTENS_UNLESS_IT_DOES, port);
    shared(|| Launch::of(command).unwrap(), |_| {});
}

/// A server that shuts its socket down when it ends, as `WEBrick` does. `shutdown` affects the
/// socket itself, not only a worker's descriptor.
const SHUTS_ITS_SOCKET_DOWN: &str = "
server = http.server.ThreadingHTTPServer(('', int(sys.argv[1])), App)
def stop(*_):
    server.socket.shutdown(socket.SHUT_RDWR)
    os._exit(0)
signal.signal(signal.SIGTERM, stop)
server.serve_forever()
";

#[test]
fn a_worker_that_shuts_its_socket_down_does_not_affect_the_others() {
    if !has("python3") {
        return;
    }
    let command = |port: u16| python(SHUTS_ITS_SOCKET_DOWN, port);
    shared(
        || Launch::of(command).unwrap(),
        |sidecar| {
            sidecar.ctl_done(&["scale", "1"]).unwrap();
            answer(sidecar.address());
        },
    );
}

#[test]
#[ignore = "run by cargo xtask test --languages"]
fn gunicorn_27_sync() {
    prove(&Runtime {
        name: "gunicorn sync",
        place: Place::Installed("gunicorn-27/bin/gunicorn"),
        version: &["--version"],
        command: |program: &Path| Ok(gunicorn(program, "sync", "wsgi:app")),
        over: &DISPATCHES,
        note: "a master and its own worker in each of ours",
    });
}
