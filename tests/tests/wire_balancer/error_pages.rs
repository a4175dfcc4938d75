//! The user's pages for the balancer's own answers.
//!
//! `scaledapp-proxy` tests which page a client gets.

use std::fs;
use std::net::SocketAddr;

use scaledapp_tests::balancer::{Balancer, Launch};
use scaledapp_tests::http::{self, Connection, Request, Response};
use scaledapp_tests::ports;
use scaledapp_tests::upstream::Upstream;
use scaledapp_tests::wait;
use tempfile::TempDir;

use crate::SOON;
use crate::http2::{Client, run};

const HTML: &str = "<!doctype html><title>Sorry</title>";

/// A balancer whose only server does not exist, with these pages.
fn without_server(pages: &[(&str, &str)]) -> (Balancer, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    for (name, body) in pages {
        fs::write(directory.path().join(name), body).unwrap();
    }
    let balancer = in_front_of(ports::local().unwrap(), &directory);
    (balancer, directory)
}

fn in_front_of(upstream: SocketAddr, directory: &TempDir) -> Balancer {
    let launch = Launch::to(&[upstream]).unwrap();
    let path = directory.path().to_str().unwrap();
    let launch = launch.with(&["--error-pages", path, "--waiting-time", "0s"]);
    launch.ready().unwrap()
}

fn get(balancer: &Balancer, accept: &str) -> Response {
    let mut client = Connection::open(balancer.address(), SOON).unwrap();
    let fields = [("Accept", accept)];
    client.send(&Request::get("/").with(&fields)).unwrap()
}

#[test]
fn a_client_gets_the_page_in_the_form_that_it_accepts() {
    let (balancer, _directory) = without_server(&[("503.html", HTML), ("5xx.json", "{}")]);
    let page = get(&balancer, "text/html,*/*;q=0.8");
    assert_eq!((page.status, page.text().as_str()), (503, HTML));
    assert_eq!(page.field("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(page.field("scaledapp-reason"), Some("no-endpoint"));
    assert_eq!(page.field("retry-after"), Some("1"));
    let json = get(&balancer, "application/json");
    assert_eq!((json.status, json.text().as_str()), (503, "{}"));
    let word = get(&balancer, "image/png");
    assert_eq!(word.text(), "no-endpoint\n");
    assert_eq!(word.field("scaledapp-reason"), None);
}

#[test]
fn an_answer_to_head_has_no_page_and_its_connection_goes_on() {
    let (balancer, _directory) = without_server(&[("503.html", HTML)]);
    let head = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
    let last = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answers = http::raw(balancer.address(), SOON, &[&head[..], last].concat()).unwrap();
    let answers = String::from_utf8(answers).unwrap();
    let length = format!("Content-Length: {}\r\n", HTML.len());
    assert_eq!(answers.matches(&length).count(), 2, "{answers}");
    assert_eq!(answers.matches(HTML).count(), 1, "{answers}");
    assert!(answers.ends_with(HTML), "{answers}");
}

#[test]
fn a_changed_page_is_used_and_a_page_that_is_too_large_is_not() {
    let (balancer, directory) = without_server(&[]);
    assert_eq!(get(&balancer, "*/*").text(), "no-endpoint\n");
    let large = "x".repeat(64 << 10);
    fs::write(directory.path().join("503.txt"), &large).unwrap();
    wait::until_true(SOON, "the page is used", || {
        get(&balancer, "*/*").text() == large
    })
    .unwrap();
    fs::write(directory.path().join("503.txt"), large + "x").unwrap();
    wait::until_true(SOON, "the page is not used", || {
        get(&balancer, "*/*").text() == "no-endpoint\n"
    })
    .unwrap();
    balancer
        .process
        .says(SOON, "it has more than 64 KiB")
        .unwrap();
}

#[test]
fn what_the_app_answers_and_what_grpc_gets_stays() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        for name in ["4xx.html", "5xx.html"] {
            fs::write(directory.path().join(name), HTML).unwrap();
        }
        let upstream = Upstream::start(|mut peer| {
            while peer.read_request().is_some() {
                peer.write(b"HTTP/1.1 503 X\r\nContent-Length: 4\r\n\r\nours");
            }
        })
        .unwrap();
        let balancer = in_front_of(upstream.address(), &directory);
        assert_eq!(get(&balancer, "text/html").text(), "ours");
        // A request that is not understood accepts everything.
        let bad = http::raw(balancer.address(), SOON, b"GET / HTTP/1.1\r\n\r\n").unwrap();
        assert!(String::from_utf8(bad).unwrap().ends_with(HTML));
        let (balancer, _directory) = without_server(&[("5xx.html", HTML)]);
        let mut client = Client::open(balancer.address()).await;
        let request = || ::http::Request::post("http://a.test/a.B/C");
        let call = request().header("content-type", "application/grpc");
        let (answer, _send) = client.send(call.body(()).unwrap(), true).await;
        let answer = answer.await.unwrap();
        assert_eq!(answer.headers()["grpc-status"], "14");
        assert_eq!(answer.headers()["content-type"], "application/grpc");
        let (answer, _send) = client.send(request().body(()).unwrap(), true).await;
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.headers()["content-type"], "text/html; charset=utf-8");
        let body = answer.into_body().data().await.unwrap().unwrap();
        assert_eq!(body, HTML.as_bytes());
    });
}
