//! Who cannot reach whose port, though it is there: what a `NetworkPolicy` or a mesh
//! keeps out, with the cure. That pods run at all is their kubelets' word; what is
//! concluded about addresses is [`super::slots`]' to say.

use scaledapp_crds::words::component;

use super::{Heard, Observed, Pod};
use crate::local::ADMIN_PORT;

/// What the operator, or the balancers, cannot reach; in one sentence.
pub(super) fn unreachable(observed: &Observed) -> Option<String> {
    of_operator(observed).or_else(|| of_balancers(observed))
}

fn ready<'a>(observed: &'a Observed, of: &'a str) -> impl Iterator<Item = &'a Pod> {
    let pods = observed.pods.iter();
    pods.filter(move |pod| pod.component == of && pod.ready && !pod.deleting)
}

fn admin_port(pod: &Pod) -> u16 {
    pod.admin_port.unwrap_or(ADMIN_PORT.get())
}

/// Pods that do not answer the operator, as `port 9377 of the balancers`.
fn silent(observed: &Observed, of: &str, name: &str) -> Option<(u16, String)> {
    let is_out = |pod: &&Pod| matches!(pod.heard, Heard::Unreachable { .. });
    let out = ready(observed, of).find(is_out)?;
    let all = ready(observed, of).all(|pod| pod.heard.is_silent());
    let some = if all { "" } else { "some of " };
    Some((admin_port(out), format!("{some}{name}")))
}

fn of_operator(observed: &Observed) -> Option<String> {
    let balancers = silent(observed, component::BALANCER, "the balancers");
    let pods = silent(observed, component::APP, "the app's pods");
    let what = match (balancers, pods) {
        (None, None) => return None,
        (Some((port, balancers)), Some((other, pods))) if port == other => {
            format!("port {port} of {balancers} and of {pods}")
        }
        (Some((port, balancers)), Some((other, pods))) => {
            format!("port {port} of {balancers} and port {other} of {pods}")
        }
        (Some((port, which)), None) | (None, Some((port, which))) => {
            format!("port {port} of {which}")
        }
    };
    let mut all = observed.pods.iter();
    let accepted = all.any(|pod| pod.heard == Heard::Unreachable { accepted: true });
    let from = &observed.asked_from;
    let cure = if accepted {
        format!(
            "connections are accepted and not answered: a mesh that asks for mutual TLS must leave that port out, or let namespace {from} in"
        )
    } else {
        format!("a NetworkPolicy must allow ingress from namespace {from} to that TCP port")
    };
    Some(format!(
        "the operator cannot reach {what}, which their kubelets call ready and which count as serving: {cure}"
    ))
}

/// Balancers that answer the operator and hear nothing of pods that are ready.
fn of_balancers(observed: &Observed) -> Option<String> {
    let pod = ready(observed, component::APP).next()?;
    let is_blind = |pod: &Pod| matches!(&pod.heard, Heard::Balancer(said) if said.blind);
    let is_heard = |pod: &Pod| matches!(pod.heard, Heard::Balancer(_));
    let heard = || ready(observed, component::BALANCER).filter(|pod| is_heard(pod));
    if !heard().any(is_blind) {
        return None;
    }
    let who = if heard().all(is_blind) {
        "the balancers"
    } else {
        "some of the balancers"
    };
    let admin = admin_port(pod);
    let port = pod
        .port
        .map(|port| format!(" (and to its port {port})"))
        .unwrap_or_default();
    Some(format!(
        "{who} cannot reach port {admin} of the app's pods, so they do not know which of them serve: a NetworkPolicy must allow ingress from the app's balancers to that TCP port{port}, and a mesh that asks for mutual TLS must leave it out"
    ))
}

#[cfg(test)]
mod tests {
    use super::super::Balancer;
    use super::*;

    fn pod(of: &str, heard: Heard) -> Pod {
        Pod {
            component: of.to_owned(),
            ready: true,
            heard,
            port: Some(3000),
            ..Pod::default()
        }
    }

    fn told(pods: Vec<Pod>) -> String {
        let observed = Observed {
            pods,
            asked_from: "ops".to_owned(),
            ..Observed::default()
        };
        unreachable(&observed).unwrap_or_default()
    }

    const OUT: Heard = Heard::Unreachable { accepted: false };

    #[test]
    fn who_cannot_reach_whom_is_named_with_port_and_direction() {
        let heard = || Heard::Balancer(Balancer::default());
        let blind = || {
            Heard::Balancer(Balancer {
                blind: true,
                ..Balancer::default()
            })
        };
        let (app, lb) = (component::APP, component::BALANCER);
        for (pods, says) in [
            (vec![pod(lb, heard()), pod(app, Heard::NotYet)], ""),
            // A pod that has just died is silent as well.
            (vec![pod(lb, Heard::Silent), pod(app, Heard::Silent)], ""),
            (
                vec![pod(lb, OUT), pod(lb, Heard::Silent), pod(app, OUT)],
                "the operator cannot reach port 9377 of the balancers and of the app's pods, which",
            ),
            (
                vec![pod(lb, heard()), pod(app, OUT)],
                "ingress from namespace ops to that TCP port",
            ),
            (
                vec![pod(lb, heard()), pod(lb, OUT)],
                "port 9377 of some of the balancers, which",
            ),
            (
                vec![pod(lb, Heard::Unreachable { accepted: true })],
                "mutual TLS must leave that port out, or let namespace ops in",
            ),
            (
                vec![pod(lb, blind()), pod(app, Heard::NotYet)],
                "the balancers cannot reach port 9377 of the app's pods, so",
            ),
            (
                vec![pod(lb, blind()), pod(lb, heard()), pod(app, Heard::NotYet)],
                "some of the balancers cannot reach",
            ),
            // No pod is there to be reached.
            (vec![pod(lb, blind())], ""),
        ] {
            let told = told(pods);
            assert!(
                told.contains(says) && told.is_empty() == says.is_empty(),
                "{told}"
            );
        }
    }
}
