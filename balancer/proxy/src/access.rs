//! The access log: one line for each finished request, and which requests get one.
//!
//! A request's facts are collected in a [`Record`] while it is carried out, and the line is
//! written when the record is dropped, so that no end of a request is missed. How a line looks is
//! decided in `format`. Where lines go is decided by the owner of the proxy; a line is passed on
//! without waiting.

mod entry;
mod format;
mod settings;
mod time;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use scaledapp_http1::{GrpcStatus, Request, Version};

use self::entry::{Entry, Kept, trace_id};
pub use self::settings::{AccessFormat, AccessLog};
use crate::metrics::Failure;

/// Where lines go.
pub trait AccessSink: fmt::Debug + Send + Sync {
    /// Takes a line, which ends with a line feed. Must not wait: a line for which there is no
    /// room is dropped.
    fn put(&self, line: &[u8]);
}

/// The access log of one thread.
#[derive(Debug)]
pub(crate) struct Access {
    settings: AccessLog,
    sink: Arc<dyn AccessSink>,
    random: RefCell<fastrand::Rng>,
    /// Memory for the line that is being written.
    line: RefCell<String>,
}

impl Access {
    pub(crate) fn new(settings: AccessLog, sink: Arc<dyn AccessSink>) -> Self {
        Self {
            settings,
            sink,
            random: RefCell::new(fastrand::Rng::new()),
            line: RefCell::default(),
        }
    }

    /// A record that has only the client's address and the version of TLS.
    fn empty(self: &Rc<Self>, client: IpAddr, tls: Option<&'static str>) -> Box<Record> {
        let mut entry = Entry::new(client);
        entry.tls = tls;
        Box::new(Record {
            access: Rc::clone(self),
            started: Instant::now(),
            attempted: None,
            is_over: false,
            bytes_in: Cell::new(0),
            bytes_out: Cell::new(0),
            entry,
        })
    }

    /// Begins the record of a request whose head was read.
    pub(crate) fn begin(
        self: &Rc<Self>,
        client: IpAddr,
        tls: Option<&'static str>,
        is_http2: bool,
        request: &Request<'_>,
    ) -> Box<Record> {
        let mut record = self.empty(client, tls);
        record.entry.protocol = match (is_http2, request.version) {
            (true, _) => "HTTP/2.0",
            (false, Version::Http11) => "HTTP/1.1",
            (false, Version::Http10) => "HTTP/1.0",
        };
        let texts = &mut record.entry.texts;
        let field = |name| request.field(name).unwrap_or_default();
        texts.put(Kept::Method, request.method);
        texts.put(Kept::Target, self.without_query(request.target));
        texts.put(Kept::Host, request.host);
        texts.put(Kept::UserAgent, field("user-agent"));
        texts.put(Kept::Referer, self.without_query(field("referer")));
        texts.put(Kept::TraceId, trace_id(field("traceparent")));
        record
    }

    /// Begins the record of a request that was not understood. `input` is what the client has
    /// sent.
    pub(crate) fn begin_refused(
        self: &Rc<Self>,
        client: IpAddr,
        tls: Option<&'static str>,
        input: &[u8],
    ) -> Box<Record> {
        let mut record = self.empty(client, tls);
        let mut lines = input.split(|byte| matches!(byte, b'\r' | b'\n'));
        let line = lines.next().unwrap_or_default();
        record.entry.texts.put(Kept::Line, self.without_query(line));
        record
    }

    /// Logs a connection or stream that was refused before it had a request.
    pub(crate) fn refused(
        self: &Rc<Self>,
        client: IpAddr,
        tls: Option<&'static str>,
        status: u16,
        reason: &'static str,
    ) {
        let mut record = self.empty(client, tls);
        record.answered(status, reason);
        record.over();
    }

    fn without_query<'b>(&self, text: &'b [u8]) -> &'b [u8] {
        let end = text.iter().position(|byte| *byte == b'?');
        match end {
            Some(end) if !self.settings.has_query => &text[..end],
            _ => text,
        }
    }

    fn write(&self, entry: &Entry) {
        let percent = self.settings.percent;
        let is_chosen = percent >= 100 || self.random.borrow_mut().u8(0..100) < percent;
        if !is_chosen && !entry.is_error() {
            return;
        }
        let mut line = self.line.borrow_mut();
        line.clear();
        format::write(&mut line, self.settings.format, entry, SystemTime::now());
        self.sink.put(line.as_bytes());
    }
}

/// What is known of one request. Its line is written when it is dropped.
#[derive(Debug)]
pub(crate) struct Record {
    access: Rc<Access>,
    entry: Entry,
    started: Instant,
    /// When the last attempt began.
    attempted: Option<Instant>,
    /// Whether the request has ended. If it has not when the record is dropped, the proxy has
    /// stopped in the meantime.
    is_over: bool,
    bytes_in: Cell<u64>,
    bytes_out: Cell<u64>,
}

impl Record {
    /// The id that the request has upstream.
    pub(crate) fn has_id(&mut self, id: &[u8]) {
        self.entry.texts.put(Kept::RequestId, id);
    }

    /// The request is sent to an endpoint.
    pub(crate) fn attempt(&mut self, endpoint: &str) {
        self.entry.attempts += 1;
        // The head of an earlier attempt was held back and not sent.
        self.entry.status = 0;
        self.entry.grpc_status = None;
        self.entry.upstream_head = None;
        self.entry.texts.put(Kept::Endpoint, endpoint.as_bytes());
        self.attempted = Some(Instant::now());
    }

    /// An endpoint has sent the head of its answer.
    pub(crate) fn headed(&mut self, status: u16) {
        self.entry.status = status;
        self.entry.upstream_head = self.attempted.map(|since| since.elapsed());
    }

    /// The answer, or the call, has this status of gRPC.
    pub(crate) fn grpc(&mut self, status: Option<GrpcStatus>) {
        self.entry.grpc_status = status.map(|status| status.0);
    }

    /// The proxy itself answers the request, not an endpoint.
    pub(crate) fn answered(&mut self, status: u16, reason: &'static str) {
        self.entry.status = status;
        self.entry.reason = Some(reason);
        self.bytes_out.set(0);
    }

    /// The proxy redirects the request.
    pub(crate) fn redirected(&mut self) {
        self.entry.status = 308;
        self.entry.reason = Some("https");
    }

    /// The request has failed, and the proxy sends no answer of its own.
    pub(crate) fn failed(&mut self, cause: Failure) {
        let reason = match cause {
            Failure::ClientGone => "client-gone",
            Failure::ClientTimeout => "client-timeout",
            Failure::GaveWay => "gave-way",
            Failure::Timeout => "upstream-timeout",
            Failure::Memory => "out-of-memory",
            Failure::Malformed => "upstream-malformed",
            _ => "upstream-cut-off",
        };
        self.entry.reason = Some(reason);
        if self.entry.status == 0 {
            // nginx's status for this.
            self.entry.status = 499;
        }
    }

    /// How many bytes of the request's body have arrived.
    pub(crate) fn received(&self, bytes: u64) {
        self.bytes_in.set(bytes);
    }

    /// How many bytes of the answer's body have been sent.
    pub(crate) fn sent(&self, bytes: u64) {
        self.bytes_out.set(bytes);
    }

    /// A tunnel has carried bytes of the client.
    pub(crate) fn tunnelled_in(&self, bytes: usize) {
        self.bytes_in.set(self.bytes_in.get() + bytes as u64);
    }

    /// A tunnel has carried bytes of the server.
    pub(crate) fn tunnelled_out(&self, bytes: usize) {
        self.bytes_out.set(self.bytes_out.get() + bytes as u64);
    }

    /// The request has come to its end.
    pub(crate) fn over(mut self: Box<Self>) {
        self.is_over = true;
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.is_over && self.entry.reason.is_none() {
            self.entry.reason = Some("shutdown");
        }
        self.entry.duration = self.started.elapsed();
        self.entry.bytes_in = self.bytes_in.get();
        self.entry.bytes_out = self.bytes_out.get();
        self.access.write(&self.entry);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Debug, Default)]
    struct Memory(Mutex<String>);

    impl AccessSink for Memory {
        fn put(&self, line: &[u8]) {
            let line = std::str::from_utf8(line).unwrap();
            self.0.lock().unwrap().push_str(line);
        }
    }

    fn lines(percent: u8, log: impl Fn(&Rc<Access>)) -> Vec<String> {
        let memory = Arc::new(Memory::default());
        let settings = AccessLog {
            format: AccessFormat::Json,
            percent,
            has_query: false,
        };
        let access = Rc::new(Access::new(settings, Arc::clone(&memory) as _));
        log(&access);
        let text = memory.0.lock().unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_sample_is_as_large_as_asked_for_and_has_every_error() {
        let client = IpAddr::from([192, 0, 2, 7]);
        let lines = lines(10, |access| {
            for _ in 0..2000 {
                access.refused(client, None, 404, "x");
                access.refused(client, None, 503, "y");
            }
        });
        let of = |part: &str| lines.iter().filter(|line| line.contains(part)).count();
        assert_eq!(of(r#""status":503"#), 2000);
        let sampled = of(r#""status":404"#);
        assert!((100..300).contains(&sampled), "{sampled}");
    }

    #[test]
    fn a_request_without_an_end_is_logged_too() {
        let client = IpAddr::from([192, 0, 2, 7]);
        let lines = lines(100, |access| {
            drop(access.begin_refused(client, None, b"GET /a?secret=1 HTTP/1.1\r\nx"));
        });
        let wanted = r#""line":"GET /a","status":0,"reason":"shutdown""#;
        assert!(lines[0].contains(wanted), "{lines:?}");
    }

    #[test]
    fn a_failure_keeps_the_status_that_the_client_has_seen() {
        let client = IpAddr::from([192, 0, 2, 7]);
        let lines = lines(100, |access| {
            let mut record = access.begin_refused(client, None, b"");
            record.headed(200);
            record.failed(Failure::CutOff);
            record.over();
            let mut record = access.begin_refused(client, None, b"");
            record.failed(Failure::ClientGone);
            record.over();
        });
        assert!(lines[0].contains(r#""status":200,"reason":"upstream-cut-off""#));
        assert!(lines[1].contains(r#""status":499,"reason":"client-gone""#));
    }
}
