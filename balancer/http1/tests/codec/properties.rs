//! Properties that hold for all bytes: no panic, no verdict that changes with more bytes,
//! no difference that depends on how bytes arrive, and nothing written that would not be
//! accepted again.

use proptest::collection::vec;
use proptest::prelude::*;
use scaledapp_http1::{
    Asked, BodyReader, BodyWriter, Downstream, Fields, Framing, Limits, Version,
    downstream_framing, parse_request, parse_response, unfold, write_request, write_response,
};

use crate::bodies::read;
use crate::{BEHIND, EDGE, Verdict, verdict};

/// Bytes that resemble a head closely enough to reach most parts of the parser.
fn nearly_a_head() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        8 => prop::sample::select(WORDS).prop_map(<[u8]>::to_vec),
        1 => vec(any::<u8>(), 0..4),
    ];
    vec(word, 0..24).prop_map(|words| words.concat())
}

const WORDS: &[&[u8]] = &[
    b"GET / HTTP/1.1\r\nHost: a\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.0 304 \r\n",
    b"HTTP/1.1 101 x\r\n",
    b"POST ",
    b"http://a/b ",
    b"HTTP/1.0\r\n",
    b"Host: b\r\n",
    b"Connection: close, X\r\n",
    b"Connection: keep-alive, upgrade\r\n",
    b"Upgrade: echo\r\n",
    b"Content-Length: ",
    b"5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"X-Forwarded-For: 1.1.1.1\r\n",
    b"X-Forwarded-Proto: https\r\n",
    b"Expect: 100-continue\r\n",
    b"X: y\r\n",
    b"\r\n",
    b"\r",
    b"\n",
    b":",
    b" ",
    b"\r\n\r\n",
];

const ANSWER_WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n ",
    b"\n\t",
    b" ",
    b"X: y",
    b"Y:",
    b"Content-Length: 1",
    b"Content-Length:",
    b"Transfer-Encoding: chunked",
    b"Connection: close",
    b"1",
    b"\r\n\r\n",
    b"\n\n",
];

/// Heads that are accepted.
fn sound_head() -> impl Strategy<Value = String> {
    let line = prop::sample::select(vec![
        "GET /a HTTP/1.1\r\nHost: a\r\n",
        "POST http://a?q HTTP/1.1\r\nHost: A\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: c\r\n",
        "OPTIONS http://a HTTP/1.0\r\n",
        "HEAD / HTTP/1.0\r\n",
        "PUT /x HTTP/1.0\r\nhost: b:80\r\n",
    ]);
    let framing = prop::sample::select(vec!["", "Content-Length: 0\r\n", "content-length:17\r\n"]);
    let known = prop::sample::subsequence(
        vec![
            "Connection: close, X-A\r\n",
            "connection: Upgrade\r\n",
            "Upgrade: websocket\r\n",
            "Expect: 100-continue\r\n",
            "X-Forwarded-For: 1.1.1.1\r\n",
            "X-Forwarded-For: 2.2.2.2, 3.3.3.3\r\n",
            "X-Forwarded-Proto: https\r\n",
            "X-Forwarded-Host: h\r\n",
            "X-Forwarded-Port: 1\r\n",
            "Forwarded: for=a\r\n",
            "X-Request-Id: r\r\n",
            "TE: trailers\r\n",
            "Keep-Alive: x\r\n",
        ],
        0..13,
    );
    let others = vec("X-[A-C]: {0,2}[ -~]{0,8}\r\n", 0..6);
    (line, framing, known, others).prop_map(|(line, framing, known, others)| {
        format!("{line}{framing}{}{}\r\n", known.concat(), others.concat())
    })
}

/// What is written for a request, and how the request was understood.
fn once(bytes: &[u8], behind: bool) -> Option<(Vec<u8>, String)> {
    let mut fields = Fields::default();
    let request = parse_request(bytes, &mut fields, &Limits::default()).ok()??;
    let mut out = Vec::new();
    let origin = if behind { BEHIND } else { EDGE };
    write_request(&mut out, &request, &origin, "fallback");
    let understood = format!(
        "{:?} {:?} {:?} {}",
        request.method.escape_ascii().to_string(),
        request.framing,
        request.host.escape_ascii().to_string(),
        request.upgrade
    );
    Some((out, understood))
}

/// How an answer is understood if `size` bytes arrive at a time and the reader repairs
/// folded lines; `None` while it is incomplete.
fn answer(bytes: &[u8], size: usize, asked: Asked) -> Result<Option<String>, &'static str> {
    let mut input = Vec::new();
    for part in bytes.chunks(size.max(1)) {
        input.extend_from_slice(part);
        let limits = Limits::default();
        let parsed = |input: &[u8]| {
            let mut fields = Fields::default();
            let response = parse_response(input, &mut fields, &limits, asked)?;
            Ok(response.map(|response| {
                let to = Downstream {
                    version: Version::Http11,
                    close: false,
                    keep_alive: false,
                    hsts: None,
                };
                let framing = downstream_framing(response.framing, to.version);
                let mut out = Vec::new();
                write_response(&mut out, &response, framing, &to);
                format!("{framing:?} {} {}", response.keep_alive, out.escape_ascii())
            }))
        };
        let mut now = parsed(&input);
        while now
            .as_ref()
            .is_err_and(scaledapp_http1::Malformed::is_folded)
            && unfold(&mut input)
        {
            now = parsed(&input);
        }
        match now {
            Ok(None) => {}
            Ok(head) => return Ok(head),
            Err(malformed) => return Err(malformed.reason),
        }
    }
    Ok(None)
}

/// All lines except those that differ between the hops: the list of addresses, which grows
/// with each hop, and the host `fallback`, which only the second hop receives.
fn without_hops(head: &[u8]) -> Vec<u8> {
    let lines = head.split_inclusive(|&byte| byte == b'\n');
    let others = lines.filter(|line| {
        !line.starts_with(b"X-Forwarded-For:") && *line != b"X-Forwarded-Host: fallback\r\n"
    });
    others.collect::<Vec<_>>().concat()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in vec(any::<u8>(), 0..300), head: bool, upgrade: bool) {
        let _ = verdict(&bytes);
        let mut fields = Fields::default();
        let _ = parse_response(&bytes, &mut fields, &Limits::default(), Asked { head, upgrade });
        let _ = read(Framing::Chunked, [&bytes[..]]);
    }

    /// More bytes never turn a refusal into a request, nor move the end of a head.
    #[test]
    fn a_verdict_is_final(bytes in nearly_a_head()) {
        let mut stands: Verdict = Ok(None);
        for end in 0..=bytes.len() {
            let now = verdict(&bytes[..end]);
            match stands {
                Ok(None) => {}
                // The reason may become more precise with more bytes.
                Err(_) => prop_assert!(now.is_err()),
                Ok(Some(_)) => prop_assert_eq!(now, stands),
            }
            stands = now;
        }
    }

    #[test]
    fn a_written_request_is_accepted_and_written_again(head in sound_head(), behind: bool) {
        let (first, understood) = once(head.as_bytes(), behind).unwrap();
        let (second, again) = once(&first, behind).unwrap();
        prop_assert_eq!(without_hops(&first), without_hops(&second));
        if head.contains("\nHost: ") {
            prop_assert_eq!(understood, again);
        }
    }

    #[test]
    fn every_accepted_request_is_accepted_again_as_it_is_written(bytes in nearly_a_head()) {
        if let Some((first, _)) = once(&bytes, false) {
            let (second, _) = once(&first, false).unwrap();
            prop_assert_eq!(without_hops(&first), without_hops(&second));
        }
    }

    /// However an answer arrives, it is understood in the same way, and no line that is
    /// written ends with LF alone or begins with a space.
    #[test]
    fn an_answer_is_the_same_however_it_arrives(
        words in vec(prop::sample::select(ANSWER_WORDS), 0..16),
        size in 1..20_usize,
        head: bool,
    ) {
        let bytes = [&b"HTTP/1.1 200 OK"[..], &words.concat()].concat();
        let asked = Asked { head, upgrade: false };
        let whole = answer(&bytes, bytes.len(), asked);
        if let Ok(head) = &whole {
            prop_assert_eq!(&answer(&bytes, size, asked).ok().flatten(), head);
            prop_assert_eq!(&answer(&bytes, 1, asked).ok().flatten(), head);
            let written = head.as_deref().unwrap_or_default().replace("\\r\\n", "|");
            prop_assert!(!written.contains("\\n") && !written.contains("\\r"), "{}", written);
            prop_assert!(!written.contains("| "), "{}", written);
        } else {
            prop_assert!(answer(&bytes, 1, asked).is_err());
        }
    }

    #[test]
    fn responses_keep_their_meaning(bytes in nearly_a_head(), head: bool, close: bool) {
        let asked = Asked { head, upgrade: true };
        let to = Downstream { version: Version::Http11, close, keep_alive: false, hsts: None };
        let limits = Limits::default();
        let mut fields = Fields::default();
        if let Ok(Some(response)) = parse_response(&bytes, &mut fields, &limits, asked) {
            let framing = downstream_framing(response.framing, to.version);
            let mut first = Vec::new();
            write_response(&mut first, &response, framing, &to);
            let mut fields = Fields::default();
            let again = parse_response(&first, &mut fields, &limits, asked).unwrap().unwrap();
            prop_assert_eq!(again.framing, framing);
            prop_assert_eq!(again.status, response.status);
            prop_assert_eq!(again.head_len, first.len());
            let mut second = Vec::new();
            write_response(&mut second, &again, framing, &to);
            prop_assert_eq!(first, second);
        }
    }

    #[test]
    fn splits_make_no_difference(
        pieces in vec(prop::sample::select(CHUNK_WORDS), 0..20),
        cuts in vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let bytes = pieces.concat();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let (data, consumed, end) = read(Framing::Chunked, [&bytes[..]]);
        let parts = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]);
        let (split_data, split_consumed, split_end) = read(Framing::Chunked, parts);
        prop_assert_eq!((&data, end), (&split_data, split_end));
        let (bytewise, last, bytewise_end) = read(Framing::Chunked, bytes.chunks(1));
        prop_assert_eq!((&data, end), (&bytewise, bytewise_end));
        if end.is_ok() {
            prop_assert_eq!(consumed, split_consumed);
            prop_assert_eq!(consumed, last);
        }
    }

    #[test]
    fn a_reader_reads_what_a_writer_writes(
        parts in vec(vec(any::<u8>(), 0..300), 0..8),
        cut in 1..50usize,
    ) {
        let all = parts.concat();
        for framing in [Framing::Chunked, Framing::Length(all.len() as u64), Framing::UntilClose] {
            let mut writer = BodyWriter::new(framing);
            let mut out = Vec::new();
            for part in &parts {
                writer.data(&mut out, part);
            }
            writer.finish(&mut out);
            let (data, consumed, end) = read(framing, out.chunks(cut));
            prop_assert_eq!(&data, &all);
            prop_assert_eq!(consumed, out.len());
            prop_assert_eq!(end, Ok(framing != Framing::UntilClose));
            prop_assert_eq!(BodyReader::new(framing).framing(), framing);
        }
    }
}

const CHUNK_WORDS: &[&[u8]] = &[
    b"1\r\na\r\n",
    b"3;x=y\r\nabc\r\n",
    b"2\r\n\r\n\r\n",
    b"A\r\n",
    b"0123456789",
    b"\r\n",
    b"0\r\n",
    b"X: y\r\n",
    b"0\r\n\r\n",
    b"\n",
    b";",
];
