//! Writes the status of an app if it has changed. A write in each pass would cost a request, and
//! each write that changes the object triggers another pass.

use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use scaledapp_crds::kubernetes::{ScaledApp, ScaledAppStatus};
use scaledapp_crds::{API_VERSION, KIND};
use scaledapp_plan::cluster::Observed;
use serde_json::json;

use crate::api::{Caller, FIELD_MANAGER};
use crate::apply::{Applied, Spec};
use crate::call::{Call, CallError};

/// Writes the status that follows from the outcome of a plan, if it differs from the current one.
/// Returns the status that follows, and whether it was written.
///
/// # Errors
/// The API server refused or did not answer. A deleted object is not an error.
pub async fn write(
    caller: &Caller,
    object: &ScaledApp,
    observed: &Observed,
    spec: &Spec,
    applied: &Applied,
) -> Result<(ScaledAppStatus, bool), CallError> {
    let status = applied.status(object, observed, spec);
    if object.status.as_ref() == Some(&status) {
        return Ok((status, false));
    }
    let name = object.name_any();
    let api: Api<ScaledApp> = Api::namespaced(
        caller.client.clone(),
        &object.namespace().unwrap_or_default(),
    );
    // Apply instead of merge, so that absent fields are removed.
    let patch = Patch::Apply(json!({
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name, "uid": object.metadata.uid},
        "status": status,
    }));
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let request = api.patch_status(&name, &params, &patch);
    match caller
        .write(Call::new("apply", "ScaledApp status"), request)
        .await
    {
        Ok(_) => Ok((status, true)),
        Err(error) if error.code() == Some(404) => Ok((status, false)),
        Err(error) => Err(error),
    }
}
