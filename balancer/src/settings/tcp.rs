//! Which settings have no meaning for connections that are relayed as they are.

use scaledapp_proxy::Sticky;

use super::UsageError;
use crate::cli::{Options, ProtocolArg};

/// Refuses settings of HTTP where the servers speak another protocol, and settings of relayed
/// connections where they speak HTTP.
pub(super) fn check(options: &Options) -> Result<(), UsageError> {
    if options.protocol != Some(ProtocolArg::Tcp) {
        return match options.proxy_protocol_to_servers {
            Some(true) => Err(UsageError::OnlyTcp),
            _ => Ok(()),
        };
    }
    let only_http = [
        ("tls-redirect", options.tls_redirect.is_some()),
        ("hsts", options.hsts.is_some()),
        ("h2", options.h2.is_some()),
        ("forwarded-from", !options.forwarded_from.is_empty()),
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
        return Err(UsageError::OnlyHttp(name));
    }
    match options.sticky.map(|kind| kind.0) {
        None | Some(Sticky::Address) => Ok(()),
        Some(Sticky::Cookie(_) | Sticky::Field(_)) => Err(UsageError::NoRequest),
    }
}
