//! Carries out a plan: tells Kubernetes which pods it shall delete first, applies what differs
//! (server-side apply), then deletes what is no longer needed, then annotates running pods.
//!
//! Roles and `RoleBinding`s are only created, never changed. `scaledapp_plan` documents the reason,
//! and reports a changed Role or `RoleBinding` in a condition.
//!
//! Objects to which pods refer come before the pods (a Deployment whose `ServiceAccount` is
//! missing creates no pods), and endpoint slices come before Deployments, because requests depend
//! on them immediately. If the API server refuses an object, the others are still written. After
//! any other error, the rest of the plan is not carried out. In both cases nothing is deleted.

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
use crate::certificates;
use crate::context::Context;
use crate::observe::{self, Of};

/// Most fields that one log line names.
const MAX_FIELDS: usize = 10;

/// A kind of object that plans contain.
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

/// The validated app, or what is wrong with the object.
pub type Spec = Result<App, Vec<Violation>>;

/// Why there is no full plan: the operator could not find out whether the planned names are taken.
#[derive(Debug)]
pub struct Unplanned {
    /// The plan for the slots, which can be carried out anyway.
    pub slots: Plan,
    /// Why the names could not be looked up.
    pub error: CallError,
}

/// The outcome of a plan. Only [`apply`] creates an outcome, and a status is made only from an
/// outcome. So a status cannot claim work that failed or was not carried out.
#[derive(Debug)]
pub struct Applied {
    plan: Plan,
    end: Result<End, CallError>,
}

/// How a plan ended, unless a call to the API server failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The whole plan is carried out.
    Done,
    /// The API server refuses fields of the `ScaledApp`, which [`Plan::stalled`] names.
    Refused,
}

impl Applied {
    /// The plan, of which a part may have been carried out.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Whether the whole plan is carried out.
    pub fn is_done(&self) -> bool {
        matches!(self.end, Ok(End::Done))
    }

    /// The plan and how it ended, or what went wrong.
    ///
    /// # Errors
    /// A call to the API server failed or was not made ([`CallError`]).
    pub fn into_end(self) -> Result<(Plan, End), CallError> {
        Ok((self.plan, self.end?))
    }

    /// The app's status after this outcome.
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
                    // A conflict is not a refusal: the next attempt may succeed.
                    refused: error.is_about_this_object() && error.code() != Some(409),
                };
                Outcome::Failed(app, &self.plan, failed)
            }
        };
        cluster::status(object, observed, outcome)
    }
}

/// Carries out a plan, or the part for the slots if there is no full plan.
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
                tracing::debug!(%error, "the slots could not be updated");
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
    // Without `..`, so that the compiler points here when a plan gets another field.
    let Plan {
        apply,
        delete,
        certificate,
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
        accounts: accounts(live),
    };
    // A Deployment with fewer pods deletes some at once, so their costs must be known before.
    let (costs, touch): (Vec<_>, Vec<_>) = touch.iter().partition(|pod| sets_cost(pod));
    for pod in costs {
        pass.touch(pod).await?;
    }
    macro_rules! apply_all {
        ($($(#[$about:meta])* $field:ident: $kind:ident = $type:ty;)*) => {
            $(pass.all::<$type>(Kind::$kind, &apply.$field, &live.$field).await?;)*
        };
    }
    each_kind!(apply_all);
    if let Some(certificate) = certificate {
        let Context {
            certificates,
            caller,
            ..
        } = context;
        certificates::write(certificates, caller, of.uid, certificate).await?;
    }
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

/// Whether the annotations tell how costly the deletion of the pod is.
fn sets_cost(pod: &PodAnnotations) -> bool {
    pod.annotations.contains_key(annotation::DELETION_COST)
}

/// The uid of each live `ServiceAccount`, by name.
fn accounts(live: &Objects) -> BTreeMap<String, String> {
    let metas = live.service_accounts.iter().map(Metadata::metadata);
    metas
        .filter_map(|meta| Some((meta.name.clone()?, meta.uid.clone()?)))
        .collect()
}

fn key<K: Planned>(kind: Kind, object: &K) -> ObjectKey {
    ObjectKey {
        kind,
        name: Metadata::metadata(object).name.clone().unwrap_or_default(),
    }
}

/// The hash with which the plan has annotated an object.
fn hash<K: Planned>(object: &K) -> &str {
    let annotations = Metadata::metadata(object).annotations.as_ref();
    let hash = annotations.and_then(|annotations| annotations.get(annotation::APPLIED));
    hash.map_or("", String::as_str)
}

struct Pass<'a> {
    context: &'a Context,
    of: Of<'a>,
    admitted: &'a BTreeMap<ObjectKey, Admitted>,
    /// The first object that the API server refused.
    refused: Option<NotApplied>,
    /// The uid of each account by its name, including those that this pass has written.
    accounts: BTreeMap<String, String>,
}

/// Why a plan was not carried out.
#[derive(Debug)]
struct NotApplied {
    error: CallError,
    /// Name of the object that was being written, if there was one.
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

    /// Whether a write of the object would only get the same answer as its last write.
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

    /// Remembers the API server's answer to the write of an object.
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

    /// Creates missing objects and does not change existing ones.
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
            let owned = self.with_uids(object);
            let made = self
                .context
                .caller
                .write(call, api.create(&params, &owned))
                .await;
            self.learn(object, &key, made.as_ref());
            let made = match made {
                Ok(_) => {
                    let namespace = self.of.namespace;
                    tracing::info!(kind = K::KIND, namespace, name, "created");
                    Ok(())
                }
                // The object exists, and the watch has not delivered it yet.
                Err(error) if error.code() == Some(409) => continue,
                Err(error) => Err(error),
            };
            self.note::<K>(name, made)?;
        }
        Ok(())
    }

    /// The object with the uids of the accounts that own it. An owner whose uid is not known is
    /// left out, because the API server requires the uid.
    fn with_uids<K: Planned>(&self, object: &K) -> K {
        let mut object = object.clone();
        let owners = &mut Metadata::metadata_mut(&mut object).owner_references;
        for owners in owners.iter_mut() {
            owners.retain_mut(|owner| {
                if owner.uid.is_empty() {
                    owner.uid = self.accounts.get(&owner.name).cloned().unwrap_or_default();
                }
                !owner.uid.is_empty()
            });
        }
        object
    }

    /// Records the outcome of a write. After a refusal the other objects are still written.
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

    async fn put<K: Planned>(&mut self, object: &K, key: ObjectKey) -> Result<(), CallError> {
        let name = key.name.as_str();
        let api = self.api::<K>();
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let patch = Patch::Apply(object);
        let call = Call::new("apply", K::KIND);
        let request = api.patch(name, &params, &patch);
        let mut written = self.context.caller.write(call, request).await;
        let namespace = self.of.namespace;
        // With OwnerReferencesPermissionEnforcement, as on OpenShift, setting an owner needs the
        // right to delete the object. RBAC cannot select a prefix of names, so that right would
        // cover all ConfigMaps and accounts of a namespace, and the operator does not have it. An
        // object that remains from an earlier app is therefore used without an owner; the only
        // difference is that it is not deleted with the app.
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
                    "an earlier app has left this object, and the API server does not let the operator become its owner: the app uses it, and it would remain when the app is deleted (the app's condition Degraded has the command that cures it)"
                );
            }
        }
        self.learn(object, &key, written.as_ref());
        let stored = written?;
        if key.kind == Kind::ServiceAccount
            && let Some(uid) = &Metadata::metadata(&stored).uid
        {
            self.accounts.insert(key.name.clone(), uid.clone());
        }
        let admitted = Admitted::of(&stored, object);
        tracing::info!(kind = K::KIND, namespace, name, "applied");
        let fields = admitted.as_ref().map(|admitted| {
            let paths: Vec<&str> = admitted.paths().take(MAX_FIELDS).collect();
            paths.join(", ")
        });
        let name = key.name.clone();
        if self.context.admissions.written(self.of.uid, key, admitted) {
            tracing::warn!(
                kind = K::KIND,
                namespace,
                name,
                fields,
                "an admission webhook or policy changes fields of this object; the operator leaves them as they are"
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
            // Plans never delete an object of this kind, and the operator has no right to delete
            // it.
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
            // The object is deleted, or replaced by another object of this name; the watch will
            // deliver the change.
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
        if self.context.admissions.is_annotation_lost(pod) {
            return Ok(());
        }
        let api = self.api::<Pod>();
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        // With the uid, a patch of another pod of this name is a conflict.
        let patch = Patch::Merge(json!({"metadata": {"uid": uid, "annotations": annotations}}));
        let call = Call::new("patch", "Pod");
        let request = api.patch(name, &params, &patch);
        match self.context.caller.write(call, request).await {
            Ok(stored) => {
                let has = stored.metadata.annotations.unwrap_or_default();
                let is_in_vain = annotations
                    .iter()
                    .any(|(name, value)| has.get(name) != Some(value));
                if is_in_vain && self.context.admissions.annotation_lost(pod) {
                    tracing::warn!(
                        namespace = self.of.namespace,
                        name,
                        "an admission webhook or policy removes the operator's annotations from this pod, so it does not learn of reloads and numbers of workers: exempt annotations that begin with scaledapp.io/ from it"
                    );
                }
                Ok(())
            }
            Err(error) if matches!(error.code(), Some(404 | 409)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
