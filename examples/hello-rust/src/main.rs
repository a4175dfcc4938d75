//! A small HTTP app for machines that have neither Node nor Python.
//!
//! An ordinary server on the standard library: one process, one port, a thread for each connection,
//! keep-alive. It knows nothing of cores or `ScaledApp`. It understands only the forms of HTTP/1.1
//! that a balancer sends; it is not an example of how to read HTTP from untrusted clients.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

const VERSION: &str = "1.0.0";
/// The longest body that is accepted.
const BODY_BYTES: usize = 1 << 20;

fn main() -> io::Result<()> {
    let port = std::env::var("PORT")
        .ok()
        .and_then(|port| port.parse().ok());
    let listener = TcpListener::bind(("0.0.0.0", port.unwrap_or(3000_u16)))?;
    loop {
        let (stream, _) = listener.accept()?;
        std::thread::spawn(move || {
            // An error ends only this connection.
            let _gone = serve(&stream);
        });
    }
}

/// One request.
#[derive(Debug, Default, PartialEq, Eq)]
struct Request {
    method: String,
    path: String,
    query: String,
    close: bool,
    body: Vec<u8>,
}

fn serve(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    while let Some(request) = read(&mut reader)? {
        if request.path == "/slow" {
            std::thread::sleep(Duration::from_millis(milliseconds(&request.query)));
        }
        let instance = std::env::var("NODE_APP_INSTANCE").unwrap_or_default();
        writer.write_all(&answer(&request, std::process::id(), &instance))?;
        if request.close {
            break;
        }
    }
    Ok(())
}

/// Reads the next request. `None` if the client has closed the connection.
fn read(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut request = Request {
        method: method.to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        ..Request::default()
    };
    let (mut length, mut chunked) = (0, false);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().map_err(io::Error::other)?,
            "transfer-encoding" => chunked = value.eq_ignore_ascii_case("chunked"),
            "connection" => request.close = value.eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
    if chunked {
        loop {
            let length = chunk_length(reader)?;
            let taken = take(reader, length, &mut request.body)?;
            // Skips the line end after a chunk or, after the last chunk, the empty line that ends
            // the message.
            reader.read_line(&mut String::new())?;
            if taken == 0 {
                break;
            }
        }
    } else {
        take(reader, length, &mut request.body)?;
    }
    Ok(Some(request))
}

fn chunk_length(reader: &mut impl BufRead) -> io::Result<usize> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)
}

/// Appends exactly `length` bytes to `body`, and returns `length`.
fn take(reader: &mut impl BufRead, length: usize, body: &mut Vec<u8>) -> io::Result<usize> {
    if body.len() + length > BODY_BYTES {
        return Err(io::Error::other("the body is too long"));
    }
    let start = body.len();
    body.resize(start + length, 0);
    reader.read_exact(&mut body[start..])?;
    Ok(length)
}

fn milliseconds(query: &str) -> u64 {
    let value = query.split('&').find_map(|pair| pair.strip_prefix("ms="));
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

fn answer(request: &Request, pid: u32, instance: &str) -> Vec<u8> {
    let known = ["/", "/healthz", "/slow"].contains(&request.path.as_str());
    let status = if known || request.method == "POST" {
        "200 OK"
    } else {
        "404 Not Found"
    };
    let echo = match request.method.as_str() {
        "POST" => {
            let text = quoted(&String::from_utf8_lossy(&request.body));
            format!(r#","length":{},"body":{text}"#, request.body.len())
        }
        _ => String::new(),
    };
    let body = format!(
        "{{\"pid\":{pid},\"instance\":{},\"path\":{},\"version\":\"{VERSION}\"{echo}}}\n",
        quoted(instance),
        quoted(&request.path)
    );
    let connection = if request.close {
        "connection: close\r\n"
    } else {
        ""
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{connection}\r\n"
    );
    let body = if request.method == "HEAD" { "" } else { &body };
    [head.as_bytes(), body.as_bytes()].concat()
}

/// Encodes a JSON string (RFC 8259 section 7).
fn quoted(text: &str) -> String {
    let escaped = text.chars().map(|character| match character {
        '"' | '\\' => format!("\\{character}"),
        control if control < ' ' => format!("\\u{:04x}", u32::from(control)),
        other => other.to_string(),
    });
    format!("\"{}\"", escaped.collect::<Vec<_>>().concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_read_by_length_and_by_chunks() {
        let bytes = b"POST /a?ms=5 HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi\
            POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n";
        let mut reader = &bytes[..];
        let first = read(&mut reader).unwrap().unwrap();
        assert_eq!(
            (
                first.path.as_str(),
                milliseconds(&first.query),
                first.body.as_slice()
            ),
            ("/a", 5, &b"hi"[..])
        );
        let second = read(&mut reader).unwrap().unwrap();
        assert_eq!((second.body.as_slice(), second.close), (&b"abc"[..], true));
        assert_eq!(read(&mut reader).unwrap(), None);
    }

    #[test]
    fn an_answer_says_who_gave_it() {
        let request = Request {
            method: "GET".to_owned(),
            path: "/x\"".to_owned(),
            ..Request::default()
        };
        let text = String::from_utf8(answer(&request, 7, "1")).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 404"), "{head}");
        assert_eq!(
            body,
            "{\"pid\":7,\"instance\":\"1\",\"path\":\"/x\\\"\",\"version\":\"1.0.0\"}\n"
        );
    }
}
