#![no_main]
//! Every accepted response is written in such a way that it is accepted again, with a body
//! that ends in the same way.

use libfuzzer_sys::fuzz_target;
use scaledapp_http1::{
    Asked, Downstream, Fields, Framing, Limits, Version, downstream_framing, parse_response,
    write_response,
};

fuzz_target!(|input: (bool, bool, bool, bool, &[u8])| {
    let (head, upgrade, close, old, bytes) = input;
    let asked = Asked { head, upgrade };
    let mut fields = Fields::default();
    let Ok(Some(response)) = parse_response(bytes, &mut fields, &Limits::default(), asked) else {
        return;
    };
    let to = Downstream {
        version: if old {
            Version::Http10
        } else {
            Version::Http11
        },
        close,
        keep_alive: old && !close,
        hsts: None,
    };
    let framing = downstream_framing(response.framing, to.version);
    assert!(!(old && framing == Framing::Chunked));
    let mut out = Vec::new();
    write_response(&mut out, &response, framing, &to);
    let roomy = Limits {
        head_bytes: 1 << 20,
        target_bytes: 1 << 20,
        fields: 1000,
    };
    let mut fields = Fields::default();
    let again = parse_response(&out, &mut fields, &roomy, asked)
        .expect("sound")
        .expect("whole");
    assert_eq!(again.head_len, out.len());
    assert_eq!(again.status, response.status);
    assert_eq!(again.framing, framing);
});
