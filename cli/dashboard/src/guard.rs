//! Decides which requests the port on loopback answers at all.
//!
//! Every website that a person opens can send requests to a port on loopback, and with a name of its
//! own that resolves to 127.0.0.1 it even counts as same-origin (DNS rebinding). So the `Host` must be
//! exactly ours, requests that another site caused are refused, and all but the empty page needs a
//! token that only the printed address contains. There is no cookie, because cookies ignore ports
//! and would be sent to every other server on this machine.

use http::header::{AUTHORIZATION, HOST, HeaderMap, ORIGIN};
use http::{Method, Request, StatusCode};

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    /// The page, which has no figures in it.
    Page,
    /// One value for an app.
    Snapshot(String),
    /// A first frame for an app, and then one after the other.
    Stream(String),
}

/// Why a request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused {
    /// The status.
    pub(crate) status: StatusCode,
    /// The text of the answer.
    pub(crate) text: &'static str,
}

/// What a request must have.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    port: u16,
    token: String,
}

const fn refused<T>(status: StatusCode, text: &'static str) -> Result<T, Refused> {
    Err(Refused { status, text })
}

impl Guard {
    /// The guard of a port whose token is this one.
    pub(crate) fn new(port: u16, token: String) -> Self {
        Self { port, token }
    }

    /// The route of a request, if it may be answered.
    pub(crate) fn route(&self, head: &Request<()>) -> Result<Route, Refused> {
        let headers = head.headers();
        if !self.is_for_us(head) {
            return refused(
                StatusCode::MISDIRECTED_REQUEST,
                "this port answers only at 127.0.0.1 and localhost: open the address that the dashboard has printed\n",
            );
        }
        if !matches!(*head.method(), Method::GET | Method::HEAD) {
            return refused(StatusCode::METHOD_NOT_ALLOWED, "this port is read only\n");
        }
        if !self.is_of_our_page(headers) {
            return refused(
                StatusCode::FORBIDDEN,
                "another website caused this request: open the address that the dashboard has printed yourself\n",
            );
        }
        let path = head.uri().path();
        if path == "/" {
            return Ok(Route::Page);
        }
        if !self.has_token(headers) {
            return refused(
                StatusCode::UNAUTHORIZED,
                "the token is missing or of an earlier run: open the address that the dashboard has printed\n",
            );
        }
        let app = wanted(head.uri().query().unwrap_or(""));
        match path {
            "/api/v1/snapshot" => Ok(Route::Snapshot(app)),
            "/api/v1/stream" => Ok(Route::Stream(app)),
            _ => refused(
                StatusCode::NOT_FOUND,
                "no such path; there are / /api/v1/snapshot /api/v1/stream\n",
            ),
        }
    }

    /// Whether the request names this port, once and exactly. A target in absolute form counts like
    /// the `Host` (RFC 9112 section 3.2.2).
    fn is_for_us(&self, head: &Request<()>) -> bool {
        let is_ours = |host: &str| {
            let port = self.port;
            ["127.0.0.1", "localhost", "[::1]"]
                .iter()
                .any(|name| host == format!("{name}:{port}"))
        };
        let mut hosts = head.headers().get_all(HOST).iter();
        let host = hosts.next().and_then(|host| host.to_str().ok());
        let authority = head.uri().authority();
        host.is_some_and(is_ours)
            && hosts.next().is_none()
            && authority.is_none_or(|authority| is_ours(authority.as_str()))
    }

    /// Whether no other website caused the request, as far as the browser says. Programs that are
    /// not browsers send neither header.
    fn is_of_our_page(&self, headers: &HeaderMap) -> bool {
        let is_ours = |origin: &str| {
            let port = self.port;
            ["127.0.0.1", "localhost", "[::1]"]
                .iter()
                .any(|name| origin == format!("http://{name}:{port}"))
        };
        let mut origins = headers.get_all(ORIGIN).iter();
        let mut sites = headers.get_all("sec-fetch-site").iter();
        origins.all(|origin| origin.to_str().is_ok_and(is_ours))
            && sites.all(|site| matches!(site.as_bytes(), b"same-origin" | b"none"))
    }

    fn has_token(&self, headers: &HeaderMap) -> bool {
        let mut fields = headers.get_all(AUTHORIZATION).iter();
        let field = fields.next().map(http::HeaderValue::as_bytes);
        let token = field.and_then(|field| field.strip_prefix(b"Bearer "));
        fields.next().is_none() && token.is_some_and(|token| is_equal(token, self.token.as_bytes()))
    }
}

/// Compares without ending at the first difference, so that the time tells nothing about where it
/// is.
fn is_equal(one: &[u8], other: &[u8]) -> bool {
    let different = one.iter().zip(other).fold(0, |seen, (a, b)| seen | (a ^ b));
    one.len() == other.len() && std::hint::black_box(different) == 0
}

/// The value of `app` in a query, decoded. A malformed one is no app's name.
fn wanted(query: &str) -> String {
    let value = query.split('&').find_map(|pair| pair.strip_prefix("app="));
    let mut bytes = Vec::new();
    let mut rest = value.unwrap_or("").bytes();
    while let Some(byte) = rest.next() {
        let decoded = match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                digit().and_then(|high| Some((high * 16 + digit()?) as u8))
            }
            b'+' => Some(b' '),
            byte => Some(byte),
        };
        bytes.extend(decoded);
    }
    String::from_utf8(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    fn route(target: &str, fields: &[(&str, &str)]) -> Result<Route, u16> {
        let mut request = Request::builder().uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let guard = Guard::new(7000, TOKEN.to_owned());
        guard
            .route(&request.body(()).unwrap())
            .map_err(|refused| refused.status.as_u16())
    }

    #[test]
    fn every_path_needs_the_exact_host() {
        for host in ["127.0.0.1:7000", "localhost:7000", "[::1]:7000"] {
            assert_eq!(route("/", &[("host", host)]), Ok(Route::Page), "{host}");
        }
        for host in [
            "127.0.0.1",
            "127.0.0.1:7001",
            "127.0.0.1:70000",
            "127.0.0.2:7000",
            "localhost.:7000",
            "LOCALHOST:7000",
            "evil.example:7000",
            "x.localhost:7000",
            "localhost:7000.evil.example",
            "",
        ] {
            for path in ["/", "/api/v1/stream", "/none"] {
                assert_eq!(route(path, &[("host", host)]), Err(421), "{host} {path}");
            }
        }
        assert_eq!(route("/", &[]), Err(421));
        let twice = [("host", "127.0.0.1:7000"), ("host", "127.0.0.1:7000")];
        assert_eq!(route("/", &twice), Err(421));
        let ours = [("host", "127.0.0.1:7000")];
        assert_eq!(route("http://evil.example:7000/", &ours), Err(421));
        assert_eq!(route("http://127.0.0.1:7000/", &ours), Ok(Route::Page));
    }

    #[test]
    fn requests_that_another_site_caused_are_refused() {
        let host = ("host", "127.0.0.1:7000");
        for (name, value, is_allowed) in [
            ("origin", "http://127.0.0.1:7000", true),
            ("origin", "http://127.0.0.1:7001", false),
            ("origin", "https://127.0.0.1:7000", false),
            ("origin", "https://evil.example", false),
            ("origin", "null", false),
            ("sec-fetch-site", "none", true),
            ("sec-fetch-site", "same-origin", true),
            ("sec-fetch-site", "same-site", false),
            ("sec-fetch-site", "cross-site", false),
        ] {
            let expected = if is_allowed {
                Ok(Route::Page)
            } else {
                Err(403)
            };
            assert_eq!(
                route("/", &[host, (name, value)]),
                expected,
                "{name}: {value}"
            );
        }
    }

    #[test]
    fn everything_but_the_page_needs_the_token() {
        let host = ("host", "127.0.0.1:7000");
        let right = format!("Bearer {TOKEN}");
        for (value, is_allowed) in [
            (right.as_str(), true),
            (TOKEN, false),
            ("Bearer ", false),
            ("bearer 0123456789abcdef0123456789abcdef", false),
            ("Bearer 0123456789abcdef0123456789abcdee", false),
            ("Bearer 0123456789abcdef0123456789abcdef0", false),
            ("Basic 0123456789abcdef0123456789abcdef", false),
        ] {
            let expected = if is_allowed {
                Ok(Route::Stream("shop".to_owned()))
            } else {
                Err(401)
            };
            let fields = [host, ("authorization", value)];
            assert_eq!(
                route("/api/v1/stream?app=shop", &fields),
                expected,
                "{value}"
            );
        }
        assert_eq!(route("/api/v1/snapshot", &[host]), Err(401));
        assert_eq!(route("/none", &[host]), Err(401));
        let fields = [host, ("authorization", right.as_str())];
        assert_eq!(route("/none", &fields), Err(404));
        let twice = [host, ("authorization", &right), ("authorization", &right)];
        assert_eq!(route("/api/v1/snapshot", &twice), Err(401));
    }

    #[test]
    fn the_name_of_the_app_is_decoded() {
        for (query, name) in [
            ("app=shop", "shop"),
            ("x=1&app=a%2Fb+c", "a/b c"),
            ("app=%zz%ff", ""),
            ("application=x", ""),
            ("", ""),
        ] {
            assert_eq!(wanted(query), name, "{query}");
        }
    }
}
