//! When the certificates in use expire: a metric for alerts, and warnings in the log. Decides when a
//! warning is due, from the time that is passed in.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use scaledapp_tls::Certificate;

use crate::metrics::PREFIX;

/// cert-manager and ACME clients renew a certificate of 90 days 30 days before its end, and one of
/// six days two days before.
const WARNING: Duration = Duration::from_hours(24);
/// The pause between two warnings about the same certificate.
const REPEAT: Duration = Duration::from_hours(12);

/// The certificates in use.
#[derive(Debug, Default)]
pub(crate) struct Expiry(ArcSwap<Vec<Entry>>);

/// A certificate by its first name; two certificates with the same first name count as one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    name: String,
    /// Seconds since 1970.
    expires_at: u64,
}

impl Expiry {
    /// Replaces the certificates.
    pub(crate) fn set(&self, certificates: &[Certificate]) {
        let mut entries: Vec<Entry> = Vec::new();
        for certificate in certificates {
            let name = certificate.names().first().cloned().unwrap_or_default();
            let expires_at = certificate.expires_at();
            match entries.iter_mut().find(|entry| entry.name == name) {
                Some(entry) => entry.expires_at = entry.expires_at.min(expires_at),
                None => entries.push(Entry { name, expires_at }),
            }
        }
        self.0.store(Arc::new(entries));
    }

    /// Warnings about certificates that have expired, or expire soon. `now` is in seconds since
    /// 1970.
    fn warnings(&self, now: u64) -> Vec<String> {
        let entries = self.0.load();
        let due = entries
            .iter()
            .filter(|entry| entry.expires_at <= now.saturating_add(WARNING.as_secs()));
        let text = |Entry { name, expires_at }: &Entry| {
            if *expires_at < now {
                return format!(
                    "the certificate for {name} has expired, so clients refuse it: renew it"
                );
            }
            let hours = (expires_at - now) / 3600;
            format!("the certificate for {name} expires in {hours} hours: renew it")
        };
        due.map(text).collect()
    }

    /// Registers the metric.
    pub(crate) fn register(self: &Arc<Self>, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix(PREFIX);
        registry.register_collector(Box::new(Shown(Arc::clone(self))));
    }
}

/// When to warn.
#[derive(Debug, Default)]
pub(crate) struct Warnings {
    /// The time of the last warning, in seconds since 1970.
    last: Option<u64>,
}

impl Warnings {
    /// The warnings that are due; none if the last ones are recent. After a change of the
    /// certificates, call [`Self::again`] first.
    pub(crate) fn due(&mut self, expiry: &Expiry, now: u64) -> Vec<String> {
        let is_recent = |last| now.abs_diff(last) < REPEAT.as_secs();
        if self.last.is_some_and(is_recent) {
            return Vec::new();
        }
        let warnings = expiry.warnings(now);
        if !warnings.is_empty() {
            self.last = Some(now);
        }
        warnings
    }

    /// The certificates have changed.
    pub(crate) fn again(&mut self) {
        self.last = None;
    }
}

#[derive(Debug)]
struct Shown(Arc<Expiry>);

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut family = encoder.encode_descriptor(
            "certificate_expiry_timestamp_seconds",
            "The last second in which a certificate in use is valid, since 1970, by its first name",
            None,
            MetricType::Gauge,
        )?;
        for Entry { name, expires_at } in self.0.0.load().iter() {
            let gauge = ConstGauge::new(i64::try_from(*expires_at).unwrap_or(i64::MAX));
            gauge.encode(family.encode_family(&[("name", name.as_str())])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;

    fn expiry(expires_at: u64) -> Expiry {
        let name = "a.example.com".to_owned();
        Expiry(ArcSwap::from_pointee(vec![Entry { name, expires_at }]))
    }

    #[test]
    fn a_warning_comes_a_day_before_the_end_and_twice_a_day() {
        let expiry = expiry(1000 * HOUR);
        let mut warnings = Warnings::default();
        assert_eq!(warnings.due(&expiry, 975 * HOUR), [""; 0]);
        let soon = "the certificate for a.example.com expires in 24 hours: renew it";
        assert_eq!(warnings.due(&expiry, 976 * HOUR), [soon]);
        assert_eq!(warnings.due(&expiry, 987 * HOUR), [""; 0]);
        assert_eq!(warnings.due(&expiry, 988 * HOUR).len(), 1);
        warnings.again();
        let over = warnings.due(&expiry, 1001 * HOUR);
        assert!(over[0].contains("has expired"), "{over:?}");
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_silence_warnings() {
        let expiry = expiry(0);
        let mut warnings = Warnings::default();
        assert_eq!(warnings.due(&expiry, 9000 * HOUR).len(), 1);
        assert_eq!(warnings.due(&expiry, 10 * HOUR).len(), 1);
    }
}
