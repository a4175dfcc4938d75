//! The addresses of the Service in front of this server: where the zone's name servers are,
//! unless `--ns` says it.
//!
//! Reads the one Service by its name, again and again: that needs the right to `get` it and no
//! other. What the zone makes of the addresses is [`crate::catalog`]'s business.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service};
use kube::Api;
use tokio::sync::watch;
use tokio::time::sleep;

/// Until the Service was read once, or could not be [`ATTEMPTS`] times.
const FIRST_INTERVAL: Duration = Duration::from_secs(1);
/// From then on: a load balancer gets its address minutes after its Service was made, and later
/// changes are rare.
const INTERVAL: Duration = Duration::from_secs(5);
/// So many failures in a row, and the server answers without these addresses.
const ATTEMPTS: u32 = 3;

/// What is known of the Service.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct State {
    /// Its addresses when they could be read last; those stay in force.
    pub(crate) addresses: Vec<IpAddr>,
    /// Why there are none, or no newer ones.
    pub(crate) problem: Option<String>,
    /// Whether the zone can be answered for: the Service was read, or has been given up on.
    pub(crate) settled: bool,
    failures: u32,
}

impl State {
    /// For a server that needs no Service.
    pub(crate) fn unused() -> Self {
        Self {
            settled: true,
            ..Self::default()
        }
    }

    /// Takes the outcome of one read in.
    fn take(&mut self, name: &str, read: Result<&Service, String>) {
        let found = match read {
            Ok(service) => {
                self.settled = true;
                addresses(service)
            }
            Err(problem) => {
                self.failures = self.failures.saturating_add(1);
                self.settled |= self.failures >= ATTEMPTS;
                Err(format!("it cannot be read ({problem})"))
            }
        };
        match found {
            Ok(addresses) => {
                self.addresses = addresses;
                self.problem = None;
            }
            Err(why) => {
                self.problem = Some(format!(
                    "the name servers' addresses are not known from Service {name}: {why}"
                ));
            }
        }
    }
}

/// Reads the Service `name` of this pod's namespace for ever, in a task of its own.
///
/// # Errors
/// There is no API server to ask. One that does not answer is no error.
pub(crate) async fn start(
    name: String,
    state: watch::Sender<State>,
) -> Result<(), scaledapp_watch::ClientError> {
    let api: Api<Service> = Api::default_namespaced(scaledapp_watch::client().await?);
    tokio::spawn(async move {
        loop {
            let read = api.get(&name).await;
            let read = read.map_err(|error| scaledapp_watch::reason(&error));
            state.send_if_modified(|state| {
                let before = state.clone();
                state.take(&name, read.as_ref().map_err(Clone::clone));
                *state != before
            });
            let is_settled = state.borrow().settled;
            sleep(if is_settled { INTERVAL } else { FIRST_INTERVAL }).await;
        }
    });
    Ok(())
}

/// Where clients reach a Service at port 53.
fn addresses(service: &Service) -> Result<Vec<IpAddr>, String> {
    let spec = service.spec.clone().unwrap_or_default();
    if spec.type_.as_deref() == Some("LoadBalancer") {
        let status = service.status.as_ref();
        let balancer = status.and_then(|status| status.load_balancer.as_ref());
        let ingress = balancer.and_then(|balancer| balancer.ingress.as_deref());
        return balanced(ingress.unwrap_or_default());
    }
    let all = spec.cluster_ips.unwrap_or_default();
    let all = all.into_iter().chain(spec.cluster_ip);
    let mut found: Vec<IpAddr> = Vec::new();
    for address in all.filter_map(|text| text.parse().ok()) {
        if !found.contains(&address) {
            found.push(address);
        }
    }
    if found.is_empty() {
        return Err("it has no cluster IP; give the addresses: --ns NAME=IP".to_owned());
    }
    Ok(found)
}

fn balanced(ingress: &[LoadBalancerIngress]) -> Result<Vec<IpAddr>, String> {
    let texts = ingress.iter().filter_map(|point| point.ip.as_deref());
    let found: Vec<IpAddr> = texts.filter_map(|text| text.parse().ok()).collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let mut names = ingress.iter().filter_map(|point| point.hostname.as_deref());
    match names.next() {
        // RFC 2181 section 10.3: a name server has addresses, not an alias.
        Some(name) => Err(format!(
            "its load balancer has the name {name} and no address; give name servers with fixed addresses: --ns NAME=IP, dns.nameservers in the values of the chart"
        )),
        None => Err("its load balancer has no address yet".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn service(spec: &Value, ingress: &Value) -> Service {
        let object = json!({"spec": spec, "status": {"loadBalancer": {"ingress": ingress}}});
        serde_json::from_value(object).unwrap()
    }

    fn found(spec: &Value, ingress: &Value) -> Result<Vec<String>, String> {
        let found = addresses(&service(spec, ingress))?;
        Ok(found.iter().map(IpAddr::to_string).collect())
    }

    #[test]
    fn a_service_is_reached_at_its_cluster_ips_or_at_its_load_balancer() {
        let ips = json!({"type": "ClusterIP", "clusterIP": "10.96.0.53",
            "clusterIPs": ["10.96.0.53", "fd00::53"]});
        let both = ["10.96.0.53", "fd00::53"].map(ToOwned::to_owned);
        assert_eq!(found(&ips, &json!([])).unwrap(), both);
        let mut node_port = ips.clone();
        node_port["type"] = json!("NodePort");
        assert_eq!(found(&node_port, &json!([])).unwrap(), both);
        // Not those: nobody outside reaches them.
        let mut balanced = ips;
        balanced["type"] = json!("LoadBalancer");
        let ingress = json!([{"ip": "192.0.2.53"}, {"hostname": "x"}, {"ip": "2001:db8::53"}]);
        let outside = ["192.0.2.53", "2001:db8::53"].map(ToOwned::to_owned);
        assert_eq!(found(&balanced, &ingress).unwrap(), outside);
        for (spec, ingress, part) in [
            (&balanced, json!([]), "no address yet"),
            (
                &balanced,
                json!([{"hostname": "lb.example.com"}]),
                "the name lb.example.com",
            ),
            (
                &json!({"clusterIP": "None", "clusterIPs": ["None"]}),
                json!([]),
                "no cluster IP",
            ),
            (&json!({}), json!([]), "no cluster IP"),
        ] {
            let message = found(spec, &ingress).unwrap_err();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn addresses_stay_while_the_service_cannot_be_read_and_a_start_waits_for_three_attempts() {
        let good = service(&json!({"clusterIP": "10.96.0.53"}), &json!([]));
        let refused = || Err("services \"dns\" is forbidden".to_owned());
        let mut state = State::default();
        for settled in [false, false, true] {
            state.take("dns", refused());
            assert_eq!(state.settled, settled);
        }
        assert!(state.addresses.is_empty());
        let problem = state.problem.clone().unwrap();
        assert!(
            problem.contains("Service dns") && problem.contains("forbidden"),
            "{problem}"
        );
        state.take("dns", Ok(&good));
        assert_eq!((state.addresses.len(), state.problem.clone()), (1, None));
        state.take("dns", refused());
        assert_eq!((state.addresses.len(), state.settled), (1, true));
        assert!(state.problem.is_some());
    }
}
