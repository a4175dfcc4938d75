//! Finds ports of running pods that a `NetworkPolicy` or a service mesh blocks for the
//! operator or the balancers, and names the cure. Whether a pod runs is known from its
//! kubelet. [`super::slots`] decides what this means for addresses.

use scaledapp_crds::words::component;

use super::{Answer, Observed, Pod};
use crate::local::ADMIN_PORT;

/// One sentence about what the operator or the balancers cannot reach.
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

/// The admin port of pods that do not answer the operator, and what the message calls these pods,
/// such as `the balancers`.
fn silent(observed: &Observed, of: &str, name: &str) -> Option<(u16, String)> {
    let is_out = |pod: &&Pod| matches!(pod.answer, Answer::Unreachable { .. });
    let out = ready(observed, of).find(is_out)?;
    let all = ready(observed, of).all(|pod| pod.answer.is_silent());
    let some = if all { "" } else { "some of " };
    Some((admin_port(out), format!("{some}{name}")))
}

fn of_operator(observed: &Observed) -> Option<String> {
    let balancers = silent(observed, component::BALANCER, "the balancers");
    let pods = silent(observed, component::APP, "the app's pods");
    let (what, ports) = match (balancers, pods) {
        (None, None) => return None,
        (Some((port, balancers)), Some((other, pods))) if port == other => (
            format!("port {port} of {balancers} and of {pods}"),
            format!("port {port}"),
        ),
        (Some((port, balancers)), Some((other, pods))) => (
            format!("port {port} of {balancers} and port {other} of {pods}"),
            format!("ports {port} and {other}"),
        ),
        (Some((port, which)), None) | (None, Some((port, which))) => {
            (format!("port {port} of {which}"), format!("port {port}"))
        }
    };
    let mut all = observed.pods.iter();
    let accepted = all.any(|pod| pod.answer == Answer::Unreachable { accepted: true });
    let from = &observed.asked_from;
    let cure = if accepted {
        format!(
            "connections are accepted but not answered: a mesh that enforces mutual TLS must exclude {ports}, or admit namespace {from}"
        )
    } else {
        format!("a NetworkPolicy must allow ingress from namespace {from} to TCP {ports}")
    };
    Some(format!(
        "the operator cannot reach {what}: {cure}. Until then they count as serving, because their kubelets report them ready"
    ))
}

/// Balancers that answer the operator but cannot reach pods that are ready.
fn of_balancers(observed: &Observed) -> Option<String> {
    let pod = ready(observed, component::APP).next()?;
    let is_blind = |pod: &Pod| matches!(&pod.answer, Answer::Balancer(answer) if answer.blind);
    let has_answered = |pod: &Pod| matches!(pod.answer, Answer::Balancer(_));
    let answering = || ready(observed, component::BALANCER).filter(|pod| has_answered(pod));
    if !answering().any(is_blind) {
        return None;
    }
    let who = if answering().all(is_blind) {
        "the balancers"
    } else {
        "some of the balancers"
    };
    let admin = admin_port(pod);
    let port = pod
        .port
        .map(|port| format!(" and to TCP port {port}, on which the app serves"))
        .unwrap_or_default();
    Some(format!(
        "{who} cannot reach port {admin} of the app's pods, so they do not know which of them serve: a NetworkPolicy must allow ingress from the app's balancers to TCP port {admin}{port}; a mesh that enforces mutual TLS must exclude port {admin}"
    ))
}

#[cfg(test)]
mod tests {
    use super::super::Balancer;
    use super::*;

    fn pod(of: &str, answer: Answer) -> Pod {
        Pod {
            component: of.to_owned(),
            ready: true,
            answer,
            port: Some(3000),
            ..Pod::default()
        }
    }

    fn message(pods: Vec<Pod>) -> String {
        let observed = Observed {
            pods,
            asked_from: "ops".to_owned(),
            ..Observed::default()
        };
        unreachable(&observed).unwrap_or_default()
    }

    const OUT: Answer = Answer::Unreachable { accepted: false };

    #[test]
    fn who_cannot_reach_whom_is_named_with_port_and_direction() {
        let answer = || Answer::Balancer(Balancer::default());
        let blind = || {
            Answer::Balancer(Balancer {
                blind: true,
                ..Balancer::default()
            })
        };
        let (app, lb) = (component::APP, component::BALANCER);
        for (pods, says) in [
            (vec![pod(lb, answer()), pod(app, Answer::NotYet)], ""),
            // A pod that has just died does not answer either.
            (vec![pod(lb, Answer::Silent), pod(app, Answer::Silent)], ""),
            (
                vec![pod(lb, OUT), pod(lb, Answer::Silent), pod(app, OUT)],
                "the operator cannot reach port 9377 of the balancers and of the app's pods: a NetworkPolicy",
            ),
            (
                vec![pod(lb, answer()), pod(app, OUT)],
                "ingress from namespace ops to TCP port 9377",
            ),
            (
                vec![pod(lb, answer()), pod(lb, OUT)],
                "port 9377 of some of the balancers: a NetworkPolicy",
            ),
            (
                vec![pod(lb, Answer::Unreachable { accepted: true })],
                "mutual TLS must exclude port 9377, or admit namespace ops",
            ),
            (
                vec![pod(lb, blind()), pod(app, Answer::NotYet)],
                "the balancers cannot reach port 9377 of the app's pods, so",
            ),
            (
                vec![
                    pod(lb, blind()),
                    pod(lb, answer()),
                    pod(app, Answer::NotYet),
                ],
                "some of the balancers cannot reach",
            ),
            // There is no pod to reach.
            (vec![pod(lb, blind())], ""),
        ] {
            let message = message(pods);
            assert!(
                message.contains(says) && message.is_empty() == says.is_empty(),
                "{message}"
            );
        }
    }
}
