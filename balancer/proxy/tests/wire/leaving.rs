//! Clients that close their connection before they have their answer. This must be noticed
//! in every state of their request, and nothing may be lost that a client still waits for.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::num::NonZeroU32;
use std::time::Duration;

use scaledapp_proxy::{Config, Limits};

use crate::peers::{
    GET, MOMENT, OK, Running, Stage, ask, read_all, short, start, start_with, until,
};

const HOUR: Duration = Duration::from_hours(1);

/// An upstream, and a balancer that lets a client wait for `time` after the client has closed
/// its side.
fn believing(time: Duration) -> (Stage, Running) {
    let stage = Stage::open();
    let limits = short(|limits| limits.half_close_time = time);
    let running = start(vec![stage.endpoint()], limits);
    (stage, running)
}

/// A proxy behind another one, and its upstream.
fn behind() -> (Stage, Running) {
    let stage = Stage::open();
    let limits = Limits {
        half_close_time: HOUR,
        ..Config::dispatcher().limits
    };
    let config = Config {
        limits,
        trust: scaledapp_proxy::Trust::Behind,
        ..Config::dispatcher()
    };
    let running = start_with(vec![stage.endpoint()], config);
    (stage, running)
}

/// Two ways to end: the client closes its side, or its connection breaks.
fn ends() -> [fn(TcpStream) -> Option<TcpStream>; 2] {
    [
        |client| {
            client.shutdown(Shutdown::Write).unwrap();
            Some(client)
        },
        |client| {
            let socket = socket2::SockRef::from(&client);
            socket.set_linger(Some(Duration::ZERO)).unwrap();
            None
        },
    ]
}

#[test]
fn a_silent_answer_ends_with_its_client() {
    for (stage, running) in [believing(MOMENT), behind()] {
        for begun in [
            "",
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nx",
            // This answer is held back until it is complete.
            "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx",
        ] {
            for end in ends() {
                let client = ask(&running, "/");
                let mut request = stage.next();
                request.begin(begun);
                let _client = end(client);
                request.is_left();
            }
        }
        until("the request has ended", || running.proxy.in_flight() == 0);
    }
}

#[test]
fn a_stream_in_progress_ends_with_its_client() {
    let (stage, running) = believing(MOMENT);
    let client = ask(&running, "/");
    let mut request = stage.next();
    request.begin(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    client.shutdown(Shutdown::Write).unwrap();
    until("it is cut", || {
        let tick = request.try_begin("3\r\n:\n\n\r\n");
        std::thread::sleep(Duration::from_millis(10));
        tick.is_err()
    });
}

#[test]
fn an_answer_is_not_lost_when_its_client_closes_its_side() {
    let (stage, running) = believing(HOUR);
    let mut client = running.connect();
    let last = b"GET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    client.write_all(&[GET, last].concat()).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    for _ in 0..2 {
        let request = stage.next();
        std::thread::sleep(Duration::from_millis(20));
        request.answer(OK);
    }
    assert_eq!(read_all(&mut client).matches("\r\n\r\nok").count(), 2);
}

#[test]
fn a_long_answer_continues_to_a_client_that_has_closed_its_side() {
    let (stage, running) = believing(MOMENT);
    let mut client = ask(&running, "/");
    client.shutdown(Shutdown::Write).unwrap();
    let mut request = stage.next();
    request.begin("HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n");
    for _ in 0..20 {
        std::thread::sleep(MOMENT / 5);
        request.begin("xx");
    }
    assert!(read_all(&mut client).ends_with(&"x".repeat(40)));
}

#[test]
fn a_client_that_ends_is_noticed_even_if_it_has_sent_more_than_is_read() {
    for (stage, running) in [believing(MOMENT), behind()] {
        let mut client = running.connect();
        client.write_all(GET).unwrap();
        client.write_all(&GET.repeat(2000)).unwrap();
        let mut request = stage.next();
        client.shutdown(Shutdown::Write).unwrap();
        request.is_left();
    }
}

#[test]
fn a_client_that_leaves_during_its_upload_is_noticed() {
    for (stage, running) in [believing(MOMENT), behind()] {
        for is_read in [true, false] {
            let mut client = running.connect();
            client
                .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n")
                .unwrap();
            let mut request = stage.next();
            client.set_write_timeout(Some(MOMENT)).unwrap();
            if !is_read {
                // Until the buffers are full: the upstream does not read.
                while client.write_all(&[0; 4096]).is_ok() {}
            }
            if is_read {
                client.shutdown(Shutdown::Write).unwrap();
                request.is_left();
            } else {
                // An orderly end would be queued behind the unread bytes; a reset is not.
                let _client = ends()[1](client);
                until("it is given up", || running.proxy.in_flight() == 0);
            }
        }
    }
}

#[test]
fn a_client_that_leaves_the_queue_frees_its_place() {
    let limits = short(|limits| {
        limits.half_close_time = MOMENT;
        limits.waiting = 1;
        limits.waiting_time = HOUR;
    });
    let running = start(Vec::new(), limits);
    for more in [0, 2000] {
        let mut client = running.connect();
        client.write_all(GET).unwrap();
        client.write_all(&GET.repeat(more)).unwrap();
        until("it waits", || running.proxy.queued() == 1);
        client.shutdown(Shutdown::Write).unwrap();
        until("it has left", || running.proxy.queued() == 0);
    }
}

#[test]
fn abandoned_requests_do_not_keep_their_place() {
    let stage = Stage::open();
    let limits = short(|limits| {
        limits.in_flight = NonZeroU32::new(1);
        limits.half_close_time = MOMENT;
        limits.waiting_time = Duration::from_secs(20);
    });
    let running = start(vec![stage.endpoint()], limits);
    let gone = ask(&running, "/poll");
    let _poll = stage.next();
    drop(gone);
    let mut client = ask(&running, "/");
    stage.next().answer(OK);
    assert!(read_all(&mut client).ends_with("ok"));
}

#[test]
fn a_request_that_is_given_up_ends_at_its_server_before_its_client_is_told() {
    let stage = Stage::open();
    let limits = short(|limits| limits.answer_time = MOMENT);
    let running = start(vec![stage.endpoint()], limits);
    let mut client = ask(&running, "/");
    let mut request = stage.next();
    request.is_left();
    assert!(read_all(&mut client).starts_with("HTTP/1.1 504 "));
}

#[test]
fn an_orderly_end_passes_through_a_tunnel_and_so_does_a_reset() {
    for end in ends() {
        let (stage, running) = believing(MOMENT);
        let mut client = running.connect();
        client
            .write_all(b"GET /t HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
            .unwrap();
        let mut upgraded = stage.next();
        upgraded
            .begin("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n");
        let mut head = [0; 12];
        client.read_exact(&mut head).unwrap();
        let _client = end(client);
        upgraded.is_left();
    }
}
