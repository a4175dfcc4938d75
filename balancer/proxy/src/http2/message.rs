//! Converts heads of HTTP/2 to heads of HTTP/1.1 and back (RFC 9113 section 8.3, RFC 9110
//! section 7.6, RFC 8441). No I/O is done here.
//!
//! Whether a head is well formed is decided by the `h2` crate and then, in HTTP/1.1, by
//! `scaledapp-http1`. This module decides what neither of them can check, because it exists
//! in only one of the two versions.

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use scaledapp_http1 as http1;

/// A request that cannot be expressed in HTTP/1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unfit {
    pub(super) status: u16,
    pub(super) reason: &'static str,
}

/// What must be known of a request so that its answer can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Asked {
    /// Its answer has no body.
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
        // RFC 9113 section 8.2.3: outside HTTP/2, the cookies are one list again.
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

fn put(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// `:authority` is the host (RFC 9113 section 8.3.1). A `Host` beside it must be the same.
/// Otherwise the proxy and the server could take the request for requests to different
/// sites.
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
    let mut response = Response::new(());
    // RFC 8441 section 5: 200 stands for 101.
    let status = if opens { 200 } else { answer.status };
    *response.status_mut() = StatusCode::from_u16(status).ok()?;
    let fields: &mut HeaderMap = response.headers_mut();
    for (name, value) in answer.fields() {
        // Names have been checked by the codec.
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        else {
            continue;
        };
        // The head was written by `scaledapp-http1`, so no other field of the hop is in it.
        let is_of_connection = [CONNECTION, UPGRADE, TRANSFER_ENCODING].contains(&name);
        let is_of_handshake = opens && name == "sec-websocket-accept";
        if !is_of_connection && !is_of_handshake {
            fields.append(name, value);
        }
    }
    Some(response)
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
    fn a_request_is_what_it_was_in_the_older_form() {
        let request = Request::get("https://a.test/b?c")
            .header("cookie", "a=b")
            .header("te", "trailers")
            .header("x", "y")
            .header("cookie", "c=d")
            .body(())
            .unwrap();
        let wanted = "GET /b?c HTTP/1.1\r\nHost: a.test\r\nCookie: a=b; c=d\r\nx: y\r\n\r\n";
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
    fn the_host_is_one() {
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
    fn an_answer_loses_what_is_of_the_connection() {
        let text = "HTTP/1.1 404 Not Found\r\nConnection: close\r\nX-A: b\r\nX-A: c\r\nContent-Length: 3\r\n\r\n";
        let response = answered(text, Asked::default()).unwrap();
        assert_eq!(response.status(), 404);
        let fields = response.headers();
        assert_eq!(fields.get_all("x-a").iter().count(), 2);
        assert_eq!(fields["content-length"], "3");
        assert!(!fields.contains_key("connection"));
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
        let refused = "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(answered(refused, asked).unwrap().status(), 403);
    }
}
