//! Heads of responses: which can be passed on, and what follows them (RFC 9112 sections 4,
//! 6.3 and 9.3; RFC 9110 section 15).
//!
//! What is sent to the client is not decided here; see `write`.

use crate::fault::{Fault, Malformed};
use crate::fields::{Fields, Section};
use crate::framing::{Framing, Told, Version};
use crate::grpc::is_grpc;
use crate::known::Known;
use crate::lexis::{is_value, list, number, trim};
use crate::limits::Limits;
use crate::line::{Sender, end_of_line, unfinished};
use crate::options::Options;

/// The properties of the request without which its response cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// It was a `HEAD` request.
    pub head: bool,
    /// It asked for an upgrade. Without that, a response that switches protocols is
    /// malformed.
    pub upgrade: bool,
}

/// Media types of answers that are written as events happen: server-sent events, sequences
/// of JSON values, camera pictures, gRPC.
const STREAMS: [&[u8]; 10] = [
    b"text/event-stream",
    b"application/x-ndjson",
    b"application/ndjson",
    b"application/jsonl",
    b"application/x-jsonlines",
    b"application/json-seq",
    b"application/stream+json",
    b"multipart/x-mixed-replace",
    b"application/grpc",
    b"application/grpc-web",
];

/// How another ScaledApp proxy reports that a request without an answer may be repeated at
/// another server: its 502 has one of these fields with the value `retry`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elsewhere {
    /// `Scaledapp-Not-Executed`: no server has begun to execute the request. Proxies of
    /// older versions also send this field if their servers ended while they executed the
    /// request.
    NotExecuted,
    /// `Scaledapp-Interrupted`: the servers were ended from outside while they had the
    /// request, so the request is not the cause.
    Interrupted,
}

/// The value of `Scaledapp-Not-Executed` and of `Scaledapp-Interrupted`.
pub(crate) const RETRY: &[u8] = b"retry";

/// A complete, well-formed head.
#[derive(Clone, Debug)]
pub struct Response<'b> {
    /// 100 to 999. Codes above 599 are in use and passed on (RFC 9110 section 15 makes
    /// clients treat them as 5xx).
    pub status: u16,
    /// The reason phrase as received; may be empty.
    pub reason: &'b [u8],
    /// The version of the upstream.
    pub version: Version,
    /// How the end of the body is announced.
    pub framing: Framing,
    /// Whether the upstream keeps the connection open, and whether it is safe to use it
    /// again. It is not safe after a body that ends with the connection, nor after an
    /// answer that has no body by rule (HEAD, 204, 304) but announces one or may have one:
    /// faulty servers send a body nevertheless, and it would be taken for the next answer.
    /// Nor is it safe after a line that ends with LF alone: the app may have copied the
    /// line from a client, and that client could then write whole answers to other clients.
    pub keep_alive: bool,
    /// The answer has no body by rule, and nothing shows whether a faulty server sends one
    /// nevertheless: the connection should be silent for a while before it is used again.
    pub bodiless: bool,
    /// 1xx except 101: another head follows.
    pub interim: bool,
    /// 101: the bytes that follow belong to another protocol.
    pub switching: bool,
    /// How many seconds the upstream wants to keep the idle connection.
    pub keep_alive_timeout: Option<u64>,
    /// Bytes of the head.
    pub head_len: usize,
    /// `Content-Length`, even if there is no body.
    pub(crate) length: Option<u64>,
    pub(crate) section: Section<'b>,
}

impl<'b> Response<'b> {
    /// All fields as received, the values without surrounding space.
    pub fn fields(&self) -> impl Iterator<Item = (&'b [u8], &'b [u8])> + use<'b> {
        self.section.iter().map(|(_, name, value)| (name, value))
    }

    /// Whether another ScaledApp proxy reports that the request has got no answer and may be
    /// repeated elsewhere. Heads that are passed on do not contain this report.
    pub fn may_go_elsewhere(&self) -> Option<Elsewhere> {
        let says = |known| self.status == 502 && self.section.first(known) == Some(RETRY);
        if says(Known::Interrupted) {
            return Some(Elsewhere::Interrupted);
        }
        says(Known::NotExecuted).then_some(Elsewhere::NotExecuted)
    }

    /// Whether the answer is marked as a stream, in which long silence is normal. An answer with
    /// a length is not. Any other answer is a stream if its media type is one of those that are
    /// written as events happen, or if it asks not to be buffered (`X-Accel-Buffering: no`,
    /// which apps with such answers send for nginx).
    pub fn is_stream(&self) -> bool {
        if !matches!(self.framing, Framing::Chunked | Framing::UntilClose) {
            return false;
        }
        let media = self.section.named("content-type").unwrap_or_default();
        let end = media
            .iter()
            .position(|byte| matches!(byte, b';' | b' ' | b'\t'));
        let media = &media[..end.unwrap_or(media.len())];
        STREAMS
            .iter()
            .any(|stream| media.eq_ignore_ascii_case(stream))
            || self
                .section
                .named("x-accel-buffering")
                .is_some_and(|value| value.eq_ignore_ascii_case(b"no"))
    }

    /// The worker that has answered, as the dispatcher in front of it says (`Scaledapp-Worker`).
    /// Heads that are passed on do not contain this field.
    pub fn worker(&self) -> Option<&'b [u8]> {
        self.section.first(Known::Worker)
    }

    /// Whether it is the answer to a gRPC call.
    pub fn is_grpc(&self) -> bool {
        self.section.named("content-type").is_some_and(is_grpc)
    }

    /// The value of the first field with this name; letter case is ignored.
    pub fn field(&self, name: &str) -> Option<&'b [u8]> {
        self.section.named(name)
    }
}

/// Parses a response head at the start of `bytes`; `None` while it is incomplete.
pub fn parse_response<'b>(
    bytes: &'b [u8],
    fields: &'b mut Fields,
    limits: &Limits,
    to: Asked,
) -> Result<Option<Response<'b>>, Malformed> {
    Ok(read(bytes, fields, limits, to)?)
}

fn read<'b>(
    bytes: &'b [u8],
    fields: &'b mut Fields,
    limits: &Limits,
    to: Asked,
) -> Result<Option<Response<'b>>, Fault> {
    let window = limits.window(bytes);
    let Some(first) = end_of_line(window, 0, Sender::Server)? else {
        begins_like_http(unfinished(window, 0))?;
        return limits.wait(window);
    };
    let (version, status, reason) = status_line(&window[..first.end])?;
    let Some(head_len) = fields.read(window, first.next, limits, Sender::Server)? else {
        return limits.wait(window);
    };
    let has_bare_end = first.is_bare() || fields.has_bare_end;
    let options = Options::take(fields, window)?;
    let section = fields.section(window);
    let told = Told::of(section, version, Sender::Server)?;
    check_interim(status, version, told, section, to)?;
    let framing = framing(status, told, to);
    let bodiless = framing == Framing::None && status >= 200;
    let sound = match told {
        _ if !bodiless => framing != Framing::UntilClose,
        Told::Nothing => matches!(status, 204 | 304),
        told => told == Told::Length(0),
    };
    Ok(Some(Response {
        status,
        reason,
        version,
        framing,
        keep_alive: sound && !has_bare_end && options.persist(version),
        bodiless,
        interim: status < 200 && status != 101,
        switching: status == 101,
        keep_alive_timeout: keep_alive_timeout(section),
        head_len,
        length: match told {
            Told::Length(length) => Some(length),
            Told::Nothing | Told::Chunked => None,
        },
        section,
    }))
}

/// Checks the beginning of a status line that has not fully arrived, because an upstream that
/// speaks another protocol may never send a line end.
fn begins_like_http(line: &[u8]) -> Result<(), Fault> {
    let start = b"HTTP/1.";
    let seen = line.len().min(start.len());
    if line[..seen] == start[..seen] {
        Ok(())
    } else {
        Err(Fault::StatusLine)
    }
}

/// Version, status and reason phrase of a status line. The space after the code may be missing
/// if no reason follows. The grammar requires it, but some servers leave it out, and the line is
/// not ambiguous without it.
fn status_line(line: &[u8]) -> Result<(Version, u16, &[u8]), Fault> {
    let (version, rest) = match line {
        [
            b'H',
            b'T',
            b'T',
            b'P',
            b'/',
            b'1',
            b'.',
            b'1',
            b' ',
            rest @ ..,
        ] => (Version::Http11, rest),
        [
            b'H',
            b'T',
            b'T',
            b'P',
            b'/',
            b'1',
            b'.',
            b'0',
            b' ',
            rest @ ..,
        ] => (Version::Http10, rest),
        _ => return Err(Fault::StatusLine),
    };
    let (digits, rest) = rest.split_at_checked(3).ok_or(Fault::StatusLine)?;
    let reason = match rest {
        [] | [b' '] => &[],
        [b' ', reason @ ..] => reason,
        _ => return Err(Fault::StatusLine),
    };
    match number(digits) {
        Some(status @ 100..=999) if is_value(reason) => Ok((version, status as u16, trim(reason))),
        _ => Err(Fault::StatusLine),
    }
}

/// Checks a 1xx response. It ends with its head (RFC 9110 section 15.2); if it announces a body,
/// the next bytes are ambiguous.
fn check_interim(
    status: u16,
    version: Version,
    told: Told,
    section: Section<'_>,
    to: Asked,
) -> Result<(), Fault> {
    if status >= 200 {
        return Ok(());
    }
    if version == Version::Http10 || !matches!(told, Told::Nothing | Told::Length(0)) {
        return Err(Fault::Interim);
    }
    if status == 101 && !to.upgrade {
        return Err(Fault::Switching);
    }
    if status == 101 && section.first(Known::Upgrade).is_none() {
        return Err(Fault::SwitchingTo);
    }
    Ok(())
}

/// The rules of RFC 9112 section 6.3, in their order.
fn framing(status: u16, told: Told, to: Asked) -> Framing {
    if to.head || matches!(status, 100..=199 | 204 | 304) {
        return Framing::None;
    }
    match told {
        Told::Chunked => Framing::Chunked,
        Told::Length(length) => Framing::Length(length),
        Told::Nothing => Framing::UntilClose,
    }
}

fn keep_alive_timeout(section: Section<'_>) -> Option<u64> {
    let mut parameters = section.all(Known::KeepAlive).flat_map(list);
    parameters.find_map(|parameter| {
        let equals = parameter.iter().position(|&byte| byte == b'=')?;
        let (name, value) = parameter.split_at(equals);
        let is_it = trim(name).eq_ignore_ascii_case(b"timeout");
        is_it.then(|| number(trim(&value[1..])))?
    })
}
