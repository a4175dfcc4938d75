//! Tests of what an autoscaler's decision becomes: pods, workers, costs, flags, events and status.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use scaledapp_crds::kubernetes::ScaledApp;
use scaledapp_plan::cluster::{
    Autoscaler, Event, Observed, Outcome, Part, PodFailure, Scaled, Target, plan, status, validate,
};
use scaledapp_scale::{Decision, Reason};

use super::given::{app, apply, at, balancer, cluster, object, pass, pod, running, settings};

const AUTO: &str = "  resources: {limits: {cpu: 4}}\n  autoscaling: {pods: {min: 0, max: 20}}";
const FROM_ONE: &str = "  autoscaling: {pods: {max: 20}}";

/// A decision for so many pods, because of the load.
fn decided(pods: u32) -> Scaled {
    Scaled {
        decision: Decision {
            pods,
            workers: 3,
            cpu: Some(1.5),
            concurrency: 19.96,
            reason: Reason::Peak { at_once: 40.0 },
            since: at(0),
        },
        idlest: Vec::new(),
    }
}

fn deployment(deployments: &[Deployment]) -> &Deployment {
    let mut all = deployments.iter();
    all.find(|one| one.metadata.name.as_deref() == Some("hello"))
        .unwrap()
}

fn replicas(lines: &str, observed: &Observed) -> Option<i32> {
    let planned = plan(&app(lines), observed, &settings());
    deployment(&planned.apply.deployments).spec.replicas
}

fn notes(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| &*event.note).collect()
}

/// Status, reason and message of a condition.
fn condition(object: &ScaledApp, kind: &str) -> (String, String) {
    let status = object.status.as_ref().unwrap();
    let mut all = status.conditions.iter();
    let found = all.find(|condition| condition.type_ == kind).unwrap();
    (found.status.clone(), found.reason.clone())
}

/// An app that has been ready once, with this many pods.
fn started(lines: &str, pods: u32) -> (ScaledApp, Observed) {
    let mut object = object(lines);
    let mut observed = cluster(2);
    observed.pods = vec![balancer(0), balancer(1)];
    observed.pods.extend((0..pods.max(1)).map(pod));
    observed.scaling = Some(decided(pods.max(1)));
    pass(&mut object, &mut observed);
    pass(&mut object, &mut observed);
    assert_eq!(condition(&object, "Ready").0, "True");
    if pods == 0 {
        observed.scaling = Some(decided(0));
        observed.pods.truncate(2);
        pass(&mut object, &mut observed);
    }
    (object, observed)
}

#[test]
fn a_new_app_begins_with_one_pod_or_the_minimum() {
    for (lines, pods) in [
        (AUTO, 1),
        (FROM_ONE, 1),
        ("  autoscaling: {pods: {min: 3}}", 3),
    ] {
        assert_eq!(replicas(lines, &cluster(2)), Some(pods), "{lines}");
    }
}

#[test]
fn until_the_first_decision_the_pods_stay_within_the_range() {
    for (lines, there, pods) in [
        (AUTO, 0, 0),
        (AUTO, 7, 7),
        (AUTO, 30, 20),
        (FROM_ONE, 0, 1),
        ("  autoscaling: {pods: {min: 3}}", 2, 3),
    ] {
        let mut observed = running(&app(lines));
        let mut live = observed.live.deployments.iter_mut();
        let live = live.find(|it| it.metadata.name.as_deref() == Some("hello"));
        live.unwrap().spec.replicas = Some(there);
        assert_eq!(replicas(lines, &observed), Some(pods), "{lines} {there}");
        observed.scaling = Some(decided(5));
        assert_eq!(replicas(lines, &observed), Some(5));
        observed.scaling = Some(decided(50));
        let most = if lines.contains("min: 3") { 10 } else { 20 };
        assert_eq!(replicas(lines, &observed), Some(most));
    }
}

#[test]
fn pods_get_the_range_of_workers_and_may_share_nodes() {
    let planned = plan(&app(AUTO), &cluster(2), &settings());
    let data = planned.apply.config_maps[0].data.clone().unwrap();
    assert_eq!(data["workers"], "1..4");
    let pod = deployment(&planned.apply.deployments)
        .spec
        .template
        .spec
        .clone();
    let spread = pod.unwrap().topology_spread_constraints.unwrap();
    assert_eq!(spread[0].when_unsatisfiable, "ScheduleAnyway");
    let lines = format!("{AUTO}\n  workers: {{dispatch: Connection}}");
    let planned = plan(&app(&lines), &cluster(2), &settings());
    let data = planned.apply.config_maps[0].data.clone().unwrap();
    assert_eq!(data["workers"], "4");
}

#[test]
fn a_change_of_the_block_replaces_no_pod() {
    let mut observed = running(&app("  replicas: {total: 2}"));
    let before = deployment(&observed.live.deployments).spec.template.clone();
    for lines in [FROM_ONE, "  autoscaling: {pods: {min: 2}, utilization: 50}"] {
        let planned = plan(&app(lines), &observed, &settings());
        let after = &deployment(&planned.apply.deployments).spec.template;
        assert_eq!(after, &before, "{lines}");
        apply(&mut observed, &planned);
    }
}

#[test]
fn balancers_hold_requests_where_there_may_be_no_pod() {
    let flags = |lines: &str| {
        let planned = plan(&app(lines), &cluster(2), &settings());
        let balancer = planned.apply.deployments.iter().find(|it| {
            let name = it.metadata.name.as_deref();
            name == Some("hello-lb-0")
        });
        let pod = balancer.unwrap().spec.template.spec.clone().unwrap();
        pod.containers[0].command.clone().unwrap().join(" ")
    };
    assert!(flags(AUTO).contains("--hold 2m"), "{}", flags(AUTO));
    let slow = format!("{AUTO}\n  workers: {{readiness: {{timeout: 4m}}}}");
    assert!(flags(&slow).contains("--hold 5m"));
    assert!(!flags(FROM_ONE).contains("--hold"));
    assert!(!flags("").contains("--hold"));
}

#[test]
fn the_disruption_budget_does_not_come_and_go_with_the_second_pod() {
    for (lines, pods, budgeted) in [
        (FROM_ONE, 1, true),
        (FROM_ONE, 2, true),
        (AUTO, 0, true),
        ("  autoscaling: {pods: {max: 1}}", 1, false),
        ("  replicas: {total: 1}", 1, false),
    ] {
        let mut observed = cluster(2);
        observed.scaling = Some(decided(pods));
        let planned = plan(&app(lines), &observed, &settings());
        let mut budgets = planned.apply.pod_disruption_budgets.iter();
        let found = budgets.any(|it| it.metadata.name.as_deref() == Some("hello"));
        assert_eq!(found, budgeted, "{lines}");
    }
}

#[test]
fn a_release_keeps_one_pod_more_at_any_size() {
    for pods in [0, 1, 20] {
        let mut observed = cluster(2);
        observed.scaling = Some(decided(pods));
        let planned = plan(&app(AUTO), &observed, &settings());
        let strategy = deployment(&planned.apply.deployments).spec.strategy.clone();
        let rolling = strategy.unwrap().rolling_update.unwrap();
        assert_eq!(
            rolling.max_surge,
            Some(k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(1)),
            "{pods}"
        );
    }
}

#[test]
fn the_idlest_pods_are_deleted_first_and_marks_are_taken_back() {
    let mut observed = running(&app(FROM_ONE));
    let mut scaled = decided(1);
    scaled.idlest = vec!["p1".to_owned()];
    observed.scaling = Some(scaled);
    let costs = |observed: &Observed| {
        let planned = plan(&app(FROM_ONE), observed, &settings());
        let touch = planned.touch.clone();
        let cost = "controller.kubernetes.io/pod-deletion-cost";
        let costs = touch
            .into_iter()
            .filter_map(|it| Some((it.name, it.annotations.get(cost)?.clone())));
        (costs.collect::<Vec<_>>(), planned)
    };
    let (found, planned) = costs(&observed);
    assert_eq!(found, [("hello-1".to_owned(), "-1000000".to_owned())]);
    apply(&mut observed, &planned);
    assert_eq!(costs(&observed).0, [], "written once");
    observed.scaling = Some(decided(2));
    let (found, planned) = costs(&observed);
    assert_eq!(found, [("hello-1".to_owned(), "0".to_owned())]);
    apply(&mut observed, &planned);
    assert_eq!(costs(&observed).0, []);
}

#[test]
fn events_say_from_where_to_where_and_why_but_not_for_each_step() {
    let mut observed = running(&app(FROM_ONE));
    let step = |pods: u32, observed: &mut Observed| {
        observed.scaling = Some(decided(pods));
        let planned = plan(&app(FROM_ONE), observed, &settings());
        apply(observed, &planned);
        let notes = notes(&planned.events);
        (notes.join("; "), planned.wake)
    };
    let why = "The 40.0 requests at a time of the last seconds would not fit.";
    observed.now = at(100);
    assert_eq!(
        step(3, &mut observed).0,
        format!("pods: from 1 to 3. {why}")
    );
    observed.now = at(101);
    let (told, wake) = step(4, &mut observed);
    assert_eq!((&*told, wake), ("", Some(Duration::from_secs(9))));
    observed.now = at(109);
    assert_eq!(step(6, &mut observed).0, "");
    observed.now = at(110);
    assert_eq!(
        step(6, &mut observed).0,
        format!("pods: from 3 to 6. {why}")
    );
    observed.now = at(200);
    assert_eq!(step(6, &mut observed), (String::new(), None));
}

#[test]
fn the_status_says_what_was_decided_and_keeps_it_across_a_restart() {
    let (mut object, mut observed) = started(FROM_ONE, 2);
    let told = object.status.clone().unwrap().autoscaling.unwrap();
    assert_eq!((told.pods, told.workers), (2, 3));
    assert_eq!(told.cpu.as_deref(), Some("1.5"));
    assert_eq!(told.concurrency, Some(20.0));
    assert_eq!(
        told.reason,
        "The 40.0 requests at a time of the last seconds would not fit."
    );
    assert_eq!(told.since, at(0).to_string());
    observed.scaling = None;
    let before = object.status.clone();
    pass(&mut object, &mut observed);
    assert_eq!(object.status, before);
    object.spec.autoscaling = None;
    pass(&mut object, &mut observed);
    assert_eq!(object.status.unwrap().autoscaling, None);
}

#[test]
fn an_app_without_pods_by_decision_is_ready() {
    let (mut object, mut observed) = started(AUTO, 0);
    let ready = |reason: &str| ("True".to_owned(), reason.to_owned());
    assert_eq!(condition(&object, "Ready"), ready("ScaledToZero"));
    assert_eq!(condition(&object, "Updated"), ready("AsWanted"));
    assert_eq!(condition(&object, "Degraded").0, "False");
    assert_eq!(object.status.as_ref().unwrap().pods, "0/0");
    assert_eq!(object.status.as_ref().unwrap().serving, "2/2");
    // A new leader has decided nothing yet.
    observed.scaling = None;
    pass(&mut object, &mut observed);
    assert_eq!(condition(&object, "Ready"), ready("ScaledToZero"));
    // A request waits, and the first pod starts.
    observed.scaling = Some(decided(1));
    let mut first = pod(0);
    (first.ready, first.created) = (false, Some(at(0)));
    observed.pods.push(first);
    pass(&mut object, &mut observed);
    let hold = |observed: &mut Observed| {
        let mut live = observed.live.deployments.iter_mut();
        let live = live.find(|it| it.metadata.name.as_deref() == Some("hello"));
        live.unwrap().status.as_mut().unwrap().ready_replicas = None;
    };
    let look = |object: &mut ScaledApp, observed: &Observed| {
        let app = validate(object).unwrap();
        let planned = plan(&app, observed, &settings());
        object.status = Some(status(object, observed, Outcome::Applied(&app, &planned)));
    };
    hold(&mut observed);
    let (asleep, woken) = (started(AUTO, 0).0, &mut object);
    woken.status = asleep.status;
    look(woken, &observed);
    assert_eq!(condition(woken, "Ready"), ready("WakingUp"));
    // It takes longer than requests are held.
    observed.now = at(121);
    look(woken, &observed);
    assert_eq!(condition(woken, "Ready").0, "False");
    // It fails.
    observed.now = at(20);
    observed.pods[2].failure = Some(PodFailure {
        reason: scaledapp_crds::words::Reason::ImagePullError,
        message: "no such image".to_owned(),
        part: Part::Main,
    });
    look(woken, &observed);
    assert_eq!(condition(woken, "Ready").0, "False");
}

#[test]
fn without_balancers_that_hold_requests_no_pod_means_not_ready() {
    let (mut object, mut observed) = started(AUTO, 0);
    for balancer in &mut observed.pods {
        balancer.ready = false;
        balancer.answer = super::given::serves(false);
    }
    pass(&mut object, &mut observed);
    assert_eq!(condition(&object, "Ready").0, "False");
}

#[test]
fn a_paused_app_without_pods_is_not_ready_because_nothing_wakes_it() {
    let (mut object, mut observed) = started(AUTO, 0);
    object.spec.paused = true;
    pass(&mut object, &mut observed);
    let expected = ("False".to_owned(), "Paused".to_owned());
    assert_eq!(condition(&object, "Ready"), expected);
}

#[test]
fn another_autoscaler_is_named_and_changes_nothing() {
    for target in [
        Target::App("hello".to_owned()),
        Target::Deployment("hello".to_owned()),
        Target::Deployment("hello-lb-0".to_owned()),
    ] {
        let (mut object, mut observed) = started(FROM_ONE, 2);
        observed.autoscalers = vec![Autoscaler {
            name: "scaler".to_owned(),
            target: target.clone(),
        }];
        let planned = pass(&mut object, &mut observed);
        let replicas = deployment(&planned.apply.deployments).spec.replicas;
        assert_eq!(replicas, Some(2));
        let expected = ("True".to_owned(), "AutoscalerCannotScale".to_owned());
        assert_eq!(condition(&object, "Degraded"), expected, "{target:?}");
        assert_eq!(condition(&object, "Ready").0, "True");
    }
}
