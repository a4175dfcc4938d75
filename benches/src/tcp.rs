//! What relaying TCP costs: CPU time of the balancer beside `HAProxy` (`mode tcp`, and with
//! `option splice-auto`) in the same run, for short answers, for new connections and for large
//! transfers.
//!
//! `cargo xtask bench tcp`. As in `hop`: interleaved rounds, medians, run time of the proxy's own
//! threads. In the third table a "request" is a mebibyte.

#![expect(clippy::print_stdout, reason = "the table is the result")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use scaledapp_benches::peer::{self, Origin, Peer};
use scaledapp_benches::rounds::{ROUND, ROUNDS, compare};
use scaledapp_benches::wrk::{self, Connections, Load};

/// Connections that receive at the same time.
const RECEIVERS: usize = 4;
const PIECE: usize = 256 << 10;

/// Proxies with the same server behind them.
fn peers(directory: &std::path::Path, name: &str, origin: &Origin) -> anyhow::Result<[Peer; 3]> {
    let haproxy = |splices| peer::haproxy(directory, name, origin, splices);
    Ok([haproxy(false)?, haproxy(true)?, peer::relay(origin)?])
}

/// A server that sends until its client closes the connection.
fn source() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let piece = vec![7; PIECE];
            std::thread::spawn(move || while stream.write_all(&piece).is_ok() {});
        }
    });
    Ok(address)
}

/// Receives for the time of a round; counts mebibytes.
fn receive(from: SocketAddr) -> Load {
    let receivers: Vec<_> = (0..RECEIVERS)
        .map(|_| {
            std::thread::spawn(move || -> std::io::Result<u64> {
                let mut stream = TcpStream::connect(from)?;
                let (begun, mut bytes) = (Instant::now(), 0);
                let mut buffer = vec![0; PIECE];
                while begun.elapsed() < ROUND {
                    bytes += stream.read(&mut buffer)? as u64;
                }
                Ok(bytes)
            })
        })
        .collect();
    let mut load = Load {
        requests: 0,
        errors: 0,
    };
    for receiver in receivers {
        match receiver.join() {
            Ok(Ok(bytes)) => load.requests += bytes >> 20,
            _ => load.errors += 1,
        }
    }
    load
}

fn main() -> anyhow::Result<()> {
    wrk::check()?;
    let directory = tempfile::tempdir()?;
    println!("CPU time of relaying TCP, one proxy thread, {ROUNDS} interleaved rounds");
    let origin = peer::origin(directory.path())?;
    let short = peers(directory.path(), "short", &origin)?;
    compare("200 bytes, 64 kept connections", &short, |peer| {
        wrk::run(peer.address, Connections::Kept, ROUND)
    })?;
    compare("200 bytes, a connection for each", &short, |peer| {
        wrk::run(peer.address, Connections::New, ROUND)
    })?;
    let sink = Origin::at(source()?);
    let large = peers(directory.path(), "large", &sink)?;
    compare("1 MiB of a large transfer, 4 connections", &large, |peer| {
        Ok(receive(peer.address))
    })
}
