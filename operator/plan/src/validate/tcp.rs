//! Which fields have no meaning for apps that speak another protocol than HTTP, and the PROXY
//! protocol.

use scaledapp_crds::v1alpha1;
use scaledapp_http1::{Network, NetworkError};

use super::Check;

impl Check {
    /// Refuses the fields of balancers that need requests.
    pub(super) fn only_http(&mut self, balancers: &v1alpha1::Balancers) {
        let times = balancers.timeouts.clone().unwrap_or_default();
        let limits = balancers.limits.clone().unwrap_or_default();
        let tls = balancers.tls.as_ref();
        let redirect = tls.is_some_and(|tls| tls.redirect == Some(true));
        let given = [
            ("http2", balancers.http2.is_some()),
            ("forwardedFrom", !balancers.forwarded_from.is_empty()),
            ("accessLog", balancers.access_log.is_some()),
            ("errorPages", balancers.error_pages.is_some()),
            ("tls.redirect", redirect),
            ("tls.hsts", tls.is_some_and(|tls| tls.hsts.is_some())),
            ("timeouts.body", times.body.is_some()),
            ("timeouts.answer", times.answer.is_some()),
            ("timeouts.stream", times.stream.is_some()),
            ("timeouts.idle", times.idle.is_some()),
            ("timeouts.halfClose", times.half_close.is_some()),
            ("limits.bodyRate", limits.body_rate.is_some()),
            ("limits.bodySize", limits.body_size.is_some()),
            (
                "limits.requestsPerSecondPerAddress",
                limits.requests_per_second_per_address.is_some(),
            ),
            ("limits.headBytes", limits.head_bytes.is_some()),
            ("limits.headFields", limits.head_fields.is_some()),
        ];
        for (name, _) in given.iter().filter(|(_, is_given)| *is_given) {
            self.violation(
                format!("spec.balancers.{name}"),
                "is for HTTP, and spec.appProtocol is tcp: leave it out",
            );
        }
    }

    /// The networks whose connections begin with a PROXY header, and whether connections to pods
    /// do.
    pub(super) fn proxy_protocol(
        &mut self,
        balancers: Option<&v1alpha1::Balancers>,
        is_tcp: bool,
    ) -> (Vec<Network>, bool) {
        let at = "spec.balancers.proxyProtocol";
        let Some(given) = balancers.and_then(|one| one.proxy_protocol.as_ref()) else {
            return (Vec::new(), false);
        };
        if given.from.is_empty() && !given.to_pods {
            self.violation(at, "is empty: give from or toPods, or leave it out");
        }
        if given.to_pods && !is_tcp {
            self.violation(
                format!("{at}.toPods"),
                "needs appProtocol tcp: apps that speak HTTP learn their client from X-Forwarded-For; leave it out",
            );
        }
        let mut networks = Vec::new();
        for (index, text) in given.from.iter().enumerate() {
            match text.parse() {
                Ok(network) => networks.push(network),
                Err(error) => {
                    let error: NetworkError = error;
                    self.violation(format!("{at}.from[{index}]"), error.to_string());
                }
            }
        }
        (networks, given.to_pods)
    }
}
