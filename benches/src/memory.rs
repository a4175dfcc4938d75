//! The memory of a connection: resident bytes of the balancer for each connection, in eight states
//! in which a connection can remain for long, beside nginx in the same states.
//!
//! `cargo xtask bench memory`. Each state has its own proxy, so that no state reuses
//! another one's memory. The kernel's memory (sockets and their buffers) is not included.

#![expect(clippy::print_stdout, reason = "the table is the result")]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use scaledapp_tests::balancer;
use scaledapp_tests::process::Process;
use scaledapp_tests::{ports, proc, wait};

/// Connections in each state.
const CONNECTIONS: u64 = 4000;
/// How long to wait before memory is measured. A stalled connection has returned its unused memory
/// by then.
const SETTLING: Duration = Duration::from_secs(6);
const BOOT: Duration = Duration::from_secs(20);

/// A state in which a connection can remain for long.
struct State {
    name: &'static str,
    sends: &'static [u8],
    /// How many bytes of an answer the client reads before it stops reading.
    reads: usize,
}

const STATES: [State; 8] = [
    State {
        name: "new, nothing sent",
        sends: b"",
        reads: 0,
    },
    State {
        name: "idle after an answer",
        sends: b"GET /ok HTTP/1.1\r\nHost: a\r\n\r\n",
        reads: 38,
    },
    State {
        name: "half a head",
        sends: b"GET /ok HTTP/1.1\r\nHost: a\r\nX-Half: ",
        reads: 0,
    },
    State {
        name: "short upload stalled by the client",
        sends: b"POST /never HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\nsome",
        reads: 0,
    },
    State {
        name: "long upload stalled by the client",
        sends: b"POST /never HTTP/1.1\r\nHost: a\r\nContent-Length: 6000000\r\n\r\nsome",
        reads: 0,
    },
    State {
        name: "waiting for an answer",
        sends: b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n",
        reads: 0,
    },
    State {
        name: "answer stalled by the client (1 MiB)",
        sends: b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n",
        reads: 0,
    },
    State {
        name: "upgraded, silent",
        sends: b"GET /up HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
        reads: 12,
    },
];

fn main() -> anyhow::Result<()> {
    let origin = origin()?;
    let directory = tempfile::tempdir()?;
    let has_nginx = Command::new("nginx").arg("-v").output().is_ok();
    println!("resident bytes of each of {CONNECTIONS} connections, one proxy thread");
    println!("  {:<40} {:>9} {:>9}", "", "balancer", "nginx");
    for state in &STATES {
        let ours = {
            let launch = balancer::Launch::to(&[origin])?;
            let balancer = launch
                .with(&["--threads", "1", "--head-time", "5m"])
                .ready()?;
            cost(balancer.process.pid(), balancer.launch.listen, state)?
        };
        let theirs = if has_nginx {
            let (nginx, address) = nginx(directory.path(), origin)?;
            let worker = proc::children(nginx.pid()).first().copied();
            cost(worker.context("nginx has no worker")?, address, state)?.to_string()
        } else {
            "-".to_owned()
        };
        println!("  {:<40} {ours:>9} {theirs:>9}", state.name);
    }
    Ok(())
}

/// Brings connections into a state. Returns the resident bytes that each of them needs after
/// [`SETTLING`].
fn cost(pid: u32, address: SocketAddr, state: &State) -> anyhow::Result<u64> {
    let resident = || proc::resident_bytes(pid).context("the proxy is gone");
    let before = resident()?;
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(BOOT))?;
        stream.write_all(state.sends)?;
        stream
            .read_exact(&mut vec![0; state.reads])
            .with_context(|| format!("no answer while: {}", state.name))?;
        held.push(stream);
    }
    let settled = Instant::now() + SETTLING;
    wait::until_true(SETTLING * 2, "what is stalled has settled", || {
        Instant::now() >= settled
    })?;
    Ok(resident()?.saturating_sub(before) / CONNECTIONS)
}

/// A server whose answer depends on the path.
fn origin() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let thread = std::thread::Builder::new().stack_size(64 << 10);
            // If no thread can be started, the connection ends, which the result shows.
            drop(thread.spawn(move || serve(stream)));
        }
    });
    Ok(address)
}

fn serve(mut stream: TcpStream) {
    let mut bytes = vec![0; 4096];
    while let Ok(1..) = stream.read(&mut bytes) {
        let path = bytes.splitn(3, |byte| *byte == b' ').nth(1).unwrap_or(b"");
        let written = match path {
            b"/ok" => stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
            b"/up" => stream.write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
            ),
            b"/large" => stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n")
                .and_then(|()| stream.write_all(&vec![b'x'; 1 << 20])),
            _ => Ok(()),
        };
        if written.is_err() {
            return;
        }
    }
}

fn nginx(directory: &Path, origin: SocketAddr) -> anyhow::Result<(Process, SocketAddr)> {
    let address = ports::local()?;
    let file = directory.join("nginx.conf");
    let place = directory.display();
    fs::write(
        &file,
        format!(
            "daemon off; worker_processes 1; worker_rlimit_nofile 20000; pid {place}/pid;\n\
             error_log {place}/error.log;\n\
             events {{ worker_connections 16384; }}\n\
             http {{ access_log off; client_body_temp_path {place}/body;\n\
             proxy_temp_path {place}/proxy; keepalive_timeout 300s;\n\
             client_header_timeout 300s; client_body_timeout 300s; client_max_body_size 0;\n\
             upstream origin {{ server {origin}; keepalive 64; }}\n\
             server {{ listen {address} backlog=4096;\n\
             location / {{ proxy_pass http://origin; proxy_http_version 1.1;\n\
             proxy_set_header Connection $http_connection;\n\
             proxy_set_header Upgrade $http_upgrade; proxy_read_timeout 300s; }} }} }}\n"
        ),
    )?;
    let mut command = Command::new("nginx");
    command.arg("-c").arg(&file).arg("-p").arg(directory);
    let process = Process::spawn(command)?;
    // nginx listens before its worker process exists.
    wait::until_true(BOOT, "nginx has a worker and listens", || {
        !proc::children(process.pid()).is_empty() && TcpStream::connect(address).is_ok()
    })?;
    Ok((process, address))
}
