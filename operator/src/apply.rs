//! Carries out a plan: server-side apply of what differs, then the removal of
//! what nothing needs, then word to running pods.
//!
//! Roles and `RoleBinding`s are only made where there are none (`scaledapp_plan` has
//! the reason, and says in a condition where one is not as it should be).
//!
//! Order: what pods refer to comes before the pods (a Deployment whose
//! `ServiceAccount` is not there makes no pods); where addresses lead comes before
//! new pods, since requests wait for it and nobody waits for a pod's start.
//! An object that the API server refuses does not keep the others from being
//! written; an API server that does not answer does. After either, nothing is
//! removed.

use std::collections::BTreeMap;
use std::fmt::Debug;

use k8s_openapi::Metadata;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::NamespaceResourceScope;
use kube::{Api, Resource};
use scaledapp_crds::kubernetes::{ScaledApp, ScaledAppStatus};
use scaledapp_crds::words::annotation;
use scaledapp_plan::Violation;
use scaledapp_plan::cluster::{
    self, Admitted, App, Failed, Kind, ObjectKey, Objects, Observed, Outcome, Plan, PodAnnotations,
    each_kind, is_applied, is_stray, is_watched,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::api::FIELD_MANAGER;
use crate::call::{Call, CallError};
use crate::context::Context;
use crate::observe::{self, Of};

/// Fields that one line of the log names.
const MOST_FIELDS: usize = 10;

/// A kind that plans hold.
trait Planned:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + k8s_openapi::Resource
    + Metadata<Ty = ObjectMeta>
    + Serialize
    + DeserializeOwned
    + Clone
    + Debug
{
}

impl<K> Planned for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + k8s_openapi::Resource
        + Metadata<Ty = ObjectMeta>
        + Serialize
        + DeserializeOwned
        + Clone
        + Debug
{
}

/// What the object says, or what is wrong with it.
pub type Spec = Result<App, Vec<Violation>>;

/// Why there is no plan: it is not known whether its names belong to others.
#[derive(Debug)]
pub struct Unplanned {
    /// What can be done all the same.
    pub slots: Plan,
    /// What kept the names from being looked up.
    pub error: CallError,
}

/// What has become of a plan. Only [`apply`] makes one, and a status is made of nothing
/// else: what was not carried out, or failed, cannot be told of as done.
#[derive(Debug)]
pub struct Applied {
    plan: Plan,
    end: Result<End, CallError>,
}

/// How a plan ended that was not kept from its end by the API server's absence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// All of it is carried out.
    Done,
    /// The API server does not want what the object says, as [`Plan::stalled`] has it.
    Refused,
}

impl Applied {
    /// The plan that was carried out, as far as that went.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Whether all of it is carried out.
    pub fn is_done(&self) -> bool {
        matches!(self.end, Ok(End::Done))
    }

    /// The plan and how it ended, or what went wrong.
    ///
    /// # Errors
    /// The API server said no, or nothing.
    pub fn into_end(self) -> Result<(Plan, End), CallError> {
        Ok((self.plan, self.end?))
    }

    /// What is to be said of the app.
    pub fn status(&self, object: &ScaledApp, observed: &Observed, spec: &Spec) -> ScaledAppStatus {
        let app = match spec {
            Ok(app) => app,
            Err(violations) => {
                return cluster::status(object, observed, Outcome::Invalid(violations));
            }
        };
        let sentence;
        let outcome = match &self.end {
            Ok(End::Done) => Outcome::Applied(app, &self.plan),
            Ok(End::Refused) => {
                let stalled = self.plan.stalled.as_ref();
                let failed = Failed {
                    why: stalled.map_or("", |stalled| &stalled.message),
                    refused: false,
                };
                Outcome::Failed(app, &self.plan, failed)
            }
            Err(error) => {
                sentence = error.to_string();
                let failed = Failed {
                    why: &sentence,
                    // Somebody else wrote in between: the next try may succeed.
                    refused: error.is_about_this_object() && error.code() != Some(409),
                };
                Outcome::Failed(app, &self.plan, failed)
            }
        };
        cluster::status(object, observed, outcome)
    }
}

/// Carries a plan out, or, where there is none, what can be done all the same.
pub async fn apply(
    context: &Context,
    object: &ScaledApp,
    observed: &Observed,
    spec: &Spec,
    plan: Result<Plan, Unplanned>,
) -> Applied {
    let of = Of::object(object);
    let mut plan = match plan {
        Ok(plan) => plan,
        Err(Unplanned { slots, error }) => {
            if error.is_about_this_object()
                && let Err(NotApplied { error, .. }) =
                    carry_out(context, of, observed, &slots).await
            {
                tracing::debug!(%error, "the slots could not be kept up");
            }
            return Applied {
                plan: Plan::default(),
                end: Err(error),
            };
        }
    };
    let end = match carry_out(context, of, observed, &plan).await {
        Ok(()) => Ok(End::Done),
        Err(failure) => {
            let causes = failure.error.causes();
            let app = spec.as_ref().ok();
            let refused = app.and_then(|app| cluster::refused(app, &plan, &failure.name, &causes));
            match refused {
                Some(stalled) => {
                    plan.stalled = Some(stalled);
                    Ok(End::Refused)
                }
                None => Err(failure.error),
            }
        }
    };
    Applied { plan, end }
}

async fn carry_out(
    context: &Context,
    of: Of<'_>,
    observed: &Observed,
    plan: &Plan,
) -> Result<(), NotApplied> {
    let (live, admitted) = (&observed.live, &observed.admitted);
    // Without `..`: what is new in a plan must be carried out, too.
    let Plan {
        apply,
        delete,
        touch,
        events: _sent_after_the_status,
        wake: _when_the_next_pass_is,
        stalled: _for_the_status,
    } = plan;
    let mut pass = Pass {
        context,
        of,
        admitted,
        refused: None,
    };
    macro_rules! apply_all {
        ($($(#[$about:meta])* $field:ident: $kind:ident = $type:ty;)*) => {
            $(pass.all::<$type>(Kind::$kind, &apply.$field, &live.$field).await?;)*
        };
    }
    each_kind!(apply_all);
    if let Some(refused) = pass.refused {
        return Err(refused);
    }
    for key in delete {
        pass.delete(key, live).await?;
    }
    for pod in touch {
        pass.touch(pod).await?;
    }
    Ok(())
}

fn key<K: Planned>(kind: Kind, object: &K) -> ObjectKey {
    ObjectKey {
        kind,
        name: Metadata::metadata(object).name.clone().unwrap_or_default(),
    }
}

/// Of what an object says, as the plan wrote it on it.
fn hash<K: Planned>(object: &K) -> &str {
    let annotations = Metadata::metadata(object).annotations.as_ref();
    let hash = annotations.and_then(|annotations| annotations.get(annotation::APPLIED));
    hash.map_or("", String::as_str)
}

struct Pass<'a> {
    context: &'a Context,
    of: Of<'a>,
    admitted: &'a BTreeMap<ObjectKey, Admitted>,
    /// The first object that the API server did not want.
    refused: Option<NotApplied>,
}

/// Why a plan is not carried out.
#[derive(Debug)]
struct NotApplied {
    error: CallError,
    /// Name of the object that was being written, if it was one.
    name: String,
}

impl From<CallError> for NotApplied {
    fn from(error: CallError) -> Self {
        Self {
            error,
            name: String::new(),
        }
    }
}

impl Pass<'_> {
    fn api<K: Planned>(&self) -> Api<K> {
        Api::namespaced(self.context.caller.client.clone(), self.of.namespace)
    }

    /// Whether a write would only bring the answer that the last one brought.
    fn is_answered<K: Planned>(&mut self, object: &K, key: &ObjectKey) -> bool {
        let (uid, hash) = (self.of.uid, hash(object));
        if self.context.admissions.is_hidden(uid, key, hash) {
            return true;
        }
        let Some(error) = self.context.admissions.refusal(uid, key, hash) else {
            return false;
        };
        let name = key.name.clone();
        self.refused.get_or_insert(NotApplied { error, name });
        true
    }

    /// Remembers what the API server made of an object.
    fn learn<K: Planned>(&self, object: &K, key: &ObjectKey, answer: Result<&K, &CallError>) {
        let admissions = &self.context.admissions;
        let (uid, hash) = (self.of.uid, hash(object));
        admissions.answered(uid, key, hash, answer.map(|_| ()));
        if let Ok(stored) = answer {
            let is_hidden = !is_watched(Metadata::metadata(stored), self.of.name);
            admissions.hide(uid, key, Some(hash), is_hidden);
        }
    }

    async fn all<K: Planned>(
        &mut self,
        kind: Kind,
        planned: &[K],
        live: &[K],
    ) -> Result<(), CallError> {
        if kind.is_changed() {
            self.apply(kind, planned, live).await
        } else {
            self.make(kind, planned, live).await
        }
    }

    async fn apply<K: Planned>(
        &mut self,
        kind: Kind,
        planned: &[K],
        live: &[K],
    ) -> Result<(), CallError> {
        for object in planned {
            let name = Metadata::metadata(object).name.as_ref();
            let key = key(kind, object);
            let admitted = self.admitted.get(&key);
            let is_settled = |current: &K| {
                is_applied(current, object)
                    || admitted.is_some_and(|admitted| admitted.explains(current, object))
            };
            let current = live
                .iter()
                .find(|live| Metadata::metadata(*live).name.as_ref() == name);
            if current.is_some_and(is_settled) || self.is_answered(object, &key) {
                continue;
            }
            let written = self.put(object, key).await;
            self.note::<K>(name, written)?;
        }
        Ok(())
    }

    /// Makes what is not there, and leaves what is.
    async fn make<K: Planned>(
        &mut self,
        kind: Kind,
        planned: &[K],
        live: &[K],
    ) -> Result<(), CallError> {
        for object in planned {
            let name = Metadata::metadata(object).name.as_ref();
            let mut names = live.iter().map(|live| &Metadata::metadata(live).name);
            let key = key(kind, object);
            if names.any(|live| live.as_ref() == name) || self.is_answered(object, &key) {
                continue;
            }
            let params = PostParams {
                field_manager: Some(FIELD_MANAGER.to_owned()),
                ..PostParams::default()
            };
            let api = self.api::<K>();
            let call = Call::new("create", K::KIND);
            let made = self
                .context
                .caller
                .write(call, api.create(&params, object))
                .await;
            self.learn(object, &key, made.as_ref());
            let made = match made {
                Ok(_) => {
                    let namespace = self.of.namespace;
                    tracing::info!(kind = K::KIND, namespace, name, "made");
                    Ok(())
                }
                // It is there, and the watch has not told yet.
                Err(error) if error.code() == Some(409) => continue,
                Err(error) => Err(error),
            };
            self.note::<K>(name, made)?;
        }
        Ok(())
    }

    /// Takes in how a write ended. A refused object keeps no other from being written.
    fn note<K: Planned>(
        &mut self,
        name: Option<&String>,
        written: Result<(), CallError>,
    ) -> Result<(), CallError> {
        match written {
            Ok(()) => Ok(()),
            Err(error) if error.is_about_this_object() => {
                tracing::warn!(kind = K::KIND, name, %error, "an object is refused");
                self.refused.get_or_insert(NotApplied {
                    error,
                    name: name.cloned().unwrap_or_default(),
                });
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn put<K: Planned>(&self, object: &K, key: ObjectKey) -> Result<(), CallError> {
        let name = key.name.as_str();
        let api = self.api::<K>();
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let patch = Patch::Apply(object);
        let call = Call::new("apply", K::KIND);
        let request = api.patch(name, &params, &patch);
        let mut written = self.context.caller.write(call, request).await;
        let namespace = self.of.namespace;
        // OwnerReferencesPermissionEnforcement, as on OpenShift, asks whoever sets an owner
        // for the right to delete the object. RBAC knows no prefix of names, so that right
        // would reach all ConfigMaps and accounts of a namespace; the operator has not got
        // it. What an earlier app has left is used without an owner instead: it lacks
        // nothing but its removal with the app.
        if let Err(CallError::Refused {
            code: 403, message, ..
        }) = &written
            && message.contains("ownerRef")
            && !key.kind.is_removed()
        {
            let mut unowned = object.clone();
            Metadata::metadata_mut(&mut unowned).owner_references = None;
            let patch = Patch::Apply(&unowned);
            written = self
                .context
                .caller
                .write(call, api.patch(name, &params, &patch))
                .await;
            if written.is_ok() {
                tracing::warn!(
                    kind = K::KIND,
                    namespace,
                    name,
                    "an earlier app has left this object, and the API server lets the operator not become its owner: the app uses it, and it stays when the app is deleted"
                );
            }
        }
        self.learn(object, &key, written.as_ref());
        let admitted = Admitted::of(&written?, object);
        tracing::info!(kind = K::KIND, namespace, name, "applied");
        let fields = admitted.as_ref().map(|admitted| {
            let paths: Vec<&str> = admitted.paths().take(MOST_FIELDS).collect();
            paths.join(", ")
        });
        let name = key.name.clone();
        if self.context.admissions.written(self.of.uid, key, admitted) {
            tracing::warn!(
                kind = K::KIND,
                namespace,
                name,
                fields,
                "an admission webhook or policy gives fields of this object other values than the operator wrote; they are left so"
            );
        }
        Ok(())
    }

    async fn delete(&self, key: &ObjectKey, live: &Objects) -> Result<(), CallError> {
        let is_ours = |meta: &&ObjectMeta| {
            observe::is_owner(self.of.uid, meta)
                || key.kind == Kind::EndpointSlice && is_stray(meta, live)
        };
        let owned = live.find(key).filter(is_ours);
        let Some(uid) = owned.and_then(|meta| meta.uid.clone()) else {
            return Ok(());
        };
        if !key.kind.is_removed() {
            // Never planned, and there is no right to do it.
            return Ok(());
        }
        macro_rules! remove {
            ($($(#[$about:meta])* $field:ident: $kind:ident = $type:ty;)*) => {
                match key.kind {
                    $(Kind::$kind => self.remove::<$type>(&key.name, uid).await,)*
                }
            };
        }
        each_kind!(remove)
    }

    async fn remove<K: Planned>(&self, name: &str, uid: String) -> Result<(), CallError> {
        let api = self.api::<K>();
        let params = DeleteParams::background().preconditions(Preconditions {
            uid: Some(uid),
            resource_version: None,
        });
        let call = Call::new("delete", K::KIND);
        match self
            .context
            .caller
            .write(call, api.delete(name, &params))
            .await
        {
            Ok(_) => {
                tracing::info!(
                    kind = K::KIND,
                    namespace = self.of.namespace,
                    name,
                    "removed"
                );
                Ok(())
            }
            // It is gone, or a namesake is there by now: the watch tells.
            Err(error) if matches!(error.code(), Some(404 | 409)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn touch(&self, pod: &PodAnnotations) -> Result<(), CallError> {
        let PodAnnotations {
            name,
            uid,
            annotations,
        } = pod;
        if self.context.admissions.is_vain(pod) {
            return Ok(());
        }
        let api = self.api::<Pod>();
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        // A uid that is not the pod's makes it a conflict.
        let patch = Patch::Merge(json!({"metadata": {"uid": uid, "annotations": annotations}}));
        let call = Call::new("patch", "Pod");
        let request = api.patch(name, &params, &patch);
        match self.context.caller.write(call, request).await {
            Ok(stored) => {
                let has = stored.metadata.annotations.unwrap_or_default();
                let is_in_vain = annotations
                    .iter()
                    .any(|(name, value)| has.get(name) != Some(value));
                if is_in_vain && self.context.admissions.told_in_vain(pod) {
                    tracing::warn!(
                        namespace = self.of.namespace,
                        name,
                        "an admission webhook or policy keeps annotations of the operator from this pod: it cannot be told of reloads and numbers of workers"
                    );
                }
                Ok(())
            }
            Err(error) if matches!(error.code(), Some(404 | 409)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
