//! Heads of requests: which are accepted, and what they ask for (RFC 9112 sections 2, 3 and
//! 6; RFC 9110 sections 7.2, 7.8, 9.2.2, 10.1.1).
//!
//! Routing is not decided here, nor what is sent upstream; see `write`.

use core::time::Duration;

use crate::cookie;
use crate::fault::{Fault, Refusal};
use crate::fields::{Fields, Section};
use crate::framing::{Framing, Told, Version};
use crate::grpc::{is_grpc, timeout};
use crate::host::is_authority;
use crate::known::Known;
use crate::lexis::{list, target_length, token_length};
use crate::limits::Limits;
use crate::line::{Sender, end_of_line, unfinished};
use crate::options::Options;

/// The longest method that is accepted. Registered methods have at most 17 bytes.
const METHOD_BYTES: usize = 32;

/// The field line that sets [`Request::is_repeated`].
pub const REPEATED: &[u8] = b"Scaledapp-Repeated: 1\r\n";

/// A complete, well-formed head.
#[derive(Clone, Debug)]
pub struct Request<'b> {
    /// Any token; methods are case-sensitive.
    pub method: &'b [u8],
    /// As received.
    pub target: &'b [u8],
    /// The version of the client.
    pub version: Version,
    /// The effective authority: that of an absolute target, otherwise that of `Host`. Empty
    /// if the client named none.
    pub host: &'b [u8],
    /// How the end of the body is announced. Never [`Framing::UntilClose`].
    pub framing: Framing,
    /// Whether the client keeps the connection open.
    pub keep_alive: bool,
    /// Whether the request asks for another protocol and may do so: the request's version is 1.1,
    /// and no protocol that it names is a version of HTTP (see [`parse_request`]). The body of the
    /// request comes first, in the framing of HTTP.
    pub upgrade: bool,
    /// Whether the client waits for an interim response before it sends the body.
    pub expects_continue: bool,
    /// The number of bytes of the head, including empty lines before it that were skipped.
    pub head_len: usize,
    pub(crate) path: &'b [u8],
    pub(crate) section: Section<'b>,
}

impl<'b> Request<'b> {
    /// Whether it is a `HEAD` request, whose response has no body.
    pub fn is_head(&self) -> bool {
        self.method == b"HEAD"
    }

    /// Whether its method is idempotent: sending the request twice has the same effect as sending
    /// it once (RFC 9110 section 9.2.2). An unknown method is not.
    pub fn is_idempotent(&self) -> bool {
        let method = self.method;
        matches!(
            method,
            b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE" | b"PUT" | b"DELETE"
        )
    }

    /// Whether another ScaledApp proxy reports that a server has already ended while it executed
    /// this request (`Scaledapp-Repeated: 1`, see [`REPEATED`]). The field counts only if the
    /// sender is known to be such a proxy, and it is not passed on.
    pub fn is_repeated(&self) -> bool {
        self.section.first(Known::Repeated) == Some(b"1")
    }

    /// The values of the cookies with this name, in their order.
    pub fn cookies(&self, name: &str) -> impl Iterator<Item = &'b [u8]> {
        let fields = self.fields();
        let fields = fields.filter(|(field, _)| field.eq_ignore_ascii_case(b"cookie"));
        fields.flat_map(move |(_, value)| cookie::values(value, name))
    }

    /// Whether its sender can use trailer fields of the answer (`TE: trailers`, RFC 9110 section
    /// 10.1.4).
    pub fn takes_trailers(&self) -> bool {
        let mut options = self.section.all(Known::Te).flat_map(list);
        options.any(|option| option.eq_ignore_ascii_case(b"trailers"))
    }

    /// Whether it is a gRPC call. The status of its answer is in a trailer field, and each of the
    /// two directions may last as long as the other.
    pub fn is_grpc(&self) -> bool {
        self.section.named("content-type").is_some_and(is_grpc)
    }

    /// How long the sender of a gRPC call waits for the end of the call; `None` if the field is
    /// missing or malformed.
    pub fn grpc_timeout(&self) -> Option<Duration> {
        timeout(self.section.named("grpc-timeout")?)
    }

    /// The path with its query, as received. Empty if an absolute target has none; `*` for
    /// `OPTIONS *`.
    pub fn path(&self) -> &'b [u8] {
        self.path
    }

    /// All fields as received, the values without surrounding space.
    pub fn fields(&self) -> impl Iterator<Item = (&'b [u8], &'b [u8])> + use<'b> {
        self.section.iter().map(|(_, name, value)| (name, value))
    }

    /// The value of the first field with this name; letter case is ignored.
    pub fn field(&self, name: &str) -> Option<&'b [u8]> {
        self.section.named(name)
    }
}

/// Parses a request head at the start of `bytes`; `None` while it is incomplete.
///
/// A fault within a line is found at the end of that line at the latest, before the head is
/// complete. Empty lines before the request line are skipped (RFC 9112 section 2.2). `Upgrade:
/// h2c` does not count as an upgrade: RFC 9113 section 3.1 has removed it, and a tunnel to an
/// upstream would bypass everything that a proxy decides for each request.
pub fn parse_request<'b>(
    bytes: &'b [u8],
    fields: &'b mut Fields,
    limits: &Limits,
) -> Result<Option<Request<'b>>, Refusal> {
    Ok(read(bytes, fields, limits)?)
}

fn read<'b>(
    bytes: &'b [u8],
    fields: &'b mut Fields,
    limits: &Limits,
) -> Result<Option<Request<'b>>, Fault> {
    let window = limits.window(bytes);
    let mut start = 0;
    while window[start..].starts_with(b"\r\n") {
        start += 2;
    }
    let Some(first) = end_of_line(window, start, Sender::Client)? else {
        split(unfinished(window, start), limits)?;
        return limits.wait(window);
    };
    let line = RequestLine::of(&window[start..first.end], limits)?;
    let Some(head_len) = fields.read(window, first.next, limits, Sender::Client)? else {
        return limits.wait(window);
    };
    let options = Options::take(fields, window)?;
    let section = fields.section(window);
    let host = host(&line, section)?;
    let framing = match Told::of(section, line.version, Sender::Client)? {
        Told::Nothing => Framing::None,
        Told::Length(length) => Framing::Length(length),
        Told::Chunked => Framing::Chunked,
    };
    let has_body = !matches!(framing, Framing::None | Framing::Length(0));
    let modern = line.version == Version::Http11;
    Ok(Some(Request {
        method: line.method,
        target: line.target,
        version: line.version,
        host,
        framing,
        keep_alive: options.persist(line.version),
        upgrade: options.upgrade && modern && wants_upgrade(section),
        expects_continue: modern && has_body && expects_continue(section),
        head_len,
        path: line.path,
        section,
    }))
}

struct RequestLine<'b> {
    method: &'b [u8],
    target: &'b [u8],
    version: Version,
    /// The authority of an absolute target.
    authority: Option<&'b [u8]>,
    /// The target without scheme and authority. The path of an absolute target may be empty or
    /// begin with `?`.
    path: &'b [u8],
}

impl<'b> RequestLine<'b> {
    fn of(line: &'b [u8], limits: &Limits) -> Result<Self, Fault> {
        let (method, Some(target), Some(version)) = split(line, limits)? else {
            return Err(Fault::RequestLine);
        };
        let version = version_of(version)?;
        let (authority, path) = match (method, target) {
            (b"CONNECT", _) => return Err(Fault::Connect),
            (_, [b'/', ..]) | (b"OPTIONS", b"*") => (None, target),
            _ => absolute(target).ok_or(Fault::Target)?,
        };
        Ok(Self {
            method,
            target,
            version,
            authority,
            path,
        })
    }
}

/// The parts of a request line, which may be incomplete. Complete and incomplete lines are
/// read by the same code, so that early and late refusals have the same reasons.
type Words<'b> = (&'b [u8], Option<&'b [u8]>, Option<&'b [u8]>);

fn split<'b>(line: &'b [u8], limits: &Limits) -> Result<Words<'b>, Fault> {
    let (method, rest) = line.split_at(token_length(line));
    if method.len() > METHOD_BYTES {
        return Err(Fault::MethodLong);
    }
    let rest = match rest {
        [] => return Ok((method, None, None)),
        [b' ', rest @ ..] if !method.is_empty() => rest,
        _ => return Err(Fault::Method),
    };
    let (target, rest) = rest.split_at(target_length(rest));
    if target.len() > limits.target_bytes {
        return Err(Fault::TargetLong);
    }
    match rest {
        [] => Ok((method, Some(target), None)),
        [b' ', version @ ..] if !target.is_empty() && version.len() <= VERSION_BYTES => {
            Ok((method, Some(target), Some(version)))
        }
        [b' ', ..] => Err(Fault::RequestLine),
        _ => Err(Fault::Target),
    }
}

const VERSION_BYTES: usize = b"HTTP/1.1".len();

fn version_of(bytes: &[u8]) -> Result<Version, Fault> {
    match bytes {
        b"HTTP/1.1" => Ok(Version::Http11),
        b"HTTP/1.0" => Ok(Version::Http10),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Err(Fault::Version)
        }
        _ => Err(Fault::RequestLine),
    }
}

/// The authority and the rest of an absolute target (RFC 9112 section 3.2.2).
fn absolute(target: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    let schemes: [&[u8]; 2] = [b"http://", b"https://"];
    let after = schemes.iter().find_map(|scheme| {
        let (start, rest) = target.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    })?;
    let end = after.iter().position(|byte| matches!(byte, b'/' | b'?'));
    let (authority, path) = after.split_at(end.unwrap_or(after.len()));
    is_authority(authority).then_some((Some(authority), path))
}

/// There must be exactly one `Host` (at most one in version 1.0), and an absolute target
/// must not contradict it: by RFC 9112 section 3.2.2 the target wins, but a server that
/// reads only the field would choose another host.
fn host<'b>(line: &RequestLine<'b>, section: Section<'b>) -> Result<&'b [u8], Fault> {
    let mut hosts = section.all(Known::Host);
    let first = hosts.next();
    if hosts.next().is_some() {
        return Err(Fault::HostRepeated);
    }
    match (first, line.authority) {
        (None, _) if line.version == Version::Http11 => Err(Fault::HostMissing),
        (None, authority) => Ok(authority.unwrap_or_default()),
        (Some(host), _) if !host.is_empty() && !is_authority(host) => Err(Fault::Host),
        // RFC 9110 section 7.2 allows an empty `Host` for a target URI without an
        // authority. The target URI of a request to a server always has one.
        (Some(b""), None) if line.version == Version::Http11 => Err(Fault::Host),
        (Some(host), None) => Ok(host),
        (Some(host), Some(authority)) if host.eq_ignore_ascii_case(authority) => Ok(authority),
        (Some(_), Some(_)) => Err(Fault::HostDiffers),
    }
}

fn wants_upgrade(section: Section<'_>) -> bool {
    let mut protocols = section.all(Known::Upgrade).flat_map(list).peekable();
    let is_http = |protocol: &[u8]| {
        let name = protocol.split(|&byte| byte == b'/').next();
        let name = name.unwrap_or_default();
        name.eq_ignore_ascii_case(b"h2c") || name.eq_ignore_ascii_case(b"http")
    };
    protocols.peek().is_some() && !protocols.any(is_http)
}

fn expects_continue(section: Section<'_>) -> bool {
    let mut expectations = section.all(Known::Expect).flat_map(list);
    expectations.any(|expectation| expectation.eq_ignore_ascii_case(b"100-continue"))
}
