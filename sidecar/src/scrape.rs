//! Asks the ready workers for their metrics, merges these into one page, and reuses that page for
//! one second.
//!
//! `exposition` decides how pages are merged; the caller provides the list of workers. A
//! separate thread requests and merges the pages, because they may be large and supervision
//! must not wait for them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use scaledapp_runtime::{Chunked, ChunkedDecoder, Page};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

use crate::cli::{MetricsFrom, MetricsMergeArg};
use crate::exposition::{self, Exposition, Sums};

/// The timeout for all workers together; a scraper waits 10 s by default.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(2);
/// The largest page of one worker in bytes, including the head.
const ANSWER_BYTES: usize = 4 * 1024 * 1024;
/// The largest size of all pages together in bytes. Parsing and merging them takes several
/// times as much memory, in a container that is sized for the app.
const ALL_BYTES: usize = 16 * 1024 * 1024;
/// How long a page is reused unless the workers change. No matter how many scrapers there are,
/// each worker answers only once in this time.
const PAGE_LIFETIME: Duration = Duration::from_secs(1);
/// How many scrapes may wait for a page: as many as the admin port answers at the
/// same time.
const MAX_WAITING: usize = 32;

/// A worker that can be scraped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) slot: u32,
    pub(crate) pid: u32,
    pub(crate) address: SocketAddr,
}

/// The number of errors so far.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Scrapes of workers that returned no page.
    pub(crate) failed: AtomicU64,
    /// Malformed lines.
    pub(crate) skipped: AtomicU64,
    /// Families with two different types.
    pub(crate) conflicts: AtomicU64,
}

/// A handle to the thread that scrapes.
#[derive(Debug)]
pub(crate) struct Scraper {
    wanted: mpsc::Sender<oneshot::Sender<Bytes>>,
    counts: Arc<Counts>,
}

impl Scraper {
    /// Starts the thread; `targets` is called for each page.
    ///
    /// # Errors
    /// A thread or a runtime cannot be started.
    pub(crate) fn start(
        from: MetricsFrom,
        merge: MetricsMergeArg,
        targets: impl Fn() -> Vec<Target> + Send + 'static,
    ) -> io::Result<Self> {
        let (wanted, mut asked) = mpsc::channel::<oneshot::Sender<Bytes>>(MAX_WAITING);
        let counts = Arc::new(Counts::default());
        let mut pages = Pages {
            path: from.path,
            merge,
            counts: Arc::clone(&counts),
            sums: Sums::default(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::Builder::new()
            .name("scrape".to_owned())
            .spawn(move || {
                runtime.block_on(async move {
                    let mut last = None::<(Instant, Vec<Target>, Bytes)>;
                    while let Some(answer) = asked.recv().await {
                        if answer.is_closed() {
                            continue;
                        }
                        let targets = targets();
                        let page = match &last {
                            Some((made, of, page))
                                if made.elapsed() < PAGE_LIFETIME && *of == targets =>
                            {
                                page.clone()
                            }
                            _ => {
                                let page = Bytes::from(pages.gather(&targets).await);
                                last = Some((Instant::now(), targets, page.clone()));
                                page
                            }
                        };
                        // The scraper may have closed its connection.
                        let _gone = answer.send(page);
                    }
                });
            })?;
        Ok(Self { wanted, counts })
    }

    /// A page that was collected now or within the last second.
    pub(crate) fn page(&self) -> Page {
        let (answer, answered) = oneshot::channel();
        let taken = self.wanted.try_send(answer);
        Box::pin(async move {
            taken.map_err(|_| {
                format!("{MAX_WAITING} scrapes are already waiting: scrape less often")
            })?;
            let gone = |_| "the thread that asks the workers is gone: restart the supervisor";
            Ok(answered.await.map_err(gone)?)
        })
    }

    /// The number of errors so far.
    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }
}

struct Pages {
    path: String,
    merge: MetricsMergeArg,
    counts: Arc<Counts>,
    sums: Sums,
}

impl Pages {
    async fn gather(&mut self, targets: &[Target]) -> String {
        let most = ANSWER_BYTES.min(ALL_BYTES / targets.len().max(1));
        let mut asked = tokio::task::JoinSet::new();
        for target in targets {
            let (target, path) = (*target, self.path.clone());
            asked.spawn(async move {
                let page =
                    tokio::time::timeout(SCRAPE_TIMEOUT, fetch(target.address, &path, most)).await;
                (target, page)
            });
        }
        let mut pages: Vec<(Target, Exposition)> = Vec::new();
        while let Some(Ok((target, page))) = asked.join_next().await {
            match page {
                Ok(Ok(text)) => pages.push((target, exposition::parse(&text))),
                failed => {
                    self.counts.failed.fetch_add(1, Ordering::Relaxed);
                    let error = match failed {
                        Ok(Err(error)) => error.to_string(),
                        _ => format!("no answer within {SCRAPE_TIMEOUT:?}"),
                    };
                    tracing::debug!(slot = target.slot, error, "a worker returned no metrics");
                }
            }
        }
        pages.sort_by_key(|(target, _)| target.slot);
        let by = |key: fn(&Target) -> u32| {
            let pages = pages.into_iter();
            pages
                .map(|(target, page)| (key(&target), page))
                .collect::<Vec<_>>()
        };
        let merged = match self.merge {
            MetricsMergeArg::Label => exposition::label(&by(|target| target.slot)),
            MetricsMergeArg::Sum => {
                let alive: Vec<u32> = targets.iter().map(|target| target.pid).collect();
                self.sums.sum(&alive, &by(|target| target.pid))
            }
        };
        let counts = &self.counts;
        counts.skipped.fetch_add(merged.skipped, Ordering::Relaxed);
        counts
            .conflicts
            .fetch_add(merged.conflicts, Ordering::Relaxed);
        exposition::render(&merged)
    }
}

/// Sends `GET path` and returns the content as text, if the answer has at most `most`
/// bytes.
async fn fetch(address: SocketAddr, path: &str, most: usize) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: scaledapp-scrape\r\n\
         Accept: text/plain;version=0.0.4,application/openmetrics-text;version=1.0.0;q=0.5\r\n\
         Connection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let mut buffer = vec![0_u8; 64 * 1024];
    loop {
        let length = stream.read(&mut buffer).await?;
        answer.extend_from_slice(&buffer[..length]);
        if answer.len() > most {
            let error = format!("its metrics are larger than {} KiB", most >> 10);
            return Err(io::Error::other(error));
        }
        if let Some(content) = content(&answer, length == 0).map_err(io::Error::other)? {
            return Ok(String::from_utf8_lossy(&content).into_owned());
        }
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// The content of an HTTP/1 answer (RFC 9112, 6.3), once it is complete.
fn content(answer: &[u8], ended: bool) -> Result<Option<Vec<u8>>, &'static str> {
    const END: &[u8] = b"\r\n\r\n";
    let Some(head) = answer.windows(END.len()).position(|four| four == END) else {
        return Ok(None);
    };
    let body = &answer[head + END.len()..];
    let head = std::str::from_utf8(&answer[..head]).map_err(|_| "its head is not text")?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    if status != Some("200") {
        return Err("it did not answer with 200: check the path of --metrics-from");
    }
    let mut length = None;
    let mut chunked = false;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            let parsed = value.parse::<usize>();
            length = Some(parsed.map_err(|_| "its Content-Length is not a number")?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            chunked = value.eq_ignore_ascii_case("chunked");
        } else if name.eq_ignore_ascii_case("content-encoding") && value != "identity" {
            return Err("it compressed its answer without being asked to");
        }
    }
    if chunked {
        // The body is decoded only when it may be complete.
        let whole = ended || body.ends_with(END);
        return if whole { unchunk(body) } else { Ok(None) };
    }
    match length {
        Some(length) => Ok(body.get(..length).map(<[u8]>::to_vec)),
        None => Ok(ended.then(|| body.to_vec())),
    }
}

/// Decodes a chunked body. `None` if the last chunk is missing.
fn unchunk(body: &[u8]) -> Result<Option<Vec<u8>>, &'static str> {
    let mut decoder = ChunkedDecoder::default();
    let mut content = Vec::new();
    for &byte in body {
        match decoder.next(byte) {
            Ok(Chunked::Framing) => {}
            Ok(Chunked::Content) => content.push(byte),
            Ok(Chunked::End) => return Ok(Some(content)),
            Err(_) => return Err("its chunks are malformed"),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn content_is_found_by_its_length_its_chunks_or_the_end() {
        let whole = Some(b"a 1\n".to_vec());
        for (answer, ended, expected) in [
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\na 1\n",
                false,
                &whole,
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\na 1",
                false,
                &None,
            ),
            ("HTTP/1.0 200 OK\r\n\r\na 1\n", true, &whole),
            ("HTTP/1.0 200 OK\r\n\r\na 1\n", false, &None),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\na \r\n2;x=y\r\n1\n\r\n0\r\n\r\n",
                false,
                &whole,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\na \r\n",
                true,
                &None,
            ),
            ("HTTP/1.1 200 OK\r\nconte", false, &None),
        ] {
            assert_eq!(
                &content(answer.as_bytes(), ended).unwrap(),
                expected,
                "{answer}"
            );
        }
        for answer in [
            "HTTP/1.1 404 Not Found\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n\r\n",
        ] {
            assert!(content(answer.as_bytes(), true).is_err(), "{answer}");
        }
    }

    /// A worker that answers each request with the next one of `pages`.
    fn worker(slot: u32, pages: &'static [&'static str]) -> Target {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for page in pages {
                let mut stream = listener.accept().unwrap().0;
                let mut request = [0; 1024];
                let _read = stream.read(&mut request).unwrap();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", page.len());
                stream.write_all((head + page).as_bytes()).unwrap();
            }
        });
        let pid = 100 + slot;
        Target { slot, pid, address }
    }

    #[tokio::test]
    async fn workers_are_asked_and_one_that_is_gone_is_counted() {
        let gone = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let gone = Target {
            slot: 2,
            pid: 102,
            address: gone,
        };
        let targets = [
            worker(1, &["# TYPE a gauge\na 2\n"]),
            worker(0, &["# TYPE a gauge\na 1\nx\n"]),
            gone,
        ];
        let from = "/metrics".parse().unwrap();
        let scraper =
            Scraper::start(from, MetricsMergeArg::Label, move || targets.to_vec()).unwrap();
        assert_eq!(
            scraper.page().await.unwrap(),
            "# TYPE a gauge\na{worker=\"0\"} 1\na{worker=\"1\"} 2\n"
        );
        assert_eq!(scraper.counts().failed.load(Ordering::Relaxed), 1);
        assert_eq!(scraper.counts().skipped.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn sums_keep_the_counts_of_a_worker_that_does_not_answer() {
        let targets = [
            worker(0, &["# TYPE c counter\nc 1\n", "# TYPE c counter\nc 2\n"]),
            worker(1, &["# TYPE c counter\nc 10\n"]),
        ];
        let from = "/metrics".parse().unwrap();
        let scraper = Scraper::start(from, MetricsMergeArg::Sum, move || targets.to_vec()).unwrap();
        assert_eq!(scraper.page().await.unwrap(), "# TYPE c counter\nc 11\n");
        let first = Instant::now();
        loop {
            let page = scraper.page().await.unwrap();
            if page == "# TYPE c counter\nc 12\n" {
                break;
            }
            assert_eq!(page, "# TYPE c counter\nc 11\n");
            assert!(first.elapsed() < Duration::from_secs(10));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test]
    async fn concurrent_scrapes_share_a_page() {
        // A worker that answers only once.
        let target = worker(0, &["# TYPE a gauge\na 1\n"]);
        let from = "/metrics".parse().unwrap();
        let scraper = Scraper::start(from, MetricsMergeArg::Label, move || vec![target]).unwrap();
        let pages: Vec<_> = (0..MAX_WAITING).map(|_| scraper.page()).collect();
        assert!(
            scraper
                .page()
                .await
                .unwrap_err()
                .contains("scrape less often")
        );
        for page in pages {
            assert_eq!(page.await.unwrap(), "# TYPE a gauge\na{worker=\"0\"} 1\n");
        }
        assert_eq!(scraper.counts().failed.load(Ordering::Relaxed), 0);
    }
}
