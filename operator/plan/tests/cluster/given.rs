//! Builders of clusters and apps for the tests.

use k8s_openapi::Metadata;
use k8s_openapi::api::apps::v1::DeploymentStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use scaledapp_crds::kubernetes::ScaledApp;
use scaledapp_plan::cluster::{
    Answer, App, Balancer, Kind, Node, Observed, Outcome, Plan, Pod, Settings, plan, status,
    validate,
};

pub(crate) const UID: &str = "11111111-2222-3333-4444-555555555555";

/// An object with a uid and a generation, as after `kubectl apply`. `lines` are added to its spec.
pub(crate) fn object(lines: &str) -> ScaledApp {
    named("hello", lines)
}

pub(crate) fn named(name: &str, lines: &str) -> ScaledApp {
    let yaml = format!(
        "apiVersion: scaledapp.io/v1alpha1\nkind: ScaledApp\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  image: example/hello:1.0\n  command: [node, server.js]\n{lines}\n"
    );
    let mut object = ScaledApp::from(scaledapp_crds::read(&yaml).unwrap());
    object.metadata.uid = Some(UID.to_owned());
    object.metadata.generation = Some(1);
    object
}

pub(crate) fn app(lines: &str) -> App {
    validate(&object(lines)).unwrap()
}

pub(crate) fn settings() -> Settings {
    Settings {
        sidecar_image: "registry.example/scaledapp:1".to_owned(),
        balancer_image: "registry.example/scaledapp:1".to_owned(),
        image_pull_policy: None,
        image_pull_secrets: Vec::new(),
        balancer_resources: Settings::default_balancer_resources(),
    }
}

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_780_000_000 + seconds).unwrap()
}

pub(crate) fn node(name: &str) -> Node {
    Node {
        name: name.to_owned(),
        schedulable: true,
        ready: true,
        labels: [
            ("kubernetes.io/hostname".to_owned(), name.to_owned()),
            ("topology.kubernetes.io/zone".to_owned(), "z1".to_owned()),
        ]
        .into(),
        taints: Vec::new(),
        offers: scaledapp_plan::cluster::Resources::default(),
    }
}

/// A cluster with this many nodes and no object of the app.
pub(crate) fn cluster(nodes: u32) -> Observed {
    Observed {
        now: at(0),
        nodes: (0..nodes).map(|index| node(&format!("n{index}"))).collect(),
        live: scaledapp_plan::cluster::Objects::default(),
        pods: Vec::new(),
        foreign: Vec::new(),
        certificate: scaledapp_plan::cluster::LiveCertificate::Unknown,
        hidden: Vec::new(),
        token: Some("fresh-token".to_owned()),
        hostname_taken_by: None,
        hostname_refused: None,
        used: std::collections::BTreeMap::new(),
        autoscalers: Vec::new(),
        asked_from: "ops".to_owned(),
        scaling: None,
        admitted: std::collections::BTreeMap::new(),
    }
}

/// The answer of a balancer's admin port.
pub(crate) fn serves(serving: bool) -> Answer {
    Answer::Balancer(Balancer {
        serving,
        ..Balancer::default()
    })
}

/// A serving balancer pod of a slot.
pub(crate) fn balancer(slot: u32) -> Pod {
    Pod {
        name: format!("hello-lb-{slot}-x"),
        uid: format!("b{slot}"),
        component: "balancer".to_owned(),
        slot: Some(slot),
        marked: true,
        ip: Some(format!("10.0.1.{slot}")),
        node: Some(format!("n{slot}")),
        ready: true,
        answer: serves(true),
        ..Pod::default()
    }
}

/// A serving pod of the app.
pub(crate) fn pod(index: u32) -> Pod {
    Pod {
        name: format!("hello-{index}"),
        uid: format!("p{index}"),
        component: "app".to_owned(),
        marked: true,
        ip: Some(format!("10.0.2.{index}")),
        node: Some(format!("n{index}")),
        created: Some(at(-100)),
        ready: true,
        sidecar_image: Some("registry.example/scaledapp:1".to_owned()),
        ..Pod::default()
    }
}

/// Applies a plan as the API server and the controllers would if nothing fails.
pub(crate) fn apply(observed: &mut Observed, planned: &Plan) {
    let before = std::mem::take(&mut observed.live);
    let mut live = planned.apply.clone();
    for slice in before.endpoint_slices {
        if live
            .endpoint_slices
            .iter()
            .all(|new| new.metadata.name != slice.metadata.name)
        {
            live.endpoint_slices.push(slice);
        }
    }
    if live.deployments.is_empty() {
        // The plan contains only `EndpointSlice`s, so the other objects do not change.
        live = scaledapp_plan::cluster::Objects {
            endpoint_slices: live.endpoint_slices,
            ..before
        };
    }
    for (index, service) in live.services.iter_mut().enumerate() {
        let spec = service.spec.get_or_insert_default();
        spec.cluster_ip
            .get_or_insert_with(|| format!("10.96.0.{index}"));
    }
    for deployment in &mut live.deployments {
        let replicas = deployment.spec.replicas;
        deployment.metadata.generation = Some(1);
        deployment.status = Some(DeploymentStatus {
            observed_generation: Some(1),
            replicas,
            ready_replicas: replicas,
            updated_replicas: replicas,
            ..DeploymentStatus::default()
        });
    }
    observed.live = live;
    for key in &planned.delete {
        fn remove<K: Metadata<Ty = ObjectMeta>>(objects: &mut Vec<K>, name: &str) {
            objects.retain(|object| object.metadata().name.as_deref() != Some(name));
        }
        let live = &mut observed.live;
        match key.kind {
            Kind::Service => remove(&mut live.services, &key.name),
            Kind::Deployment => remove(&mut live.deployments, &key.name),
            Kind::EndpointSlice => remove(&mut live.endpoint_slices, &key.name),
            Kind::PodDisruptionBudget => remove(&mut live.pod_disruption_budgets, &key.name),
            _ => {}
        }
    }
    for touch in &planned.touch {
        let pod = observed
            .pods
            .iter_mut()
            .find(|pod| pod.uid == touch.uid)
            .unwrap();
        pod.annotations.extend(touch.annotations.clone());
    }
}

/// The app on two nodes, complete and serving.
pub(crate) fn running(app: &App) -> Observed {
    let mut observed = cluster(2);
    observed.pods = vec![balancer(0), balancer(1), pod(0), pod(1)];
    let planned = plan(app, &observed, &settings());
    apply(&mut observed, &planned);
    observed
}

/// Plans, applies, and writes the status, as a pass does.
pub(crate) fn pass(object: &mut ScaledApp, observed: &mut Observed) -> Plan {
    let app = validate(object).unwrap();
    let planned = plan(&app, observed, &settings());
    apply(observed, &planned);
    object.status = Some(status(object, observed, Outcome::Applied(&app, &planned)));
    planned
}
