#![no_main]
//! Every accepted request is written in such a way that it is accepted again as the same
//! request, and no prefix of it is refused.

use std::net::{IpAddr, Ipv4Addr};

use libfuzzer_sys::fuzz_target;
use scaledapp_http1::{Fields, Limits, Origin, Trust, parse_request, write_request};

fuzz_target!(|bytes: &[u8]| {
    let limits = Limits::default();
    let mut fields = Fields::default();
    let Ok(Some(request)) = parse_request(bytes, &mut fields, &limits) else {
        return;
    };
    for end in 0..request.head_len {
        let beginning = parse_request(&bytes[..end], &mut Fields::default(), &limits)
            .map(|head| head.is_none());
        assert_eq!(beginning, Ok(true));
    }
    let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
    for trust in [Trust::Edge, Trust::Proxy, Trust::Behind] {
        let origin = Origin {
            peer,
            source: request.source(peer, |address| address.is_loopback()),
            scheme: "http",
            trust,
            request_id: "id",
            token: (trust == Trust::Edge).then_some("token"),
            client_certificate: None,
            drops_cookie: None,
        };
        let mut out = Vec::new();
        write_request(&mut out, &request, &origin, "fallback");
        // The fields that are added may take a head over a limit that the received head was
        // within.
        let roomy = Limits {
            head_bytes: 1 << 20,
            target_bytes: 1 << 20,
            fields: 1000,
        };
        let mut fields = Fields::default();
        let again = parse_request(&out, &mut fields, &roomy)
            .expect("sound")
            .expect("whole");
        assert_eq!(again.head_len, out.len());
        assert_eq!(again.method, request.method);
        assert_eq!(again.framing, request.framing);
        assert_eq!(again.upgrade, request.upgrade);
        if !request.host.is_empty() {
            assert_eq!(again.host, request.host);
        }
    }
});
