//! The addresses of the Service in front of this server. The zone's name servers have them,
//! unless `--ns` gives others.
//!
//! The Service is polled by its name, which needs only the right to `get` it. [`crate::catalog`]
//! puts the addresses into the zone.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service};
use kube::Api;
use tokio::sync::watch;
use tokio::time::sleep;

/// The pause between reads until one has succeeded or [`MAX_FAILURES`] have failed.
const FIRST_INTERVAL: Duration = Duration::from_secs(1);
/// The pause between later reads. A load balancer gets its address minutes after its Service was
/// made, and changes after that are rare.
const INTERVAL: Duration = Duration::from_secs(5);
/// After this many failures in a row, the server answers without these addresses.
const MAX_FAILURES: u32 = 3;

/// The outcome of reading the Service so far.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct State {
    /// The addresses that the Service last had. They are kept while a read gives none.
    pub(crate) addresses: Vec<IpAddr>,
    /// Why the last read gave no addresses.
    pub(crate) problem: Option<String>,
    /// Whether the zone can be answered for: the Service was read, or is no longer waited for.
    pub(crate) settled: bool,
    failures: u32,
}

impl State {
    /// The state for a server that needs no Service.
    pub(crate) fn unused() -> Self {
        Self {
            settled: true,
            ..Self::default()
        }
    }

    /// Takes in the outcome of one read.
    fn take(&mut self, name: &str, read: Result<&Service, String>) {
        let found = match read {
            Ok(service) => {
                self.settled = true;
                addresses(service)
            }
            Err(problem) => {
                self.failures = self.failures.saturating_add(1);
                self.settled |= self.failures >= MAX_FAILURES;
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

/// Starts a task that never ends and that polls the Service `name` in this pod's namespace.
///
/// # Errors
/// No API server is configured. An API server that does not answer is not an error.
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

/// The addresses at which clients reach a Service at port 53.
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
            "its load balancer has the name {name} and no address; name servers need fixed addresses: give them with --ns NAME=IP, or with dns.nameservers in the values of the chart"
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
        // The cluster IPs of a load balancer's Service are not used: clients outside cannot
        // reach them.
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
