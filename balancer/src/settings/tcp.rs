//! Which settings have no meaning for connections that are relayed as they are.

use scaledapp_proxy::Sticky;

use crate::cli::{Options, ProtocolArg};

/// A setting that does not fit what the servers speak.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProtocolError {
    #[error("--{0} is for HTTP, and --protocol is tcp: leave it out")]
    OnlyHttp(&'static str),
    #[error(
        "--sticky needs a request that has a cookie or a header, and --protocol is tcp: give --sticky address, or leave it out"
    )]
    NoRequest,
    #[error(
        "--proxy-protocol-to-servers needs --protocol tcp: servers of HTTP learn their client from X-Forwarded-For; leave it out"
    )]
    OnlyTcp,
}

/// Refuses settings of HTTP where the servers speak another protocol, and settings of relayed
/// connections where they speak HTTP.
pub(super) fn check(options: &Options) -> Result<(), ProtocolError> {
    if options.protocol != Some(ProtocolArg::Tcp) {
        return match options.proxy_protocol_to_servers {
            Some(true) => Err(ProtocolError::OnlyTcp),
            _ => Ok(()),
        };
    }
    let only_http = [
        ("tls-redirect", options.tls_redirect.is_some()),
        ("hsts", options.hsts.is_some()),
        ("h2", options.h2.is_some()),
        ("forwarded-from", !options.forwarded_from.is_empty()),
        ("access-log", options.access_log.is_some()),
        ("error-pages", options.error_pages.is_some()),
        ("body-size", options.body_size.is_some()),
        (
            "requests-per-second-per-address",
            options.requests_per_second_per_address.is_some(),
        ),
        ("trust-token-file", options.trust_token_file.is_some()),
        ("idle-time", options.idle_time.is_some()),
        ("answer-time", options.answer_time.is_some()),
        ("stream-time", options.stream_time.is_some()),
        ("body-time", options.body_time.is_some()),
        ("body-rate", options.body_rate.is_some()),
        ("half-close-time", options.half_close_time.is_some()),
        ("head-bytes", options.head_bytes.is_some()),
        ("head-fields", options.head_fields.is_some()),
        ("upstream-idle-time", options.upstream_idle_time.is_some()),
        ("upstream-idle", options.upstream_idle.is_some()),
        ("attempts", options.attempts.is_some()),
        ("retry-percent", options.retry_percent.is_some()),
    ];
    if let Some((name, _)) = only_http.iter().find(|(_, is_given)| *is_given) {
        return Err(ProtocolError::OnlyHttp(name));
    }
    match options.sticky.map(|kind| kind.0) {
        None | Some(Sticky::Address) => Ok(()),
        Some(Sticky::Cookie(_) | Sticky::Field(_)) => Err(ProtocolError::NoRequest),
    }
}

#[cfg(test)]
mod tests {
    use scaledapp_proxy::UpstreamProtocol;
    use scaledapp_tls::Alpn;

    use crate::settings::tests::{LISTEN, UPSTREAM, settings, with_file};

    #[test]
    fn tcp_takes_the_settings_that_do_not_need_a_request() {
        let settings = settings(&[
            LISTEN,
            UPSTREAM,
            "--protocol=tcp",
            "--sticky=address",
            "--tls=a:b",
            "--upgrade-time=2h",
            "--proxy-protocol-from=10.0.0.0/8,fd00::/8",
            "--proxy-protocol-to-servers",
        ])
        .unwrap();
        assert_eq!(settings.forwarding.upstream, UpstreamProtocol::Tcp);
        assert!(settings.forwarding.sends_proxy_header);
        assert_eq!(settings.announced_from.len(), 2);
        assert_eq!(settings.tls.unwrap().alpn, Alpn::None);
        let json = r#"{"protocol":"tcp","proxyProtocolFrom":["10.0.0.0/8"],"proxyProtocolToServers":true}"#;
        let file = with_file(json, &[LISTEN, UPSTREAM]).unwrap();
        assert!(file.forwarding.sends_proxy_header);
        assert_eq!(file.announced_from.len(), 1);
    }

    #[test]
    fn settings_of_another_protocol_are_refused_with_the_cure() {
        for (arguments, parts) in [
            (
                &[LISTEN, UPSTREAM, "--protocol=tcp", "--h2=false"][..],
                &["--h2 is for HTTP"][..],
            ),
            (
                &[LISTEN, UPSTREAM, "--protocol=tcp", "--answer-time=1s"],
                &["--answer-time is for HTTP"],
            ),
            (
                &[LISTEN, UPSTREAM, "--protocol=tcp", "--sticky=cookie"],
                &["--sticky address"],
            ),
            (
                &[LISTEN, UPSTREAM, "--proxy-protocol-to-servers"],
                &["needs --protocol tcp"],
            ),
            (
                &[LISTEN, UPSTREAM, "--proxy-protocol-from=10.0.0.1/8"],
                &["--proxy-protocol-from", "give 10.0.0.0/8"],
            ),
        ] {
            let message = settings(arguments).unwrap_err();
            for part in parts {
                assert!(message.contains(part), "{arguments:?}: {message}");
            }
        }
    }
}
