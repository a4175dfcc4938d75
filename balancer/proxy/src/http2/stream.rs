//! One stream in the form of a connection, as an exchange needs it: what is read is a
//! request in HTTP/1.1, and what is written is the answer to it.
//!
//! Decides when bytes of a body move from and to the `h2` crate, so that a stalled side
//! stalls its own stream and nothing else. How heads are written is decided in `message`.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{Response, StatusCode};
use scaledapp_http1::{self as http1, BodyReader, Framing};
use tokio::io::ReadBuf;

use super::message::{self, Asked};

/// How much of an answer is handed to `h2` at a time.
const WRITE_BYTES: usize = 64 << 10;
/// Limits that no head of an answer exceeds here: it was made from a head whose limits have
/// been checked.
const LIMITS: (usize, usize) = (64 << 20, 1 << 20);

/// What is known of a connection, for all of its streams.
#[derive(Debug)]
pub(crate) struct About {
    pub(crate) local: io::Result<SocketAddr>,
    pub(crate) is_secured: bool,
    pub(crate) client_certificate: Option<String>,
    pub(super) peer: IpAddr,
    /// Its requests are redirected to `https` at this port.
    pub(super) redirects: Option<u16>,
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Stream {
    about: Rc<About>,
    asked: Asked,
    /// Bytes to be read, in HTTP/1.1, and whether they came in a DATA frame.
    unread: VecDeque<(Bytes, bool)>,
    /// The rest of the request is still to come.
    body: Option<RecvStream>,
    answer: Answer,
    /// The data of the current write that waits for room in the stream.
    unsent: Bytes,
    /// How many bytes count as written once that data is sent. They include the framing of
    /// HTTP/1.1, which takes no room in the stream.
    taken: usize,
    /// The client has reset the stream, or its connection is broken.
    is_broken: bool,
}

/// How far the answer has come.
#[derive(Debug)]
enum Answer {
    Head(SendResponse<Bytes>),
    Body(SendStream<Bytes>, BodyReader),
    /// A WebSocket.
    Tunnel(SendStream<Bytes>),
    Ended,
}

fn broken() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
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
        Self {
            about,
            asked,
            unread: VecDeque::from([(Bytes::from(head), false)]),
            body,
            answer: Answer::Head(respond),
            unsent: Bytes::new(),
            taken: 0,
            is_broken: false,
        }
    }

    pub(crate) fn about(&self) -> &About {
        &self.about
    }

    /// Whether it is known that the client has reset the stream, or that its connection is
    /// broken.
    pub(crate) fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Ready when [`Self::try_read`] has something to return.
    pub(crate) fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.is_broken {
                return Poll::Ready(Err(broken()));
            }
            if !self.unread.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let Some(body) = &mut self.body else {
                // The request is complete. The client of a tunnel has then finished; any
                // other client waits for its answer.
                if matches!(self.answer, Answer::Tunnel(_)) {
                    return Poll::Ready(Ok(()));
                }
                ready!(self.poll_reset(context));
                return Poll::Ready(Err(broken()));
            };
            match ready!(body.poll_data(context)) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => self.put(data),
                Some(Err(_)) => self.is_broken = true,
                None => {
                    self.body = None;
                    if self.asked.is_chunked {
                        self.unread
                            .push_back((Bytes::from_static(b"0\r\n\r\n"), false));
                    }
                }
            }
        }
    }

    fn put(&mut self, data: Bytes) {
        if self.asked.is_chunked {
            let size = format!("{:x}\r\n", data.len());
            self.unread.push_back((Bytes::from(size), false));
            self.unread.push_back((data, true));
            self.unread.push_back((Bytes::from_static(b"\r\n"), false));
        } else {
            self.unread.push_back((data, true));
        }
    }

    /// Ready when the client has reset the stream.
    fn poll_reset(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let reset = match &mut self.answer {
            Answer::Head(respond) => respond.poll_reset(context),
            Answer::Body(send, _) | Answer::Tunnel(send) => send.poll_reset(context),
            Answer::Ended => return Poll::Pending,
        };
        let _reason = ready!(reset);
        self.is_broken = true;
        Poll::Ready(())
    }

    /// Reads bytes that have arrived; 0 means that the client of a tunnel has finished.
    pub(crate) fn try_read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut read = 0;
        while let Some((first, is_data)) = self.unread.front_mut() {
            let count = first.len().min(into.len() - read);
            first.copy_to_slice(&mut into[read..read + count]);
            read += count;
            let is_empty = first.is_empty();
            if *is_data && let Some(body) = &mut self.body {
                // Once the request is complete, the window is no longer needed.
                let _whole = body.flow_control().release_capacity(count);
            }
            if !is_empty {
                break;
            }
            self.unread.pop_front();
        }
        if read > 0 || self.body.is_none() {
            return Ok(read);
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// As [`crate::transport::Transport::poll_read`].
    pub(crate) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_readable(context))?;
        let read = self.try_read(into.initialize_unfilled())?;
        into.advance(read);
        Poll::Ready(Ok(()))
    }

    /// As [`crate::transport::Transport::poll_write`].
    pub(crate) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.answer {
            Answer::Head(_) => Poll::Ready(self.write_head(bytes)),
            Answer::Tunnel(send) => {
                let count = ready!(poll_room(send, bytes.len(), context))?;
                let data = Bytes::copy_from_slice(&bytes[..count]);
                send.send_data(data, false).map_err(|_| broken())?;
                Poll::Ready(Ok(count))
            }
            Answer::Body(send, reader) => {
                if self.taken == 0 && !bytes.is_empty() {
                    let bytes = &bytes[..bytes.len().min(WRITE_BYTES)];
                    let piece = reader
                        .read(bytes)
                        .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
                    self.unsent = Bytes::copy_from_slice(&bytes[piece.data]);
                    self.taken = piece.consumed;
                }
                let is_done = reader.is_done();
                while !self.unsent.is_empty() {
                    let room = ready!(poll_room(send, self.unsent.len(), context))?;
                    let piece = self.unsent.split_to(room);
                    let is_last = is_done && self.unsent.is_empty();
                    send.send_data(piece, is_last).map_err(|_| broken())?;
                    if is_last {
                        self.answer = Answer::Ended;
                        return Poll::Ready(Ok(std::mem::take(&mut self.taken)));
                    }
                }
                if is_done {
                    send.send_data(Bytes::new(), true).map_err(|_| broken())?;
                    self.answer = Answer::Ended;
                }
                Poll::Ready(Ok(std::mem::take(&mut self.taken)))
            }
            // Nothing more is sent on a stream that has ended or was reset.
            Answer::Ended => Poll::Ready(Ok(bytes.len())),
        }
    }

    /// Sends the head of an answer, which is always written as a whole. Returns its length.
    fn write_head(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let mut fields = http1::Fields::default();
        let limits = http1::Limits::of(LIMITS.0, LIMITS.1);
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
            Answer::Tunnel(send)
        } else if has_end {
            Answer::Ended
        } else {
            Answer::Body(send, BodyReader::new(answer.framing))
        };
        Ok(length)
    }

    /// Ends the proxy's side of a tunnel. The end of any other answer is in its framing.
    pub(crate) fn finish(&mut self) {
        if let Answer::Tunnel(send) = &mut self.answer {
            let _gone = send.send_data(Bytes::new(), true);
            self.answer = Answer::Ended;
        }
    }

    /// Ends a stream whose answer is incomplete, in a way that the client notices.
    pub(crate) fn reset(&mut self) {
        match &mut self.answer {
            Answer::Head(respond) => respond.send_reset(Reason::INTERNAL_ERROR),
            Answer::Body(send, _) | Answer::Tunnel(send) => send.send_reset(Reason::INTERNAL_ERROR),
            Answer::Ended => {}
        }
        self.answer = Answer::Ended;
    }
}

/// Waits until some of the `wanted` bytes may be sent. Returns how many.
fn poll_room(
    send: &mut SendStream<Bytes>,
    wanted: usize,
    context: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let wanted = wanted.min(WRITE_BYTES);
    send.reserve_capacity(wanted);
    loop {
        let room = send.capacity().min(wanted);
        if room > 0 || wanted == 0 {
            return Poll::Ready(Ok(room));
        }
        match ready!(send.poll_capacity(context)) {
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return Poll::Ready(Err(broken())),
        }
    }
}
