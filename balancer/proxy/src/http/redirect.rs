//! Which unencrypted requests are redirected to `https`, and to which address.

use scaledapp_http1::Request;

/// The paths that a certificate authority requests before it signs a certificate (RFC
/// 8555 section 8.3). It requests them without encryption, because there is no
/// certificate yet.
const CHALLENGE: &[u8] = b"/.well-known/acme-challenge/";

/// The address of a request's resource at `https` with this port; `None`: the request is
/// served as it is. A request that names no host is sent to `ours`, an address of this
/// machine.
pub(super) fn location(request: &Request<'_>, ours: &str, port: u16) -> Option<Vec<u8>> {
    let path = request.path();
    if path.starts_with(CHALLENGE) {
        return None;
    }
    let host = if request.host.is_empty() {
        ours.as_bytes()
    } else {
        request.host
    };
    let mut location = b"https://".to_vec();
    location.extend_from_slice(without_port(host));
    if port != 443 {
        location.extend_from_slice(format!(":{port}").as_bytes());
    }
    if !path.starts_with(b"/") {
        location.push(b'/');
    }
    location.extend_from_slice(path);
    Some(location)
}

/// A host without its port. Colons in brackets belong to an IPv6 address.
fn without_port(host: &[u8]) -> &[u8] {
    match host.iter().rposition(|byte| *byte == b':') {
        Some(colon) if !host[colon..].contains(&b']') => &host[..colon],
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use scaledapp_http1::{Fields, Limits, parse_request};

    fn of(head: &str, port: u16) -> Option<String> {
        let mut fields = Fields::default();
        let request = parse_request(head.as_bytes(), &mut fields, &Limits::default());
        let location = location(&request.unwrap().unwrap(), "10.0.0.1:8080", port);
        location.map(|location| String::from_utf8(location).unwrap())
    }

    #[test]
    fn path_and_query_stay_and_the_port_is_that_of_https() {
        for (head, port, wanted) in [
            (
                "GET /a?b=c HTTP/1.1\r\nHost: a.test\r\n\r\n",
                443,
                "https://a.test/a?b=c",
            ),
            (
                "GET / HTTP/1.1\r\nHost: a.test:80\r\n\r\n",
                443,
                "https://a.test/",
            ),
            (
                "GET / HTTP/1.1\r\nHost: a.test:8080\r\n\r\n",
                8443,
                "https://a.test:8443/",
            ),
            (
                "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
                443,
                "https://[::1]/",
            ),
            (
                "GET / HTTP/1.1\r\nHost: [::1]\r\n\r\n",
                443,
                "https://[::1]/",
            ),
            ("POST / HTTP/1.0\r\n\r\n", 443, "https://10.0.0.1/"),
            (
                "GET http://b.test?x HTTP/1.1\r\nHost: b.test\r\n\r\n",
                443,
                "https://b.test/?x",
            ),
            (
                "GET /.well-known/acme HTTP/1.1\r\nHost: a\r\n\r\n",
                443,
                "https://a/.well-known/acme",
            ),
        ] {
            assert_eq!(of(head, port).as_deref(), Some(wanted), "{head}");
        }
    }

    #[test]
    fn a_challenge_is_served() {
        let head = "GET /.well-known/acme-challenge/x HTTP/1.1\r\nHost: a.test\r\n\r\n";
        assert_eq!(of(head, 443), None);
    }
}
