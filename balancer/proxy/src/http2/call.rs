//! One stream to a server in the form of a connection: what is written is a request in HTTP/1.1,
//! and what is read is the answer to it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, SendStream};
use scaledapp_http1::{self as http1, Framing};

use super::as_connection::{About, AsConnection};
use super::body::{Received, Sending, broken};
use super::message;
use super::servers::InUse;

/// One stream to a server.
#[derive(Debug)]
pub(crate) struct Call {
    send: SendRequest<Bytes>,
    request: Request,
    answer: Answer,
    received: Received,
    is_head: bool,
    is_broken: bool,
    is_unprocessed: bool,
    /// Counts the stream at its connection.
    _in_use: InUse,
}

/// How far the request has come.
#[derive(Debug)]
enum Request {
    Head,
    Body(Sending),
    Sent(SendStream<Bytes>),
    /// The server takes no more of it.
    Refused,
}

/// How far the answer has come.
#[derive(Debug)]
enum Answer {
    /// There is no request yet.
    None(Option<Waker>),
    Head(ResponseFuture),
    Body,
}

impl Call {
    /// A stream that is opened by the head of a request.
    pub(super) fn new(in_use: InUse, send: SendRequest<Bytes>) -> Self {
        Self {
            send,
            request: Request::Head,
            answer: Answer::None(None),
            received: Received::new(),
            is_head: false,
            is_broken: false,
            is_unprocessed: false,
            _in_use: in_use,
        }
    }

    /// Opens the stream. `bytes` begin with a whole head; returns its length.
    fn write_head(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let mut fields = http1::Fields::default();
        let limits = message::checked_limits();
        let parsed = http1::parse_request(bytes, &mut fields, &limits);
        let request = parsed.map_err(|_| invalid())?.ok_or_else(invalid)?;
        let length = request.head_len;
        self.is_head = request.is_head();
        let waker = match &mut self.answer {
            Answer::None(waker) => waker.take(),
            Answer::Head(_) | Answer::Body => None,
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        let Some(head) = message::call(&request) else {
            // A target that RFC 3986 does not allow, and that only HTTP/1.1 can carry.
            let mut answer = Vec::new();
            http1::write_answer(&mut answer, 400, "target", None, None, true, self.is_head);
            self.received.head(answer);
            self.answer = Answer::Body;
            self.request = Request::Refused;
            return Ok(length);
        };
        let has_end = matches!(request.framing, Framing::None | Framing::Length(0));
        let opened = self.send.send_request(head, has_end);
        let (answer, send) = opened.map_err(|error| self.fail(&error))?;
        self.answer = Answer::Head(answer);
        self.request = if has_end {
            Request::Sent(send)
        } else {
            Request::Body(Sending::new(send, request.framing, false))
        };
        Ok(length)
    }

    /// Records that the stream is broken, and whether the server has certainly not processed it.
    /// That is so for a stream that the server's GOAWAY excludes, and for one that the server
    /// refuses (RFC 9113 sections 6.8 and 8.7).
    fn fail(&mut self, error: &h2::Error) -> io::Error {
        self.is_broken = true;
        let is_refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
        self.is_unprocessed = error.is_remote() && (error.is_go_away() || is_refused);
        broken()
    }

    /// Ready when the head of an answer, interim or not, was received.
    fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        let future = match &mut self.answer {
            Answer::Head(future) => future,
            Answer::None(waker) => {
                *waker = Some(context.waker().clone());
                return Poll::Pending;
            }
            Answer::Body => return Poll::Ready(Ok(())),
        };
        if let Poll::Ready(Some(interim)) = future.poll_informational(context) {
            let interim = interim?;
            let mut head = Vec::new();
            message::write_interim(&mut head, &interim);
            self.received.head(head);
            return Poll::Ready(Ok(()));
        }
        let answer = ready!(Pin::new(future).poll(context))?;
        let mut head = Vec::new();
        let has_end = answer.body().is_end_stream();
        let is_chunked = message::write_answer(&mut head, &answer, has_end, self.is_head);
        self.received.head(head);
        if !has_end {
            self.received.body(answer.into_body(), is_chunked);
        }
        self.answer = Answer::Body;
        Poll::Ready(Ok(()))
    }
}

impl AsConnection for Call {
    fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.received.has_bytes() {
                return Poll::Ready(Ok(()));
            }
            if self.is_broken {
                return Poll::Ready(Err(broken()));
            }
            let result = if matches!(self.answer, Answer::Body) {
                match ready!(self.received.poll(context)) {
                    Ok(_) => return Poll::Ready(Ok(())),
                    Err(error) => Err(error),
                }
            } else {
                ready!(self.poll_head(context))
            };
            if let Err(error) = result {
                return Poll::Ready(Err(self.fail(&error)));
            }
        }
    }

    fn try_read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.received.try_read(into)
    }

    fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.request {
            Request::Head => Poll::Ready(self.write_head(bytes)),
            Request::Body(sending) => {
                let written = ready!(sending.poll_write(context, bytes))?;
                if sending.is_done() {
                    let sent = std::mem::replace(&mut self.request, Request::Refused);
                    if let Request::Body(sending) = sent {
                        self.request = Request::Sent(sending.send);
                    }
                }
                Poll::Ready(Ok(written))
            }
            Request::Sent(_) | Request::Refused => Poll::Ready(Ok(bytes.len())),
        }
    }

    /// No stream to a server is a tunnel.
    fn finish(&mut self) {}

    fn reset(&mut self) {
        match &mut self.request {
            Request::Body(Sending { send, .. }) | Request::Sent(send) => {
                send.send_reset(Reason::CANCEL);
            }
            Request::Head | Request::Refused => {}
        }
    }

    fn is_broken(&self) -> bool {
        self.is_broken
    }

    fn is_unprocessed(&self) -> bool {
        self.is_unprocessed
    }

    fn about(&self) -> Option<&About> {
        None
    }
}
