//! Reads and writes the Certificate of an app with `balancers.tls.issuerRef`. What it contains, and
//! what is reported about it, is decided in `scaledapp_plan`.
//!
//! There is no watch, because cert-manager may not be installed. The answer is kept for a while,
//! so that the passes of a busy app do not repeat the question.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::Resource;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use scaledapp_plan::cluster::{
    App, CERTIFICATE_KIND, CERTIFICATE_VERSION, Certificate, CertificateFailure, LiveCertificate,
    StoredCertificate,
};
use tokio::time::Instant;

use crate::api::{Caller, FIELD_MANAGER};
use crate::call::{Call, CallError};

/// How long the answer about an issued Certificate is kept.
const ISSUED_FOR: Duration = Duration::from_mins(1);
/// How long any other answer is kept.
const UNFINISHED_FOR: Duration = Duration::from_secs(4);
/// Answers about apps that no pass has asked for in this time are dropped.
const KEPT_FOR: Duration = Duration::from_mins(30);

/// The answers about the apps' Certificates, by the uids of the apps.
#[derive(Debug, Default)]
pub struct Certificates(Mutex<BTreeMap<String, Answer>>);

#[derive(Debug, Clone)]
struct Answer {
    at: Instant,
    live: LiveCertificate,
}

impl Certificates {
    fn recent(&self, uid: &str) -> Option<LiveCertificate> {
        let answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Answer { at, live } = answers.get(uid)?;
        let kept = if live.is_issued() {
            ISSUED_FOR
        } else {
            UNFINISHED_FOR
        };
        (at.elapsed() < kept).then(|| live.clone())
    }

    fn put(&self, uid: &str, live: LiveCertificate) {
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        answers.retain(|_, answer| answer.at.elapsed() < KEPT_FOR);
        let at = Instant::now();
        answers.insert(uid.to_owned(), Answer { at, live });
    }
}

/// What is known of the app's Certificate; it is read if the last answer is too old. An app
/// without `issuerRef` costs no request.
pub async fn look(certificates: &Certificates, caller: &Caller, app: &App) -> LiveCertificate {
    let needs = app.app.tls.as_ref().is_some_and(|tls| tls.issuer.is_some());
    if !needs {
        return LiveCertificate::Unknown;
    }
    if let Some(live) = certificates.recent(&app.uid) {
        return live;
    }
    let api = api(caller, &app.namespace);
    let call = Call::new("get", CERTIFICATE_KIND);
    let live = match caller.read(call, api.get_opt(&app.app.name)).await {
        Ok(Some(object)) => read(&object),
        Ok(None) => LiveCertificate::Missing,
        // The next pass asks again.
        Err(error) if !error.is_about_this_object() => return LiveCertificate::Unknown,
        Err(error) => LiveCertificate::Failed(failure(&error)),
    };
    certificates.put(&app.uid, live.clone());
    live
}

/// Writes a Certificate (server-side apply). A refusal is remembered and reported by the next
/// pass; it does not keep the rest of the plan from being carried out.
///
/// # Errors
/// The API server did not answer, or this replica no longer leads.
pub async fn write(
    certificates: &Certificates,
    caller: &Caller,
    uid: &str,
    certificate: &Certificate,
) -> Result<(), CallError> {
    let meta = &certificate.metadata;
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let name = meta.name.as_deref().unwrap_or_default();
    let api = api(caller, namespace);
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let call = Call::new("apply", CERTIFICATE_KIND);
    let patch = Patch::Apply(certificate);
    let live = match caller.write(call, api.patch(name, &params, &patch)).await {
        Ok(object) => {
            tracing::info!(kind = CERTIFICATE_KIND, namespace, name, "applied");
            read(&object)
        }
        Err(error) if !error.is_about_this_object() => return Err(error),
        Err(error) => {
            tracing::warn!(kind = CERTIFICATE_KIND, namespace, name, %error, "an object is refused");
            LiveCertificate::Failed(failure(&error))
        }
    };
    certificates.put(uid, live);
    Ok(())
}

/// The API server answers 404 to the application of an object only if it does not know the kind.
fn failure(error: &CallError) -> CertificateFailure {
    match error.code() {
        Some(404) => CertificateFailure::NoKind,
        _ => CertificateFailure::Refused(error.to_string()),
    }
}

fn read(object: &DynamicObject) -> LiveCertificate {
    let read = || {
        let json = serde_json::to_value(object)?;
        serde_json::from_value::<StoredCertificate>(json)
    };
    match read() {
        Ok(stored) => LiveCertificate::There(Box::new(stored)),
        Err(error) => LiveCertificate::Failed(CertificateFailure::Refused(error.to_string())),
    }
}

fn api(caller: &Caller, namespace: &str) -> Api<DynamicObject> {
    let resource = ApiResource {
        group: Certificate::GROUP.to_owned(),
        version: Certificate::VERSION.to_owned(),
        api_version: CERTIFICATE_VERSION.to_owned(),
        kind: CERTIFICATE_KIND.to_owned(),
        plural: Certificate::URL_PATH_SEGMENT.to_owned(),
    };
    Api::namespaced_with(caller.client.clone(), namespace, &resource)
}
