//! One HTTP request from the command line, for `helm test`: the project's images do not contain
//! curl.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

/// Timeout of each step of the exchange.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest part of an answer that is read, in bytes.
const ANSWER_BYTES: u64 = 64 << 10;

/// Sends `GET` and returns the body of a 2xx answer.
///
/// # Errors
/// The URL is not plain HTTP, its host cannot be reached, there is no HTTP answer in time, or the
/// answer's status is not 2xx.
pub fn get(url: &str) -> anyhow::Result<String> {
    let rest = url
        .strip_prefix("http://")
        .context("write http://HOST:PORT/PATH")?;
    let (authority, path) = match rest.split_once('/') {
        Some((authority, path)) => (authority, format!("/{path}")),
        None => (rest, "/".to_owned()),
    };
    let target = if authority.contains(':') {
        authority.to_owned()
    } else {
        format!("{authority}:80")
    };
    let mut addresses = target
        .to_socket_addrs()
        .with_context(|| format!("{authority} has no address"))?;
    let address = addresses
        .next()
        .with_context(|| format!("{authority} has no address"))?;
    let mut stream = TcpStream::connect_timeout(&address, STEP_TIMEOUT)
        .with_context(|| format!("nothing listens at {address}"))?;
    stream.set_read_timeout(Some(STEP_TIMEOUT))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream
        .take(ANSWER_BYTES)
        .read_to_end(&mut answer)
        .context("no answer in time")?;
    let answer = String::from_utf8_lossy(&answer);
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        bail!("{url} does not answer in HTTP");
    };
    let line = head.lines().next().unwrap_or_default();
    let status = line.split(' ').nth(1).unwrap_or_default();
    ensure!(
        status.starts_with('2'),
        "{url} answers {line}: {}",
        body.trim()
    );
    Ok(body.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_good_answer_is_returned_and_any_other_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/readyz", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            for answer in ["200 OK\r\n\r\nok", "503 Service Unavailable\r\n\r\nnot yet"] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut head = [0; 1024];
                assert!(stream.read(&mut head).unwrap() > 0);
                stream
                    .write_all(format!("HTTP/1.1 {answer}").as_bytes())
                    .unwrap();
            }
        });
        assert_eq!(get(&url).unwrap(), "ok");
        let error = get(&url).unwrap_err().to_string();
        assert!(
            error.contains("503") && error.contains("not yet"),
            "{error}"
        );
        server.join().unwrap();
        assert!(get("https://a/").is_err());
    }
}
