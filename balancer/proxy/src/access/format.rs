//! Writes an entry of the access log as one line, in JSON or in the combined format of nginx.
//!
//! A peer chooses most of the texts, so each is escaped: no text can end its line or its field,
//! or reach the terminal of somebody who reads the log. What the entry says is decided in
//! `entry`.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use super::entry::{Entry, Kept};
use super::settings::AccessFormat;
use super::time::Calendar;

/// Appends `entry` as a line, with its line feed. `now` is the time in the line.
pub(super) fn write(out: &mut String, format: AccessFormat, entry: &Entry, now: SystemTime) {
    match format {
        AccessFormat::Json => write_json(out, entry, now),
        AccessFormat::Combined => write_combined(out, entry, now),
    }
    out.push('\n');
}

fn write_json(out: &mut String, entry: &Entry, now: SystemTime) {
    let text = |kept| entry.texts.get(kept);
    // Writing into memory cannot fail.
    let _ = write!(
        out,
        r#"{{"time":"{}","client":"{}""#,
        Calendar::of(now).rfc3339(),
        entry.client
    );
    put_text(out, "host", text(Kept::Host));
    put_text(out, "method", text(Kept::Method));
    put_text(out, "target", text(Kept::Target));
    put_text(out, "line", text(Kept::Line));
    put_text(out, "protocol", entry.protocol.as_bytes());
    let _ = write!(out, r#","status":{}"#, entry.status);
    put_text(out, "reason", entry.reason.unwrap_or_default().as_bytes());
    let _ = write!(
        out,
        r#","bytesIn":{},"bytesOut":{},"durationMs":{}"#,
        entry.bytes_in,
        entry.bytes_out,
        Millis(entry.duration)
    );
    put_text(out, "endpoint", text(Kept::Endpoint));
    if let Some(time) = entry.upstream_head {
        let _ = write!(out, r#","upstreamHeadMs":{}"#, Millis(time));
    }
    let _ = write!(out, r#","attempts":{}"#, entry.attempts);
    if let Some(status) = entry.grpc_status {
        let _ = write!(out, r#","grpcStatus":{status}"#);
    }
    put_text(out, "requestId", text(Kept::RequestId));
    put_text(out, "userAgent", text(Kept::UserAgent));
    put_text(out, "referer", text(Kept::Referer));
    put_text(out, "tls", entry.tls.unwrap_or_default().as_bytes());
    put_text(out, "traceId", text(Kept::TraceId));
    out.push('}');
}

/// Milliseconds with three decimal places.
struct Millis(Duration);

impl std::fmt::Display for Millis {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let micros = self.0.as_micros();
        write!(formatter, "{}.{:03}", micros / 1000, micros % 1000)
    }
}

/// Appends a member with a text, unless the text is empty.
fn put_text(out: &mut String, name: &str, text: &[u8]) {
    if text.is_empty() {
        return;
    }
    let _ = write!(out, r#","{name}":""#);
    for chunk in text.utf8_chunks() {
        for letter in chunk.valid().chars() {
            put_letter(out, letter);
        }
        if !chunk.invalid().is_empty() {
            out.push(char::REPLACEMENT_CHARACTER);
        }
    }
    out.push('"');
}

/// Escapes what JSON demands (RFC 8259 section 7). Also escapes the other control characters,
/// which a terminal could obey, the line ends of Unicode, at which some programs split lines, and
/// the marks that change the direction of a text.
fn put_letter(out: &mut String, letter: char) {
    match letter {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\0'..='\x1f'
        | '\x7f'..='\u{9f}'
        | '\u{200e}'
        | '\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}' => {
            let _ = write!(out, "\\u{:04x}", u32::from(letter));
        }
        _ => out.push(letter),
    }
}

/// The format that nginx calls `combined`:
/// `$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent"`.
/// The user is always `-`: a name in `Authorization` belongs to the app.
fn write_combined(out: &mut String, entry: &Entry, now: SystemTime) {
    let text = |kept| entry.texts.get(kept);
    let _ = write!(
        out,
        "{} - - [{}] \"",
        entry.client,
        Calendar::of(now).ncsa()
    );
    if text(Kept::Method).is_empty() {
        put_escaped(out, text(Kept::Line));
    } else {
        put_escaped(out, text(Kept::Method));
        out.push(' ');
        put_escaped(out, text(Kept::Target));
        out.push(' ');
        out.push_str(entry.protocol);
    }
    let _ = write!(out, "\" {:03} {} \"", entry.status, entry.bytes_out);
    put_escaped_or_dash(out, text(Kept::Referer));
    out.push_str("\" \"");
    put_escaped_or_dash(out, text(Kept::UserAgent));
    out.push('"');
}

fn put_escaped_or_dash(out: &mut String, text: &[u8]) {
    if text.is_empty() {
        out.push('-');
    } else {
        put_escaped(out, text);
    }
}

/// Escapes as nginx does by default: `"`, `\`, and bytes that are no visible ASCII become `\xXX`.
fn put_escaped(out: &mut String, text: &[u8]) {
    for &byte in text {
        match byte {
            b'"' | b'\\' | ..=0x1f | 0x7f.. => {
                let _ = write!(out, "\\x{byte:02X}");
            }
            _ => out.push(char::from(byte)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;

    use super::*;

    const NOW: Duration = Duration::from_millis(1_764_031_523_456);

    fn line(format: AccessFormat, entry: &Entry) -> String {
        let mut out = String::new();
        write(&mut out, format, entry, UNIX_EPOCH + NOW);
        out
    }

    fn entry(texts: &[(Kept, &[u8])]) -> Entry {
        let mut entry = Entry::new(IpAddr::from([192, 0, 2, 7]));
        for (kept, text) in texts {
            entry.texts.put(*kept, text);
        }
        entry.protocol = "HTTP/1.1";
        entry.status = 200;
        entry.bytes_out = 5;
        entry
    }

    #[test]
    fn a_line_in_json_names_what_is_known() {
        let mut entry = entry(&[
            (Kept::Method, b"GET"),
            (Kept::Target, b"/a?b=c"),
            (Kept::Host, b"a.test"),
            (Kept::Endpoint, b"pod-0"),
            (Kept::RequestId, b"id"),
            (Kept::UserAgent, b"curl/8"),
            (Kept::TraceId, b"4bf92f3577b34da6a3ce929d0e0e4736"),
        ]);
        entry.duration = Duration::from_micros(12_345);
        entry.upstream_head = Some(Duration::from_micros(1_007));
        entry.attempts = 1;
        entry.tls = Some("TLSv1.3");
        let wanted = concat!(
            r#"{"time":"2025-11-25T00:45:23.456Z","client":"192.0.2.7","host":"a.test","method":"GET","#,
            r#""target":"/a?b=c","protocol":"HTTP/1.1","status":200,"bytesIn":0,"bytesOut":5,"#,
            r#""durationMs":12.345,"endpoint":"pod-0","upstreamHeadMs":1.007,"attempts":1,"#,
            r#""requestId":"id","userAgent":"curl/8","tls":"TLSv1.3","#,
            r#""traceId":"4bf92f3577b34da6a3ce929d0e0e4736"}"#,
            "\n"
        );
        assert_eq!(line(AccessFormat::Json, &entry), wanted);
    }

    #[test]
    fn a_line_in_the_combined_format_is_as_nginx_writes_it() {
        let entry = entry(&[
            (Kept::Method, b"GET"),
            (Kept::Target, b"/a?b=\"c\\"),
            (Kept::Referer, b"https://a.test/"),
            (Kept::UserAgent, "Mozilla/5.0 \u{fc}\t".as_bytes()),
        ]);
        let wanted = concat!(
            r#"192.0.2.7 - - [25/Nov/2025:00:45:23 +0000] "GET /a?b=\x22c\x5C HTTP/1.1" 200 5 "#,
            r#""https://a.test/" "Mozilla/5.0 \xC3\xBC\x09""#,
            "\n"
        );
        assert_eq!(line(AccessFormat::Combined, &entry), wanted);
    }

    #[test]
    fn what_was_not_understood_is_shown_as_it_came() {
        let mut entry = entry(&[(Kept::Line, b"\x16\x03\x01 \"")]);
        entry.protocol = "";
        entry.status = 400;
        entry.reason = Some("method");
        let wanted = concat!(
            r#"192.0.2.7 - - [25/Nov/2025:00:45:23 +0000] "\x16\x03\x01 \x22" 400 5 "-" "-""#,
            "\n"
        );
        assert_eq!(line(AccessFormat::Combined, &entry), wanted);
        let json = line(AccessFormat::Json, &entry);
        assert!(json.contains(r#""line":"\u0016\u0003\u0001 \"","status":400,"reason":"method""#));
    }

    /// What a client could put into its texts: an end of the line and a forged one, sequences
    /// that a terminal obeys, bytes that are not UTF-8, and marks of direction.
    #[test]
    fn no_text_forges_a_line_or_reaches_a_terminal() {
        let hostile = "x\"}\r\n{\"client\":\"1\"}\u{1b}[2J\u{9b}31m\u{2028}\u{85}\u{202e}\0";
        let bytes = [hostile.as_bytes(), b"\xff\xfe\xc3"].concat();
        for format in [AccessFormat::Json, AccessFormat::Combined] {
            let line = line(
                format,
                &entry(&[(Kept::Method, b"GET"), (Kept::UserAgent, &bytes)]),
            );
            assert_eq!(line.lines().count(), 1, "{line}");
            let is_plain = |letter: char| !letter.is_control() && letter != '\u{202e}';
            assert!(line.trim_end_matches('\n').chars().all(is_plain), "{line}");
        }
        let json = line(AccessFormat::Json, &entry(&[(Kept::UserAgent, &bytes)]));
        assert!(json.contains("\\u001b[2J\\u009b31m\\u2028\\u0085\\u202e\\u0000\u{fffd}"));
    }

    /// Reads a JSON string that begins after its first quote; returns its text and the rest.
    fn read_string(text: &str) -> Option<(String, &str)> {
        let mut read = String::new();
        let mut letters = text.char_indices();
        while let Some((at, letter)) = letters.next() {
            match letter {
                '"' => return Some((read, &text[at + 1..])),
                '\\' => match letters.next()?.1 {
                    'u' => {
                        let digits: String = (0..4)
                            .filter_map(|_| letters.next())
                            .map(|it| it.1)
                            .collect();
                        read.push(char::from_u32(u32::from_str_radix(&digits, 16).ok()?)?);
                    }
                    escaped => read.push(escaped),
                },
                '\0'..='\x1f' => return None,
                _ => read.push(letter),
            }
        }
        None
    }

    proptest! {
        #[test]
        fn each_text_comes_back_from_json(text in proptest::collection::vec(any::<u8>(), 1..512)) {
            let json = line(AccessFormat::Json, &entry(&[(Kept::UserAgent, &text)]));
            let (_, rest) = json.split_once(r#""userAgent":""#).unwrap();
            let (read, rest) = read_string(rest).unwrap();
            prop_assert_eq!(rest, "}\n");
            let shown = String::from_utf8_lossy(&text);
            prop_assert_eq!(read.as_str(), shown.as_ref());
        }

        #[test]
        fn a_combined_line_is_visible_ascii(text in proptest::collection::vec(any::<u8>(), 0..512)) {
            let texts: [(Kept, &[u8]); 4] = [
                (Kept::Method, b"GET"),
                (Kept::Target, &text),
                (Kept::Referer, &text),
                (Kept::UserAgent, &text),
            ];
            let combined = line(AccessFormat::Combined, &entry(&texts));
            let line = combined.strip_suffix('\n').unwrap();
            prop_assert!(line.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
            // Quotes delimit the three quoted fields, and are nowhere else.
            prop_assert_eq!(line.bytes().filter(|byte| *byte == b'"').count(), 6);
        }
    }
}
