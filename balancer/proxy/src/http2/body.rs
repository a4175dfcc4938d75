//! The bodies of a stream: DATA frames and trailer fields as the bytes of an HTTP/1.1 body, and the
//! reverse.
//!
//! This file decides when bytes move from and to the `h2` crate, so that a stalled side stalls its
//! own stream and nothing else. Heads are converted in `message`.

use std::collections::VecDeque;
use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{RecvStream, SendStream};
use scaledapp_http1::{ANSWER_TRAILER_BYTES, BodyReader, Framing, GrpcStatus};

use super::message;

/// How many bytes of a body are handed to `h2` at a time.
const WRITE_BYTES: usize = 64 << 10;

pub(super) fn broken() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

/// What the peer sends: heads in HTTP/1.1, and the body after them.
#[derive(Debug)]
pub(super) struct Received {
    /// Bytes to be read, and whether they came in a DATA frame.
    unread: VecDeque<(Bytes, bool)>,
    /// The rest of the body is still to come.
    body: Option<RecvStream>,
    is_chunked: bool,
    /// All DATA frames have arrived. Trailer fields may follow.
    has_data: bool,
}

impl Received {
    /// A message of which nothing has arrived.
    pub(super) fn new() -> Self {
        Self {
            unread: VecDeque::new(),
            body: None,
            is_chunked: false,
            has_data: false,
        }
    }

    /// A head has arrived.
    pub(super) fn head(&mut self, head: Vec<u8>) {
        self.unread.push_back((Bytes::from(head), false));
    }

    /// A body follows the head, in chunks if its length is not known.
    pub(super) fn body(&mut self, body: RecvStream, is_chunked: bool) {
        self.body = Some(body);
        self.is_chunked = is_chunked;
    }

    pub(super) fn has_bytes(&self) -> bool {
        !self.unread.is_empty()
    }

    /// Ready with `true` if there are bytes to read, and with `false` if the message is complete.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<bool, h2::Error>> {
        loop {
            if self.has_bytes() {
                return Poll::Ready(Ok(true));
            }
            let Some(body) = &mut self.body else {
                return Poll::Ready(Ok(false));
            };
            if self.has_data {
                let trailers = ready!(body.poll_trailers(context))?;
                self.body = None;
                if self.is_chunked {
                    let mut last = Vec::from(*b"0\r\n");
                    for (name, value) in trailers.iter().flatten() {
                        message::put(&mut last, name.as_str(), value.as_bytes());
                    }
                    last.extend_from_slice(b"\r\n");
                    self.head(last);
                }
                continue;
            }
            match ready!(body.poll_data(context)) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => self.put(data),
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => self.has_data = true,
            }
        }
    }

    fn put(&mut self, data: Bytes) {
        if self.is_chunked {
            let size = format!("{:x}\r\n", data.len());
            self.unread.push_back((Bytes::from(size), false));
            self.unread.push_back((data, true));
            self.unread.push_back((Bytes::from_static(b"\r\n"), false));
        } else {
            self.unread.push_back((data, true));
        }
    }

    /// Reads bytes that have arrived. If there are none, returns 0 if the message is complete,
    /// and otherwise the error `WouldBlock`.
    pub(super) fn try_read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut read = 0;
        while let Some((first, is_data)) = self.unread.front_mut() {
            let count = first.len().min(into.len() - read);
            first.copy_to_slice(&mut into[read..read + count]);
            read += count;
            let is_empty = first.is_empty();
            if *is_data && let Some(body) = &mut self.body {
                // Once the message is complete, the window is no longer needed.
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
}

/// The body that is sent to the peer.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) send: SendStream<Bytes>,
    reader: BodyReader,
    /// The data of the current write that waits for room in the stream.
    unsent: Bytes,
    /// How many bytes count as written once that data is sent. They include the framing of
    /// HTTP/1.1, which takes no room in the stream.
    taken: usize,
    /// The position within the messages, if the body belongs to a gRPC call.
    messages: Option<Messages>,
}

impl Sending {
    pub(super) fn new(send: SendStream<Bytes>, framing: Framing, is_grpc: bool) -> Self {
        Self {
            send,
            reader: BodyReader::with_trailers(framing, ANSWER_TRAILER_BYTES),
            unsent: Bytes::new(),
            taken: 0,
            messages: is_grpc.then(Messages::default),
        }
    }

    /// Writes some bytes of the body in HTTP/1.1. Returns how many.
    pub(super) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.taken == 0 && !bytes.is_empty() {
            let bytes = &bytes[..bytes.len().min(WRITE_BYTES)];
            let piece = self
                .reader
                .read(bytes)
                .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
            self.unsent = Bytes::copy_from_slice(&bytes[piece.data]);
            self.taken = piece.consumed;
        }
        let is_done = self.is_done();
        let mut has_end = false;
        while !self.unsent.is_empty() {
            let room = ready!(poll_room(&mut self.send, self.unsent.len(), context))?;
            let piece = self.unsent.split_to(room);
            if let Some(messages) = &mut self.messages {
                messages.pass(&piece);
            }
            has_end = is_done && self.unsent.is_empty() && self.reader.trailers().is_empty();
            self.send.send_data(piece, has_end).map_err(|_| broken())?;
        }
        if is_done && !has_end {
            let trailers = message::trailers(self.reader.trailers());
            let sent = if trailers.is_empty() {
                self.send.send_data(Bytes::new(), true)
            } else {
                self.send.send_trailers(trailers)
            };
            sent.map_err(|_| broken())?;
        }
        Poll::Ready(Ok(std::mem::take(&mut self.taken)))
    }

    /// Whether all bytes of the body have been written.
    pub(super) fn is_done(&self) -> bool {
        self.reader.is_done()
    }

    /// Ends a gRPC call whose answer has broken off. The client gets a status on which it may act;
    /// for a reset of the stream it would report an internal error. Returns `false` if that is not
    /// possible: in the middle of a message, or in another protocol.
    pub(super) fn end_call(&mut self, status: GrpcStatus, message: &'static str) -> bool {
        let is_between = |messages: &Messages| messages.is_between();
        if !self.unsent.is_empty() || !self.messages.as_ref().is_some_and(is_between) {
            return false;
        }
        self.send
            .send_trailers(message::status(status, message))
            .is_ok()
    }
}

/// Waits until some of the `wanted` bytes may be sent. Returns how many.
pub(super) fn poll_room(
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

/// How many bytes stand before each message of gRPC: a flag, and the length in four bytes.
const PREFIX_BYTES: u8 = 5;

/// The position within the messages of a call.
#[derive(Debug, Default)]
struct Messages {
    /// How many bytes of a prefix have been passed.
    prefix: u8,
    /// The length, as far as it was read.
    length: u32,
    /// How many bytes of the current message are to come.
    left: u32,
}

impl Messages {
    fn pass(&mut self, mut data: &[u8]) {
        while let Some((first, rest)) = data.split_first() {
            if self.left > 0 {
                let passed = data.len().min(self.left as usize);
                self.left -= passed as u32;
                data = &data[passed..];
                continue;
            }
            if self.prefix > 0 {
                self.length = self.length << 8 | u32::from(*first);
            }
            self.prefix += 1;
            if self.prefix == PREFIX_BYTES {
                self.left = std::mem::take(&mut self.length);
                self.prefix = 0;
            }
            data = rest;
        }
    }

    /// Whether every message that has begun is complete.
    fn is_between(&self) -> bool {
        self.prefix == 0 && self.left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_end_where_their_lengths_say_however_they_are_split() {
        // An empty message, and one of 3 bytes.
        let bytes = [0, 0, 0, 0, 0, 1, 0, 0, 0, 3, 7, 7, 7];
        for split in 0..=bytes.len() {
            let mut messages = Messages::default();
            let (first, second) = bytes.split_at(split);
            messages.pass(first);
            assert_eq!(
                messages.is_between(),
                [0, 5, 13].contains(&split),
                "{split}"
            );
            messages.pass(second);
            assert!(messages.is_between(), "{split}");
        }
    }
}
