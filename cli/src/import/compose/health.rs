//! Health checks of Compose: a request with curl or wget to the app itself becomes the readiness
//! path.

use super::super::draft::Draft;
use super::super::report::Scope;
use super::super::tree::Node;
use super::amounts::seconds;

/// How long a worker may take to become ready without a time-out of its own, in seconds.
const BOOT: i64 = 60;

/// The port and the path that a check asks at the app itself.
pub(super) fn request(service: &Node) -> Option<(i64, String)> {
    let test = service.at(&["healthcheck", "test"])?;
    let words = match test {
        Node::List(items) => {
            let words: Vec<String> = items.iter().filter_map(Node::scalar).collect();
            words.join(" ")
        }
        other => other.scalar()?,
    };
    let from = words.find("http://")?;
    let url = words[from + 7..]
        .split(|c: char| c.is_whitespace() || c == '"' || c == '\'' || c == '|' || c == ')')
        .next()?;
    let (authority, path) = match url.find('/') {
        Some(at) => url.split_at(at),
        None => (url, "/"),
    };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !host.ends_with(':') => (host, port.parse().ok()?),
        _ => (authority, 80),
    };
    let own = ["localhost", "127.0.0.1", "0.0.0.0", "[::1]"];
    let is_path = path.bytes().all(|byte| byte.is_ascii_graphic());
    (own.contains(&host) && is_path).then(|| (port, path.to_owned()))
}

/// Maps the health check of a service.
pub(super) fn convert(service: &Node, port: i64, draft: &mut Draft, scope: &mut Scope<'_>) {
    let Some(check) = service.get("healthcheck") else {
        return;
    };
    let field = "healthcheck";
    let first = check
        .get("test")
        .and_then(|test| test.items().first().cloned());
    let is_off = check.text(&["disable"]).is_some_and(|off| off == "true")
        || first.is_some_and(|word| word.scalar().is_some_and(|word| word == "NONE"));
    if is_off {
        scope.changed(field, "", "a worker that listens counts as ready");
        return;
    }
    match request(service) {
        Some((asked, path)) if asked == port => {
            draft.set("spec.workers.readiness.path", path);
            scope.changed("healthcheck.test", "spec.workers.readiness.path", "the supervisor asks each worker itself, without curl or wget");
        }
        Some((asked, _)) => scope.lost("healthcheck.test", format!("it asks port {asked}, and workers are asked at port {port} only")),
        None if check.get("test").is_some() => scope.lost("healthcheck.test", "no program is run in the container: offer a path, and set spec.workers.readiness.path; without it a worker that listens counts as ready"),
        None => {}
    }
    let time = |key: &str| seconds(&check.text(&[key])?);
    let retries = check.get("retries").and_then(Node::whole).unwrap_or(3);
    let start = time("start_period").unwrap_or(0);
    let boot = start.saturating_add(time("interval").unwrap_or(30).saturating_mul(retries));
    if check.get("start_period").is_some() && boot > BOOT {
        draft.set(
            "spec.workers.readiness.timeout",
            format!("{}s", boot.min(3600)),
        );
        scope.changed(
            "healthcheck.start_period",
            "spec.workers.readiness.timeout",
            format!("a start may take {boot} s: start_period, and interval × retries"),
        );
    }
    for key in [
        "interval",
        "timeout",
        "retries",
        "start_period",
        "start_interval",
        "disable",
    ] {
        let field = format!("healthcheck.{key}");
        if check.get(key).is_some() && !scope.is_named(&field) {
            scope.changed(&field, "", "a worker is asked often while it starts, and may take 60 s (spec.workers.readiness.timeout)");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_to_the_app_itself_is_recognised() {
        for (test, expected) in [
            (
                r#"["CMD", "curl", "-f", "http://localhost:3000/health"]"#,
                Some((3000, "/health")),
            ),
            (
                r#"["CMD-SHELL", "wget -qO- http://127.0.0.1:8080/ready?x=1 || exit 1"]"#,
                Some((8080, "/ready?x=1")),
            ),
            ("curl --fail \"http://0.0.0.0\" || exit 1", Some((80, "/"))),
            (r#"["CMD", "curl", "http://db:5432/"]"#, None),
            (r#"["CMD", "node", "check.js"]"#, None),
            (
                r#"["CMD-SHELL", "curl -f http://[::1]:9000/x"]"#,
                Some((9000, "/x")),
            ),
        ] {
            let text = format!("healthcheck: {{test: {test}}}\n");
            let text = if test.starts_with('[') {
                text
            } else {
                format!("healthcheck:\n  test: {test}\n")
            };
            let service: Node = serde_saphyr::from_str(&text).unwrap();
            let found = request(&service);
            let found = found.as_ref().map(|(port, path)| (*port, path.as_str()));
            assert_eq!(found, expected, "{test}");
        }
    }
}
