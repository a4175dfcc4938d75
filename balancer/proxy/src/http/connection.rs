//! A client's connection: its requests one after the other, and how it ends.
//!
//! What a request is, and why it is refused, is decided in `scaledapp-http1`;
//! what becomes of it, in `exchange`.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Shutdown};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use scaledapp_http1::{self as http1, Framing, Origin, Refusal, Trust, Version};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::allowance::Allowance;
use crate::attempt::Rest;
use crate::body::Flow;
use crate::buffer::Buffer;
use crate::clock::{Cut, Deadline};
use crate::exchange::{self, Then};
use crate::gone::LOOK;
use crate::linger::Linger;
use crate::metrics::Failure;
use crate::thread::Thread;

/// What a client of HTTP/2 is shown; gRPC has it in the error of the call.
const HTTP2_TEXT: &str = "HTTP/1.1 is spoken here, HTTP/2 and gRPC are not";

/// First byte of what a TLS client sends first (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 22;

/// One side of an exchange.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    pub(crate) peer: IpAddr,
    /// The peer is a proxy that somebody has named.
    is_named: bool,
    /// What it was found to be with its last request.
    pub(crate) trust: Trust,
    /// The client of its last request, as far as that is known; else the peer.
    pub(crate) source: IpAddr,
    pub(crate) input: Buffer,
    pub(crate) deadline: Deadline,
    /// It has closed its sending side, and everything before that was read.
    pub(crate) finished: bool,
    /// When that was noticed, be there something left to read or not.
    pub(crate) half_closed: Option<Duration>,
    /// How long the body of its request may be waited for.
    pub(crate) body: Allowance,
    /// See [`Client::set_resets`].
    resets: bool,
}

/// A request whose head was read and written anew.
#[derive(Debug)]
pub(crate) struct Asked {
    /// The head to send upstream.
    pub(crate) head: Vec<u8>,
    pub(crate) framing: Framing,
    pub(crate) version: Version,
    pub(crate) keep_alive: bool,
    pub(crate) is_head: bool,
    pub(crate) is_idempotent: bool,
    /// A proxy of ours has repeated it already, see [`http1::Request::is_repeated`].
    pub(crate) is_repeated: bool,
    pub(crate) upgrade: bool,
    /// It wants to be told before it sends its body.
    pub(crate) expects_continue: bool,
    pub(crate) started: Instant,
}

enum Next {
    Request(Asked),
    Refused(Refusal),
    /// It speaks HTTP/2.
    Http2,
    /// It took too long to send its head.
    Late,
    /// Nothing more comes.
    End,
    /// Nothing has come for a while.
    Rest,
}

/// How the service of a connection has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Served {
    /// The connection is over.
    Ended,
    /// Nothing goes on, and the task is of use elsewhere until something comes.
    Rests,
}

/// Serves a connection while anything goes on there; the next byte must come within
/// `patience`.
pub(crate) async fn serve(thread: &Thread, client: &mut Client, mut patience: Duration) -> Served {
    loop {
        let next = client.next(thread, patience).await;
        patience = thread.config.limits.idle_time;
        let then = match next {
            Next::Request(asked) => exchange::forward(thread, client, asked).await,
            Next::Refused(refusal) => {
                thread.counts.failed(Failure::Refused);
                if client.input.filled().first() == Some(&TLS_HANDSHAKE) {
                    thread.client_spoke_tls();
                } else {
                    thread.request_is_refused(refusal.status, refusal.reason, refusal.rule());
                }
                client
                    .answer(thread, refusal.status, refusal.reason, true, false)
                    .await
            }
            Next::Http2 => {
                thread.counts.failed(Failure::Refused);
                thread.client_spoke_http2();
                let mut out = thread.buffers.output();
                http1::write_http2_refusal(&mut out, HTTP2_TEXT);
                client.write(thread, out, true).await
            }
            Next::Late => {
                let cut = client.deadline.cut();
                thread
                    .counts
                    .failed(cut.map_or(Failure::ClientTimeout, Failure::from));
                let reason = match cut {
                    Some(Cut::Room) => "gave-way",
                    _ => "head-timeout",
                };
                client.answer(thread, 408, reason, true, false).await
            }
            Next::End => Then::End,
            Next::Rest => return Served::Rests,
        };
        if matches!(then, Then::Close | Then::Finish) && client.resets {
            client.set_resets(false);
        }
        match then {
            Then::Next => {}
            Then::Close => {
                client.linger(thread).await;
                break;
            }
            Then::Finish => {
                // Not close() alone, which sends RST instead of what is held back
                // if something has come that nobody has read.
                drop(socket2::SockRef::from(&client.stream).shutdown(Shutdown::Write));
                break;
            }
            Then::End => break,
            Then::Reset => {
                // Zero linger makes close() send RST: the client must not take
                // what it has for the whole.
                drop(socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)));
                break;
            }
        }
    }
    client.input.consume(usize::MAX);
    client.input.release(&thread.buffers);
    Served::Ended
}

impl Client {
    pub(crate) fn new(
        thread: &Thread,
        stream: TcpStream,
        peer: IpAddr,
        deadline: Deadline,
    ) -> Self {
        let is_named = thread.callers.is_named(peer);
        Self {
            stream,
            peer,
            is_named,
            trust: thread.trust(None, is_named),
            source: peer,
            input: Buffer::default(),
            deadline,
            finished: false,
            half_closed: None,
            body: Allowance::to_send(&thread.config.limits),
            resets: false,
        }
    }

    /// While an answer is under way whose end is the connection's, whatever ends us (a
    /// failure, the end of a drain, SIGKILL) must reset the connection: the client
    /// would take an orderly end for that of the answer.
    pub(crate) fn set_resets(&mut self, resets: bool) {
        self.resets = resets;
        let linger = resets.then_some(Duration::ZERO);
        drop(socket2::SockRef::from(&self.stream).set_linger(linger));
    }

    /// Reads the next head; the first byte must come within `patience`.
    async fn next(&mut self, thread: &Thread, patience: Duration) -> Next {
        let mut looked = 0;
        let limits = thread.config.limits.request_head;
        // Old clients send one more line end after a body: it begins no request.
        self.skip_empty_lines();
        if self.input.is_empty() {
            self.deadline.set_idle(patience);
            thread.one_is_idle();
        } else {
            self.begin_head(thread);
        }
        loop {
            // A head can only be complete, or wrong, where a line ends. Its first
            // bytes show already if it is none: whoever speaks TLS would wait for us.
            let filled = self.input.filled();
            let is_first = looked == 0 && !filled.is_empty();
            // Each limit is looked at once, when it is passed.
            let is_beyond = |limit| looked <= limit && limit < filled.len();
            if is_first
                || filled[looked..].contains(&b'\n')
                || is_beyond(limits.target_bytes)
                || is_beyond(limits.head_bytes - 1)
            {
                match self.parse(thread, &limits) {
                    Ok(Some(asked)) => return Next::Request(asked),
                    Ok(None) => {}
                    Err(_) if http1::is_http2(self.input.filled()) => return Next::Http2,
                    Err(refusal) => return Next::Refused(refusal),
                }
            }
            looked = self.input.filled().len();
            if self.input.is_full() {
                self.input.grow(limits.head_bytes);
            }
            let was_empty = self.input.is_empty();
            let filled = poll_fn(|context| {
                let is_squeezed = self.deadline.is_squeezed();
                let filled = self.poll_fill(thread, context).map(Some);
                if filled.is_pending() {
                    // Most heads come as a whole: what waits for the rest of one may
                    // wait for long, and needs no more memory than it has bytes.
                    self.input.squeeze(&thread.buffers);
                }
                self.deadline.holds(self.input.held());
                let may_rest = self.input.is_empty() && (is_squeezed || thread.is_crowded());
                if filled.is_pending() && may_rest {
                    return Poll::Ready(None);
                }
                filled
            });
            let Some(filled) = filled.await else {
                return Next::Rest;
            };
            match filled {
                Ok(0) | Err(Gone::Closed) => return Next::End,
                Ok(_) => {
                    thread.stir();
                    if was_empty {
                        self.skip_empty_lines();
                    }
                    if was_empty && !self.input.is_empty() {
                        self.begin_head(thread);
                    }
                }
                Err(Gone::Late) if was_empty => return Next::End,
                Err(Gone::Late) => return Next::Late,
            }
        }
    }

    /// The first byte of a head is there: the others are owed from now on.
    fn begin_head(&self, thread: &Thread) {
        self.owes(thread, thread.config.limits.head_time);
    }

    /// The client must do something within `time`, and keeps us waiting meanwhile.
    fn owes(&self, thread: &Thread, time: Duration) {
        let now = thread.clock.now();
        self.deadline
            .set_stalled(now.saturating_add(time), Some(now));
    }

    fn skip_empty_lines(&mut self) {
        while self.input.filled().starts_with(b"\r\n") {
            self.input.consume(2);
        }
    }

    fn parse(&mut self, thread: &Thread, limits: &http1::Limits) -> Result<Option<Asked>, Refusal> {
        let mut fields = thread.fields.borrow_mut();
        let Some(request) = http1::parse_request(self.input.filled(), &mut fields, limits)? else {
            return Ok(None);
        };
        let mut head = thread.buffers.output();
        let id = request_id(&mut thread.random.borrow_mut());
        let trust = thread.trust(request.token(), self.is_named);
        let source = match trust {
            Trust::Proxy => request.source(self.peer, |hop| thread.callers.is_named(hop)),
            _ => self.peer,
        };
        // HTTP/1.0 needs no Host and HTTP/1.1 does: ours stands in.
        let ours = if request.host.is_empty() {
            self.stream
                .local_addr()
                .map_or_else(|_| String::new(), |address| address.to_string())
        } else {
            String::new()
        };
        thread.with_token(|token| {
            let origin = Origin {
                peer: self.peer,
                source,
                scheme: "http",
                trust,
                request_id: std::str::from_utf8(&id).unwrap_or_default(),
                token,
            };
            http1::write_request(&mut head, &request, &origin, &ours);
        });
        let asked = Asked {
            head,
            framing: request.framing,
            version: request.version,
            keep_alive: request.keep_alive,
            is_head: request.is_head(),
            is_idempotent: request.is_idempotent(),
            is_repeated: trust == Trust::Behind && request.is_repeated(),
            upgrade: request.upgrade,
            expects_continue: request.expects_continue,
            started: Instant::now(),
        };
        let length = request.head_len;
        self.trust = trust;
        self.source = source;
        self.input.consume(length);
        Ok(Some(asked))
    }

    pub(crate) fn poll_fill(
        &mut self,
        thread: &Thread,
        context: &mut Context<'_>,
    ) -> Poll<Result<usize, Gone>> {
        if let Poll::Ready(read) = self
            .input
            .poll_fill(&mut self.stream, &thread.buffers, context)
        {
            return Poll::Ready(read.map_err(|_| Gone::Closed));
        }
        ready!(self.deadline.poll(context));
        Poll::Ready(Err(Gone::Late))
    }

    /// Answers by ourselves; `close` ends the connection with it.
    pub(crate) async fn answer(
        &mut self,
        thread: &Thread,
        status: u16,
        reason: &str,
        close: bool,
        is_head: bool,
    ) -> Then {
        let mut out = thread.buffers.output();
        // Whoever is told to come back later should not do so at once.
        let retry_after = (status == 503).then_some(1);
        http1::write_answer(&mut out, status, reason, retry_after, None, close, is_head);
        self.write(thread, out, close).await
    }

    /// Sends a whole answer; `close` ends the connection with it.
    pub(crate) async fn write(&mut self, thread: &Thread, out: Vec<u8>, close: bool) -> Then {
        let mut flow = Flow::of(out);
        self.owes(thread, thread.config.limits.head_time);
        let written = poll_fn(|context| {
            if let Poll::Ready(written) = flow.poll_write(&mut self.stream, close, context) {
                return Poll::Ready(written);
            }
            self.deadline
                .poll(context)
                .map(|()| Err(io::ErrorKind::TimedOut.into()))
        })
        .await;
        thread.buffers.put_output(flow.into_out());
        match written {
            Err(_) => Then::End,
            Ok(()) if close => Then::Close,
            Ok(()) => Then::Next,
        }
    }

    /// Sends the rest of an answer that nobody but this client is waiting for any more.
    pub(crate) async fn send_rest(&mut self, thread: &Thread, rest: Rest<'_>, then: Then) -> Then {
        let Rest {
            mut flow,
            mut reader,
            held,
        } = rest;
        let is_last = matches!(then, Then::Close | Then::Finish);
        let written = poll_fn(|context| {
            let before = flow.pending();
            if let Poll::Ready(written) = flow.poll_write(&mut self.stream, is_last, context) {
                return Poll::Ready(written.map_err(|_| Failure::ClientGone));
            }
            let now = thread.clock.now();
            if flow.pending() < before {
                reader.moved(before - flow.pending(), now);
            }
            // Nothing that it sends is for us any more if this is its last answer; many
            // read only once they have sent all.
            let is_gone = if is_last {
                self.poll_discard(thread, context)
            } else {
                self.poll_gone(thread, context)
            };
            if is_gone {
                return Poll::Ready(Err(Failure::ClientGone));
            }
            if self.half_closed.is_some() && self.trust == Trust::Behind {
                return Poll::Ready(Err(Failure::ClientGone));
            }
            if self.deadline.is_squeezed() {
                flow.squeeze();
                self.input.squeeze(&thread.buffers);
            }
            self.deadline.holds(flow.held() + self.input.held());
            let until = reader.wait(now);
            let stalled = reader.stalled();
            self.deadline.set_stalled(until.min(now + LOOK), stalled);
            if until <= now {
                return Poll::Ready(Err(Failure::ClientTimeout));
            }
            self.deadline.poll(context).map(|()| {
                let cut = self.deadline.cut();
                Err(cut.map_or(Failure::ClientTimeout, Failure::from))
            })
        })
        .await;
        drop(held);
        thread.buffers.put_output(flow.into_out());
        match written {
            Err(failure) => {
                thread.counts.failed(failure);
                Then::Reset
            }
            // It may have sent something meanwhile, which closing at once would answer
            // with RST.
            Ok(()) if is_last => Then::Close,
            Ok(()) => then,
        }
    }

    /// Closes our side and takes what the client still sends, for a while.
    async fn linger(&mut self, thread: &Thread) {
        if self.finished || self.stream.shutdown().await.is_err() {
            return;
        }
        let mut linger = Linger::new(thread.clock.now());
        loop {
            let patience = linger.patience(thread.clock.now(), thread.is_leaving());
            self.owes(thread, patience);
            self.input.consume(usize::MAX);
            self.input.widen();
            match poll_fn(|context| self.poll_fill(thread, context)).await {
                Ok(read) if read > 0 && !patience.is_zero() => linger.took(read),
                _ => return,
            }
        }
    }
}

pub(crate) enum Gone {
    Closed,
    Late,
}

/// 32 hexadecimal digits.
fn request_id(random: &mut fastrand::Rng) -> [u8; 32] {
    let bits = random.u128(..);
    std::array::from_fn(|at| b"0123456789abcdef"[(bits >> (4 * at)) as usize & 15])
}
