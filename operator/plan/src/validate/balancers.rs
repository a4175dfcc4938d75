//! Which values the fields of `spec.balancers` may have.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::time::Duration;

use scaledapp_crds::Quantity;
use scaledapp_crds::v1alpha1::{
    self, Algorithm, AppProtocol, ClientCertificateMode, Dispatch, TlsVersion, TrafficDistribution,
};
use scaledapp_http1::{Network, NetworkError};

use super::check::{Check, DAY, SECOND, TWO};
use crate::names::is_label;
use crate::{AccessLog, Balancers, ClientCertificates, Issuer, Protocol, Times, Tls};

/// Most slots of an app: scaledapp-dns puts at most this many addresses into one answer.
const MAX_SLOTS: i32 = 8;
/// An app that needs longer should rather not be ready yet. The AWS balancer has the same bound.
const MAX_SLOW_START: Duration = Duration::from_mins(15);
const MAX_CONNECTIONS: i32 = 1_000_000;
const MAX_REQUESTS: i32 = 1_000_000;
/// The ranges of the balancer's own flags.
const MIN_HEAD_BYTES: u32 = 4 << 10;
const MAX_HEAD_BYTES: u32 = 16 << 20;
const MIN_HEAD_FIELDS: u32 = 64;
const MAX_HEAD_FIELDS: u32 = 100_000;
/// Two years. Browsers' preload lists require at least one year.
const MAX_HSTS: Duration = Duration::from_hours(17_520);

/// Whether a Secret or `ConfigMap` may have this name.
fn is_object_name(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_label)
}

impl Check {
    fn times(&mut self, timeouts: &v1alpha1::Timeouts) -> Times {
        let mut time = |name: &str, time: Option<scaledapp_crds::Duration>, least: Duration| {
            let time = time?.0;
            if time < least || time > DAY {
                let least = scaledapp_crds::Duration(least);
                self.violation(
                    format!("spec.balancers.timeouts.{name}"),
                    format!("is out of range: give {least} to 24h"),
                );
            }
            Some(time)
        };
        let least = Duration::from_millis(1);
        Times {
            head: time("head", timeouts.head, least),
            body: time("body", timeouts.body, least),
            answer: time("answer", timeouts.answer, least),
            stall: time("stall", timeouts.stall, least),
            stream: time("stream", timeouts.stream, least),
            upgrade: time("upgrade", timeouts.upgrade, least),
            idle: time("idle", timeouts.idle, least),
            half_close: time("halfClose", timeouts.half_close, Duration::ZERO),
        }
    }

    fn slow_start(&mut self, window: Option<scaledapp_crds::Duration>) -> Option<Duration> {
        let window = window?.0;
        if window > MAX_SLOW_START {
            self.violation(
                "spec.balancers.slowStart",
                "is longer than 15m, and new pods would help too late: give at most 15m",
            );
        }
        Some(window)
    }

    fn connections(&mut self, name: &str, most: Option<i32>) -> Option<NonZeroU32> {
        let path = format!("spec.balancers.limits.{name}");
        Some(self.count(&path, most?, MAX_CONNECTIONS, "connections serve no client"))
    }

    fn requests(&mut self, name: &str, most: Option<i32>) -> Option<NonZeroU32> {
        let path = format!("spec.balancers.limits.{name}");
        Some(self.count(&path, most?, MAX_REQUESTS, "requests serve no client"))
    }

    fn burst(&mut self, limits: &v1alpha1::BalancerLimits) -> Option<NonZeroU32> {
        let burst = limits.request_burst_per_address;
        if burst.is_some() && limits.requests_per_second_per_address.is_none() {
            self.violation(
                "spec.balancers.limits.requestBurstPerAddress",
                "needs requestsPerSecondPerAddress: give it, or leave requestBurstPerAddress out",
            );
        }
        self.requests("requestBurstPerAddress", burst)
    }

    fn body_size(&mut self, most: Option<&str>) -> Option<u64> {
        let text = most?;
        let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
        let is_whole = digits.len() <= 12 && digits.bytes().all(|byte| byte.is_ascii_digit());
        let is_unit = matches!(
            &text[digits.len()..],
            "" | "Ki" | "Mi" | "Gi" | "k" | "M" | "G"
        );
        let amount = text.parse().ok().filter(|_| is_whole && is_unit);
        let bytes = amount.as_ref().and_then(Quantity::whole);
        let bytes = bytes.filter(|_| !digits.starts_with('0'));
        if bytes.is_none() {
            self.violation(
                "spec.balancers.limits.bodySize",
                "is no size of a body: give an amount such as 10Mi or '1048576', or leave it out",
            );
        }
        bytes
    }

    fn access_log(&mut self, log: &v1alpha1::AccessLog) -> AccessLog {
        let percent = log.sample.map(|sample| {
            let percent = u32::try_from(sample).ok().and_then(NonZeroU32::new);
            let percent = percent.filter(|percent| percent.get() <= 100);
            percent.unwrap_or_else(|| {
                self.violation(
                    "spec.balancers.accessLog.sample",
                    "is no percentage: give 1 to 100, or leave accessLog out to log nothing",
                );
                NonZeroU32::MIN
            })
        });
        AccessLog {
            format: log.format.unwrap_or_default(),
            percent,
            has_query: log.query,
        }
    }

    fn body_rate(&mut self, rate: Option<i32>) -> Option<u32> {
        let rate = u32::try_from(rate?);
        if rate.is_err() {
            self.violation(
                "spec.balancers.limits.bodyRate",
                "is not a rate: give bytes per second, 0 for any rate",
            );
        }
        rate.ok()
    }

    fn head(&mut self, name: &str, most: Option<i32>, range: RangeInclusive<u32>) -> Option<u32> {
        let most = most?;
        let most = u32::try_from(most).ok().filter(|most| range.contains(most));
        if most.is_none() {
            let (least, most) = range.into_inner();
            self.violation(
                format!("spec.balancers.limits.{name}"),
                format!("is out of range: give {least} to {most}, or leave it out"),
            );
        }
        most
    }

    pub(super) fn protocol(
        &mut self,
        balancers: Option<&v1alpha1::Balancers>,
        app_protocol: AppProtocol,
    ) -> Protocol {
        let tcp = app_protocol == AppProtocol::Tcp;
        let slots = balancers
            .and_then(|balancers| balancers.replicas)
            .map_or(TWO, |replicas| {
                self.count(
                    "spec.balancers.replicas",
                    replicas,
                    MAX_SLOTS,
                    "balancers serve no client",
                )
            });
        let balancers = balancers.cloned().unwrap_or_default();
        if tcp {
            self.only_http(&balancers);
        }
        let limits = balancers.limits.unwrap_or_default();
        let balancers = Balancers {
            slots,
            algorithm: balancers.algorithm.unwrap_or(Algorithm::LeastRequest),
            slow_start: self.slow_start(balancers.slow_start),
            prefers_zone: balancers.traffic_distribution
                == Some(TrafficDistribution::PreferSameZone),
            times: self.times(&balancers.timeouts.unwrap_or_default()),
            connections: self.connections("connections", limits.connections),
            connections_per_address: self
                .connections("connectionsPerAddress", limits.connections_per_address),
            requests_per_second_per_address: self.requests(
                "requestsPerSecondPerAddress",
                limits.requests_per_second_per_address,
            ),
            request_burst_per_address: self.burst(&limits),
            body_size: self.body_size(limits.body_size.as_deref()),
            access_log: balancers
                .access_log
                .as_ref()
                .map(|log| self.access_log(log)),
            body_rate: self.body_rate(limits.body_rate),
            head_bytes: self.head(
                "headBytes",
                limits.head_bytes,
                MIN_HEAD_BYTES..=MAX_HEAD_BYTES,
            ),
            head_fields: self.head(
                "headFields",
                limits.head_fields,
                MIN_HEAD_FIELDS..=MAX_HEAD_FIELDS,
            ),
            is_http1_only: balancers.http2 == Some(false),
            app_protocol,
        };
        if tcp {
            Protocol::Tcp(balancers)
        } else {
            Protocol::Http(balancers)
        }
    }

    /// The value of `--sticky`.
    pub(super) fn sticky(
        &mut self,
        stickiness: &v1alpha1::Stickiness,
        dispatch: Dispatch,
        is_tcp: bool,
    ) -> Option<String> {
        let at = "spec.balancers.stickiness";
        if is_tcp && stickiness.client_address.is_none() {
            let message = "needs a request that has a cookie or a header, and spec.appProtocol is tcp: use clientAddress: true, or leave it out";
            self.violation(at, message);
        } else if dispatch == Dispatch::Connection && !is_tcp {
            let message = "needs dispatch Request: with Connection, workers accept connections themselves, so a client cannot be led to one of them; leave it out, or leave workers.dispatch out";
            self.violation(at, message);
        }
        let v1alpha1::Stickiness {
            cookie,
            header,
            client_address,
        } = stickiness;
        for (name, given) in [("cookie", cookie), ("header", header)] {
            let is_good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            let is_name =
                |text: &String| (1..=64).contains(&text.len()) && text.bytes().all(is_good);
            if given.as_ref().is_some_and(|text| !is_name(text)) {
                let message = "is no name: use at most 64 letters, digits, - and _";
                self.violation(format!("{at}.{name}"), message);
            }
        }
        if *client_address == Some(false) {
            let message = "is false: leave stickiness out";
            self.violation(format!("{at}.clientAddress"), message);
        }
        match (cookie, header, client_address) {
            (Some(name), None, None) => Some(format!("cookie:{name}")),
            (None, Some(name), None) => Some(format!("header:{name}")),
            (None, None, Some(_)) => Some("address".to_owned()),
            _ => {
                let message = "needs exactly one of cookie, header and clientAddress, such as {cookie: SCALEDAPP}";
                self.violation(at, message);
                None
            }
        }
    }

    pub(super) fn tls(&mut self, tls: &v1alpha1::Tls, has_hostname: bool) -> Tls {
        let at = "spec.balancers.tls";
        self.secret(&format!("{at}.secretName"), &tls.secret_name);
        for (index, name) in tls.additional_secret_names.iter().enumerate() {
            self.secret(&format!("{at}.additionalSecretNames[{index}]"), name);
        }
        let hsts = tls.hsts.map(|time| time.0);
        if hsts.is_some_and(|time| time < SECOND || time > MAX_HSTS) {
            let message = "is out of range: give 1s to 17520h (two years)";
            self.violation(format!("{at}.hsts"), message);
        }
        let clients = tls.client_certificates.as_ref().map(|clients| {
            let at = format!("{at}.clientCertificates.secretName");
            self.secret(&at, &clients.secret_name);
            ClientCertificates {
                secret: clients.secret_name.clone(),
                is_optional: clients.mode == Some(ClientCertificateMode::Optional),
            }
        });
        if tls.issuer_ref.is_some() && !has_hostname {
            self.violation(
                format!("{at}.issuerRef"),
                "needs spec.dns.hostname, the name that the certificate is for: give it, or leave issuerRef out and create the Secret yourself",
            );
        }
        let issuer = tls.issuer_ref.as_ref();
        let issuer = issuer.map(|issuer| self.issuer(&format!("{at}.issuerRef"), issuer));
        let secrets = [&tls.secret_name].into_iter();
        let secrets = secrets.chain(&tls.additional_secret_names).cloned();
        Tls {
            secrets: secrets.collect(),
            issuer,
            is_13_only: tls.min_version == Some(TlsVersion::Tls13),
            redirect: tls.redirect.unwrap_or(true),
            hsts,
            clients,
        }
    }

    fn issuer(&mut self, path: &str, issuer: &v1alpha1::IssuerRef) -> Issuer {
        if issuer.name.is_empty() {
            self.violation(format!("{path}.name"), "is empty: give the issuer's name");
        }
        Issuer {
            name: issuer.name.clone(),
            kind: issuer.kind.clone().unwrap_or_else(|| "Issuer".to_owned()),
            group: issuer
                .group
                .clone()
                .unwrap_or_else(|| "cert-manager.io".to_owned()),
        }
    }

    pub(super) fn error_pages(&mut self, pages: &v1alpha1::ErrorPages) -> String {
        let name = &pages.config_map_name;
        if !is_object_name(name) {
            self.violation(
                "spec.balancers.errorPages.configMapName",
                "cannot be the name of a ConfigMap: use a-z, 0-9, - and ., such as hello-pages",
            );
        }
        name.clone()
    }

    fn secret(&mut self, path: &str, name: &str) {
        if !is_object_name(name) {
            self.violation(
                path,
                format!("{name:?} cannot be the name of a Secret: use a-z, 0-9, - and ., such as hello-tls"),
            );
        }
    }

    pub(super) fn forwarded_from(
        &mut self,
        balancers: Option<&v1alpha1::Balancers>,
    ) -> Vec<Network> {
        let texts = balancers.into_iter().flat_map(|one| &one.forwarded_from);
        let mut networks = Vec::new();
        for (index, text) in texts.enumerate() {
            match text.parse() {
                Ok(network) => networks.push(network),
                Err(error) => {
                    let field = format!("spec.balancers.forwardedFrom[{index}]");
                    let error: NetworkError = error;
                    self.violation(field, error.to_string());
                }
            }
        }
        networks
    }

    /// Refuses the fields of balancers that need requests.
    fn only_http(&mut self, balancers: &v1alpha1::Balancers) {
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
