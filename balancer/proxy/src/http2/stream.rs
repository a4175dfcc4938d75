//! One stream of a client in the form of a connection: what is read is a request in HTTP/1.1, and
//! what is written is the answer to it.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{Response, StatusCode};
use scaledapp_http1::{self as http1, Framing, GrpcStatus};

use super::as_connection::{About, AsConnection};
use super::body::{Received, Sending, broken, poll_room};
use super::message::{self, Asked};

/// One stream of a client.
#[derive(Debug)]
pub(crate) struct Stream {
    about: Rc<About>,
    asked: Asked,
    request: Received,
    answer: Answer,
    tunnel: Option<InTunnel>,
    /// A time-out has passed.
    is_late: bool,
    /// The client has reset the stream, or its connection is broken.
    is_broken: bool,
}

/// Counts a tunnel until it is dropped.
#[derive(Debug)]
struct InTunnel(Rc<About>);

impl InTunnel {
    fn new(about: &Rc<About>) -> Self {
        about.tunnels.set(about.tunnels.get() + 1);
        Self(Rc::clone(about))
    }
}

impl Drop for InTunnel {
    fn drop(&mut self) {
        self.0.tunnels.set(self.0.tunnels.get() - 1);
    }
}

/// How far the answer has come.
#[derive(Debug)]
enum Answer {
    Head(SendResponse<Bytes>),
    Body(Sending),
    /// A WebSocket.
    Tunnel(SendStream<Bytes>),
    Ended,
}

impl Stream {
    /// `head` is the head of the request in HTTP/1.1; `body` is `None` if there is no body.
    pub(super) fn new(
        about: Rc<About>,
        asked: Asked,
        head: Vec<u8>,
        body: Option<RecvStream>,
        respond: SendResponse<Bytes>,
    ) -> Self {
        let mut request = Received::new();
        request.head(head);
        if let Some(body) = body {
            request.body(body, asked.is_chunked);
        }
        Self {
            about,
            asked,
            request,
            answer: Answer::Head(respond),
            tunnel: None,
            is_late: false,
            is_broken: false,
        }
    }

    /// Ready when the client has given the stream up.
    fn poll_reset(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let reset = match &mut self.answer {
            Answer::Head(respond) => respond.poll_reset(context),
            Answer::Body(Sending { send, .. }) | Answer::Tunnel(send) => send.poll_reset(context),
            Answer::Ended => return Poll::Pending,
        };
        let _reason = ready!(reset);
        self.is_broken = true;
        Poll::Ready(())
    }

    /// Sends the head of an answer, which is always written as a whole. Returns its length.
    fn write_head(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let mut fields = http1::Fields::default();
        let limits = message::checked_limits();
        let asked = http1::Asked {
            head: self.asked.is_head,
            upgrade: self.asked.opens_websocket,
        };
        let parsed = http1::parse_response(bytes, &mut fields, &limits, asked);
        let answer = parsed.map_err(|_| invalid())?.ok_or_else(invalid)?;
        let length = answer.head_len;
        let Answer::Head(respond) = &mut self.answer else {
            return Err(invalid());
        };
        if answer.interim {
            if let Some(interim) = message::response(&answer, self.asked) {
                respond.send_informational(interim).map_err(|_| broken())?;
            }
            return Ok(length);
        }
        let Some(head) = message::response(&answer, self.asked) else {
            let mut refusal = Response::new(());
            *refusal.status_mut() = StatusCode::BAD_GATEWAY;
            let _gone = respond.send_response(refusal, true);
            self.answer = Answer::Ended;
            return Err(invalid());
        };
        let is_tunnel = answer.switching;
        let has_end = !is_tunnel && matches!(answer.framing, Framing::None | Framing::Length(0));
        let send = respond.send_response(head, has_end).map_err(|_| broken())?;
        self.answer = if is_tunnel {
            self.tunnel = Some(InTunnel::new(&self.about));
            Answer::Tunnel(send)
        } else if has_end {
            Answer::Ended
        } else {
            Answer::Body(Sending::new(send, answer.framing, answer.is_grpc()))
        };
        Ok(length)
    }
}

impl AsConnection for Stream {
    fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_broken {
            return Poll::Ready(Err(broken()));
        }
        match ready!(self.request.poll(context)) {
            Ok(true) => Poll::Ready(Ok(())),
            // The request is complete. The client of a tunnel has then finished; any other client
            // waits for its answer.
            Ok(false) if matches!(self.answer, Answer::Tunnel(_)) => Poll::Ready(Ok(())),
            Ok(false) => {
                ready!(self.poll_reset(context));
                Poll::Ready(Err(broken()))
            }
            Err(_) => {
                self.is_broken = true;
                Poll::Ready(Err(broken()))
            }
        }
    }

    fn try_read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.request.try_read(into)
    }

    fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.answer {
            Answer::Head(_) => Poll::Ready(self.write_head(bytes)),
            Answer::Tunnel(send) => {
                let count = ready!(poll_room(send, bytes.len(), context))?;
                let data = Bytes::copy_from_slice(&bytes[..count]);
                send.send_data(data, false).map_err(|_| broken())?;
                Poll::Ready(Ok(count))
            }
            Answer::Body(sending) => {
                let written = ready!(sending.poll_write(context, bytes))?;
                if sending.is_done() {
                    self.answer = Answer::Ended;
                }
                Poll::Ready(Ok(written))
            }
            // Nothing more is sent on a stream that has ended or was reset.
            Answer::Ended => Poll::Ready(Ok(bytes.len())),
        }
    }

    fn finish(&mut self) {
        if let Answer::Tunnel(send) = &mut self.answer {
            let _gone = send.send_data(Bytes::new(), true);
            self.answer = Answer::Ended;
        }
    }

    fn is_late(&mut self) {
        self.is_late = true;
    }

    fn reset(&mut self) {
        let reason = Reason::INTERNAL_ERROR;
        match &mut self.answer {
            Answer::Head(respond) => respond.send_reset(reason),
            Answer::Body(sending) => {
                let (status, message) = if self.is_late {
                    (GrpcStatus::DEADLINE_EXCEEDED, "upstream-timeout")
                } else {
                    (GrpcStatus::UNAVAILABLE, "the server has ended the call")
                };
                if !sending.end_call(status, message) {
                    sending.send.send_reset(reason);
                }
            }
            Answer::Tunnel(send) => send.send_reset(reason),
            Answer::Ended => {}
        }
        self.answer = Answer::Ended;
    }

    fn is_broken(&self) -> bool {
        self.is_broken
    }

    fn is_unprocessed(&self) -> bool {
        false
    }

    fn about(&self) -> Option<&About> {
        Some(&self.about)
    }
}
