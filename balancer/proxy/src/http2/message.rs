//! Converts heads and trailer fields between HTTP/2 and HTTP/1.1 (RFC 9113 section 8.3, RFC 9110
//! section 7.6, RFC 8441), for both sides of the proxy. This module has no I/O.
//!
//! Whether a head is well formed is decided by the `h2` crate and then, in HTTP/1.1, by
//! `scaledapp-http1`. This module decides what neither of them can know, because it exists in only
//! one of the two protocols.

use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT, HOST, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use scaledapp_http1::{self as http1, GrpcStatus};

/// A request that cannot be expressed in HTTP/1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unfit {
    pub(super) status: u16,
    pub(super) reason: &'static str,
}

/// What must be known of a request so that its answer can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Asked {
    /// It is a `HEAD` request, whose answer has no body.
    pub(super) is_head: bool,
    /// It opens a WebSocket (RFC 8441).
    pub(super) opens_websocket: bool,
    /// It has a body, which is sent in chunks because its length is not given.
    pub(super) is_chunked: bool,
}

/// The key of a WebSocket handshake, and what the server's answer to it must contain (RFC
/// 6455 section 4.2.2). Both are the example of RFC 6455 section 1.3: the key is no secret,
/// and proves only that the server knows the protocol.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Writes the head of a stream in HTTP/1.1. `protocol` is that of an extended CONNECT.
pub(super) fn write_request<B>(
    out: &mut Vec<u8>,
    request: &Request<B>,
    protocol: Option<&str>,
    has_body: bool,
) -> Result<Asked, Unfit> {
    let unfit = |status, reason| Err(Unfit { status, reason });
    let opens_websocket = match (request.method(), protocol) {
        (&Method::CONNECT, Some(protocol)) if protocol.eq_ignore_ascii_case("websocket") => true,
        // RFC 8441 section 4. The status for an unknown protocol is that of RFC 9220.
        (&Method::CONNECT, Some(_)) => return unfit(501, "unknown-protocol"),
        (&Method::CONNECT, None) => return unfit(405, "connect"),
        _ => false,
    };
    let method = if opens_websocket {
        "GET"
    } else {
        request.method().as_str()
    };
    let path = request
        .uri()
        .path_and_query()
        .map_or("", |path| path.as_str());
    out.extend_from_slice(method.as_bytes());
    out.push(b' ');
    out.extend_from_slice(match path {
        "" => b"/",
        path => path.as_bytes(),
    });
    out.extend_from_slice(b" HTTP/1.1\r\n");
    put_host(out, request)?;
    let fields = request.headers();
    let mut cookies = fields.get_all(COOKIE).iter();
    if let Some(first) = cookies.next() {
        // RFC 9113 section 8.2.3: outside HTTP/2, the cookies are joined to one list.
        out.extend_from_slice(b"Cookie: ");
        out.extend_from_slice(first.as_bytes());
        for next in cookies {
            out.extend_from_slice(b"; ");
            out.extend_from_slice(next.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }
    for (name, value) in fields {
        if is_passed_on(name, opens_websocket) {
            put(out, name.as_str(), value.as_bytes());
        }
    }
    // Clients of HTTP/2 take trailer fields, whether they say so or not.
    put(out, "TE", b"trailers");
    let mut is_chunked = false;
    if opens_websocket {
        put(out, "Connection", b"upgrade");
        put(out, "Upgrade", b"websocket");
        put(out, "Sec-WebSocket-Key", KEY.as_bytes());
    } else if has_body && !fields.contains_key(CONTENT_LENGTH) {
        is_chunked = true;
        put(out, "Transfer-Encoding", b"chunked");
    }
    out.extend_from_slice(b"\r\n");
    Ok(Asked {
        is_head: request.method() == Method::HEAD,
        opens_websocket,
        is_chunked,
    })
}

/// The limits for a head that this proxy has written itself. No such head exceeds them, because it
/// was made from a head whose limits have been checked.
pub(super) fn checked_limits() -> http1::Limits {
    http1::Limits::of(64 << 20, 1 << 20)
}

/// Appends a field line.
pub(super) fn put(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Writes `Host`. `:authority` is the host (RFC 9113 section 8.3.1), and a `Host` beside it must
/// be the same. Otherwise the proxy and the server could take the request for requests to
/// different sites.
fn put_host<B>(out: &mut Vec<u8>, request: &Request<B>) -> Result<(), Unfit> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next().map(HeaderValue::as_bytes);
    if hosts.next().is_some() {
        return Err(Unfit {
            status: 400,
            reason: "several-hosts",
        });
    }
    let authority = request.uri().authority().map(|it| it.as_str().as_bytes());
    match (authority, host) {
        (Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(host) => Err(Unfit {
            status: 400,
            reason: "host-mismatch",
        }),
        (Some(host), _) | (None, Some(host)) => {
            put(out, "Host", host);
            Ok(())
        }
        (None, None) => Err(Unfit {
            status: 400,
            reason: "no-host",
        }),
    }
}

fn is_passed_on(name: &HeaderName, opens_websocket: bool) -> bool {
    // Fields of a connection are malformed in HTTP/2, and the `h2` crate refuses them,
    // except `te`.
    let is_own = [HOST, COOKIE, CONNECTION, UPGRADE, TRANSFER_ENCODING, TE].contains(name);
    let is_of_body = opens_websocket && [CONTENT_LENGTH, EXPECT].contains(name);
    let is_of_handshake = opens_websocket && name == "sec-websocket-key";
    !(is_own || is_of_body || is_of_handshake)
}

/// The head of an answer for a stream. `None`: the server has answered a WebSocket
/// handshake without knowing the protocol.
pub(super) fn response(answer: &http1::Response<'_>, asked: Asked) -> Option<Response<()>> {
    let opens = asked.opens_websocket && answer.switching;
    if opens && answer.field("sec-websocket-accept") != Some(ACCEPT.as_bytes()) {
        return None;
    }
    // RFC 8441 section 5: any 2xx would open the WebSocket.
    if asked.opens_websocket && !opens && matches!(answer.status, 200..=299) {
        return None;
    }
    let mut response = Response::new(());
    // RFC 8441 section 5: 200 stands for 101.
    let status = if opens { 200 } else { answer.status };
    *response.status_mut() = StatusCode::from_u16(status).ok()?;
    // The head was written by `scaledapp-http1`, so `copy` drops all fields of the hop that the
    // head contains.
    copy(answer.fields(), response.headers_mut());
    if opens {
        response.headers_mut().remove("sec-websocket-accept");
    }
    Some(response)
}

/// The head of a request, as it is sent to a server of HTTP/2. `None` if its target is no URI.
pub(super) fn call(request: &http1::Request<'_>) -> Option<Request<()>> {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(Authority::try_from(request.host).ok()?);
    parts.path_and_query = Some(PathAndQuery::try_from(request.target).ok()?);
    let mut head = Request::new(());
    *head.method_mut() = Method::from_bytes(request.method).ok()?;
    *head.uri_mut() = Uri::from_parts(parts).ok()?;
    copy(request.fields(), head.headers_mut());
    // The proxy passes trailer fields on if its client takes them. Servers of gRPC require this
    // field.
    head.headers_mut()
        .insert(TE, HeaderValue::from_static("trailers"));
    Some(head)
}

/// Copies fields of HTTP/1.1, except those of the connection.
fn copy<'b>(from: impl Iterator<Item = (&'b [u8], &'b [u8])>, fields: &mut HeaderMap) {
    for (name, value) in from {
        // Names have been checked by the codec.
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        else {
            continue;
        };
        if ![CONNECTION, HOST, TE, TRANSFER_ENCODING, UPGRADE].contains(&name) {
            fields.append(name, value);
        }
    }
}

/// Writes the head of an interim answer of a server.
pub(super) fn write_interim(out: &mut Vec<u8>, answer: &Response<()>) {
    put_status(out, answer.status());
    for (name, value) in answer.headers() {
        put(out, name.as_str(), value.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes the head of a server's answer. Returns whether its body is sent in chunks.
///
/// `Connection: close` says that the stream ends with the answer. The answer to a gRPC call is in
/// chunks even if it has a length, because only a body in chunks can have trailer fields.
pub(super) fn write_answer<B>(
    out: &mut Vec<u8>,
    answer: &Response<B>,
    has_end: bool,
    is_head: bool,
) -> bool {
    put_status(out, answer.status());
    let fields = answer.headers();
    let is_grpc = fields
        .get(CONTENT_TYPE)
        .is_some_and(|media| http1::is_grpc(media.as_bytes()));
    let drops_length = is_grpc && !has_end;
    for (name, value) in fields {
        if *name != CONTENT_LENGTH || !drops_length {
            put(out, name.as_str(), value.as_bytes());
        }
    }
    put(out, "Connection", b"close");
    let has_length = fields.contains_key(CONTENT_LENGTH) && !drops_length;
    let is_bodiless = is_head || matches!(answer.status().as_u16(), 204 | 304);
    let is_chunked = !(has_length || has_end || is_bodiless);
    if is_chunked {
        put(out, "Transfer-Encoding", b"chunked");
    } else if has_end && !has_length && !is_bodiless {
        put(out, "Content-Length", b"0");
    }
    out.extend_from_slice(b"\r\n");
    is_chunked
}

fn put_status(out: &mut Vec<u8>, status: StatusCode) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.extend_from_slice(b" \r\n");
}

/// Trailer fields as HTTP/2 sends them.
pub(super) fn trailers(trailers: &http1::Trailers) -> HeaderMap {
    let mut fields = HeaderMap::new();
    copy(trailers.fields_of_call(), &mut fields);
    fields
}

/// The trailer fields of a call that ends with `status`. `message` must need no percent-encoding.
pub(super) fn status(status: GrpcStatus, message: &'static str) -> HeaderMap {
    let mut fields = HeaderMap::new();
    fields.insert("grpc-status", HeaderValue::from(status.0));
    fields.insert("grpc-message", HeaderValue::from_static(message));
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(request: &Request<()>, protocol: Option<&str>, has_body: bool) -> String {
        let mut out = Vec::new();
        match write_request(&mut out, request, protocol, has_body) {
            Ok(_) => String::from_utf8(out).unwrap(),
            Err(unfit) => format!("{} {}", unfit.status, unfit.reason),
        }
    }

    #[test]
    fn a_request_keeps_its_meaning_in_http_1_1() {
        let request = Request::get("https://a.test/b?c")
            .header("cookie", "a=b")
            .header("te", "trailers")
            .header("x", "y")
            .header("cookie", "c=d")
            .body(())
            .unwrap();
        let wanted =
            "GET /b?c HTTP/1.1\r\nHost: a.test\r\nCookie: a=b; c=d\r\nx: y\r\nTE: trailers\r\n\r\n";
        assert_eq!(written(&request, None, false), wanted);
    }

    #[test]
    fn a_body_without_a_length_goes_in_chunks() {
        let request = Request::post("https://a.test/").body(()).unwrap();
        assert!(written(&request, None, true).contains("\r\nTransfer-Encoding: chunked\r\n"));
        let request = Request::post("https://a.test/")
            .header("content-length", "5")
            .body(())
            .unwrap();
        let text = written(&request, None, true);
        assert!(text.contains("content-length: 5") && !text.contains("Transfer-Encoding"));
    }

    #[test]
    fn a_request_has_exactly_one_host() {
        let of = |uri: &str, hosts: &[&str]| {
            let mut request = Request::get(uri);
            for host in hosts {
                request = request.header("host", *host);
            }
            written(&request.body(()).unwrap(), None, false)
        };
        assert!(of("https://a.test/", &["A.test"]).contains("\r\nHost: a.test\r\n"));
        assert!(of("/", &["a.test"]).contains("\r\nHost: a.test\r\n"));
        assert_eq!(of("https://a.test/", &["b.test"]), "400 host-mismatch");
        assert_eq!(
            of("https://a.test/", &["a.test", "a.test"]),
            "400 several-hosts"
        );
        assert_eq!(of("/", &[]), "400 no-host");
    }

    #[test]
    fn a_websocket_is_asked_for_as_an_upgrade_and_other_tunnels_are_refused() {
        let request = Request::connect("https://a.test/chat")
            .header("sec-websocket-protocol", "chat")
            .body(())
            .unwrap();
        let text = written(&request, Some("websocket"), true);
        assert!(
            text.starts_with("GET /chat HTTP/1.1\r\nHost: a.test\r\n"),
            "{text}"
        );
        for line in [
            "sec-websocket-protocol: chat",
            "Connection: upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        ] {
            assert!(
                text.contains(&format!("\r\n{line}\r\n")),
                "{line} in {text}"
            );
        }
        assert_eq!(
            written(&request, Some("connect-udp"), true),
            "501 unknown-protocol"
        );
        let plain = Request::connect("a.test:443").body(()).unwrap();
        assert_eq!(written(&plain, None, true), "405 connect");
    }

    fn answered(text: &str, asked: Asked) -> Option<Response<()>> {
        let mut fields = http1::Fields::default();
        let of = http1::Asked {
            head: asked.is_head,
            upgrade: asked.opens_websocket,
        };
        let limits = http1::Limits::answers();
        let parsed = http1::parse_response(text.as_bytes(), &mut fields, &limits, of);
        response(&parsed.unwrap().unwrap(), asked)
    }

    #[test]
    fn an_answer_loses_the_fields_of_the_connection() {
        let text = "HTTP/1.1 404 Not Found\r\nConnection: close\r\nX-A: b\r\nX-A: c\r\nContent-Length: 3\r\n\r\n";
        let response = answered(text, Asked::default()).unwrap();
        assert_eq!(response.status(), 404);
        let fields = response.headers();
        assert_eq!(fields.get_all("x-a").iter().count(), 2);
        assert_eq!(fields["content-length"], "3");
        assert!(!fields.contains_key("connection"));
    }

    fn call_of(text: &str) -> Option<Request<()>> {
        let mut fields = http1::Fields::default();
        let parsed = http1::parse_request(text.as_bytes(), &mut fields, &checked_limits());
        call(&parsed.unwrap().unwrap())
    }

    #[test]
    fn a_call_has_no_field_of_the_connection_and_takes_trailers() {
        let text = "POST /a.B/C?d HTTP/1.1\r\nHost: h:1\r\nX-Y: z\r\nTransfer-Encoding: chunked\r\n\
                    Connection: Scaledapp-Token\r\nScaledapp-Token: t\r\n\r\n";
        let call = call_of(text).unwrap();
        assert_eq!(call.uri(), "http://h:1/a.B/C?d");
        let mut fields: Vec<String> = call
            .headers()
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        fields.sort();
        assert_eq!(fields, ["scaledapp-token: t", "te: trailers", "x-y: z"]);
        assert!(call_of("GET /a<b HTTP/1.1\r\nHost: h\r\n\r\n").is_none());
    }

    #[test]
    fn an_answer_of_a_server_is_framed_by_its_length_or_in_chunks() {
        let of = |status: u16, fields: &[(&str, &str)], has_end, is_head| {
            let mut answer = Response::builder().status(status);
            for (name, value) in fields {
                answer = answer.header(*name, *value);
            }
            let mut out = Vec::new();
            let is_chunked = write_answer(&mut out, &answer.body(()).unwrap(), has_end, is_head);
            let text = String::from_utf8(out).unwrap();
            let (status, rest) = text.split_once("\r\n").unwrap();
            let rest = rest.replacen("Connection: close\r\n", "", 1);
            let rest = rest.strip_suffix("\r\n").unwrap();
            (format!("{status}{}", rest.replace("\r\n", ";")), is_chunked)
        };
        let chunked = |text: &str| (text.to_owned(), true);
        let whole = |text: &str| (text.to_owned(), false);
        let chunks = "HTTP/1.1 200 Transfer-Encoding: chunked;";
        assert_eq!(of(200, &[], false, false), chunked(chunks));
        let length = [("content-length", "5")];
        assert_eq!(
            of(200, &length, false, false),
            whole("HTTP/1.1 200 content-length: 5;")
        );
        assert_eq!(
            of(200, &length, true, true),
            whole("HTTP/1.1 200 content-length: 5;")
        );
        assert_eq!(
            of(200, &[], true, false),
            whole("HTTP/1.1 200 Content-Length: 0;")
        );
        assert_eq!(of(204, &[], true, false), whole("HTTP/1.1 204 "));
        let call = [
            ("content-type", "application/grpc"),
            ("content-length", "5"),
        ];
        let wanted = "HTTP/1.1 200 content-type: application/grpc;Transfer-Encoding: chunked;";
        assert_eq!(of(200, &call, false, false), chunked(wanted));
    }

    #[test]
    fn a_websocket_opens_only_where_the_server_knows_the_protocol() {
        let asked = Asked {
            opens_websocket: true,
            ..Asked::default()
        };
        let head =
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n";
        let good =
            format!("{head}Sec-WebSocket-Accept: {ACCEPT}\r\nSec-WebSocket-Protocol: chat\r\n\r\n");
        let response = answered(&good, asked).unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
        assert!(!response.headers().contains_key("sec-websocket-accept"));
        assert!(!response.headers().contains_key("upgrade"));
        assert!(answered(&format!("{head}\r\n"), asked).is_none());
        let page = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n";
        assert!(answered(page, asked).is_none());
        let refused = "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(answered(refused, asked).unwrap().status(), 403);
    }
}
