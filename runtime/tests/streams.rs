//! `/load` of an admin port and the reader of its lines, over real sockets.

#![expect(
    clippy::unwrap_used,
    reason = "a test stops where a fact that it relies on does not hold"
)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use scaledapp_runtime::{Admin, LineError, LineStream, Load, Probe, Routes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

const LONG: Duration = Duration::from_secs(10);

/// Counts its lines; a line of `/load` is the number of lines before it.
struct Counting {
    lines: Arc<AtomicU64>,
    news: watch::Receiver<()>,
    padding: usize,
}

impl Routes for Counting {
    fn live(&self) -> Probe {
        Ok(())
    }
    fn ready(&self) -> Probe {
        Ok(())
    }
    fn metrics(&self) -> String {
        "# EOF\n".to_owned()
    }
    fn status(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
    fn load(&self) -> Option<Load> {
        let (lines, padding) = (Arc::clone(&self.lines), "x".repeat(self.padding));
        Some(Load {
            line: Arc::new(move || {
                let number = lines.fetch_add(1, Ordering::Relaxed);
                format!("{number}{padding}").into()
            }),
            news: Some(self.news.clone()),
        })
    }
}

struct Port {
    address: SocketAddr,
    lines: Arc<AtomicU64>,
    news: watch::Sender<()>,
}

async fn start(padding: usize) -> Port {
    let admin = Admin::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = admin.local_addr();
    let (news, seen) = watch::channel(());
    let lines = Arc::<AtomicU64>::default();
    let routes = Counting {
        lines: Arc::clone(&lines),
        news: seen,
        padding,
    };
    tokio::spawn(admin.serve(Arc::new(routes)));
    Port {
        address,
        lines,
        news,
    }
}

async fn open(address: SocketAddr, max_line: usize) -> LineStream {
    let opened = LineStream::open(address, "/load", "test", LONG, max_line).await;
    opened.unwrap()
}

#[tokio::test]
async fn a_line_comes_at_once_each_second_and_soon_after_news() {
    let port = start(0).await;
    let mut stream = open(port.address, 100).await;
    let begun = Instant::now();
    assert_eq!(stream.next(LONG).await.unwrap(), b"0");
    assert!(begun.elapsed() < Duration::from_millis(500));
    assert_eq!(stream.next(LONG).await.unwrap(), b"1");
    assert!(begun.elapsed() >= Duration::from_millis(900));
    let told = Instant::now();
    port.news.send_replace(());
    assert_eq!(stream.next(LONG).await.unwrap(), b"2");
    assert!(told.elapsed() < Duration::from_millis(500));
    // News without end costs ten lines a second.
    let until = Instant::now() + Duration::from_millis(600);
    while Instant::now() < until {
        port.news.send_replace(());
        drop(tokio::time::timeout(Duration::from_millis(1), stream.next(LONG)).await);
    }
    let lines = port.lines.load(Ordering::Relaxed);
    assert!((5..=11).contains(&lines), "{lines}");
}

#[tokio::test]
async fn nothing_is_measured_without_a_reader() {
    let port = start(0).await;
    let mut stream = open(port.address, 100).await;
    stream.next(LONG).await.unwrap();
    drop(stream);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let lines = port.lines.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(1300)).await;
    assert_eq!(port.lines.load(Ordering::Relaxed), lines);
}

#[tokio::test]
async fn a_reader_that_reads_nothing_gets_no_backlog_and_keeps_nobody_out() {
    // A line is larger than all buffers between writer and reader.
    let port = start(4 << 20).await;
    let mut slow = TcpStream::connect(port.address).await.unwrap();
    slow.write_all(b"GET /load HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    for _ in 0..60 {
        port.news.send_replace(());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let lines = port.lines.load(Ordering::Relaxed);
    assert!(
        lines <= 3,
        "{lines} lines were made for a reader that stands still"
    );
    let mut other = TcpStream::connect(port.address).await.unwrap();
    other
        .write_all(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    other.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn the_reader_is_bounded_in_bytes_and_time() {
    let port = start(100).await;
    let error = open(port.address, 100).await.next(LONG).await.unwrap_err();
    assert!(matches!(error, LineError::Malformed(_)), "{error}");
    let error = LineStream::open(port.address, "/watch", "test", LONG, 100).await;
    let error = error.unwrap().next(LONG).await.unwrap_err();
    assert!(matches!(error, LineError::Status(404)), "{error}");
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut stream = open(silent.local_addr().unwrap(), 100).await;
    let error = stream.next(Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(error, LineError::Silent(_)), "{error}");
    drop(silent);
    let closed = port.address;
    drop(port.news);
    let mut stream = open(closed, 200).await;
    stream.next(LONG).await.unwrap();
    let error = stream.next(LONG).await.unwrap_err();
    assert!(matches!(error, LineError::Ended), "{error}");
}
