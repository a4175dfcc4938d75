#![no_main]
//! It makes no difference how the bytes of a body are split, and a reader reads what a
//! writer writes.

use libfuzzer_sys::fuzz_target;
use scaledapp_http1::{BodyReader, BodyWriter, Framing};

/// The data and whether it is complete; `None` after a fault.
fn read(framing: Framing, bytes: &[u8], size: usize) -> (Vec<u8>, Option<bool>) {
    let mut reader = BodyReader::new(framing);
    let mut data = Vec::new();
    for mut part in bytes.chunks(size) {
        while !part.is_empty() && !reader.is_done() {
            let Ok(piece) = reader.read(part) else {
                return (data, None);
            };
            assert!(piece.consumed > 0 && piece.data.end <= piece.consumed);
            data.extend_from_slice(&part[piece.data]);
            part = &part[piece.consumed..];
        }
    }
    (data, Some(reader.is_done()))
}

fuzz_target!(|input: (u16, u8, &[u8])| {
    let (length, size, bytes) = input;
    let size = usize::from(size) + 1;
    for framing in [
        Framing::Chunked,
        Framing::Length(length.into()),
        Framing::UntilClose,
    ] {
        let whole = read(framing, bytes, usize::MAX);
        assert_eq!(read(framing, bytes, size), whole);
        assert_eq!(read(framing, bytes, 1), whole);
    }
    let mut writer = BodyWriter::new(Framing::Chunked);
    let mut out = Vec::new();
    for part in bytes.chunks(size) {
        writer.data(&mut out, part);
    }
    writer.finish(&mut out);
    assert_eq!(
        read(Framing::Chunked, &out, size),
        (bytes.to_vec(), Some(true))
    );
});
