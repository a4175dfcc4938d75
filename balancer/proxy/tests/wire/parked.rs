//! Connections that have been idle for so long that no task waits for them: everything that
//! can happen to an idle connection can happen to them, too.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use scaledapp_proxy::{Config, Limits};

use crate::peers::{GET, OK, Running, read_all, short, start_with, until, upstream};

const CLOSE: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// A proxy, and `count` connections that are parked there after a request each.
fn parked(count: usize, limits: Limits) -> (Running, Vec<TcpStream>) {
    let config = Config {
        threads: 1,
        limits,
        ..Config::balancer()
    };
    let running = start_with(vec![upstream(OK, Duration::ZERO)], config);
    let mut streams: Vec<_> = (0..count).map(|_| running.connect()).collect();
    streams.iter_mut().for_each(ask);
    until("all are parked", || number(&running) == count as u64);
    (running, streams)
}

fn ask(stream: &mut TcpStream) {
    stream.write_all(GET).unwrap();
    let mut answer = [0; OK.len()];
    stream.read_exact(&mut answer).unwrap();
    assert!(answer.ends_with(b"ok"));
}

fn number(running: &Running) -> u64 {
    running.value("x_parked_connections")
}

#[test]
fn the_next_request_is_served_and_the_connection_can_be_parked_again() {
    let (running, mut streams) = parked(200, Limits::default());
    for round in 0..2 {
        streams.iter_mut().for_each(ask);
        until("all are parked again", || number(&running) == 200);
        assert_eq!(running.proxy.connections(), 200, "{round}");
    }
}

#[test]
fn a_parked_connection_that_its_client_ends_is_forgotten() {
    let (running, mut streams) = parked(3, Limits::default());
    drop(streams.pop());
    let reset = streams.pop().unwrap();
    let linger = Some(Duration::ZERO);
    socket2::SockRef::from(&reset).set_linger(linger).unwrap();
    drop(reset);
    until("they are gone", || running.proxy.connections() == 1);
    assert_eq!(number(&running), 1);
    ask(&mut streams[0]);
}

#[test]
fn a_parked_connection_ends_when_it_has_been_idle_for_too_long() {
    let limits = short(|limits| limits.idle_time = Duration::from_secs(4));
    let (running, mut streams) = parked(2, limits);
    assert_eq!(read_all(&mut streams[0]), "");
    until("both are gone", || running.proxy.connections() == 0);
    assert_eq!(number(&running), 0);
}

#[test]
fn the_oldest_parked_connection_gives_way_to_a_new_one() {
    let (running, mut streams) = parked(5, short(|limits| limits.connections = 5));
    assert!(running.send(CLOSE).ends_with("ok"));
    let mut ended = 0;
    for stream in &mut streams {
        stream
            .set_read_timeout(Some(Duration::from_millis(1)))
            .unwrap();
        ended += u32::from(stream.read(&mut [0; 1]).is_ok_and(|count| count == 0));
    }
    assert_eq!(ended, 1);
    assert_eq!(running.value("x_idle_connections_ended_total"), 1);
}

#[tokio::test]
async fn a_drain_ends_parked_connections() {
    let (running, mut streams) = parked(3, Limits::default());
    let moment = Duration::from_millis(100);
    running.proxy.drain(moment, moment, Duration::from_secs(20));
    running.proxy.drained().await;
    for stream in &mut streams {
        assert_eq!(read_all(stream), "");
    }
    assert_eq!(running.proxy.connections(), 0);
}
