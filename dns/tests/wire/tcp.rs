//! DNS over TCP.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use scaledapp_tests::served::SOON;

use crate::server::{A, Server, addresses_of, query, wait};

const RECORDS: &str = r#"{"hello.apps.local.":{"addresses":["10.0.0.1","10.0.0.2"]}}"#;

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn framed(query: &[u8]) -> Vec<u8> {
    let mut bytes = (query.len() as u16).to_be_bytes().to_vec();
    bytes.extend(query);
    bytes
}

fn receive(stream: &mut TcpStream) -> Message {
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).unwrap();
    Message::from_vec(&message).unwrap()
}

/// Whether the server has closed or reset the connection.
fn is_closed(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

#[test]
fn tcp_answers_on_the_port_of_udp() {
    let server = Server::start(RECORDS);
    server.wait_ready().unwrap();
    let mut stream = connect(&server);
    stream.write_all(&framed(&query(5, "hello", A))).unwrap();
    let answer = receive(&mut stream);
    assert_eq!((answer.metadata.id, addresses_of(&answer).len()), (5, 2));
}

#[test]
fn pipelined_queries_are_answered_in_order_and_one_without_answer_is_skipped() {
    let server = Server::start(RECORDS);
    server.wait_ready().unwrap();
    let mut stream = connect(&server);
    let mut bytes = Vec::new();
    for id in 0..200 {
        let mut message = query(id, "hello", A);
        if id % 10 == 3 {
            message[2] |= 0x80;
        }
        bytes.extend(framed(&message));
    }
    stream.write_all(&bytes).unwrap();
    for id in (0..200).filter(|id| id % 10 != 3) {
        assert_eq!(receive(&mut stream).metadata.id, id);
    }
}

#[test]
fn a_query_may_arrive_byte_by_byte() {
    let server = Server::start(RECORDS);
    server.wait_ready().unwrap();
    let mut stream = connect(&server);
    for byte in framed(&query(6, "hello", A)) {
        stream.write_all(&[byte]).unwrap();
        std::thread::yield_now();
    }
    assert_eq!(receive(&mut stream).metadata.id, 6);
}

#[test]
fn malformed_messages_do_not_end_the_connection() {
    let server = Server::start(RECORDS);
    server.wait_ready().unwrap();
    let mut stream = connect(&server);
    stream.write_all(&framed(&[])).unwrap();
    stream
        .write_all(&framed(&query(1, "hello", A)[..20]))
        .unwrap();
    stream.write_all(&framed(&query(2, "hello", A))).unwrap();
    assert_eq!(
        receive(&mut stream).metadata.response_code,
        ResponseCode::FormErr
    );
    assert_eq!(receive(&mut stream).metadata.id, 2);
}

#[test]
fn a_message_of_maximal_length_is_read() {
    let server = Server::start(RECORDS);
    server.wait_ready().unwrap();
    let mut stream = connect(&server);
    let mut large = query(3, "hello", A);
    large.resize(65_535, 0);
    stream.write_all(&framed(&large)).unwrap();
    assert_eq!(
        receive(&mut stream).metadata.response_code,
        ResponseCode::FormErr
    );
}

#[test]
fn a_client_that_has_shut_down_sending_still_gets_its_answers() {
    let server = Server::start(RECORDS);
    server.wait_ready().unwrap();
    let mut stream = connect(&server);
    stream.write_all(&framed(&query(4, "hello", A))).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(receive(&mut stream).metadata.id, 4);
    assert!(is_closed(&mut stream));
}

#[test]
fn a_silent_and_a_trickling_connection_are_closed_after_ten_seconds() {
    let server = Server::start(RECORDS);
    server.wait_ready().unwrap();
    let mut silent = connect(&server);
    let mut dripping = connect(&server);
    let started = Instant::now();
    dripping
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    // At one byte each half second, the 36 bytes would take 18 s.
    let bytes = framed(&query(1, "hello", A));
    let mut next = bytes.iter();
    wait("the end of the trickling connection", || {
        let written = next
            .next()
            .is_some_and(|byte| dripping.write_all(&[*byte]).is_ok());
        !written || is_closed(&mut dripping)
    });
    assert!(
        next.len() > 0,
        "it was not closed before its query was complete"
    );
    assert!(is_closed(&mut silent));
    let elapsed = started.elapsed();
    assert!((9..15).contains(&elapsed.as_secs()), "{elapsed:?}");
}

#[test]
fn at_a_hundred_connections_a_client_loses_the_one_that_is_idle_longest() {
    let server = Server::start(RECORDS);
    server.wait_ready().unwrap();
    let asks = |stream: &mut TcpStream| {
        stream.write_all(&framed(&query(1, "hello", A))).unwrap();
        receive(stream);
    };
    let mut streams: Vec<_> = (0..100)
        .map(|_| {
            let mut stream = connect(&server);
            asks(&mut stream);
            stream
        })
        .collect();
    asks(&mut streams[0]);
    let mut next = connect(&server);
    asks(&mut next);
    wait("the end of the second", || is_closed(&mut streams[1]));
    asks(&mut streams[0]);
    wait("the ended connection in the metrics", || {
        let metrics = server.metrics();
        metrics.contains("scaledapp_dns_tcp_connections 100\n")
            && metrics.contains("scaledapp_dns_tcp_ended_connections_total 1\n")
    });
}
