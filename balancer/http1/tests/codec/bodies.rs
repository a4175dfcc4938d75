//! Bodies: where they end, and what is not a body.

use scaledapp_http1::{BodyReader, BodyWriter, Framing, Malformed};

/// The data, the number of consumed bytes, and how the body ended.
type Outcome = (Vec<u8>, usize, Result<bool, &'static str>);

/// Reads everything in `parts`, as a connection would.
pub(crate) fn read<'a>(framing: Framing, parts: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let mut reader = BodyReader::new(framing);
    let mut data = Vec::new();
    let mut consumed = 0;
    for mut part in parts {
        loop {
            let piece = match reader.read(part) {
                Ok(piece) => piece,
                Err(Malformed { reason }) => {
                    // The fault is final.
                    assert_eq!(reader.read(b"0\r\n\r\n"), Err(Malformed { reason }));
                    assert_eq!(reader.end(), Err(Malformed { reason }));
                    return (data, consumed, Err(reason));
                }
            };
            assert_eq!(piece.done, reader.is_done());
            data.extend_from_slice(&part[piece.data]);
            consumed += piece.consumed;
            part = &part[piece.consumed..];
            if piece.consumed == 0 || piece.done {
                break;
            }
        }
    }
    (data, consumed, Ok(reader.is_done()))
}

fn whole(framing: Framing, bytes: &[u8]) -> Outcome {
    read(framing, [bytes])
}

#[test]
fn chunks() {
    let extension = "x".repeat(1023);
    for (bytes, data) in [
        ("0\r\n\r\n", ""),
        ("3\r\nabc\r\n0\r\n\r\n", "abc"),
        (
            "3;evil=\"x\"\r\nabc\r\n00002\r\nde\r\n0\r\nTrailer-Field: x\r\n\r\n",
            "abcde",
        ),
        (
            "A\r\n0123456789\r\n000;a\r\nX:\r\nY: \t\u{e4}\r\n\r\n",
            "0123456789",
        ),
        ("0000000000000001\r\n\n\r\n0\r\n\r\n", "\n"),
        ("1;a;b=c;d=\"e;\\\" \u{e4}\";f\r\nx\r\n0;last\r\n\r\n", "x"),
        // "Bad" whitespace, which the grammar allows.
        ("1; a\t= b ; c =\"\"\r\nx\r\n0\r\n\r\n", "x"),
        (&format!("1;{extension}\r\na\r\n0\r\n\r\n"), "a"),
    ] {
        let followed = format!("{bytes}GET /next");
        let (read, consumed, end) = whole(Framing::Chunked, followed.as_bytes());
        assert_eq!((read, end), (data.as_bytes().to_vec(), Ok(true)), "{bytes}");
        assert_eq!(consumed, bytes.len(), "{bytes}");
    }
}

#[test]
fn malformed_chunks() {
    let extension = "x".repeat(1024);
    let many = format!("1;{}\r\na\r\n", "x".repeat(1000)).repeat(20);
    let trailers = format!("0\r\n{}\r\n", "X: yyyyyyyyyy\r\n".repeat(1000));
    for (bytes, reason) in [
        ("\r\n\r\n", "chunk-size"),
        (";a\r\n", "chunk-size"),
        ("+1\r\nx\r\n0\r\n\r\n", "chunk-size"),
        ("-1\r\n", "chunk-size"),
        (" 1\r\n", "chunk-size"),
        ("0x1\r\nx\r\n0\r\n\r\n", "chunk-size"),
        ("1_0\r\n", "chunk-size"),
        ("1 \r\nx\r\n0\r\n\r\n", "chunk-size"),
        ("1 ;a\r\n", "chunk-size"),
        ("1\t\r\n", "chunk-size"),
        ("g\r\n", "chunk-size"),
        ("10000000000000000\r\nx\r\n0\r\n\r\n", "chunk-size"),
        ("00000000000000001\r\nx\r\n0\r\n\r\n", "chunk-size"),
        ("1\nx\r\n0\r\n\r\n", "chunk-size"),
        ("1\rx", "chunk-size"),
        ("1\r\r\n", "chunk-size"),
        ("1;a\rb", "chunk-size"),
        ("1;\r\nx\r\n0\r\n\r\n", "chunk-extension"),
        ("1;a b\r\nx\r\n", "chunk-extension"),
        ("1;a \r\nx\r\n", "chunk-extension"),
        ("1;a;\r\nx\r\n", "chunk-extension"),
        ("1;;a\r\nx\r\n", "chunk-extension"),
        ("1;=a\r\nx\r\n", "chunk-extension"),
        ("1;a=\r\nx\r\n", "chunk-extension"),
        ("1;a=b=c\r\nx\r\n", "chunk-extension"),
        ("1;a=b c\r\nx\r\n", "chunk-extension"),
        ("1;a=\"b\r\nx\r\n", "chunk-extension"),
        ("1;a=\"b\\\r\nx\r\n", "chunk-extension"),
        ("1;a=\"b\"c\r\nx\r\n", "chunk-extension"),
        ("1;a=b\"c\"\r\nx\r\n", "chunk-extension"),
        ("1;\u{e4}\r\nx\r\n", "chunk-extension"),
        ("1;a,b\r\nx\r\n", "chunk-extension"),
        ("0;\r\n\r\n", "chunk-extension"),
        ("1;a\nx\r\n", "chunk-extension"),
        ("1;a\0\r\n", "chunk-extension"),
        (&format!("1;{extension}\r\na"), "chunk-extension"),
        (&many, "chunk-extension"),
        ("1\r\nxy\r\n0\r\n\r\n", "chunk-end"),
        ("1\r\nx\n0\r\n\r\n", "chunk-end"),
        ("1\r\nx\r0\r\n\r\n", "chunk-end"),
        ("1\r\nx0\r\n\r\n", "chunk-end"),
        ("0\r\nX\r\n\r\n", "trailer"),
        ("0\r\nX: y\n\r\n", "trailer"),
        ("0\r\nX: y\r\r\n", "trailer"),
        ("0\r\n: y\r\n\r\n", "trailer"),
        ("0\r\nX : y\r\n\r\n", "trailer"),
        ("0\r\nX: y\r\n z\r\n\r\n", "trailer"),
        ("0\r\nX: \0\r\n\r\n", "trailer"),
        ("0\r\n\n", "trailer"),
        ("0\r\n\rX", "trailer"),
        ("0\r\nGET / HTTP/1.1\r\n\r\n", "trailer"),
        (&trailers, "trailer-too-long"),
    ] {
        let (_, _, end) = whole(Framing::Chunked, bytes.as_bytes());
        assert_eq!(end, Err(reason), "{bytes:.80}");
    }
    // Data before the fault is returned.
    let (data, _, end) = whole(Framing::Chunked, b"2\r\nab\r\nz");
    assert_eq!((data.as_slice(), end), (&b"ab"[..], Err("chunk-size")));
}

#[test]
fn extensions_may_continue_as_long_as_there_is_data() {
    let chunk = format!("400;{}\r\n{}\r\n", "x".repeat(800), "d".repeat(1024));
    let (data, _, end) = whole(Framing::Chunked, chunk.repeat(100).as_bytes());
    assert_eq!((data.len(), end), (102_400, Ok(false)));
}

#[test]
fn other_framings() {
    for (framing, input, data, done) in [
        (Framing::None, "abc", "", true),
        (Framing::Length(0), "abc", "", true),
        (Framing::Length(2), "abc", "ab", true),
        (Framing::Length(3), "abc", "abc", true),
        (Framing::Length(4), "abc", "abc", false),
        (Framing::Length(u64::MAX), "abc", "abc", false),
        (Framing::UntilClose, "abc", "abc", false),
    ] {
        let (read, consumed, end) = whole(framing, input.as_bytes());
        assert_eq!((read.as_slice(), end), (data.as_bytes(), Ok(done)));
        assert_eq!(consumed, data.len());
        assert_eq!(BodyReader::new(framing).framing(), framing);
        let at_once = matches!(framing, Framing::None | Framing::Length(0));
        assert_eq!(BodyReader::new(framing).is_done(), at_once);
    }
}

#[test]
fn a_close_ends_a_body_only_if_its_framing_says_so() {
    for (framing, input, fine) in [
        (Framing::None, "", true),
        (Framing::Length(3), "abc", true),
        (Framing::Length(4), "abc", false),
        (Framing::UntilClose, "", true),
        (Framing::UntilClose, "abc", true),
        (Framing::Chunked, "0\r\n\r\n", true),
        (Framing::Chunked, "0\r\n\r", false),
        (Framing::Chunked, "", false),
        (Framing::Chunked, "3\r\nabc\r\n", false),
    ] {
        let mut reader = BodyReader::new(framing);
        let mut rest = input.as_bytes();
        while !rest.is_empty() {
            rest = &rest[reader.read(rest).unwrap().consumed..];
        }
        assert_eq!(reader.end().is_ok(), fine, "{framing:?} {input:?}");
        assert_eq!(reader.is_done(), fine);
        assert_eq!(reader.read(b"0").is_ok(), fine);
    }
}

#[test]
fn the_remaining_length_is_known() {
    let mut reader = BodyReader::new(Framing::Length(5));
    assert_eq!(reader.remaining_length(), Some(5));
    reader.read(b"abc").unwrap();
    assert_eq!(reader.remaining_length(), Some(2));
    reader.read(b"abc").unwrap();
    assert_eq!(reader.remaining_length(), Some(0));
    assert_eq!(BodyReader::new(Framing::Chunked).remaining_length(), None);
}

#[test]
fn writing() {
    for (framing, written) in [
        (Framing::None, ""),
        (Framing::Length(16), "abc0123456789012"),
        (Framing::Length(5), "abc01"),
        (Framing::UntilClose, "abc01234567890123456"),
        (
            Framing::Chunked,
            "3\r\nabc\r\n11\r\n01234567890123456\r\n0\r\n\r\n",
        ),
    ] {
        let mut writer = BodyWriter::new(framing);
        let mut out = Vec::new();
        for data in ["", "abc", "", "01234567890123456"] {
            writer.data(&mut out, data.as_bytes());
        }
        writer.finish(&mut out);
        writer.finish(&mut out);
        writer.data(&mut out, b"late");
        assert_eq!(String::from_utf8(out).unwrap(), written, "{framing:?}");
    }
}
