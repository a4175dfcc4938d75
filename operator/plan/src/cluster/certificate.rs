//! The Certificate that cert-manager issues for an app with `balancers.tls.issuerRef`: what it asks
//! for, whether it has to be written, and what is reported about it.
//!
//! cert-manager may not be installed, so its kind is not one of [`super::Kind`]: a watch of a kind
//! that does not exist would fail for ever. The operator reads the Certificate while it needs it.
//! A Certificate is deleted together with the app. It stays when `issuerRef` is removed, because
//! the operator has no right to delete Certificates, and the Secret is still in use.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{Metadata, NamespaceResourceScope};
use scaledapp_crds::words::{annotation, component};
use serde::{Deserialize, Serialize};

use super::meta::{annotate, annotation as annotated, hash, json};
use super::{App, Observed, cut};
use crate::Issuer;

/// The `apiVersion` of Certificates.
pub const CERTIFICATE_VERSION: &str = "cert-manager.io/v1";
/// Their kind.
pub const CERTIFICATE_KIND: &str = "Certificate";

/// cert-manager writes a self-signed certificate into the Secret until the issuer has answered.
/// Without it, the balancers could not start before the issuer has answered, and an issuer that
/// checks the host name over HTTP would find nobody there.
const TEMPORARY: &str = "cert-manager.io/issue-temporary-certificate";

/// The longest quotation of cert-manager's message, in bytes.
const MAX_QUOTED_BYTES: usize = 512;

/// How often an unfinished Certificate is read again.
const UNFINISHED: Duration = Duration::from_secs(5);

/// A Certificate, as the operator writes it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// [`CERTIFICATE_VERSION`].
    pub api_version: &'static str,
    /// [`CERTIFICATE_KIND`].
    pub kind: &'static str,
    /// Name, labels and owner.
    pub metadata: ObjectMeta,
    /// What it asks for.
    pub spec: CertificateSpec,
}

impl k8s_openapi::Resource for Certificate {
    const API_VERSION: &'static str = CERTIFICATE_VERSION;
    const GROUP: &'static str = "cert-manager.io";
    const KIND: &'static str = CERTIFICATE_KIND;
    const VERSION: &'static str = "v1";
    const URL_PATH_SEGMENT: &'static str = "certificates";
    type Scope = NamespaceResourceScope;
}

impl Metadata for Certificate {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// What a Certificate asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateSpec {
    /// The Secret that cert-manager writes.
    pub secret_name: String,
    /// The host names.
    pub dns_names: Vec<String>,
    /// Who issues it.
    pub issuer_ref: Issuer,
}

/// What is known of an app's Certificate.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum LiveCertificate {
    /// The app needs none, or it has not been read yet.
    #[default]
    Unknown,
    /// There is none.
    Missing,
    /// It could not be read or written, for this reason.
    Failed(CertificateFailure),
    /// It exists.
    There(Box<StoredCertificate>),
}

/// Why a Certificate could not be read or written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateFailure {
    /// The cluster has no such kind.
    NoKind,
    /// The API server refused it with these words.
    Refused(String),
}

/// A Certificate as the API server returns it; other fields are ignored.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct StoredCertificate {
    /// Its metadata.
    pub metadata: ObjectMeta,
    status: Status,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Status {
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    message: String,
    observed_generation: Option<i64>,
}

impl LiveCertificate {
    /// Whether the issuer's certificate is in the Secret.
    pub fn is_issued(&self) -> bool {
        matches!(self, Self::There(live) if live.is_issued())
    }
}

impl StoredCertificate {
    fn condition(&self, kind: &str) -> Option<&Condition> {
        let mut all = self.status.conditions.iter();
        all.find(|condition| condition.kind == kind)
    }

    /// Whether the certificate in the Secret is the one that was asked for, and has not expired.
    fn is_issued(&self) -> bool {
        self.condition("Ready").is_some_and(|ready| {
            ready.status == "True" && ready.observed_generation >= self.metadata.generation
        })
    }

    /// cert-manager's own words about what it waits for.
    fn why_not(&self) -> Option<&str> {
        let all = ["Issuing", "Ready"].map(|kind| self.condition(kind));
        let all = all.into_iter().flatten();
        let mut messages = all.map(|it| it.message.as_str().trim());
        messages.find(|message| !message.is_empty())
    }
}

/// The Certificate that the app needs; `None` without `issuerRef`. It has the name of the app.
pub(super) fn certificate(app: &App) -> Option<Certificate> {
    let tls = app.app.tls.as_ref()?;
    let issuer = tls.issuer.clone()?;
    let hostname = app.app.dns.hostname.as_ref()?;
    let owner = app.owner();
    let mut certificate = Certificate {
        api_version: CERTIFICATE_VERSION,
        kind: CERTIFICATE_KIND,
        metadata: owner.meta(owner.name.to_owned(), component::BALANCER),
        spec: CertificateSpec {
            secret_name: tls.secrets.first()?.clone(),
            dns_names: vec![hostname.to_string()],
            issuer_ref: issuer,
        },
    };
    annotate(&mut certificate.metadata, TEMPORARY, "true".to_owned());
    let hash = hash(json(&certificate).as_bytes());
    annotate(&mut certificate.metadata, annotation::APPLIED, hash);
    Some(certificate)
}

/// The Certificate, if it has to be written: it is missing or not as planned. One that belongs to
/// another owner is never written.
pub(super) fn to_write(app: &App, observed: &Observed) -> Option<Certificate> {
    let planned = certificate(app)?;
    let applied = |meta| annotated(meta, annotation::APPLIED).map(ToOwned::to_owned);
    match &observed.certificate {
        LiveCertificate::Missing => Some(planned),
        LiveCertificate::There(live) => {
            let is_same = applied(&live.metadata) == applied(&planned.metadata);
            (app.owner().owns(&live.metadata) && !is_same).then_some(planned)
        }
        LiveCertificate::Unknown | LiveCertificate::Failed(_) => None,
    }
}

/// When the Certificate is read again; `None` if the regular passes suffice.
pub(super) fn wake(app: &App, observed: &Observed) -> Option<Duration> {
    trouble(app, observed).map(|_| UNFINISHED)
}

/// Why the balancers do not have the issuer's certificate, and the cure.
pub(super) fn trouble(app: &App, observed: &Observed) -> Option<String> {
    let planned = certificate(app)?;
    let name = app.owner().name;
    let namespace = app.owner().namespace;
    let secret = &planned.spec.secret_name;
    Some(match &observed.certificate {
        LiveCertificate::Unknown => return None,
        LiveCertificate::Missing => format!("the Certificate {name} is being created"),
        LiveCertificate::Failed(CertificateFailure::NoKind) => format!(
            "spec.balancers.tls.issuerRef needs cert-manager, and this cluster has no kind Certificate of cert-manager.io: install cert-manager, or remove issuerRef and create the Secret {secret} yourself"
        ),
        LiveCertificate::Failed(CertificateFailure::Refused(why)) => format!(
            "the Certificate {name} cannot be read or written: {}",
            cut(why, MAX_QUOTED_BYTES)
        ),
        LiveCertificate::There(live) if !app.owner().owns(&live.metadata) => format!(
            "a Certificate named {name} exists already and does not belong to this app: remove spec.balancers.tls.issuerRef to use its Secret, or delete the Certificate (kubectl -n {namespace} delete certificate {name})"
        ),
        LiveCertificate::There(live) if live.is_issued() => return None,
        LiveCertificate::There(live) => {
            let issuer = &planned.spec.issuer_ref;
            let why = live.why_not().map_or_else(
                || {
                    format!(
                        "the {} {} has not answered: check that cert-manager runs and that this issuer exists",
                        issuer.kind, issuer.name
                    )
                },
                |why| cut(why, MAX_QUOTED_BYTES).to_owned(),
            );
            format!(
                "cert-manager has not issued the certificate for {}: {why} (kubectl -n {namespace} describe certificate {name})",
                planned.spec.dns_names.join(", ")
            )
        }
    })
}
