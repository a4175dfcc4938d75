//! Which values the fields of `spec.balancers` may have.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::time::Duration;

use scaledapp_crds::v1alpha1::{
    self, Algorithm, AppProtocol, ClientCertificateMode, Dispatch, TlsVersion, TrafficDistribution,
};
use scaledapp_http1::{Network, NetworkError};

use super::{Check, DAY, SECOND, TWO};
use crate::names::is_label;
use crate::{Balancers, ClientCertificates, Protocol, Times, Tls};

/// Most slots of an app: scaledapp-dns puts at most this many addresses into one answer.
const MAX_SLOTS: i32 = 8;
/// An app that needs longer is better not ready for that time. The AWS balancer has the same bound.
const MAX_SLOW_START: Duration = Duration::from_mins(15);
const MAX_CONNECTIONS: i32 = 1_000_000;
/// The ranges of the balancer's own flags.
const MIN_HEAD_BYTES: u32 = 4 << 10;
const MAX_HEAD_BYTES: u32 = 16 << 20;
const MIN_HEAD_FIELDS: u32 = 64;
const MAX_HEAD_FIELDS: u32 = 100_000;
/// Two years. Browsers' preload lists require at least one year.
const MAX_HSTS: Duration = Duration::from_hours(17_520);

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
        if tcp && balancers.is_some() {
            self.violation(
                "spec.balancers",
                "balancers only forward HTTP so far, and spec.appProtocol is tcp: leave balancers out; DNS then names the pods",
            );
        }
        if tcp {
            return Protocol::Tcp;
        }
        let balancers = balancers.cloned().unwrap_or_default();
        let limits = balancers.limits.unwrap_or_default();
        Protocol::Http(Balancers {
            slots,
            algorithm: balancers.algorithm.unwrap_or(Algorithm::LeastRequest),
            slow_start: self.slow_start(balancers.slow_start),
            prefers_zone: balancers.traffic_distribution
                == Some(TrafficDistribution::PreferSameZone),
            times: self.times(&balancers.timeouts.unwrap_or_default()),
            connections: self.connections("connections", limits.connections),
            connections_per_address: self
                .connections("connectionsPerAddress", limits.connections_per_address),
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
            is_h2c: app_protocol == AppProtocol::H2c,
        })
    }

    /// The value of `--sticky`.
    pub(super) fn sticky(
        &mut self,
        stickiness: &v1alpha1::Stickiness,
        dispatch: Dispatch,
    ) -> Option<String> {
        let at = "spec.balancers.stickiness";
        if dispatch == Dispatch::Connection {
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

    pub(super) fn tls(&mut self, tls: &v1alpha1::Tls) -> Tls {
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
        let secrets = [&tls.secret_name].into_iter();
        let secrets = secrets.chain(&tls.additional_secret_names).cloned();
        Tls {
            secrets: secrets.collect(),
            is_13_only: tls.min_version == Some(TlsVersion::Tls13),
            redirect: tls.redirect.unwrap_or(true),
            hsts,
            clients,
        }
    }

    fn secret(&mut self, path: &str, name: &str) {
        let is_valid = name.len() <= 253 && name.split('.').all(is_label);
        if !is_valid {
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
}
