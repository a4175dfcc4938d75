//! Reads what a decision about one app needs, once in a pass. Most of it is in the stores. The
//! API server is asked whether a planned name belongs to another owner, because the stores do not
//! contain objects of other owners.

use std::fmt::Debug;

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::core::{NamespaceResourceScope, PartialObjectMeta};
use kube::runtime::reflector::Store;
use kube::{Api, Resource, ResourceExt};
use scaledapp_crds::kubernetes::ScaledApp;
use scaledapp_crds::words::label;
use scaledapp_plan::cluster::{
    self, Autoscaler, Kind, LiveCertificate, ObjectKey, Objects, Observed, Pod, Target, each_kind,
};
use serde::de::DeserializeOwned;

use crate::call::{Call, CallError};
use crate::context::Context;
use crate::hostnames;

/// Reads everything except [`Observed::foreign`] and [`Observed::used`]. Makes no request.
pub fn observe(context: &Context, app: &ScaledApp) -> Observed {
    let stores = &context.stores;
    let whose = Whose {
        namespace: app.namespace().unwrap_or_default(),
        app: app.name_any(),
    };
    macro_rules! live {
        ($($(#[$about:meta])* $field:ident: $kind:ident = $type:ty;)*) => {
            Objects { $($field: whose.of(&stores.$field),)* }
        };
    }
    let live = each_kind!(live);
    let mut nodes: Vec<cluster::Node> = stores
        .nodes
        .state()
        .iter()
        .map(|node| cluster::Node::from(&**node))
        .collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    let autoscalers = whose.autoscalers(&stores.autoscalers, &live);
    let pods = whose.of(&stores.pods);
    let pods = pods.iter().map(|pod| {
        let mut pod = Pod::from(pod);
        pod.answer = context.pods_health.answer(&pod.uid);
        pod
    });
    let pods = pods.filter(|pod| !pod.is_foreign_to(&whose.app));
    let uid = app.metadata.uid.as_deref().unwrap_or_default();
    let token = context.tokens.of(uid, cluster::stored_tokens(&live));
    let mut hidden = context.admissions.hidden(uid);
    hidden.retain(|key| live.find(key).is_none());
    Observed {
        now: (context.now)(),
        nodes,
        used: std::collections::BTreeMap::new(),
        live,
        pods: pods.collect(),
        admitted: context.admissions.of(uid),
        hidden,
        foreign: Vec::new(),
        certificate: LiveCertificate::Unknown,
        token,
        hostname_taken_by: hostnames::taken_by(app, &stores.apps, &context.ownership),
        hostname_refused: hostnames::refused(app, &context.ownership),
        autoscalers,
        scaling: context.decisions.of(uid),
        asked_from: context.namespace.clone(),
    }
}

/// The app whose objects are selected from the stores.
struct Whose {
    namespace: String,
    app: String,
}

impl Whose {
    /// The app's objects of one kind, sorted by name, so that the same facts give the same plan.
    fn of<K>(&self, store: &Store<K>) -> Vec<K>
    where
        K: Resource<DynamicType = ()> + Clone + 'static,
    {
        let found = store.state_filter(|object| {
            let meta = object.meta();
            let labels = meta.labels.as_ref();
            meta.namespace.as_deref() == Some(&self.namespace)
                && labels.and_then(|labels| labels.get(label::INSTANCE)) == Some(&self.app)
        });
        let mut found: Vec<K> = found.iter().map(|object| (**object).clone()).collect();
        found.sort_by(|a, b| a.meta().name.cmp(&b.meta().name));
        found
    }

    /// The autoscalers that name the app or one of its Deployments.
    fn autoscalers(
        &self,
        store: &Store<HorizontalPodAutoscaler>,
        live: &Objects,
    ) -> Vec<Autoscaler> {
        let here = |it: &HorizontalPodAutoscaler| {
            it.metadata.namespace.as_deref() == Some(&self.namespace)
        };
        let is_aimed_here = |it: &Autoscaler| match &it.target {
            Target::App(name) => *name == self.app,
            Target::Deployment(name) => {
                let mut deployments = live.deployments.iter();
                deployments.any(|live| live.metadata.name.as_ref() == Some(name))
            }
        };
        let found = store.state_filter(here);
        let found = found.iter().filter_map(|it| Autoscaler::of(it));
        let mut found: Vec<Autoscaler> = found.filter(is_aimed_here).collect();
        found.sort();
        found
    }
}

/// The app of a pass, whether its spec is valid or not.
#[derive(Debug, Clone, Copy)]
pub struct Of<'a> {
    /// The app's namespace.
    pub namespace: &'a str,
    /// The app's name.
    pub name: &'a str,
    /// The app's uid.
    pub uid: &'a str,
}

impl<'a> Of<'a> {
    /// The app of this object.
    pub fn object(object: &'a ScaledApp) -> Self {
        let meta = &object.metadata;
        Self {
            namespace: meta.namespace.as_deref().unwrap_or_default(),
            name: meta.name.as_deref().unwrap_or_default(),
            uid: meta.uid.as_deref().unwrap_or_default(),
        }
    }
}

/// Returns the planned names that belong to other owners. A planned object that is not in the
/// stores is requested from the API server, because the stores contain no object without the
/// operator's labels. No request is made if the stores contain every planned object.
///
/// # Errors
/// The API server refused or did not answer, or an object of an earlier app of this name is still
/// being removed.
pub async fn foreign(
    context: &Context,
    of: Of<'_>,
    live: &Objects,
    planned: &Objects,
) -> Result<Vec<ObjectKey>, CallError> {
    let mut foreign = Vec::new();
    for key in cluster::names(planned, live) {
        let known = live.find(&key);
        let looked_up = match known {
            Some(_) => None,
            None => look_up(context, of.namespace, &key).await?,
        };
        let meta = known.or(looked_up.as_ref());
        match meta {
            Some(meta) if is_predecessors(of, meta) => return Err(CallError::Leaving(key)),
            Some(meta) if !is_owner(of.uid, meta) && !is_orphan(of, meta) => foreign.push(key),
            // For objects that are never written after their creation, only this check shows
            // whether the watches can see them.
            Some(meta) if !key.kind.is_changed() && !cluster::is_watched(meta, of.name) => {
                context.admissions.hide(of.uid, &key, None, true);
            }
            _ => {}
        }
    }
    Ok(foreign)
}

/// The planned objects that the app does not own according to the stores.
pub fn unknown(of: Of<'_>, live: &Objects, planned: &Objects) -> Vec<ObjectKey> {
    let mut keys = planned.keys();
    keys.retain(|key| live.find(key).is_none_or(|meta| !is_owner(of.uid, meta)));
    keys
}

/// Whether the object with this uid is the controller.
pub(crate) fn is_owner(uid: &str, meta: &ObjectMeta) -> bool {
    controller(meta).is_some_and(|owner| owner.uid == uid)
}

/// Whether the object belongs to an earlier app of this name that no longer exists:
/// Kubernetes' garbage collector removes it, because it compares owners by uid.
fn is_predecessors(of: Of<'_>, meta: &ObjectMeta) -> bool {
    controller(meta).is_some_and(|owner| {
        owner.api_version == scaledapp_crds::API_VERSION
            && owner.kind == scaledapp_crds::KIND
            && owner.name == of.name
            && owner.uid != of.uid
    })
}

/// Whether the object remains from an earlier app of this name: it has the app's labels and no
/// controller. The app adopts it.
fn is_orphan(of: Of<'_>, meta: &ObjectMeta) -> bool {
    let labels = meta.labels.as_ref();
    let instance = labels.and_then(|labels| labels.get(label::INSTANCE));
    controller(meta).is_none()
        && instance.is_some_and(|instance| instance == of.name)
        && cluster::is_ours(meta)
}

fn controller(meta: &ObjectMeta) -> Option<&OwnerReference> {
    let mut owners = meta.owner_references.iter().flatten();
    owners.find(|owner| owner.controller == Some(true))
}

async fn look_up(
    context: &Context,
    namespace: &str,
    key: &ObjectKey,
) -> Result<Option<ObjectMeta>, CallError> {
    let name = &key.name;
    macro_rules! look_up {
        ($($(#[$about:meta])* $field:ident: $kind:ident = $type:ty;)*) => {
            match key.kind {
                $(Kind::$kind => meta::<$type>(context, namespace, name).await,)*
            }
        };
    }
    each_kind!(look_up)
}

async fn meta<K>(
    context: &Context,
    namespace: &str,
    name: &str,
) -> Result<Option<ObjectMeta>, CallError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + k8s_openapi::Resource,
    K: Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(context.caller.client.clone(), namespace);
    let call = Call::new("get", <K as k8s_openapi::Resource>::KIND);
    let found: Option<PartialObjectMeta<K>> = context
        .caller
        .read(call, api.get_metadata_opt(name))
        .await?;
    Ok(found.map(|object| object.metadata))
}
